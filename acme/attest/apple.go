package attest

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
)

// Extensions of Apple's Managed Device Attestation. Their values are the octets themselves, in no further DER.
var (
	oidAppleSerial = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 1}
	oidAppleUDID   = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 2}
	oidAppleNonce  = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}
)

// apple reads a statement of Apple's: the certificate attests the key it is for. The nonce is what the device was told to
// show as fresh: the SHA-256 of the challenge's token. A statement without one may be old, or another's: it is refused.
func apple(s statement) (finding, error) {
	leaf := s.certificates[0]
	nonce, ok := value(leaf, oidAppleNonce)
	if !ok {
		return finding{}, errors.New("it has no nonce, so that it may be old or another's: ask the device for a fresh one")
	}
	want := sha256.Sum256([]byte(s.token))
	if subtle.ConstantTimeCompare(nonce, want[:]) != 1 {
		return finding{}, errors.New("its nonce is not the SHA-256 of this challenge's token")
	}
	f := finding{spki: leaf.RawSubjectPublicKeyInfo}
	for _, id := range []asn1.ObjectIdentifier{oidAppleSerial, oidAppleUDID} {
		if v, ok := value(leaf, id); ok && len(v) > 0 {
			f.identifiers = append(f.identifiers, string(v))
		}
	}
	return f, nil
}

// value returns the value of an extension.
func value(c *x509.Certificate, id asn1.ObjectIdentifier) ([]byte, bool) {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value, true
		}
	}
	return nil, false
}
