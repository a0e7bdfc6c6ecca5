package ledger_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// aged is a ledger of forty epochs, with facts in each and certificates in the last eight: a hundredth of them of another
// profile, or refused. It has one connection, so that what it reads can be counted.
func aged(t *testing.T) (*ledger.Ledger, *postgres.DB, int) {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.New(t), MaxConns: 1})
	must(t, err)
	t.Cleanup(db.Close)
	l := replica(t, db)
	_, err = l.MakeEpochs(t.Context(), time.Now())
	must(t, err)
	const ages, each = 40, 700
	for ago := 0; ago <= ages; ago += 5 { // not all at once: each table made is a lock
		_, err = db.Exec(t.Context(), `SELECT make_epoch(1, $1 - n) FROM generate_series($2::integer, $2 + 4) n`, int(uid.EpochOf(time.Now())), ago)
		must(t, err)
	}
	scopes, err := tenancy.Open(t.Context(), db, time.Now)
	must(t, err)
	must(t, pkitest.Demonstrate(t.Context(), scopes))
	_, err = db.Exec(t.Context(), `
		WITH made AS (
			INSERT INTO intent (serial, not_after, authority, scope, profile, tbs, name_mark)
			SELECT '\x1001'::bytea || substring(int8send(extract(epoch FROM now())::bigint - n * $2) FROM 5) || substring(sha256(int4send(n)) FROM 1 FOR 12),
			       now() + n * interval '1 minute', 1 + n % 3, 1 + n % 5, CASE WHEN n % 100 = 0 THEN 'client' ELSE 'server' END, decode('30', 'hex'), n
			FROM   generate_series(1, $1::integer) n
			RETURNING serial, authority, scope
		), signed AS (
			INSERT INTO outcome (serial, at, signature)
			SELECT serial, now(), decode('cd', 'hex')
			FROM   made
		)
		INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
		SELECT serial, now(), authority, scope, 0
		FROM   made
		WHERE  get_byte(serial, 17) < 128`, ages*each, int(uid.EpochLength/time.Second)/each*8/ages)
	must(t, err)
	_, err = db.Exec(t.Context(), `
		INSERT INTO fact (xid, at, scope, allowed, what, actor, serial)
		SELECT (3 + n / 40)::text::xid8, now() - ($1 - n) * $2 * interval '1 second', 1 + n % 5, n % 100 <> 0, 'certificate.issue',
		       CASE WHEN n % 10000 = 0 THEN 'rare' ELSE 'usual' END, NULL
		FROM   generate_series(1, $1::integer) n`, ages*each, int(uid.EpochLength/time.Second)/each)
	must(t, err)
	_, err = db.Exec(t.Context(), `ANALYZE`)
	must(t, err)
	return l, db, ages * each
}

// counted returns how many rows of the growing tables do reads by an index, and how many otherwise.
func counted(t *testing.T, db *postgres.DB, do func()) (index, walked int) {
	t.Helper()
	read := func() (index, walked int) {
		t.Helper()
		_, err := db.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
		must(t, err)
		must(t, db.QueryRow(t.Context(), `
			SELECT sum(idx_tup_fetch), sum(seq_tup_read)
			FROM   pg_stat_user_tables
			WHERE  relname ~ '^(intent|outcome|revocation|fact|further_name)_'`).Scan(&index, &walked))
		return index, walked
	}
	i, w := read()
	do()
	index, walked = read()
	return index - i, walked - w
}

// A page costs the same, whatever it asks for and wherever in the ledger it is. How long lists by expiry take, for which the
// server chooses between merging the epochs and sorting them, is timed on a large ledger (large_test.go).
func TestAPageReadsABoundedNumberOfRows(t *testing.T) {
	l, db, total := aged(t)
	const page, group, ages, few = 100, 40, 45, 10 // few: the server's own looks at its tables
	facts := func(q audit.Query) func() {
		return func() {
			q.Limit = page
			_, err := l.Read(t.Context(), q)
			must(t, err)
		}
	}
	certs := func(q ca.Query) func() {
		return func() {
			q.Limit = page
			_, err := l.Select(t.Context(), q)
			must(t, err)
		}
	}
	now, demo := time.Now(), pkitest.Scope("demo")
	middle := audit.Position{Transaction: uint64(total / 2 / group)}
	for name, c := range map[string]struct {
		do   func()
		most int
	}{
		"the oldest facts":                {facts(audit.Query{}), page + ages*group},
		"the newest facts":                {facts(audit.Query{Newest: true}), page + ages*group},
		"facts in the middle":             {facts(audit.Query{After: middle}), page + ages*group},
		"facts of an actor":               {facts(audit.Query{Actor: "rare"}), 5000 + ages*group},
		"facts of nobody, newest first":   {facts(audit.Query{Actor: "nobody", Newest: true}), 5000 + ages*group},
		"facts of a scope":                {facts(audit.Query{Scope: demo}), 5000 + ages*group},
		"facts since a month":             {facts(audit.Query{Since: now.Add(-28 * 24 * time.Hour)}), 5000 + ages*group},
		"facts until a month ago, newest": {facts(audit.Query{Until: now.Add(-28 * 24 * time.Hour), Newest: true}), 5000 + ages*group},
		"refusals":                        {facts(audit.Query{Refused: true, Newest: true}), page + ages},
		"refusals of a scope":             {facts(audit.Query{Refused: true, Scope: demo}), 3 * (page + ages)},
		"a request's":                     {facts(audit.Query{Request: "nothing"}), few},
		"a serial's":                      {facts(audit.Query{Serial: cert.NewSerial(1, now)}), few},
		"certificates expiring soon":      {certs(ca.Query{ExpiringBefore: now.Add(time.Hour)}), 5 * 3 * (page + ages)},
		"revoked certificates":            {certs(ca.Query{Revoked: true}), 2 * 5 * 4 * page},
		"certificates by name":            {certs(ca.Query{Name: named(t, "dns:a.demo.test")}), few},
		"certificates by key":             {certs(ca.Query{Key: cert.KeyID{1}}), few},
	} {
		index, walked := counted(t, db, c.do)
		if index > c.most || walked > 0 {
			t.Errorf("%s: read %d rows by an index, want at most %d, and %d from end to end", name, index, c.most, walked)
		}
	}
}
