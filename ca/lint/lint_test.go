package lint_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

const day = 24 * time.Hour

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A body is a TBSCertificate in pieces that tests replace.
type body struct {
	Version    int `asn1:"explicit,optional,tag:0"`
	Serial     asn1.RawValue
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   validity
	Subject    asn1.RawValue
	Key        asn1.RawValue
	IssuerUID  asn1.BitString   `asn1:"optional,tag:1"`
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

type validity struct{ From, To asn1.RawValue }

func (b *body) extension(id string) *pkix.Extension {
	for i := range b.Extensions {
		if b.Extensions[i].Id.String() == id {
			return &b.Extensions[i]
		}
	}
	panic("no extension " + id)
}

func (b *body) drop(id string) {
	b.Extensions = slices.DeleteFunc(b.Extensions, func(e pkix.Extension) bool { return e.Id.String() == id })
}

// Identifiers of extensions.
const (
	subjectKeyID, keyUsage, altName, constraints = "2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19"
	crls, policies, authorityKeyID, purposes     = "2.5.29.31", "2.5.29.32", "2.5.29.35", "2.5.29.37"
	authorityInfo, noCheck                       = "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.48.1.5"
)

// A fixture makes good certificates and what is expected of them.
type fixture struct {
	root *x509.Certificate
	keys map[string]crypto.Signer
	spki map[string][]byte
}

func newFixture(tb testing.TB) *fixture {
	tb.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	rsa2048, err4 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		tb.Fatal(err)
	}
	f := &fixture{keys: map[string]crypto.Signer{"P-256": p256, "P-384": p384, "Ed25519": ed, "RSA": rsa2048}, spki: map[string][]byte{}}
	for name, k := range f.keys {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			tb.Fatal(err)
		}
		f.spki[name] = der
	}
	f.root = &x509.Certificate{
		RawSubject: f.subject(tb, "root"), PublicKey: p256.Public(), SubjectKeyId: []byte("12345678901234567890"), IsCA: true,
		NotBefore: start.Add(-day), NotAfter: start.Add(365 * day),
	}
	return f
}

func (f *fixture) subject(tb testing.TB, cn string) []byte {
	tb.Helper()
	der, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence())
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func (f *fixture) spec(tb testing.TB, u lint.Usage) tbs.Spec {
	tb.Helper()
	policy, err := x509.ParseOID("1.3.6.1.4.1.55555.1")
	if err != nil {
		tb.Fatal(err)
	}
	s := tbs.Spec{
		Usage: u, Issuer: f.root, PathLen: 0, Policies: []x509.OID{policy},
		CRLs: "http://ca.test/crl/root/", OCSP: "http://ca.test/ocsp", Issuers: "http://ca.test/issuers/root.cer",
	}
	if u == lint.Authority {
		s.Subject = f.subject(tb, "sub")
	}
	return s
}

// make returns a good certificate of usage u for a key of kind key, and what to expect.
func (f *fixture) make(tb testing.TB, u lint.Usage, key string) ([]byte, lint.Expect) {
	tb.Helper()
	t, err := tbs.Compile(f.spec(tb, u))
	if err != nil {
		tb.Fatal(err)
	}
	v := tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day - time.Second), SPKI: f.spki[key]}
	switch u {
	case lint.Authority:
	case lint.Client:
		v.CommonName = "app@dev.shop.demo"
		v.Names = parseNames(tb, "uri:spiffe://test/tenant/demo/app")
	case lint.OCSPResponder:
		v.CommonName = "Root OCSP"
	default:
		v.Names = parseNames(tb, "dns:a.test", "dns:*.a.test", "ip:192.0.2.1", "ip:2001:db8::1", "uri:spiffe://test/tenant/demo/app")
	}
	der, err := t.Build(v)
	if err != nil {
		tb.Fatal(err)
	}
	return der, t.Expect(v, day)
}

func parseNames(tb testing.TB, list ...string) []cert.Name {
	tb.Helper()
	var names []cert.Name
	for _, s := range list {
		n, err := cert.ParseName(s)
		if err != nil {
			tb.Fatal(err)
		}
		names = append(names, n)
	}
	return names
}

func TestEveryUsageAndKeyPasses(t *testing.T) {
	f := newFixture(t)
	for _, u := range []lint.Usage{lint.Server, lint.Client, lint.ServerAndClient, lint.OCSPResponder, lint.Authority} {
		for key := range f.keys {
			der, e := f.make(t, u, key)
			if err := lint.Certificate(der, e); err != nil {
				t.Errorf("%s, %s: %v", u, key, err)
			}
		}
	}
}

var (
	noRevAvail      = asn1.ObjectIdentifier{2, 5, 29, 56}
	feature         = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
)

// with adds an extension that is critical where it has to be.
func with(id asn1.ObjectIdentifier, value string, expect func(*lint.Expect)) func(*body, *lint.Expect) {
	return func(b *body, e *lint.Expect) {
		b.Extensions = append(b.Extensions, pkix.Extension{Id: id, Critical: id.Equal(nameConstraints), Value: []byte(value)})
		if expect != nil {
			expect(e)
		}
	}
}

func utcTime(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagUTCTime, Bytes: []byte(s)}
}

func integer(b ...byte) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagInteger, Bytes: b} }

func sequence(b ...byte) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: b}
}

// Each row spoils one thing of a good certificate; the rule named must be the one that says so.
func TestRulesRefuse(t *testing.T) {
	f := newFixture(t)
	seen := map[string]bool{}
	for _, row := range []struct {
		rule, name string
		usage      lint.Usage
		key        string
		spoil      func(b *body, e *lint.Expect)
	}{
		{"version-3", "version 1", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Version = 0 }},
		{"version-3", "version 2", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Version = 1 }},
		{"serial", "negative", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Serial = integer(0x90, 1, 2, 3, 4, 5, 6, 7, 8, 9) }},
		{"serial", "zero", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Serial = integer(0) }},
		{"serial", "21 octets", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Serial = integer(make([]byte, 21)...) }},
		{"serial", "seven octets", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Serial = integer(1, 2, 3, 4, 5, 6, 7) }},
		{"serial", "another's", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Serial = cert.NewSerial(1, start) }},
		{"signature-algorithm", "of another kind of key", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerKey = f.keys["RSA"].Public() }},
		{"signature-algorithm", "of another curve", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerKey = f.keys["P-384"].Public() }},
		{"signature-algorithm", "of no key", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerKey = nil }},
		{"issuer", "empty", lint.Server, "P-256", func(b *body, e *lint.Expect) { b.Issuer, e.Issuer = sequence(), []byte{0x30, 0} }},
		{"issuer", "another", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Issuer = f.subject(t, "other") }},
		{"validity-encoding", "UTCTime without seconds", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Validity.From = utcTime("2603011200Z") }},
		{"validity-encoding", "UTCTime with an offset", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Validity.To = utcTime("260301120000+0100") }},
		{"validity-encoding", "no date", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Validity.From = utcTime("261301120000Z") }},
		{"validity-encoding", "GeneralizedTime before 2050", lint.Server, "P-256", func(b *body, _ *lint.Expect) {
			b.Validity.To = asn1.RawValue{Tag: asn1.TagGeneralizedTime, Bytes: []byte("20260302115959Z")}
		}},
		{"validity-encoding", "GeneralizedTime with a fraction", lint.Server, "P-256", func(b *body, _ *lint.Expect) {
			b.Validity.To = asn1.RawValue{Tag: asn1.TagGeneralizedTime, Bytes: []byte("20510302115959.5Z")}
		}},
		{"validity", "ends before it begins", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Validity.To = utcTime("260301115959Z") }},
		{"validity", "of another length", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.NotAfter = e.NotAfter.Add(time.Second) }},
		{"life", "a second too long", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.MaxLife -= time.Second }},
		{"within-issuer", "outlives it", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerNotAfter = e.NotAfter.Add(-time.Second) }},
		{"within-issuer", "begins before it", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerNotBefore = e.NotBefore.Add(time.Second) }},
		{"subject", "a leaf's, unasked", lint.Client, "P-256", func(_ *body, e *lint.Expect) { e.CommonName = "" }},
		{"subject", "an authority's, empty", lint.Authority, "P-256", func(b *body, _ *lint.Expect) { b.Subject = sequence() }},
		{"subject", "an authority's, another", lint.Authority, "P-256", func(_ *body, e *lint.Expect) { e.Subject = f.subject(t, "other") }},
		{"common-name", "another", lint.Client, "P-256", func(_ *body, e *lint.Expect) { e.CommonName = "root@dev.shop.demo" }},
		{"common-name", "missing", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.CommonName = "a" }},
		{"common-name", "65 octets", lint.Client, "P-256", func(b *body, e *lint.Expect) {
			e.CommonName = strings.Repeat("a@", 33)[:65]
			b.Subject.FullBytes = f.subject(t, e.CommonName)
		}},
		{"common-name", "not UTF-8", lint.Client, "P-256", func(b *body, e *lint.Expect) {
			e.CommonName = "\xb3"
			b.Subject.FullBytes = []byte("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\xb3")
		}},
		{"common-name", "in PrintableString", lint.Client, "P-256", func(b *body, e *lint.Expect) { e.CommonName = "app"; b.Subject.FullBytes = f.subject(t, "app") }},
		{"key", "another", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.SPKI = f.spki["P-384"] }},
		{"key", "compressed point", lint.Server, "P-256", spoilKey(func(k []byte) []byte { k[len(k)-65] = 2; return k })},
		{"key", "P-224", lint.Server, "P-256", func(b *body, e *lint.Expect) {
			e.SPKI = p224(t)
			b.Key.FullBytes = e.SPKI
		}},
		{"key", "RSA of 1024 bits", lint.Server, "RSA", rsaKey(t, 1024, 65537)},
		{"key", "RSA of 2047 bits", lint.Server, "RSA", rsaKey(t, 2047, 65537)},
		{"key", "RSA of 8192 bits", lint.Server, "RSA", rsaKey(t, 8192, 65537)},
		{"key", "RSA with exponent 3", lint.Server, "RSA", rsaKey(t, 2048, 3)},
		{"key", "RSA with an even exponent", lint.Server, "RSA", rsaKey(t, 2048, 65538)},
		{"unique-identifiers", "the issuer's", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.IssuerUID = asn1.BitString{Bytes: []byte{1}, BitLength: 8} }},
		{"duplicate-extension", "names twice", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.Extensions = append(b.Extensions, *b.extension(altName)) }},
		{"unknown-extension", "critical", lint.Server, "P-256", addExtension("1.2.3.4", true)},
		{"unknown-extension", "not critical", lint.Server, "P-256", addExtension("1.2.3.4", false)},
		{"critical", "names beside an empty subject are not", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.extension(altName).Critical = false }},
		{"critical", "names beside a subject are", lint.Client, "P-256", func(b *body, _ *lint.Expect) { b.extension(altName).Critical = true }},
		{"critical", "key usage is not", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.extension(keyUsage).Critical = false }},
		{"critical", "the CRL URL is", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.extension(crls).Critical = true }},
		{"basic-constraints", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(constraints) }},
		{"basic-constraints", "a leaf that is a CA", lint.Server, "P-256", value(constraints, "\x30\x03\x01\x01\xff")},
		{"basic-constraints", "an authority that is none", lint.Authority, "P-256", value(constraints, "\x30\x00")},
		{"basic-constraints", "no path length", lint.Authority, "P-256", value(constraints, "\x30\x03\x01\x01\xff")},
		{"basic-constraints", "a longer path", lint.Authority, "P-256", value(constraints, "\x30\x06\x01\x01\xff\x02\x01\x01")},
		{"key-usage", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(keyUsage) }},
		{"key-usage", "a leaf that signs certificates", lint.Server, "P-256", value(keyUsage, "\x03\x02\x02\x84")},
		{"key-usage", "encipherment by an elliptic curve", lint.Server, "P-256", value(keyUsage, "\x03\x02\x05\xa0")},
		{"key-usage", "an RSA server without encipherment", lint.Server, "RSA", value(keyUsage, "\x03\x02\x07\x80")},
		{"key-usage", "an RSA client with encipherment", lint.Client, "RSA", value(keyUsage, "\x03\x02\x05\xa0")},
		{"key-usage", "trailing zero bits", lint.Server, "P-256", value(keyUsage, "\x03\x02\x00\x80")},
		{"key-usage", "no bits", lint.Server, "P-256", value(keyUsage, "\x03\x01\x00")},
		{"extended-key-usage", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(purposes) }},
		{"extended-key-usage", "any", lint.Server, "P-256", value(purposes, "\x30\x06\x06\x04\x55\x1d\x25\x00")},
		{"extended-key-usage", "a server that is a client too", lint.Server, "P-256", value(purposes, "\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02")},
		{"extended-key-usage", "an unlimited authority's", lint.Authority, "P-256", func(b *body, _ *lint.Expect) {
			b.Extensions = append(b.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte("\x30\x06\x06\x04\x55\x1d\x25\x00")})
		}},
		{"subject-key-identifier", "a leaf's", lint.Server, "P-256", addExtension(subjectKeyID, false)},
		{"subject-key-identifier", "missing from an authority", lint.Authority, "P-256", func(b *body, _ *lint.Expect) { b.drop(subjectKeyID) }},
		{"subject-key-identifier", "of another key", lint.Authority, "P-256", func(b *body, _ *lint.Expect) { b.extension(subjectKeyID).Value[5] ^= 1 }},
		{"authority-key-identifier", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(authorityKeyID) }},
		{"authority-key-identifier", "of another key", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.extension(authorityKeyID).Value[8] ^= 1 }},
		{"authority-key-identifier", "with a serial beside it", lint.Server, "P-256", value(authorityKeyID, "\x30\x06\x80\x01\x01\x82\x01\x01")},
		{"authority-key-identifier", "of an issuer that has none", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.IssuerKeyID = nil }},
		{"names", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(altName) }},
		{"names", "one left out", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Names = append(slices.Clone(e.Names), e.Names[0]) }},
		{"names", "one unasked", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Names = e.Names[:len(e.Names)-1] }},
		{"names", "in another order", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Names = slices.Clone(e.Names); slices.Reverse(e.Names) }},
		{"names", "none asked", lint.Client, "P-256", func(_ *body, e *lint.Expect) { e.Names = nil }},
		{"names", "an address as a DNS name", lint.Server, "P-256", func(b *body, e *lint.Expect) {
			e.Names = parseNames(t, "ip:192.0.2.1")
			b.extension(altName).Value = []byte("\x30\x0b\x82\x09192.0.2.1")
		}},
		{"policies", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(policies) }},
		{"policies", "unasked", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Policies = nil }},
		{"policies", "any", lint.Server, "P-256", value(policies, "\x30\x08\x30\x06\x06\x04\x55\x1d\x20\x00")},
		{"crl-distribution-point", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(crls) }},
		{"crl-distribution-point", "unasked", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.CRLs = "" }},
		{"crl-distribution-point", "another authority's", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.CRLs = "http://ca.test/crl/servers/" }},
		{"crl-distribution-point", "another epoch's", lint.Server, "P-256", func(b *body, _ *lint.Expect) {
			v := b.extension(crls).Value
			v[len(v)-5] = '0' + (v[len(v)-5]-'0'+1)%10 // the last digit of the epoch, before .crl
		}},
		{"authority-information-access", "missing", lint.Server, "P-256", func(b *body, _ *lint.Expect) { b.drop(authorityInfo) }},
		{"authority-information-access", "another responder", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.OCSP = "http://ca.test/other" }},
		{"authority-information-access", "another issuer", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.Issuers = "http://ca.test/other" }},
		{"authority-information-access", "a responder unasked", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.OCSP = "" }},
		{"ocsp-no-check", "missing from a responder", lint.OCSPResponder, "P-256", func(b *body, _ *lint.Expect) { b.drop(noCheck) }},
		{"ocsp-no-check", "on a server", lint.Server, "P-256", addExtension(noCheck, false)},
		{"ocsp-no-check", "not NULL", lint.OCSPResponder, "P-256", value(noCheck, "\x30\x00")},
		{"no-rev-avail", "unasked", lint.Server, "P-256", with(noRevAvail, "\x05\x00", nil)},
		{"no-rev-avail", "asked and missing", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.NoRevAvail = true }},
		{"no-rev-avail", "beside a list", lint.Server, "P-256", with(noRevAvail, "\x05\x00", func(e *lint.Expect) { e.NoRevAvail = true })},
		{"no-rev-avail", "not NULL", lint.Server, "P-256", with(noRevAvail, "\x30\x00", func(e *lint.Expect) { e.NoRevAvail = true })},
		{"no-rev-avail", "of an authority", lint.Authority, "P-256", with(noRevAvail, "\x05\x00", func(e *lint.Expect) { e.NoRevAvail = true })},
		{"tls-feature", "unasked", lint.Server, "P-256", with(feature, "\x30\x03\x02\x01\x05", nil)},
		{"tls-feature", "asked and missing", lint.Server, "P-256", func(_ *body, e *lint.Expect) { e.MustStaple = true }},
		{"tls-feature", "another feature", lint.Server, "P-256", with(feature, "\x30\x03\x02\x01\x11", func(e *lint.Expect) { e.MustStaple = true })},
		{"name-constraints", "unasked", lint.Authority, "P-256", with(nameConstraints, "\x30\x00", nil)},
		{"name-constraints", "asked and missing", lint.Authority, "P-256", func(_ *body, e *lint.Expect) { e.Permitted = &lint.Permitted{} }},
		{"name-constraints", "wider than asked", lint.Authority, "P-256", with(nameConstraints, "\x30\x09\xa0\x07\x30\x05\x82\x03com", func(e *lint.Expect) {
			e.Permitted = &lint.Permitted{DNS: []string{"a.test"}}
		})},
		{"name-constraints", "on a leaf", lint.Server, "P-256", with(nameConstraints, "\x30\x00", func(e *lint.Expect) { e.Permitted = &lint.Permitted{} })},
	} {
		t.Run(row.rule+"/"+row.name, func(t *testing.T) {
			seen[row.rule] = true
			der, e := f.make(t, row.usage, row.key)
			if got := rule(lint.Certificate(respell(t, der, &e, row.spoil), e)); got != row.rule {
				t.Errorf("got rule %q, want %q", got, row.rule)
			}
		})
	}
	for _, r := range lint.Rules() {
		if !seen[r[0]] && r[0] != "encoding" {
			t.Errorf("no row breaks rule %s", r[0])
		}
	}
}

// respell takes der apart, spoils it and puts it together again.
func respell(tb testing.TB, der []byte, e *lint.Expect, spoil func(*body, *lint.Expect)) []byte {
	tb.Helper()
	var b body
	if rest, err := asn1.Unmarshal(der, &b); err != nil || len(rest) > 0 {
		tb.Fatalf("%v, %d octets left", err, len(rest))
	}
	spoil(&b, e)
	out, err := asn1.Marshal(b)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func rule(err error) string {
	if v, ok := errors.AsType[*lint.Violation](err); ok {
		return v.Rule
	}
	return ""
}

func value(id, v string) func(*body, *lint.Expect) {
	return func(b *body, _ *lint.Expect) { b.extension(id).Value = []byte(v) }
}

func addExtension(id string, critical bool) func(*body, *lint.Expect) {
	return func(b *body, _ *lint.Expect) {
		oid, err := x509.ParseOID(id)
		if err != nil {
			panic(err)
		}
		var arcs asn1.ObjectIdentifier
		der, err := oid.MarshalBinary()
		if err != nil {
			panic(err)
		}
		if _, err := asn1.Unmarshal(append([]byte{6, byte(len(der))}, der...), &arcs); err != nil {
			panic(err)
		}
		b.Extensions = append(b.Extensions, pkix.Extension{Id: arcs, Critical: critical, Value: []byte{5, 0}})
	}
}

func spoilKey(f func([]byte) []byte) func(*body, *lint.Expect) {
	return func(b *body, e *lint.Expect) {
		e.SPKI = f(slices.Clone(e.SPKI))
		b.Key.FullBytes = e.SPKI
	}
}

// p224 returns a key on a curve that is not issued for.
func p224(tb testing.TB) []byte {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// rsaKey replaces the key by an odd modulus of so many bits; nobody has its factors.
func rsaKey(tb testing.TB, bits, exponent int) func(*body, *lint.Expect) {
	tb.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: exponent})
	if err != nil {
		tb.Fatal(err)
	}
	return spoilKey(func([]byte) []byte { return der })
}

func TestEncodingRefusesWhatIsNotDER(t *testing.T) {
	f := newFixture(t)
	good, e := f.make(t, lint.Server, "P-256")
	long := append([]byte{0x30, 0x83, 0, good[2], good[3]}, good[4:]...) // a length of one octet more than needed
	for name, der := range map[string][]byte{
		"nothing":            nil,
		"not a sequence":     {5, 0},
		"an empty sequence":  {0x30, 0},
		"something behind":   append(slices.Clone(good), 0),
		"a long length":      long,
		"a certificate":      append([]byte{0x30, 0x82, good[2], good[3] + 4}, good...),
		"critical FALSE":     respellCritical(t, good),
		"cut in the middle":  good[:len(good)/2],
		"nothing of the end": good[:len(good)-1],
	} {
		if got := rule(lint.Certificate(der, e)); got != "encoding" {
			t.Errorf("%s: got rule %q", name, got)
		}
	}
}

// respellCritical writes out "critical FALSE" in the last extension, the CRL distribution point; DER leaves it out.
func respellCritical(tb testing.TB, der []byte) []byte {
	tb.Helper()
	out := respell(tb, der, nil, func(b *body, _ *lint.Expect) { b.extension(crls).Critical = true })
	out[strings.LastIndex(string(out), "\x55\x1d\x1f\x01\x01\xff")+5] = 0
	return out
}

func TestViolationNamesRuleAndCitation(t *testing.T) {
	f := newFixture(t)
	der, e := f.make(t, lint.Server, "P-256")
	e.MaxLife = time.Hour
	err := lint.Certificate(der, e)
	if want := "lint rule life (docs/x509-profiles.md): 24h0m0s, the profile allows 1h0m0s"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzCertificate(f *testing.F) {
	fix := newFixture(f)
	var expects []lint.Expect
	for _, u := range []lint.Usage{lint.Server, lint.Client, lint.Authority} {
		der, e := fix.make(f, u, "P-256")
		f.Add(der)
		expects = append(expects, e)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, e := range expects {
			if lint.Certificate(der, e) != nil {
				continue
			}
			// What passes is one of the seeds: everything in it was expected, so another parser reads the same.
			if rest, err := asn1.Unmarshal(der, new(body)); err != nil || len(rest) > 0 {
				t.Errorf("passed, but encoding/asn1 says %v with %d octets left", err, len(rest))
			}
		}
	})
}
