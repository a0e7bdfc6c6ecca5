package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
)

// An Algorithm is a kind of key. Its text is forever: it stands in stored rows and configuration.
type Algorithm string

// The algorithms, and why each is here.
const (
	// P256 is the default: the cheapest that every client verifies.
	P256 Algorithm = "p256"
	// P384 is for roots and for those whose rules ask for 192 bits. Slow to sign: 6 times P-256.
	P384 Algorithm = "p384"
	// Ed25519 is the fastest, for our own clients; public web PKI and several HSMs do not know it.
	Ed25519 Algorithm = "ed25519"
	// RSA2048 is for clients too old for elliptic curves; 112 bits, so not beyond 2030 (NIST SP 800-57 part 1 §5.6.3).
	RSA2048 Algorithm = "rsa2048"
	// RSA3072 is RSA at the strength of P-256.
	RSA3072 Algorithm = "rsa3072"
	// RSA4096 is for roots that such clients must trust for decades.
	RSA4096 Algorithm = "rsa4096"
)

// Algorithms lists them, the default first.
func Algorithms() []Algorithm {
	return []Algorithm{P256, P384, Ed25519, RSA2048, RSA3072, RSA4096}
}

// ParseAlgorithm reads an algorithm's text; empty is the default, P256.
func ParseAlgorithm(s string) (Algorithm, error) {
	if s == "" {
		return P256, nil
	}
	var names []string
	for _, a := range Algorithms() {
		if string(a) == s {
			return a, nil
		}
		names = append(names, string(a))
	}
	return "", fmt.Errorf("%w: %.40q: want one of %s", ErrUnsupported, s, strings.Join(names, ", "))
}

// AlgorithmOf returns the algorithm pub is a key of.
func AlgorithmOf(pub crypto.PublicKey) (Algorithm, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256, nil
		case elliptic.P384():
			return P384, nil
		}
	case ed25519.PublicKey:
		return Ed25519, nil
	case *rsa.PublicKey:
		for a, bits := range rsaBits {
			if k.N.BitLen() == bits {
				return a, nil
			}
		}
	}
	return "", fmt.Errorf("%w: %s", ErrUnsupported, describe(pub))
}

func describe(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA on a curve other than P-256 and P-384"
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", k.N.BitLen())
	}
	return fmt.Sprintf("a key of type %T", pub)
}

var rsaBits = map[Algorithm]int{RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}

// RSA returns the bits of an RSA key of algorithm a, and reports whether it is one.
func (a Algorithm) RSA() (bits int, ok bool) {
	bits, ok = rsaBits[a]
	return bits, ok
}

// Generate makes a private key of algorithm a in this process. It is for providers that keep keys in software.
func (a Algorithm) Generate() (crypto.Signer, error) {
	switch a {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048, RSA3072, RSA4096:
		return rsa.GenerateKey(rand.Reader, rsaBits[a])
	}
	return nil, fmt.Errorf("%w: %.40q", ErrUnsupported, string(a))
}
