package crl_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

var epoch = uid.EpochOf(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

// newAuthority makes a root with a key of its own.
func newAuthority(tb testing.TB, algorithm kms.Algorithm) crl.Authority {
	tb.Helper()
	key, err := kmstest.NewKeyring().Create(tb.Context(), "authority", algorithm)
	if err != nil {
		tb.Fatal(err)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: "authority"}.ToRDNSequence())
	if err != nil {
		tb.Fatal(err)
	}
	t, err := tbs.Compile(tbs.Spec{Usage: tbs.Authority, Key: key.Public(), Subject: subject, PathLen: -1})
	if err != nil {
		tb.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	body, err := t.Build(tbs.Values{Serial: cert.NewSerial(1, epoch.Start()), NotBefore: epoch.Start(), NotAfter: epoch.Start().AddDate(100, 0, 0), SPKI: spki})
	if err != nil {
		tb.Fatal(err)
	}
	signature, err := kms.SignMessage(tb.Context(), key, body)
	if err != nil {
		tb.Fatal(err)
	}
	alg, err := kms.SignatureAlgorithmOf(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	der, err := tbs.Assemble(body, alg, signature)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return crl.Authority{ID: 1, Name: "authority", Certificate: c, Key: key, URL: "http://ca.test/crl/authority/"}
}

var reasons = []cert.Reason{
	cert.Unspecified, cert.KeyCompromise, cert.CACompromise, cert.AffiliationChanged, cert.Superseded, cert.CessationOfOperation, cert.PrivilegeWithdrawn, cert.AACompromise,
}

// ended makes n entries of the epoch, in order; at is when each ended.
func ended(n int, at func() time.Time) []crl.Entry {
	list := make([]crl.Entry, n)
	for i := range list {
		made := epoch.Start().Add(time.Duration(rand.Int64N(int64(uid.EpochLength))))
		list[i] = crl.Entry{Serial: cert.NewSerial(1, made), At: at(), Reason: reasons[rand.IntN(len(reasons))]}
	}
	slices.SortFunc(list, func(a, b crl.Entry) int { return bytes.Compare(a.Serial.Bytes(), b.Serial.Bytes()) })
	return list
}

func blank(e uid.Epoch) crl.Standing {
	this := epoch.End()
	return crl.Standing{Shard: crl.Shard{Authority: 1, Epoch: e}, Parts: 1, Number: 41, Base: 40, ThisUpdate: this, NextUpdate: this.Add(crl.Life)}
}

// Whatever is encoded, the standard library reads back, signature included.
func TestListsReadBackAsTheyWereMade(t *testing.T) {
	for _, algorithm := range []kms.Algorithm{kms.P256, kms.P384, kms.Ed25519, kms.RSA2048} {
		a := newAuthority(t, algorithm)
		for _, n := range []int{0, 1, 2, 3, 6, 7, 300, 2000} { // lengths of one, two and three octets
			at := func() time.Time { return time.Unix(rand.Int64N(120*365*86400), rand.Int64N(1e9)) } // 1970 to 2090
			list := ended(n, at)
			l := blank(epoch)
			der, err := crl.Sign(t.Context(), a, l, list)
			if err != nil {
				t.Fatalf("%s, %d entries: %v", algorithm, n, err)
			}
			r, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatalf("%s, %d entries: %v", algorithm, n, err)
			}
			if err := r.CheckSignatureFrom(a.Certificate); err != nil {
				t.Errorf("%s, %d entries: %v", algorithm, n, err)
			}
			if r.Number.Int64() != l.Number || !r.ThisUpdate.Equal(l.ThisUpdate) || !r.NextUpdate.Equal(l.NextUpdate) || !bytes.Equal(r.AuthorityKeyId, a.Certificate.SubjectKeyId) {
				t.Errorf("%s, %d entries: read back as %+v", algorithm, n, r)
			}
			same(t, r.RevokedCertificateEntries, list)
		}
	}
}

func same(t *testing.T, got []x509.RevocationListEntry, want []crl.Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, w := range want {
		if g := got[i]; g.SerialNumber.Cmp(w.Serial.Int()) != 0 || !g.RevocationTime.Equal(w.At.Truncate(time.Second)) || g.ReasonCode != int(w.Reason) {
			t.Errorf("entry %d: %x %s %d, want %+v", i, g.SerialNumber, g.RevocationTime, g.ReasonCode, w)
		}
	}
}

// The library's own list over the same entries, which is told where the delta is, has the same octets.
func TestWholeListIsTheStandardLibrarys(t *testing.T) {
	a := newAuthority(t, kms.P256)
	list := ended(50, func() time.Time { return epoch.Start().Add(time.Hour) })
	l := blank(crl.Whole)
	der, err := crl.Sign(t.Context(), a, l, list)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	der, err = x509.CreateRevocationList(nil, &x509.RevocationList{
		Number: ours.Number, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, RevokedCertificateEntries: template(list),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Value: points("http://ca.test/crl/authority/0-delta.crl")}},
	}, a.Certificate, kms.Signer(t.Context(), a.Key))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours.RawTBSRevocationList, theirs.RawTBSRevocationList) {
		t.Errorf("got  %x\nwant %x", ours.RawTBSRevocationList, theirs.RawTBSRevocationList)
	}
}

// points is one distribution point with one URL, of less than 100 octets.
func points(url string) []byte {
	n := byte(len(url))
	return append([]byte{0x30, n + 8, 0x30, n + 6, 0xa0, n + 4, 0xa0, n + 2, 0x86, n}, url...)
}

func template(list []crl.Entry) (out []x509.RevocationListEntry) {
	for _, e := range list {
		out = append(out, x509.RevocationListEntry{SerialNumber: e.Serial.Int(), RevocationTime: e.At, ReasonCode: int(e.Reason)})
	}
	return out
}

func TestSignRefuses(t *testing.T) {
	a := newAuthority(t, kms.P256)
	now := func() time.Time { return epoch.Start() }
	for name, make := range map[string]func() (crl.Standing, []crl.Entry){
		"entries out of order":      func() (crl.Standing, []crl.Entry) { e := ended(3, now); slices.Reverse(e); return blank(epoch), e },
		"an entry twice":            func() (crl.Standing, []crl.Entry) { e := ended(1, now); return blank(epoch), append(e, e[0]) },
		"an entry of another epoch": func() (crl.Standing, []crl.Entry) { return blank(epoch + 1), ended(1, now) },
		"no serial":                 func() (crl.Standing, []crl.Entry) { return blank(epoch), []crl.Entry{{At: now()}} },
		"an ending before 1950": func() (crl.Standing, []crl.Entry) {
			return blank(epoch), ended(1, func() time.Time { return time.Date(1949, 1, 1, 0, 0, 0, 0, time.UTC) })
		},
		"certificateHold":              func() (crl.Standing, []crl.Entry) { e := ended(1, now); e[0].Reason = 6; return blank(epoch), e },
		"removeFromCRL":                func() (crl.Standing, []crl.Entry) { e := ended(1, now); e[0].Reason = 8; return blank(epoch), e },
		"a reason that does not exist": func() (crl.Standing, []crl.Entry) { e := ended(1, now); e[0].Reason = 99; return blank(epoch), e },
		"number zero":                  func() (crl.Standing, []crl.Entry) { l := blank(epoch); l.Number = 0; return l, nil },
		"an end before the beginning":  func() (crl.Standing, []crl.Entry) { l := blank(epoch); l.NextUpdate = l.ThisUpdate; return l, nil },
		"a life too long": func() (crl.Standing, []crl.Entry) {
			l := blank(epoch)
			l.NextUpdate = l.NextUpdate.Add(time.Hour)
			return l, nil
		},
	} {
		l, e := make()
		if _, err := crl.Sign(t.Context(), a, l, e); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	stranger := newAuthority(t, kms.P256)
	stranger.Certificate = a.Certificate
	if _, err := crl.Sign(t.Context(), stranger, blank(epoch), nil); err == nil {
		t.Error("signed with a key that is not the certificate's")
	}
}

// The linter reads lists of any size, and its refusal of a spoilt octet is never a crash.
func FuzzLintList(f *testing.F) {
	a := newAuthority(f, kms.Ed25519)
	l := blank(epoch)
	expect := lint.ExpectList{
		Issuer: a.Certificate.RawSubject, IssuerKey: a.Certificate.PublicKey, IssuerKeyID: a.Certificate.SubjectKeyId, URL: a.URL + "2930.crl", Epoch: epoch,
		Freshest: a.URL + "2930-delta.crl",
		Number:   l.Number, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, MaxLife: crl.Life, Entries: 3,
	}
	list := ended(3, epoch.Start)
	der, err := crl.Sign(f.Context(), a, l, list)
	if err != nil {
		f.Fatal(err)
	}
	r, err := x509.ParseRevocationList(der)
	if err != nil {
		f.Fatal(err)
	}
	if err := lint.List(r.RawTBSRevocationList, expect); err != nil {
		f.Fatal(err)
	}
	f.Add(r.RawTBSRevocationList)
	f.Fuzz(func(t *testing.T, body []byte) {
		if lint.List(body, expect) != nil {
			return
		}
		whole, err := asn1.Marshal(struct {
			TBS       asn1.RawValue
			Algorithm asn1.RawValue
			Signature asn1.BitString
		}{asn1.RawValue{FullBytes: body}, asn1.RawValue{FullBytes: []byte("\x30\x05\x06\x03\x2b\x65\x70")}, asn1.BitString{Bytes: []byte{0}, BitLength: 8}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x509.ParseRevocationList(whole); err != nil {
			t.Errorf("passed, but the standard library says %v: %x", err, body)
		}
	})
}

// Whatever is spliced in, in whatever portions, the list is the one made of all of it at once.
func TestSplicingMakesTheSameList(t *testing.T) {
	at := func() time.Time { return time.Unix(rand.Int64N(120*365*86400), 0) }
	for range 200 {
		all := ended(1+rand.IntN(300), at)
		want, err := crl.NewBody(all)
		if err != nil {
			t.Fatal(err)
		}
		var first []crl.Entry
		portions := make([][]crl.Entry, 1+rand.IntN(5))
		for _, e := range all {
			if i := rand.IntN(len(portions) + 1); i < len(portions) {
				portions[i] = append(portions[i], e)
			} else {
				first = append(first, e)
			}
		}
		b, err := crl.NewBody(first)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range portions {
			if n, err := b.Splice(p); err != nil || n != len(p) {
				t.Fatalf("spliced %d of %d: %v", n, len(p), err)
			}
			// What is there already is not there twice, and stays as it is.
			again := slices.Clone(p)
			for i := range again {
				again[i].Reason = cert.KeyCompromise
			}
			if n, err := b.Splice(again); err != nil || n != 0 {
				t.Fatalf("again: spliced %d: %v", n, err)
			}
		}
		n, octets := b.Entries()
		wantN, wantOctets := want.Entries()
		if n != wantN || !bytes.Equal(octets, wantOctets) {
			t.Fatalf("%d entries, want %d", n, wantN)
		}
	}
}

// A list read back from what was published goes on as if it had never left.
func TestAPublishedListIsSplicedInto(t *testing.T) {
	for _, algorithm := range []kms.Algorithm{kms.P256, kms.RSA2048, kms.Ed25519} {
		a := newAuthority(t, algorithm)
		for _, n := range []int{0, 1, 300} {
			all := ended(n+2, epoch.Start)
			first, added := slices.Clone(all[1:n+1]), []crl.Entry{all[0], all[n+1]}
			der, err := crl.Sign(t.Context(), a, blank(epoch), first)
			if err != nil {
				t.Fatal(err)
			}
			b, err := crl.Reopen(der)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := b.Splice(added); err != nil || n != 2 {
				t.Fatalf("spliced %d: %v", n, err)
			}
			if der, err = b.Sign(t.Context(), a, blank(epoch)); err != nil {
				t.Fatal(err)
			}
			r, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.CheckSignatureFrom(a.Certificate); err != nil {
				t.Error(err)
			}
			same(t, r.RevokedCertificateEntries, all)
		}
	}
}

func TestReopenRefusesWhatIsNoListOfOurs(t *testing.T) {
	a := newAuthority(t, kms.P256)
	der, err := crl.Sign(t.Context(), a, blank(epoch), ended(3, epoch.Start))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoilt := range map[string][]byte{
		"nothing": nil, "cut short": der[:len(der)-1], "more": append(slices.Clone(der), 0), "a certificate": a.Certificate.Raw,
	} {
		if _, err := crl.Reopen(spoilt); err == nil {
			t.Errorf("%s: reopened", name)
		}
	}
}

func FuzzReopen(f *testing.F) {
	a := newAuthority(f, kms.Ed25519)
	for _, n := range []int{0, 1, 3} {
		der, err := crl.Sign(f.Context(), a, blank(epoch), ended(n, epoch.Start))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		b, err := crl.Reopen(der)
		if err != nil {
			return
		}
		n, _ := b.Entries()
		if added, err := b.Splice(ended(2, epoch.Start)); err != nil || added > 2 {
			t.Errorf("spliced %d into %d: %v", added, n, err)
		}
	})
}

// RFC 5280 §5.2.4: a delta says which list it counts from, in a critical extension, and is for the same certificates.
func TestADeltaSaysWhatItCountsFrom(t *testing.T) {
	a := newAuthority(t, kms.P256)
	s := blank(epoch)
	der, err := crl.SignDelta(t.Context(), a, s, ended(2, epoch.Start))
	if err != nil {
		t.Fatal(err)
	}
	r, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, x := range r.Extensions {
		ids = append(ids, fmt.Sprint(x.Id, x.Critical))
		if x.Id.String() == "2.5.29.27" && !bytes.Equal(x.Value, []byte{2, 1, byte(s.Base)}) {
			t.Errorf("base %x", x.Value)
		}
	}
	if want := []string{"2.5.29.35 false", "2.5.29.20 false", "2.5.29.27 true", "2.5.29.28 true"}; !slices.Equal(ids, want) {
		t.Errorf("extensions %v, want %v", ids, want)
	}
	s.Base = s.Number + 1
	if _, err := crl.SignDelta(t.Context(), a, s, nil); err == nil {
		t.Error("signed a delta to a list that is yet to come")
	}
}

func TestEachPartHoldsItsOwnSerials(t *testing.T) {
	a := newAuthority(t, kms.P256)
	s, list := blank(epoch), ended(50, epoch.Start)
	s.Parts = 4
	byPart := make([][]crl.Entry, 4)
	for _, e := range list {
		b := e.Serial.Bytes()
		byPart[b[17]%4] = append(byPart[b[17]%4], e)
	}
	for p := range byPart {
		s.Part = uint8(p)
		der, err := crl.Sign(t.Context(), a, s, byPart[p])
		if err != nil {
			t.Fatal(err)
		}
		if url := fmt.Sprintf("http://ca.test/crl/authority/2930-%02x.crl", p); !bytes.Contains(der, []byte(url)) {
			t.Errorf("part %d does not name %s", p, url)
		}
		if _, err := crl.Sign(t.Context(), a, s, list); err == nil {
			t.Errorf("part %d signed for all", p)
		}
	}
}

func TestSnapshotsAreInTheOrderTheyWereTaken(t *testing.T) {
	order := []crl.Snapshot{"", "5:5:", "5:9:5,7", "5:9:5", "6:9:6,8", "9:9:", "9:12:9,10", "10:12:10"}
	for i, a := range order {
		for j, b := range order {
			if got := crl.Earliest(a, b); got != order[min(i, j)] {
				t.Errorf("of %q and %q: %q", a, b, got)
			}
		}
	}
	s := crl.Snapshot("6:9:6,8")
	for x, want := range map[uint64]bool{5: true, 6: false, 7: true, 8: false, 9: false, 100: false} {
		if s.Sees(x) != want {
			t.Errorf("%s sees %d: %t", s, x, !want)
		}
	}
	if crl.Snapshot("").Sees(1) || crl.Snapshot("x:y:z").Sees(1) {
		t.Error("nothing sees something")
	}
}

const many = 100_000

// One more into a list of a hundred thousand: spliced, encoded, linted, signed and verified.
func BenchmarkOneMore(b *testing.B) {
	a := newAuthority(b, kms.P256)
	list, err := crl.NewBody(ended(many, epoch.Start))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := list.Splice(ended(1, epoch.Start)); err != nil {
			b.Fatal(err)
		}
		if _, err := list.Sign(b.Context(), a, blank(epoch)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList100k(b *testing.B) {
	a := newAuthority(b, kms.P256)
	list := ended(many, epoch.Start)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := crl.Sign(b.Context(), a, blank(epoch), list); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStandardLibrary100k(b *testing.B) {
	a := newAuthority(b, kms.P256)
	list := template(ended(many, epoch.Start))
	l := blank(epoch)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x509.CreateRevocationList(nil, &x509.RevocationList{
			Number: list[0].SerialNumber, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, RevokedCertificateEntries: list,
		}, a.Certificate, kms.Signer(b.Context(), a.Key)); err != nil {
			b.Fatal(err)
		}
	}
}
