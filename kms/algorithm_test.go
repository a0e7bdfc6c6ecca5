package kms_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func TestParseAlgorithmRefusesWhatIsNotOnTheList(t *testing.T) {
	for _, s := range []string{"P256", "p-256", "p521", "rsa1024", "dsa", "p256 "} {
		if _, err := kms.ParseAlgorithm(s); !errors.Is(err, kms.ErrUnsupported) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, a := range kms.Algorithms() {
		if got, err := kms.ParseAlgorithm(string(a)); err != nil || got != a {
			t.Errorf("%s: %s, %v", a, got, err)
		}
	}
	if got, err := kms.ParseAlgorithm(""); err != nil || got != kms.P256 {
		t.Errorf("the default is %s, %v", got, err)
	}
}

func TestKeysOffTheListAreRefused(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2050), E: 65537}
	for _, pub := range []crypto.PublicKey{p521.Public(), odd, nil, "a string"} {
		if _, err := kms.SignatureAlgorithmOf(pub); !errors.Is(err, kms.ErrUnsupported) {
			t.Errorf("%T: %v", pub, err)
		}
		if err := kms.Verify(pub, nil, nil); !errors.Is(err, kms.ErrUnsupported) {
			t.Errorf("verifying under %T: %v", pub, err)
		}
	}
}

// crypto/x509 writes a certificate with the same key; its signatureAlgorithm must be ours, octet for octet.
func TestIdentifierIsWhatTheStandardLibraryWrites(t *testing.T) {
	ring := kmstest.NewKeyring()
	for _, a := range kms.Algorithms() {
		key, err := ring.Create(t.Context(), string(a), a)
		if err != nil {
			t.Fatal(err)
		}
		s, err := kms.SignatureAlgorithmOf(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, SignatureAlgorithm: s.X509,
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), kms.Signer(t.Context(), key))
		if err != nil {
			t.Fatal(err)
		}
		var outer struct{ TBS, Algorithm, Signature asn1.RawValue }
		if _, err := asn1.Unmarshal(der, &outer); err != nil {
			t.Fatal(err)
		}
		if got := outer.Algorithm.FullBytes; string(got) != string(s.Identifier()) {
			t.Errorf("%s: %x, the standard library writes %x", a, s.Identifier(), got)
		}
	}
}

func TestVerifyRefusesAlteredMessageAndSignature(t *testing.T) {
	ring := kmstest.NewKeyring()
	for _, a := range kms.Algorithms() {
		key, err := ring.Create(t.Context(), string(a), a)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := kms.SignMessage(t.Context(), key, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if err := kms.Verify(key.Public(), []byte("massage"), signature); !errors.Is(err, kms.ErrBadSignature) {
			t.Errorf("%s, another message: %v", a, err)
		}
		signature[len(signature)-1] ^= 1
		if err := kms.Verify(key.Public(), []byte("message"), signature); !errors.Is(err, kms.ErrBadSignature) {
			t.Errorf("%s, altered signature: %v", a, err)
		}
	}
}

func TestProveRefusesAKeyThatSignsWithAnother(t *testing.T) {
	ring := kmstest.NewKeyring()
	one, err := ring.Create(t.Context(), "one", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	two, err := ring.Create(t.Context(), "two", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	if err := kms.Prove(t.Context(), swapped{one, two}); !errors.Is(err, kms.ErrBadSignature) {
		t.Errorf("got %v", err)
	}
}

// A swapped key shows the public half of another.
type swapped struct {
	kms.Key
	shown kms.Key
}

func (s swapped) Public() crypto.PublicKey { return s.shown.Public() }
