package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"math/big"
)

// An algorithm is one JWS signature algorithm (RFC 7518 §3.1) with the only kind of key it is used with.
type algorithm struct {
	takes  func(crypto.PublicKey) error
	verify func(key crypto.PublicKey, signed, signature []byte) bool
}

// algorithms is the whole list. RFC 8555 §6.2 forbids "none" and MACs and asks for ES256; the others are what clients
// have keys for. RSA-PSS and P-521 are left out: no client of ours makes them, and each more is one more to get wrong.
var algorithms = map[string]algorithm{
	"ES256": {ecKey("ES256", elliptic.P256()), verifyES256}, // RFC 7518 §3.4
	"ES384": {ecKey("ES384", elliptic.P384()), verifyES384}, // RFC 7518 §3.4
	"EdDSA": {edKey, verifyEdDSA},                           // RFC 8037 §3.1, Ed25519 only
	"RS256": {rsaKey, verifyRS256},                          // RFC 7518 §3.3
}

// Algorithms lists what Parse takes, for the "algorithms" field of a badSignatureAlgorithm problem (RFC 8555 §6.2).
func Algorithms() []string { return []string{"ES256", "ES384", "EdDSA", "RS256"} }

func ecKey(alg string, curve elliptic.Curve) func(crypto.PublicKey) error {
	return func(key crypto.PublicKey) error {
		if k, ok := key.(*ecdsa.PublicKey); !ok || k.Curve != curve {
			return fmt.Errorf("%w: %s goes with a key on %s (RFC 7518 §3.4)", ErrKey, alg, curve.Params().Name)
		}
		return nil
	}
}

func edKey(key crypto.PublicKey) error {
	if k, ok := key.(ed25519.PublicKey); !ok || len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: EdDSA goes with an Ed25519 key (RFC 8037 §3.1)", ErrKey)
	}
	return nil
}

func rsaKey(key crypto.PublicKey) error {
	if _, ok := key.(*rsa.PublicKey); !ok {
		return fmt.Errorf("%w: RS256 goes with an RSA key (RFC 7518 §3.3)", ErrKey)
	}
	return nil
}

func verifyES256(key crypto.PublicKey, signed, signature []byte) bool {
	digest := sha256.Sum256(signed)
	return verifyECDSA(key, digest[:], signature, 32)
}

func verifyES384(key crypto.PublicKey, signed, signature []byte) bool {
	digest := sha512.Sum384(signed)
	return verifyECDSA(key, digest[:], signature, 48)
}

// verifyECDSA takes R and S as octet strings of exactly size octets each (RFC 7518 §3.4).
func verifyECDSA(key crypto.PublicKey, digest, signature []byte, size int) bool {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || len(signature) != 2*size {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(k, digest, r, s)
}

func verifyEdDSA(key crypto.PublicKey, signed, signature []byte) bool {
	k, ok := key.(ed25519.PublicKey)
	return ok && len(k) == ed25519.PublicKeySize && ed25519.Verify(k, signed, signature)
}

func verifyRS256(key crypto.PublicKey, signed, signature []byte) bool {
	k, ok := key.(*rsa.PublicKey)
	digest := sha256.Sum256(signed)
	return ok && rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
}
