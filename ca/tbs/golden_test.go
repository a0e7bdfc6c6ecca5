package tbs_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden makes a whole chain from fixed keys and times: Ed25519 signs the same bytes the same way.
func golden(tb testing.TB) []byte {
	tb.Helper()
	fixed := func(fill byte) keyPair {
		k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{fill}, ed25519.SeedSize))
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			tb.Fatal(err)
		}
		return keyPair{name: "Ed25519", Signer: k, spki: spki}
	}
	serial := func(fill string) cert.Serial {
		s, err := cert.ParseSerial("100169a42d40" + strings.Repeat(fill, 12))
		if err != nil {
			tb.Fatal(err)
		}
		return s
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	top, leaf := fixed(1), fixed(2)
	anchor := sign(tb, compile(tb, tbs.Spec{Usage: tbs.Authority, Key: top.Public(), PathLen: -1, Subject: nameDER(tb, pkix.Name{CommonName: "Golden root"})}), top,
		tbs.Values{Serial: serial("11"), NotBefore: at, NotAfter: at.AddDate(40, 0, 0), SPKI: top.spki})
	c := sign(tb, compile(tb, tbs.Spec{Usage: tbs.Client, Issuer: anchor, CRLs: crls, OCSP: ocsp, Issuers: issuers}), top,
		tbs.Values{Serial: serial("22"), NotBefore: at, NotAfter: at.Add(day - time.Second), SPKI: leaf.spki, CommonName: "app@dev.shop.demo", Names: names(tb, "uri:spiffe://segl.test/tenant/demo/app")})
	var out []byte
	for _, c := range []*x509.Certificate{c, anchor} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func TestBytesAreGolden(t *testing.T) {
	const file = "testdata/golden.pem"
	got := golden(t)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the chain is no longer %s: if that is meant, run go test -update", file)
	}
}

func TestGoldenReadBackByOpenSSL(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), program(t, "openssl"), "x509", "-in", "testdata/golden.pem", "-noout", "-text").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"10:01:69:a4:2d:40:22:22:22:22:22:22:22:22:22:22:22:22", "Issuer: CN = Golden root", "Subject: CN = app@dev.shop.demo",
		"Not Before: Mar  1 12:00:00 2026 GMT", "Not After : Mar  2 11:59:59 2026 GMT", "X509v3 Key Usage: critical", "Digital Signature",
		"TLS Web Client Authentication", "CA:FALSE", "OCSP - URI:http://ca.test/ocsp", "CA Issuers - URI:http://ca.test/issuers/servers.cer",
		"URI:spiffe://segl.test/tenant/demo/app", "URI:http://ca.test/crl/servers/2930.crl",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("openssl does not print %q:\n%s", want, out)
		}
	}
}

// Whatever is built passes the linter and reads back as it was asked.
func FuzzBuild(f *testing.F) {
	k := keyPairs(f)[0]
	leaf, err := tbs.Compile(tbs.Spec{Usage: tbs.ServerAndClient, Issuer: root(f, k), CRLs: crls, OCSP: ocsp, Issuers: issuers})
	if err != nil {
		f.Fatal(err)
	}
	algorithm, err := kms.SignatureAlgorithmOf(k.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.test", "spiffe://test/tenant/t/w", "app@x", int64(1), int64(1))
	f.Add("*.b.test", "https://b.test/?a=b#c", "", int64(60), int64(3600))
	f.Fuzz(func(t *testing.T, dns, uri, cn string, offset, life int64) {
		var list []cert.Name
		if n, err := cert.ParseDNS(dns); err == nil {
			list = append(list, n)
		}
		if n, err := cert.ParseURI(uri); err == nil {
			list = append(list, n)
		}
		from := start.Add(time.Duration(offset%1000) * time.Second)
		v := tbs.Values{Serial: cert.NewSerial(1, from), NotBefore: from, NotAfter: from.Add(time.Duration(life%1_000_000) * time.Second), SPKI: k.spki, CommonName: cn, Names: list}
		body, err := leaf.Build(v)
		if err != nil || lint.Certificate(body, leaf.Expect(v, 100*day)) != nil {
			return // the builder leaves some refusals to the linter: what names and texts are fit for
		}
		der, err := tbs.Assemble(body, algorithm, []byte{1})
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%q %q %q: %v", dns, uri, cn, err)
		}
		if c.Subject.CommonName != cn || c.SerialNumber.Cmp(v.Serial.Int()) != 0 || !c.NotBefore.Equal(v.NotBefore) || !c.NotAfter.Equal(v.NotAfter) || len(c.DNSNames)+len(c.URIs) != len(list) {
			t.Errorf("%q %q %q: read back as %+v", dns, uri, cn, c)
		}
	})
}
