package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// Who goes on from the last fact read sees each once, also those whose transaction took longest.
func TestNoFactIsMissedForCommittingLate(t *testing.T) {
	h := pkitest.New(t)
	r := h.Ledger
	ctx := t.Context()
	fact := func(subject string) audit.Fact {
		return audit.Fact{At: h.Now(), Who: identity.System("test"), Scope: pkitest.Demo, What: "test.late", Subject: subject, Why: "because"}
	}
	slow, err := h.DB.Begin(ctx)
	must(t, err)
	defer slow.Rollback(ctx) //nolint:errcheck // it was committed, or the test has failed
	_, err = slow.Exec(ctx, audit.Insert, audit.Columns(fact("slow"))...)
	must(t, err)
	_, err = h.DB.Exec(ctx, audit.Insert, audit.Columns(fact("quick"))...)
	must(t, err)

	q := audit.Query{What: "test.late", Limit: 10}
	read := func() (subjects []string) {
		t.Helper()
		found, err := r.Read(ctx, q)
		must(t, err)
		q.After = found.Next
		for _, e := range found.Entries {
			subjects = append(subjects, e.Subject)
			if e.Scope != pkitest.Demo || e.Refused || e.Who.Actor != "duty:test" || e.Why != "because" {
				t.Errorf("%+v", e)
			}
		}
		return subjects
	}
	if got := read(); len(got) != 0 {
		t.Errorf("read %q behind an open transaction: what that writes would be missed", got)
	}
	must(t, slow.Commit(ctx))
	if got := read(); len(got) != 2 || got[0] != "slow" || got[1] != "quick" {
		t.Errorf("read %q, want slow and quick", got)
	}
	if got := read(); len(got) != 0 {
		t.Errorf("read %q twice", got)
	}
}

func TestFactsAreSelected(t *testing.T) {
	h := pkitest.New(t)
	r := h.Ledger
	for path, what := range map[string]string{"demo/shop": "test.a", "demo": "test.b", "other": "test.a"} {
		f := audit.Fact{At: h.Now(), Who: identity.System(path), Scope: pkitest.Scope(path), What: what, Refused: path == "other"}
		_, err := h.DB.Exec(t.Context(), audit.Insert, audit.Columns(f)...)
		must(t, err)
	}
	for name, c := range map[string]struct {
		q    audit.Query
		want int
	}{
		"of a kind":                    {audit.Query{What: "test.a"}, 2},
		"of a kind in a scope":         {audit.Query{What: "test.a", Scope: pkitest.Scope("demo")}, 1},
		"of somebody":                  {audit.Query{Actor: "duty:other"}, 1},
		"of somebody else's scope":     {audit.Query{What: "test.b", Scope: pkitest.Scope("other")}, 0},
		"of a scope that begins alike": {audit.Query{What: "test.b", Scope: pkitest.Scope("dem")}, 0},
		"since tomorrow":               {audit.Query{What: "test.a", Since: h.Now().Add(24 * time.Hour)}, 0},
	} {
		c.q.Limit = 10
		for _, c.q.Newest = range []bool{false, true} {
			if got, err := r.Read(t.Context(), c.q); err != nil || len(got.Entries) != c.want || got.More {
				t.Errorf("%s: %d facts, %v, want %d and no more", name, len(got.Entries), err, c.want)
			}
		}
	}
}

// factPages reads everything that q selects, a page at a time, and says how many pages that took.
func factPages(t *testing.T, l *ledger.Ledger, q audit.Query) (all []audit.Entry, n int) {
	t.Helper()
	for {
		p, err := l.Read(t.Context(), q)
		must(t, err)
		all, n = append(all, p.Entries...), n+1
		if !p.More {
			return all, n
		}
		if q.After == p.Next {
			t.Fatalf("page %d does not go on from %s", n, q.After)
		}
		q.After = p.Next
	}
}

// A page costs the same however few facts are selected: it may be empty, but it goes on.
func TestEveryFactIsReadInBothOrdersAPageAtATime(t *testing.T) {
	h := pkitest.New(t)
	const n = 12_000
	_, err := h.DB.Exec(t.Context(), `
		INSERT INTO fact (xid, at, scope, allowed, what, actor, subject, request)
		SELECT (3 + n / 20)::text::xid8, now() - ($1 - n) * interval '1 second',
		       (SELECT id FROM scope WHERE path = CASE WHEN n % 2 = 0 THEN 'demo/shop/dev' ELSE 'other' END),
		       n % 10 <> 0, 'test.many', CASE WHEN n % 1000 = 0 THEN 'rare' ELSE 'usual' END, n::text,
		       CASE WHEN n % 10 = 0 THEN 'request-' || n END
		FROM   generate_series(1, $1::integer) n`, n)
	must(t, err)
	for name, c := range map[string]struct {
		q               audit.Query
		want, mostPages int
	}{
		"all":                    {audit.Query{What: "test.many", Limit: 1000}, n, 14},
		"rare ones":              {audit.Query{Actor: "rare", Limit: 100}, 12, 4},
		"of a scope":             {audit.Query{Scope: pkitest.Scope("demo"), What: "test.many", Limit: 1000}, n / 2, 8},
		"refused":                {audit.Query{Refused: true, Limit: 500}, n / 10, 4},
		"refused in a scope":     {audit.Query{Refused: true, Scope: pkitest.Scope("demo"), Limit: 500}, n / 10, 4},
		"refused elsewhere":      {audit.Query{Refused: true, Scope: pkitest.Scope("other"), Limit: 500}, 0, 1},
		"of a request":           {audit.Query{Request: "request-7770", Limit: 500}, 1, 1},
		"of no request":          {audit.Query{Request: "request-7777", Limit: 500}, 0, 1},
		"since an hour":          {audit.Query{Since: h.Now().Add(-time.Hour), What: "test.many", Limit: 5000}, 3600, 2},
		"until an hour ago":      {audit.Query{Until: h.Now().Add(-time.Hour), What: "test.many", Limit: 5000}, n - 3600, 3},
		"a minute, long ago":     {audit.Query{Since: h.Now().Add(-2 * time.Hour), Until: h.Now().Add(-2*time.Hour + time.Minute), What: "test.many", Limit: 500}, 60, 1},
		"refused since an hour":  {audit.Query{Refused: true, Since: h.Now().Add(-time.Hour), Limit: 500}, 360, 1},
		"rare, in the last hour": {audit.Query{Actor: "rare", Since: h.Now().Add(-time.Hour), Limit: 500}, 4, 1},
	} {
		for _, c.q.Newest = range []bool{false, true} {
			got, took := factPages(t, h.Ledger, c.q)
			if d := len(got) - c.want; d < -1 || d > 1 || c.q.Since.IsZero() && c.q.Until.IsZero() && d != 0 { // times fall between two facts
				t.Errorf("%s (newest first %t): %d facts, want %d", name, c.q.Newest, len(got), c.want)
			}
			if took > c.mostPages {
				t.Errorf("%s (newest first %t): took %d pages, want at most %d", name, c.q.Newest, took, c.mostPages)
			}
			for i := 1; i < len(got); i++ {
				if got[i-1].Position.Before(got[i].Position) == c.q.Newest {
					t.Fatalf("%s (newest first %t): %s comes after %s", name, c.q.Newest, got[i].Position, got[i-1].Position)
				}
			}
		}
	}
}

// What happened to a certificate is found by its serial, however much happened since.
func TestTheFactsOfACertificateAreFound(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	c, err := h.Issue(ctx, pkitest.Workload(pkitest.Demo, "a"), ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")})
	must(t, err)
	_, err = h.DB.Exec(ctx, `
		INSERT INTO fact (at, what, actor)
		SELECT now() + n * interval '1 second', 'test.noise', 'test'
		FROM   generate_series(10, 8000) n`)
	must(t, err)
	_, err = h.Revoke(ctx, pkitest.Workload(pkitest.Scope("other"), "b"), c.Serial, cert.Superseded)
	if err == nil {
		t.Fatal("a stranger revoked")
	}
	_, err = h.Revoke(ctx, pkitest.Workload(pkitest.Demo, "a"), c.Serial, cert.Superseded)
	must(t, err)
	for newest, want := range map[bool]string{
		false: "[certificate.issue true certificate.revoke false certificate.revoke true]",
		true:  "[certificate.revoke true certificate.revoke false certificate.issue true]",
	} {
		for _, limit := range []int{1, 2, 10} {
			got, _ := factPages(t, h.Ledger, audit.Query{Serial: c.Serial, Limit: limit, Newest: newest})
			var said []string
			for _, e := range got {
				said = append(said, fmt.Sprintf("%s %t", e.What, !e.Refused))
			}
			if fmt.Sprint(said) != want {
				t.Errorf("by %d, newest first %t: %v, want %s", limit, newest, said, want)
			}
		}
	}
	only, err := h.Ledger.Read(ctx, audit.Query{Serial: c.Serial, What: audit.Issue, Limit: 10})
	if err != nil || len(only.Entries) != 1 {
		t.Errorf("its making: %d facts, %v", len(only.Entries), err)
	}
	none, err := h.Ledger.Read(ctx, audit.Query{Serial: cert.NewSerial(1, h.Now()), Limit: 10})
	if err != nil || len(none.Entries) != 0 || none.More {
		t.Errorf("of a serial nobody knows: %d facts, %v", len(none.Entries), err)
	}
}

// Whoever was refused finds out why by the name of the request.
func TestARefusalIsFoundByItsRequest(t *testing.T) {
	h := pkitest.New(t)
	who := pkitest.Workload(pkitest.Demo, "a")
	who.Request = "request-of-mine"
	_, err := h.Issue(t.Context(), who, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:evil.test")})
	if err == nil {
		t.Fatal("issued")
	}
	p, err := h.Ledger.Read(t.Context(), audit.Query{Request: "request-of-mine", Limit: 10})
	if err != nil || len(p.Entries) != 1 || !p.Entries[0].Refused || p.Entries[0].Who.Request != "request-of-mine" || p.Entries[0].Why == "" {
		t.Errorf("%+v, %v", p.Entries, err)
	}
}
