package ledger_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
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
	_, err = slow.Exec(ctx, audit.Insert, audit.Columns(fact("slow"))...)
	must(t, err)
	_, err = h.DB.Exec(ctx, audit.Insert, audit.Columns(fact("quick"))...)
	must(t, err)

	q := audit.Query{What: "test.late", Limit: 10}
	read := func() (subjects []string) {
		t.Helper()
		found, err := r.Read(ctx, q)
		must(t, err)
		for _, e := range found {
			subjects = append(subjects, e.Subject)
			q.After = e.Position
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
		if got, err := r.Read(t.Context(), c.q); err != nil || len(got) != c.want {
			t.Errorf("%s: %d facts, %v, want %d", name, len(got), err, c.want)
		}
	}
}
