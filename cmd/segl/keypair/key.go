package keypair

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// A Type is a kind of private key.
type Type string

// The types, the default first: small and quick, and taken by every TLS client (RFC 8446 §9.1).
const (
	P256    Type = "p256"
	P384    Type = "p384"
	Ed25519 Type = "ed25519"
	RSA2048 Type = "rsa2048"
	RSA3072 Type = "rsa3072"
	RSA4096 Type = "rsa4096"
)

// Types are all of them.
var Types = []string{string(P256), string(P384), string(Ed25519), string(RSA2048), string(RSA3072), string(RSA4096)}

// Set implements pflag.Value.
func (t *Type) Set(s string) error {
	for _, known := range Types {
		if s == known {
			*t = Type(s)
			return nil
		}
	}
	return fmt.Errorf("want one of %s", strings.Join(Types, ", "))
}

// String implements pflag.Value.
func (t *Type) String() string { return string(*t) }

// Type implements pflag.Value.
func (*Type) Type() string { return "type" }

var rsaBits = map[Type]int{RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}

func (t Type) generate() (crypto.Signer, error) {
	switch t {
	case "", P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return rsa.GenerateKey(rand.Reader, rsaBits[t])
}

// TypeOf returns the type of key; of one that is not made here, the zero Type.
func TypeOf(key crypto.Signer) Type {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return map[elliptic.Curve]Type{elliptic.P256(): P256, elliptic.P384(): P384}[k.Curve]
	case ed25519.PrivateKey:
		return Ed25519
	case *rsa.PrivateKey:
		for t, bits := range rsaBits {
			if k.N.BitLen() == bits {
				return t
			}
		}
	}
	return ""
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil // RFC 7468 §10
}

// ReadKey reads a private key in PEM: PKCS #8 (RFC 5958), SEC 1 (RFC 5915) or PKCS #1 (RFC 8017 appendix A.1.2).
func ReadKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("reading key %s: there is no PEM block of a private key", path)
		}
		key, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("reading key %s: %w", path, err)
		}
		if key != nil {
			return key, nil
		}
		text = rest // such as EC PARAMETERS, or a certificate
	}
}

// parseKey returns nil for a block that is no private key. Errors of the parsers stay inside: they may quote the key.
func parseKey(b *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch b.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is encrypted: decrypt it first, or keep it unencrypted with mode 0600")
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the block of type %s is damaged", b.Type)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("it cannot sign: use an ECDSA, Ed25519 or RSA key")
	}
	return signer, nil
}
