package ledger_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// walls returns what matches a walk over a growing table's partition that holds something; an empty one may be walked.
func walls() *regexp.Regexp {
	var epochs []string
	for e := uid.EpochOf(time.Now()) - 5; e <= uid.EpochOf(time.Now()); e++ {
		epochs = append(epochs, fmt.Sprint(e))
	}
	return regexp.MustCompile(`Seq Scan on (intent|outcome|revocation|fact)_\S*e(` + strings.Join(epochs, "|") + `)\b`)
}

// TestNoStatementReadsAGrowingTableFromEndToEnd runs every statement on one connection, loads ten thousand certificates over
// several epochs, and looks at the plans that the server would then use, with and without statistics.
func TestNoStatementReadsAGrowingTableFromEndToEnd(t *testing.T) {
	db, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.New(t), MaxConns: 1})
	must(t, err)
	defer db.Close()
	l := replica(t, db)
	_, err = l.MakeEpochs(t.Context(), time.Now())
	must(t, err)
	_, err = l.MakeEpochs(t.Context(), time.Now().Add(-5*uid.EpochLength))
	must(t, err)
	scopes, err := tenancy.Open(t.Context(), db, time.Now)
	must(t, err)
	must(t, pkitest.Demonstrate(t.Context(), scopes))
	everyStatement(t, l)
	plans(t, db, "almost empty")
	load(t, db)
	plans(t, db, "ten thousand, no statistics")
	_, err = db.Exec(t.Context(), `ANALYZE`)
	must(t, err)
	plans(t, db, "ten thousand, with statistics")
}

// TestNoStatementCostsMoreWithTheLedgersAge makes a hundred epochs and looks at what each statement then plans and locks: a
// plan names the partitions of one epoch, or of the few that its arguments speak of.
func TestNoStatementCostsMoreWithTheLedgersAge(t *testing.T) {
	db, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.New(t), MaxConns: 1})
	must(t, err)
	defer db.Close()
	l := replica(t, db)
	_, err = l.MakeEpochs(t.Context(), time.Now())
	must(t, err)
	for ago := 2; ago <= 96; ago += 5 { // not all at once: each table made is a lock
		_, err = db.Exec(t.Context(), `SELECT make_epoch(1, $1 - n) FROM generate_series($2::integer, $2 + 4) n`, int(uid.EpochOf(time.Now())), ago)
		must(t, err)
	}
	scopes, err := tenancy.Open(t.Context(), db, time.Now)
	must(t, err)
	must(t, pkitest.Demonstrate(t.Context(), scopes))
	_, err = l.CloseEpochs(t.Context(), time.Now())
	must(t, err)
	everyStatement(t, l)
	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // it only reads
	seen := 0
	for _, p := range prepared(t, tx) {
		if strings.Contains(p.Statement, "UNION ALL") { // a listing: it has a part for each epoch, and says so
			continue
		}
		seen++
		before, err := tx.Begin(t.Context()) // a savepoint: its locks leave with it
		must(t, err)
		plan := explain(t, before, "EXPLAIN", p.Name, strings.TrimSuffix(strings.Repeat("NULL, ", p.Arguments), ", "))
		if n := epochs(plan); n > 1 {
			t.Errorf("a plan names %d epochs:\n%s", n, p.Statement)
		}
		if n := epochs(locked(t, before)); n > 1 {
			t.Errorf("%d epochs are locked:\n%s", n, p.Statement)
		}
		must(t, before.Rollback(t.Context()))
	}
	if seen < 11 {
		t.Fatalf("%d statements, want every one", seen)
	}
}

// epochs counts the epochs of which a text names partitions.
func epochs(text string) int {
	seen := map[string]bool{}
	for _, found := range regexp.MustCompile(`\b(?:intent|outcome|revocation|replacement|further_name|origin|fact)_\w*e(\d{4})\b`).FindAllStringSubmatch(text, -1) {
		seen[found[1]] = true
	}
	return len(seen)
}

type statement struct {
	Name, Statement string
	Arguments       int
}

// prepared are the statements that this connection has prepared and that read or write what grows.
func prepared(t *testing.T, db queries) []statement {
	t.Helper()
	rows, err := db.Query(t.Context(), `
		SELECT name, statement, cardinality(parameter_types)
		FROM   pg_prepared_statements
		WHERE  statement ~* '(FROM|INTO|JOIN) +(intent|outcome|revocation|origin|fact|replacement|further_name)'`, pgx.QueryExecModeExec)
	must(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[statement])
	must(t, err)
	return all
}

type queries interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// everyStatement makes pgx prepare each statement of the ledger.
func everyStatement(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	ctx, in := t.Context(), intent(time.Now())
	in.Origin.ID = uid.Derive(uid.Request, 1, time.Unix(0, 0), [32]byte{1})
	in.Caller = issued(t, l, intent(time.Now()))
	s := issued(t, l, in)
	f := audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon}
	must(t, l.Revoke(ctx, revocation(s)))
	must(t, l.Refuse(ctx, f))
	_, err := l.Abandon(ctx, time.Now(), f)
	must(t, err)
	_, err = l.BySerial(ctx, s)
	must(t, err)
	_, err = l.ByOrigin(ctx, in.Origin.ID)
	must(t, err)
	_, err = l.Status(ctx, []cert.Serial{s})
	must(t, err)
	must(t, l.Stands(ctx, in.Caller))
	for _, q := range []ca.Query{{Limit: 10}, {Limit: 10, Revoked: true}, {Limit: 10, Name: named(t, "dns:a.demo.test")}, {Limit: 10, Key: cert.KeyID{1}}} {
		_, err = l.Select(ctx, q)
		must(t, err)
	}
	_, err = l.Ended(ctx, crl.Standing{Shard: crl.Shard{Authority: 1, Epoch: uid.EpochOf(time.Now())}, Parts: 1}, 0, func(crl.Entry) error { return nil })
	must(t, err)
	_, err = l.Since(ctx, []crl.Reach{{Authority: 1, From: uid.EpochOf(time.Now())}}, "", func(crl.Ending) {})
	must(t, err)
	_, err = l.Serials(ctx, cert.Serial{}, 10)
	must(t, err)
}

// load writes ten thousand certificates over six epochs as the ledger would have.
func load(t *testing.T, db *postgres.DB) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		WITH made AS (
			INSERT INTO intent (serial, not_after, authority, scope, profile, tbs)
			SELECT '\x1001'::bytea || substring(int8send(extract(epoch FROM now())::bigint - n * 330) FROM 5) || substring(sha256(int4send(n)) FROM 1 FOR 12),
			       now() + n * interval '1 minute', 1 + n % 3, 1 + n % 5, 'server', decode(repeat('ab', 600), 'hex')
			FROM   generate_series(1, 10000) n
			RETURNING serial, authority, scope
		), signed AS (
			INSERT INTO outcome (serial, at, signature)
			SELECT serial, now(), decode(repeat('cd', 72), 'hex')
			FROM   made
		), noted AS (
			INSERT INTO fact (at, scope, what, actor, serial)
			SELECT now(), scope, 'certificate.issue', 'test', serial
			FROM   made
		)
		INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
		SELECT serial, now(), authority, scope, 0
		FROM   made
		WHERE  get_byte(serial, 17) < 224`)
	must(t, err)
}

// plans fails the test for each prepared statement whose generic plan walks a growing table. Plans are made with pruning
// off, so that every partition's part is seen. What lists is planned for its arguments, and is seen by listings.
func plans(t *testing.T, db *postgres.DB, when string) {
	t.Helper()
	for _, sql := range []string{`DISCARD PLANS`, `SET enable_partition_pruning = off`} {
		_, err := db.Exec(t.Context(), sql)
		must(t, err)
	}
	all := prepared(t, db)
	if len(all) < 11 {
		t.Fatalf("%s: %d statements, want every one", when, len(all))
	}
	for _, p := range all {
		plan := explain(t, db, "EXPLAIN", p.Name, strings.TrimSuffix(strings.Repeat("NULL, ", p.Arguments), ", "))
		if bad := walls().FindString(plan); bad != "" {
			t.Errorf("%s: %s in\n%s\n%s", when, bad, p.Statement, plan)
		}
	}
	_, err := db.Exec(t.Context(), `RESET enable_partition_pruning`)
	must(t, err)
	_, err = db.Exec(t.Context(), `DISCARD PLANS`)
	must(t, err)
}

func explain(t *testing.T, db queries, how, name, arguments string) string {
	t.Helper()
	if arguments != "" {
		arguments = "(" + arguments + ")"
	}
	rows, err := db.Query(t.Context(), fmt.Sprintf(`%s EXECUTE %s%s`, how, name, arguments), pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return strings.Join(lines, "\n")
}

// locked returns the tables that a transaction holds locks on.
func locked(t *testing.T, tx pgx.Tx) (tables string) {
	t.Helper()
	must(t, tx.QueryRow(t.Context(), `
		SELECT coalesce(string_agg(c.relname, ' '), '')
		FROM   pg_locks l
		JOIN   pg_class c ON c.oid = l.relation
		WHERE  l.pid = pg_backend_pid() AND c.relkind = 'r'`).Scan(&tables))
	return tables
}
