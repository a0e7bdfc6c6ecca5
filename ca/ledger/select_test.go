package ledger_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// named parses a name such as dns:a.demo.test.
func named(t testing.TB, s string) cert.Name {
	t.Helper()
	n, err := cert.ParseName(s)
	must(t, err)
	return n
}

// chosen returns the serials that a query gives, a page of two at a time.
func chosen(t testing.TB, h *pkitest.House, q ca.Query) (out []cert.Serial) {
	t.Helper()
	for q.Limit = 2; ; {
		page, err := h.Ledger.Select(t.Context(), q)
		must(t, err)
		for _, r := range page.Records {
			out = append(out, r.Serial)
		}
		if !page.More {
			return out
		}
		q.After = page.Next
	}
}

func TestSelectFindsByNameIdentityAndKeyInEveryEpoch(t *testing.T) {
	h := pkitest.New(t)
	key := pkitest.Key(t)
	var first, second, keyed []cert.Serial
	for range 3 {
		for _, names := range [][]string{{"dns:a.demo.test"}, {"dns:b.demo.test", "dns:a.demo.test"}, {"dns:c.demo.test"}} {
			c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), names...)})
			must(t, err)
			if slices.Contains(names, "dns:a.demo.test") {
				first = append(first, c.Serial)
			}
			if slices.Contains(names, "dns:b.demo.test") {
				second = append(second, c.Serial)
			}
		}
		c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "workload", CSR: pkitest.CSR(t, key), Identity: demo.ID})
		must(t, err)
		keyed = append(keyed, c.Serial)
		h.Advance(uid.EpochLength)
		_, err = h.Ledger.MakeEpochs(t.Context(), h.Now())
		must(t, err)
	}
	id, err := cert.KeyIDOf(key.Public())
	must(t, err)
	elsewhere := pkitest.Scope("other")
	for name, c := range map[string]struct {
		q    ca.Query
		want []cert.Serial
	}{
		"a name":                      {ca.Query{Name: named(t, "dns:a.demo.test")}, first},
		"a name in its scope":         {ca.Query{Name: named(t, "dns:a.demo.test"), Scope: pkitest.Demo}, first},
		"a name above its scope":      {ca.Query{Name: named(t, "dns:b.demo.test"), Scope: pkitest.Scope("demo")}, second},
		"a name in another scope":     {ca.Query{Name: named(t, "dns:a.demo.test"), Scope: elsewhere}, nil},
		"a name nobody has":           {ca.Query{Name: named(t, "dns:d.demo.test")}, nil},
		"an identity":                 {ca.Query{Name: named(t, "uri:"+demo.ID.String())}, keyed},
		"a key":                       {ca.Query{Key: id}, keyed},
		"a key with a name it has":    {ca.Query{Key: id, Name: named(t, "uri:"+demo.ID.String())}, keyed},
		"a key with a name it hasn't": {ca.Query{Key: id, Name: named(t, "dns:a.demo.test")}, nil},
		"a key nobody has":            {ca.Query{Key: cert.KeyID{1}}, nil},
		"everything, by expiry":       {ca.Query{Scope: pkitest.Demo, Name: named(t, "dns:a.demo.test"), ExpiringBefore: h.Now().AddDate(-1, 0, 0)}, nil},
	} {
		got := chosen(t, h, c.q)
		slices.SortFunc(got, func(a, b cert.Serial) int { return slices.Compare(a.Bytes(), b.Bytes()) })
		slices.SortFunc(c.want, func(a, b cert.Serial) int { return slices.Compare(a.Bytes(), b.Bytes()) })
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: found %v, want %v", name, got, c.want)
		}
	}
}

// TestAMarkIsNoName gives a certificate the mark of a name it does not bear, as a collision would.
func TestAMarkIsNoName(t *testing.T) {
	h := pkitest.New(t)
	var serials []cert.Serial
	for i := range 5 {
		c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), fmt.Sprintf("dns:n%d.demo.test", i))})
		must(t, err)
		serials = append(serials, c.Serial)
	}
	_, err := h.DB.Exec(t.Context(), `
		UPDATE intent
		SET    name_mark = (SELECT name_mark FROM intent WHERE serial = $1), key_mark = (SELECT key_mark FROM intent WHERE serial = $1)
		WHERE  profile = 'server'`, serials[4].Bytes())
	must(t, err)
	if got := chosen(t, h, ca.Query{Name: named(t, "dns:n4.demo.test")}); !slices.Equal(got, serials[4:]) {
		t.Errorf("found %v, want %v", got, serials[4:])
	}
	rec, err := h.Ledger.BySerial(t.Context(), serials[4])
	must(t, err)
	parts, err := tbs.Read(rec.TBS)
	must(t, err)
	if got := chosen(t, h, ca.Query{Key: sha256.Sum256(parts.SPKI)}); !slices.Equal(got, serials[4:]) {
		t.Errorf("found %v by key, want %v", got, serials[4:])
	}
}

func TestWhatIsStoredIsShortAndReadAsItWasSigned(t *testing.T) {
	h := pkitest.New(t)
	second := pkitest.On(t, h.DB)
	var first []byte
	for i := range 4 {
		c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), fmt.Sprintf("dns:n%d.demo.test", i))})
		must(t, err)
		var stored []byte
		must(t, h.DB.QueryRow(t.Context(), `SELECT tbs FROM intent WHERE serial = $1`, c.Serial.Bytes()).Scan(&stored))
		if len(stored) > 200 || stored[0] != 0 {
			t.Errorf("%d octets are stored of %d, the first %x", len(stored), len(c.DER), stored[0])
		}
		if got, err := second.Certificate(t.Context(), c.Serial); err != nil || string(got.DER) != string(c.DER) {
			t.Errorf("another replica reads %x, %v", got.DER, err)
		}
		first = stored
	}
	if n := number(t, h.DB, `SELECT count(*) FROM frame WHERE profile = 'server'`); n != 1 {
		t.Errorf("%d frames, want one", n)
	}
	_, err := h.DB.Exec(t.Context(), `UPDATE frame SET body = $1`, []byte("tampered with"))
	must(t, err)
	third := replica(t, h.DB)
	all, err := h.Ledger.Serials(t.Context(), cert.Serial{}, 10_000)
	must(t, err)
	for _, k := range all {
		var stored []byte
		must(t, h.DB.QueryRow(t.Context(), `SELECT tbs FROM intent WHERE serial = $1`, k.Serial.Bytes()).Scan(&stored))
		if rec, err := third.BySerial(t.Context(), k.Serial); stored[0] == first[0] && err == nil {
			t.Errorf("read %s as %x from a frame that was tampered with", k.Serial, rec.TBS)
		}
	}
}

// TestAPartitionIsNamedFromAnIdentifier holds Go's names to make_epoch's.
func TestAPartitionIsNamedFromAnIdentifier(t *testing.T) {
	_, db := opened(t)
	for _, kind := range []uid.Kind{uid.Certificate, uid.Order, uid.Enrolment} {
		name := uid.New(kind, 1, time.Now()).Partition("origin")
		if n := number(t, db, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'origin'::regclass AND inhrelid = to_regclass($1)`, name); n != 1 {
			t.Errorf("there is no partition %s", name)
		}
	}
}

// What is to end next may stand in an epoch that began long after the first that holds anything: a page asks for those it has
// to, and leaves out none.
func TestPagesByExpiryLeaveOutNothingHoweverFarTheEpochsLieApart(t *testing.T) {
	h := pkitest.New(t)
	var want []cert.Serial
	for _, weeks := range []int{0, 1, 9, 1, 14} {
		h.Advance(time.Duration(weeks) * uid.EpochLength)
		_, err := h.Ledger.MakeEpochs(t.Context(), h.Now())
		must(t, err)
		for range 2 {
			c, err := h.Issue(t.Context(), demo, ca.Request{
				Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"),
			})
			must(t, err)
			want = append(want, c.Serial)
		}
	}
	for _, from := range []time.Time{{}, h.Now().Add(-12 * uid.EpochLength), h.Now()} {
		all := chosen(t, h, ca.Query{Scope: pkitest.Demo, Profile: "server", ExpiringAfter: from})
		slow := chosen(t, h, ca.Query{Scope: pkitest.Demo, Name: named(t, "dns:a.demo.test"), ExpiringAfter: from})
		if !slices.Equal(all, slow) {
			t.Errorf("from %s: got %v, want those found by name, %v", from, all, slow)
		}
		if from.IsZero() && len(all) != len(want) {
			t.Errorf("got %d certificates, want %d", len(all), len(want))
		}
	}
}
