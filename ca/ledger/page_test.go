package ledger_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/bench/fill"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// TestAPageReadsAsMuchWhereverItIs counts the rows and index entries that each page has the server read, among 18,000
// certificates of six weeks: no more on the fourth page than on the first, and no more than a page, or than a page looks at.
func TestAPageReadsAsMuchWhereverItIs(t *testing.T) {
	url := postgrestest.New(t)
	h := pkitest.On(t, postgrestest.Connect(t, url))
	plan := fill.Plan{DB: h.DB, Ledger: h.Ledger, Site: 1, Scope: pkitest.Demo, N: 18_000, Epochs: 6, Now: h.Now()}
	_, err := plan.Run(t.Context())
	must(t, err)
	one, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 1}) // whose counts are written when we ask
	must(t, err)
	t.Cleanup(one.Close)
	l := replica(t, one)
	const (
		limit    = 10
		of       = limit * 8    // of the entries of a page and of what belongs to them, in weeks that overlap
		examined = 2000 + 10*of // where no index answers
	)
	for kind, v := range map[string]struct {
		query ca.Query
		most  int
	}{
		"by scope":   {ca.Query{Scope: pkitest.Demo}, of},
		"of all":     {ca.Query{}, 3 * of}, // each scope's part begins where the page does
		"by expiry":  {ca.Query{Scope: pkitest.Demo, ExpiringAfter: h.Now(), ExpiringBefore: h.Now().Add(40 * 24 * time.Hour)}, of},
		"by profile": {ca.Query{Scope: pkitest.Demo, Profile: "server"}, examined},
		"overdue":    {ca.Query{Scope: pkitest.Demo, Overdue: h.Now()}, examined},
		"by a name":  {ca.Query{Name: fill.Popular}, 2 * of},
	} {
		q := v.query
		q.Limit = limit
		if _, err := l.Select(t.Context(), q); err != nil { // what it remembers of partitions is read
			t.Fatal(err)
		}
		for page := 1; page <= 4; page++ {
			before := entriesRead(t, one)
			found, err := l.Select(t.Context(), q)
			must(t, err)
			read := entriesRead(t, one) - before
			t.Logf("%s, page %d: %d certificates, %d entries read", kind, page, len(found.Records), read)
			if read == 0 || read > v.most {
				t.Errorf("%s, page %d: %d entries were read, want %d at most, and some", kind, page, read, v.most)
			}
			if !found.More {
				break
			}
			q.After = found.Next
		}
	}
}

// entriesRead is how many index entries and rows of what grows have been read so far.
func entriesRead(t *testing.T, db *postgres.DB) int {
	t.Helper()
	_, err := db.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
	must(t, err)
	return number(t, db, `
		SELECT (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname ~ '_e\d+$')
		     + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname ~ '_e\d+$')`)
}
