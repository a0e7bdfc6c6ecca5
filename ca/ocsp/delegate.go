package ocsp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6960 §4.2.1 and §4.3 name keys and issuers by SHA-1; nothing is trusted for it
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A delegate is a key that may answer for one authority until its certificate ends (RFC 6960 §4.2.2.2).
type delegate struct {
	authority Authority
	key       *ecdsa.PrivateKey
	notBefore time.Time
	notAfter  time.Time
	id        []byte     // ResponderID
	certs     []byte     // [0] EXPLICIT SEQUENCE OF Certificate: its own
	named     issuerHash // the authority, by SHA-1
}

// enrol makes a key and has it certified.
func (r *Responder) enrol(ctx context.Context, a Authority) (*delegate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	c, err := r.Enroller.EnrolResponder(ctx, a.Name, key.Public())
	if err != nil {
		return nil, err
	}
	if err := check(c, key, a.Certificate); err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	d := &delegate{authority: a, key: key, notBefore: c.NotBefore, notAfter: c.NotAfter}
	if d.id, err = r.responderID(c); err != nil {
		return nil, err
	}
	var certs cryptobyte.Builder
	certs.AddASN1(tagZero, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(c.Raw) })
	})
	d.certs = certs.BytesOrPanic()
	by, err := a.issuerHashes()
	d.named = by[0]
	return d, err
}

// responderID names the responder as Config says.
//
//	ResponderID ::= CHOICE { byName [1] EXPLICIT Name, byKey [2] EXPLICIT KeyHash }
//
// RFC 6960 §4.2.1: "KeyHash ::= OCTET STRING -- SHA-1 hash of responder's public key (excluding the tag and length fields)".
func (r *Responder) responderID(c *x509.Certificate) ([]byte, error) {
	var id cryptobyte.Builder
	if r.ByName {
		id.AddASN1(tagOne, func(b *cryptobyte.Builder) { b.AddBytes(c.RawSubject) })
		return id.Bytes()
	}
	point, err := publicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	id.AddASN1(tagTwo, func(b *cryptobyte.Builder) {
		sum := sha1.Sum(point) //nolint:gosec // see above
		b.AddASN1OctetString(sum[:])
	})
	return id.Bytes()
}

// check refuses a certificate that clients would refuse.
func check(c *x509.Certificate, key *ecdsa.PrivateKey, authority *x509.Certificate) error {
	switch {
	case !key.PublicKey.Equal(c.PublicKey):
		return errors.New("it is for another key")
	case !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("it lacks id-kp-OCSPSigning (RFC 6960 §4.2.2.2)")
	}
	if err := c.CheckSignatureFrom(authority); err != nil {
		return fmt.Errorf("it was not issued by the authority asked about (RFC 6960 §4.2.2.2): %w", err)
	}
	return nil
}

// usable reports whether an answer signed now can be verified for a while.
func (d *delegate) usable(now time.Time) bool {
	return d != nil && !now.Before(d.notBefore) && now.Add(backdate).Before(d.notAfter)
}

// due reports whether a successor is to be enrolled: at half of its life, so that the two overlap by the other half.
func (d *delegate) due(now time.Time) bool {
	return d == nil || now.Before(d.notBefore) || now.Sub(d.notBefore) > d.notAfter.Sub(d.notBefore)/2
}

// nextUpdate: no answer outlives the certificate it is verified with.
func (d *delegate) nextUpdate(now time.Time) time.Time {
	if next := now.Add(Validity); next.Before(d.notAfter) {
		return next
	}
	return d.notAfter
}

// issuerHashes returns the two names a CertID may give a: by SHA-1 and by SHA-256, of the issuer's name in DER and of "the
// value of the BIT STRING subjectPublicKey" (RFC 6960 §4.1.1).
func (a Authority) issuerHashes() ([2]issuerHash, error) {
	var by [2]issuerHash
	key, err := publicKey(a.Certificate.RawSubjectPublicKeyInfo)
	if err != nil {
		return by, fmt.Errorf("authority %s: %w", a.Name, err)
	}
	for i, part := range [][]byte{a.Certificate.RawSubject, key} {
		short, long := sha1.Sum(part), sha256.Sum256(part) //nolint:gosec // see above
		copy(by[0][32*i:], short[:])
		copy(by[1][32*i:], long[:])
	}
	return by, nil
}

// publicKey returns the contents of the BIT STRING of a SubjectPublicKeyInfo.
func publicKey(spki []byte) ([]byte, error) {
	s := cryptobyte.String(spki)
	var body cryptobyte.String
	var key []byte
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !body.SkipASN1(asn1.SEQUENCE) || !body.ReadASN1BitStringAsBytes(&key) {
		return nil, errors.New("its public key is not a SubjectPublicKeyInfo (RFC 5280 §4.1)")
	}
	return key, nil
}
