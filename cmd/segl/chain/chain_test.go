package chain_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
)

func make509(t testing.TB, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotAfter = big.NewInt(0x0a0b), time.Unix(4e9, 0)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func block(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }

func TestParseTakesWhatFilesHold(t *testing.T) {
	a, b := make509(t, &x509.Certificate{}), make509(t, &x509.Certificate{})
	pemA, pemB := block("CERTIFICATE", a.Raw), block("CERTIFICATE", b.Raw)
	for name, c := range map[string]struct {
		text []byte
		want []*x509.Certificate
	}{
		"one":                     {pemA, []*x509.Certificate{a}},
		"a chain, in order":       {slices.Concat(pemB, pemA), []*x509.Certificate{b, a}},
		"words around":            {slices.Concat([]byte("subject=a\n"), pemA, []byte("\nthe end\n")), []*x509.Certificate{a}},
		"a key before":            {slices.Concat(block("PRIVATE KEY", []byte("x")), pemA), []*x509.Certificate{a}},
		"der":                     {a.Raw, []*x509.Certificate{a}},
		"others' blocks in bunch": {slices.Concat(pemA, block("X509 CRL", nil), pemB), []*x509.Certificate{a, b}},
	} {
		got, err := chain.Parse(c.text)
		if err != nil || !slices.EqualFunc(got, c.want, (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
}

func TestParseTellsNoneFromMalformed(t *testing.T) {
	a := make509(t, &x509.Certificate{})
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"empty":           {nil, chain.ErrNone},
		"words":           {[]byte("certificate"), chain.ErrNone},
		"a key":           {block("PRIVATE KEY", []byte("x")), chain.ErrNone},
		"cut":             {block("CERTIFICATE", a.Raw[:100]), chain.ErrMalformed},
		"cut, in der":     {a.Raw[:100], chain.ErrMalformed},
		"more behind":     {block("CERTIFICATE", append(slices.Clone(a.Raw), 0)), chain.ErrMalformed},
		"the second bad":  {slices.Concat(block("CERTIFICATE", a.Raw), block("CERTIFICATE", nil)), chain.ErrMalformed},
		"an empty der":    {[]byte{0x30}, chain.ErrMalformed},
		"der, then a pem": {slices.Concat(a.Raw, block("CERTIFICATE", a.Raw)), chain.ErrMalformed},
	} {
		if _, err := chain.Parse(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := chain.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestACertificateIsCalledByWhatItHas(t *testing.T) {
	id := &url.URL{Scheme: "spiffe", Host: "segl.test", Path: "/tenant/demo/w"}
	for want, c := range map[string]*x509.Certificate{
		"CN=a":                             {Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.test"}},
		"spiffe://segl.test/tenant/demo/w": {URIs: []*url.URL{id}, DNSNames: []string{"a.test"}},
		"a.test":                           {DNSNames: []string{"a.test"}},
		"0a0b":                             {},
	} {
		if got := chain.Title(make509(t, c)); got != want {
			t.Errorf("called %q, want %q", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	a := make509(f, &x509.Certificate{})
	f.Add(a.Raw)
	f.Add(block("CERTIFICATE", a.Raw))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := chain.Parse(b)
		if (err == nil) != (len(certs) > 0) {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		var again []byte
		for _, c := range certs {
			chain.Title(c)
			again = append(again, block("CERTIFICATE", c.Raw)...)
		}
		if err != nil {
			return
		}
		if back, err := chain.Parse(again); err != nil || !slices.EqualFunc(back, certs, (*x509.Certificate).Equal) {
			t.Fatalf("they do not round-trip: %v", err)
		}
	})
}
