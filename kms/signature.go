package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // what SHA256 below means
	_ "crypto/sha512" // what SHA384 below means
	"crypto/x509"
	"errors"
	"fmt"
)

// A SignatureAlgorithm is how a key of ours signs certificates, lists and answers: one for each kind of key, so that a
// public key alone says how its signatures read.
type SignatureAlgorithm struct {
	// X509 is the algorithm's name in crypto/x509.
	X509 x509.SignatureAlgorithm
	// Hash makes the digest that is signed; zero means that the message itself is.
	Hash crypto.Hash
	// identifier is the DER of
	//
	//	AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY DEFINED BY algorithm OPTIONAL }
	identifier string
}

// The signature algorithms. ML-DSA (RFC 9881) will sign the message itself, as Ed25519 does.
var (
	// RFC 5758 §3.2: "the encoding MUST omit the parameters field".
	ecdsaSHA256 = SignatureAlgorithm{x509.ECDSAWithSHA256, crypto.SHA256, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"}
	ecdsaSHA384 = SignatureAlgorithm{x509.ECDSAWithSHA384, crypto.SHA384, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"}
	// RFC 8410 §3: "the parameters MUST be absent".
	pureEd25519 = SignatureAlgorithm{x509.PureEd25519, 0, "\x30\x05\x06\x03\x2b\x65\x70"}
	// RFC 4055 §5: "the parameters field MUST contain NULL". PKCS #1 v1.5, because PSS is what old clients lack.
	rsaSHA256 = SignatureAlgorithm{x509.SHA256WithRSA, crypto.SHA256, "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"}
)

// SignatureAlgorithmOf returns how the private half of pub signs. ECDSA takes the hash of its curve's strength, as the
// CA/Browser Forum Baseline Requirements §7.1.3.2 want it.
func SignatureAlgorithmOf(pub crypto.PublicKey) (SignatureAlgorithm, error) {
	a, err := AlgorithmOf(pub)
	if err != nil {
		return SignatureAlgorithm{}, err
	}
	switch a {
	case P256:
		return ecdsaSHA256, nil
	case P384:
		return ecdsaSHA384, nil
	case Ed25519:
		return pureEd25519, nil
	case RSA2048, RSA3072, RSA4096:
		return rsaSHA256, nil
	}
	panic("kms: internal error: no signature algorithm for " + string(a))
}

// Identifier returns the AlgorithmIdentifier in DER.
func (s SignatureAlgorithm) Identifier() []byte { return []byte(s.identifier) }

// Digest returns what Key.Sign takes for message: its hash, or message itself.
func (s SignatureAlgorithm) Digest(message []byte) []byte {
	if s.Hash == 0 {
		return message
	}
	h := s.Hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// SignMessage signs message with key as SignatureAlgorithmOf says. It does not verify what comes back; see Verify.
func SignMessage(ctx context.Context, key Key, message []byte) ([]byte, error) {
	s, err := SignatureAlgorithmOf(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", key.Name(), err)
	}
	return key.Sign(ctx, s.Digest(message), s.Hash)
}

// ErrBadSignature: a signature does not verify.
var ErrBadSignature = errors.New("signature does not verify")

// Verify checks a signature that the private half of pub made over message, as SignatureAlgorithmOf says.
func Verify(pub crypto.PublicKey, message, signature []byte) error {
	s, err := SignatureAlgorithmOf(pub)
	if err != nil {
		return err
	}
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, s.Digest(message), signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, s.Hash, s.Digest(message), signature) == nil
	}
	if !ok {
		return ErrBadSignature
	}
	return nil
}

// proofMessage is no certificate, list or answer: its first octet begins no DER SEQUENCE.
const proofMessage = "segl: proof that a key can be used\n"

// Prove sees that key signs and that its signatures verify. It is what readiness asks.
func Prove(ctx context.Context, key Key) error {
	signature, err := SignMessage(ctx, key, []byte(proofMessage))
	if err != nil {
		return fmt.Errorf("proving key %s: %w", key.Name(), err)
	}
	if err := Verify(key.Public(), []byte(proofMessage), signature); err != nil {
		return fmt.Errorf("proving key %s: %w", key.Name(), err)
	}
	return nil
}
