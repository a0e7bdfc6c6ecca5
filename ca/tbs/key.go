package tbs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// keyUsage returns the bits for a key of usage u (RFC 5280 §4.2.1.3).
func keyUsage(u Usage, rsa bool) x509.KeyUsage {
	switch {
	case u == Authority:
		return x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	case rsa && (u == Server || u == ServerAndClient):
		// RSA key exchange of TLS 1.2 encrypts to the server's key (RFC 5246 §7.4.2). Only RSA can: BR §7.1.2.7.11.
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

// purposes are the key purposes of a usage (RFC 5280 §4.2.1.12, RFC 6960 §4.2.2.2).
func purposes(s Spec) []x509.ExtKeyUsage {
	switch s.Usage {
	case Server:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Client:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case ServerAndClient:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case OCSPResponder:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	return s.Purposes
}

// A key is what the builder needs to know of a SubjectPublicKeyInfo.
type key struct {
	rsa   bool
	point []byte // contents of the BIT STRING
}

// readKey reads
//
//	SubjectPublicKeyInfo ::= SEQUENCE { algorithm AlgorithmIdentifier, subjectPublicKey BIT STRING }
func readKey(spki []byte) (key, error) {
	s := cryptobyte.String(spki)
	var body, algorithm, id cryptobyte.String
	var k key
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !s.Empty() || !body.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!algorithm.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || !body.ReadASN1BitStringAsBytes(&k.point) || !body.Empty() {
		return key{}, errors.New("building a certificate: the key is not one SubjectPublicKeyInfo in DER (RFC 5280 §4.1)")
	}
	k.rsa = string(id) == "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01" // rsaEncryption (RFC 3279 §2.3.1)
	return k, nil
}

// keyID returns the key identifier of an authority's public key, the contents of its BIT STRING: "the leftmost 160-bits of
// the SHA-256 hash of the value of the BIT STRING subjectPublicKey" (RFC 7093 §2, method 1).
func keyID(point []byte) []byte {
	sum := sha256.Sum256(point)
	return sum[:20]
}
