package lint_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A listBody is a TBSCertList in pieces that tests replace.
type listBody struct {
	Version    int `asn1:"optional,default:0"`
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	This, Next asn1.RawValue
	Entries    []listEntry      `asn1:"optional,omitempty"`
	Extensions []pkix.Extension `asn1:"explicit,tag:0"`
}

type listEntry struct {
	Serial     asn1.RawValue
	At         asn1.RawValue
	Extensions []pkix.Extension `asn1:"optional"`
}

const listURL = "http://ca.test/crl/root/2930.crl"

// goodList is the standard library's, with a distribution point and three entries.
func goodList(tb testing.TB, f *fixture) ([]byte, lint.ExpectList) {
	tb.Helper()
	e := lint.ExpectList{
		Issuer: f.root.RawSubject, IssuerKey: f.root.PublicKey, IssuerKeyID: f.root.SubjectKeyId, URL: listURL, Epoch: cert.NewSerial(1, start).Epoch(),
		Number: 7, ThisUpdate: start, NextUpdate: start.Add(3 * day), MaxLife: 3 * day, Entries: 3,
	}
	var entries []x509.RevocationListEntry
	for i, reason := range []int{0, 1, 4} {
		s := cert.NewSerial(1, start.Add(time.Duration(i)*time.Second))
		entries = append(entries, x509.RevocationListEntry{SerialNumber: s.Int(), RevocationTime: start, ReasonCode: reason})
	}
	issuer := *f.root
	issuer.KeyUsage = x509.KeyUsageCRLSign
	key, ok := f.keys["P-256"].(*ecdsa.PrivateKey)
	if !ok {
		tb.Fatal("not ECDSA")
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(e.Number), ThisUpdate: e.ThisUpdate, NextUpdate: e.NextUpdate, RevokedCertificateEntries: entries,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: distribution(listURL)}},
	}, &issuer, key)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := x509.ParseRevocationList(der)
	if err != nil {
		tb.Fatal(err)
	}
	return r.RawTBSRevocationList, e
}

// distribution is an IssuingDistributionPoint with one URL, of less than 100 octets.
func distribution(url string) []byte {
	n := byte(len(url))
	return append([]byte{0x30, n + 6, 0xa0, n + 4, 0xa0, n + 2, 0x86, n}, url...)
}

func TestGoodListPasses(t *testing.T) {
	f := newFixture(t)
	der, e := goodList(t, f)
	if err := lint.List(der, e); err != nil {
		t.Error(err)
	}
	whole := respellList(t, der, func(b *listBody) { b.Extensions = b.Extensions[:2] })
	e.URL, e.Epoch = "", 0
	if err := lint.List(whole, e); err != nil {
		t.Errorf("whole: %v", err)
	}
	if got := rule(lint.List(der, e)); got != "list-extensions" {
		t.Errorf("a shard's list in place of the whole one: got rule %q", got)
	}
}

func respellList(tb testing.TB, der []byte, spoil func(*listBody)) []byte {
	tb.Helper()
	var b listBody
	if rest, err := asn1.Unmarshal(der, &b); err != nil || len(rest) > 0 {
		tb.Fatalf("%v, %d octets left", err, len(rest))
	}
	spoil(&b)
	out, err := asn1.Marshal(b)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// Each row spoils one thing of a good list, or of what is expected.
func TestListRulesRefuse(t *testing.T) {
	f := newFixture(t)
	reason := func(code byte) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 21}, Value: []byte{0x0a, 1, code}}}
	}
	for _, row := range []struct {
		rule, name string
		spoil      func(b *listBody, e *lint.ExpectList)
	}{
		{"list-version", "version 1", func(b *listBody, _ *lint.ExpectList) { b.Version = 0 }},
		{"list-version", "version 3", func(b *listBody, _ *lint.ExpectList) { b.Version = 2 }},
		{"list-signature-algorithm", "of another key", func(_ *listBody, e *lint.ExpectList) { e.IssuerKey = f.keys["RSA"].Public() }},
		{"list-signature-algorithm", "of no key", func(_ *listBody, e *lint.ExpectList) { e.IssuerKey = nil }},
		{"list-issuer", "empty", func(b *listBody, e *lint.ExpectList) { b.Issuer, e.Issuer = sequence(), []byte{0x30, 0} }},
		{"list-issuer", "another", func(_ *listBody, e *lint.ExpectList) { e.Issuer = f.subject(t, "other") }},
		{"list-updates", "without seconds", func(b *listBody, _ *lint.ExpectList) { b.This = utcTime("2603011200Z") }},
		{"list-updates", "ends before it begins", func(b *listBody, _ *lint.ExpectList) { b.Next = utcTime("260301115959Z") }},
		{"list-updates", "lives too long", func(_ *listBody, e *lint.ExpectList) { e.MaxLife -= time.Second }},
		{"list-updates", "not those asked", func(_ *listBody, e *lint.ExpectList) { e.NextUpdate = e.NextUpdate.Add(time.Second) }},
		{"list-entries", "one too few", func(b *listBody, _ *lint.ExpectList) { b.Entries = b.Entries[:2] }},
		{"list-entries", "out of order", func(b *listBody, _ *lint.ExpectList) { slices.Reverse(b.Entries) }},
		{"list-entries", "one twice", func(b *listBody, _ *lint.ExpectList) { b.Entries[1] = b.Entries[0] }},
		{"list-entries", "of another epoch", func(_ *listBody, e *lint.ExpectList) { e.Epoch++ }},
		{"list-entries", "not a serial of ours", func(b *listBody, _ *lint.ExpectList) { b.Entries[0].Serial = integer(1) }},
		{"list-entries", "certificateHold", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions = reason(6) }},
		{"list-entries", "removeFromCRL", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions = reason(8) }},
		{"list-entries", "reason unspecified, said", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions = reason(0) }},
		{"list-entries", "a reason that does not exist", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions = reason(7) }},
		{"list-entries", "a critical reason", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions[0].Critical = true }},
		{"list-entries", "another extension", func(b *listBody, _ *lint.ExpectList) { b.Entries[1].Extensions[0].Id[3] = 24 }},
		{"list-entries", "a month of 13", func(b *listBody, _ *lint.ExpectList) { b.Entries[0].At = utcTime("261301120000Z") }},
		{"list-entries", "a date without seconds", func(b *listBody, _ *lint.ExpectList) { b.Entries[0].At = utcTime("2603011200Z") }},
		{"list-entries", "a date in local time", func(b *listBody, _ *lint.ExpectList) { b.Entries[0].At = utcTime("2603011200000") }},
		{"list-entries", "GeneralizedTime before 2050", func(b *listBody, _ *lint.ExpectList) {
			b.Entries[0].At = asn1.RawValue{Tag: asn1.TagGeneralizedTime, Bytes: []byte("20260301120000Z")}
		}},
		{"list-extensions", "no distribution point", func(b *listBody, _ *lint.ExpectList) { b.Extensions = b.Extensions[:2] }},
		{"list-extensions", "one more", func(b *listBody, _ *lint.ExpectList) { b.Extensions = append(b.Extensions, b.Extensions[0]) }},
		{"list-extensions", "in another order", func(b *listBody, _ *lint.ExpectList) { slices.Reverse(b.Extensions) }},
		{"list-extensions", "a distribution point that may be overlooked", func(b *listBody, _ *lint.ExpectList) { b.Extensions[2].Critical = false }},
		{"list-extensions", "a critical number", func(b *listBody, _ *lint.ExpectList) { b.Extensions[1].Critical = true }},
		{"list-authority-key-identifier", "of another key", func(b *listBody, _ *lint.ExpectList) { b.Extensions[0].Value[5] ^= 1 }},
		{"list-authority-key-identifier", "of an issuer without one", func(_ *listBody, e *lint.ExpectList) { e.IssuerKeyID = nil }},
		{"list-number", "the last one's", func(_ *listBody, e *lint.ExpectList) { e.Number++ }},
		{"list-number", "zero", func(b *listBody, e *lint.ExpectList) { e.Number = 0; b.Extensions[1].Value = []byte{2, 1, 0} }},
		{"list-number", "not an integer", func(b *listBody, _ *lint.ExpectList) { b.Extensions[1].Value = []byte{5, 0} }},
		{"list-distribution-point", "of another shard", func(b *listBody, _ *lint.ExpectList) {
			b.Extensions[2].Value = distribution("http://ca.test/crl/root/2931.crl")
		}},
		{"list-distribution-point", "for authorities only", func(b *listBody, _ *lint.ExpectList) {
			v := append(distribution(listURL), 0x82, 1, 0xff) // onlyContainsCACerts
			v[1] += 3
			b.Extensions[2].Value = v
		}},
	} {
		t.Run(row.rule+"/"+row.name, func(t *testing.T) {
			der, e := goodList(t, f)
			if got := rule(lint.List(respellList(t, der, func(b *listBody) { row.spoil(b, &e) }), e)); got != row.rule {
				t.Errorf("got rule %q, want %q", got, row.rule)
			}
		})
	}
}

func TestListEncodingRefusesWhatIsNotDER(t *testing.T) {
	f := newFixture(t)
	good, e := goodList(t, f)
	for name, der := range map[string][]byte{
		"nothing":           nil,
		"not a sequence":    {5, 0},
		"something behind":  append(slices.Clone(good), 0),
		"cut in the middle": good[:len(good)/2],
		"no extensions":     {0x30, 0},
	} {
		if got := rule(lint.List(der, e)); got != "list-encoding" {
			t.Errorf("%s: got rule %q", name, got)
		}
	}
	e.Entries = 0
	empty := respellList(t, good, func(b *listBody) { b.Entries = nil })
	if err := lint.List(empty, e); err != nil {
		t.Errorf("without entries: %v", err)
	}
}
