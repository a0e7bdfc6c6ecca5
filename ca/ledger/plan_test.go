package ledger_test

import (
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
	last := everyStatement(t, l)
	plans(t, db, "almost empty")
	load(t, db)
	plans(t, db, "ten thousand, no statistics")
	_, err = db.Exec(t.Context(), `ANALYZE`)
	must(t, err)
	plans(t, db, "ten thousand, with statistics")
	onePartition(t, db, last)
	listings(t, db, last)
}

// listings shows that a page walks no table either.
func listings(t *testing.T, db *postgres.DB, last cert.Serial) {
	t.Helper()
	_, err := db.Exec(t.Context(), `SET plan_cache_mode = force_custom_plan`)
	must(t, err)
	for like, arguments := range map[string]string{
		"%FROM   intent%WHERE  serial > $1%":  `'\x` + last.String()[:8] + `', 10`,
		"%FROM   intent c%WHERE  c.scope = %": `'demo', 'demo/%', '-infinity', '', 'infinity', 10`,
	} {
		var name string
		must(t, db.QueryRow(t.Context(), `
			SELECT name
			FROM   pg_prepared_statements
			WHERE  statement LIKE $1`, like).Scan(&name))
		plan := explain(t, db, "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF)", name, arguments)
		if bad := walls().FindString(plan); bad != "" && !strings.Contains(plan, bad[len("Seq Scan on "):]+" (never executed)") {
			t.Errorf("%s in\n%s", bad, plan)
		}
	}
}

// everyStatement makes pgx prepare each statement of the ledger.
func everyStatement(t *testing.T, l *ledger.Ledger) cert.Serial {
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
	for _, q := range []ca.Query{{Limit: 10}, {Limit: 10, Revoked: true}} {
		_, err = l.Select(ctx, q)
		must(t, err)
	}
	_, err = l.Due(ctx, []int{1}, time.Now(), time.Now())
	must(t, err)
	_, err = l.Ended(ctx, crl.Shard{Authority: 1, Epoch: uid.EpochOf(time.Now())}, func(crl.Entry) error { return nil })
	must(t, err)
	_, err = l.Serials(ctx, cert.Serial{}, 10)
	must(t, err)
	return s
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
	rows, err := db.Query(t.Context(), `
		SELECT name, statement, cardinality(parameter_types)
		FROM   pg_prepared_statements
		WHERE  statement ~* '(FROM|INTO|JOIN) +(intent|outcome|revocation|fact)\M'
		AND    statement !~ 'LIMIT  \$'`, pgx.QueryExecModeExec)
	must(t, err)
	type prepared struct {
		Name, Statement string
		Arguments       int
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[prepared])
	must(t, err)
	if len(all) < 11 {
		t.Fatalf("%s: %d statements, want every one", when, len(all))
	}
	for _, p := range all {
		plan := explain(t, db, "EXPLAIN", p.Name, strings.TrimSuffix(strings.Repeat("NULL, ", p.Arguments), ", "))
		if bad := walls().FindString(plan); bad != "" {
			t.Errorf("%s: %s in\n%s\n%s", when, bad, p.Statement, plan)
		}
	}
	_, err = db.Exec(t.Context(), `RESET enable_partition_pruning`)
	must(t, err)
	_, err = db.Exec(t.Context(), `DISCARD PLANS`)
	must(t, err)
}

func explain(t *testing.T, db *postgres.DB, how, name, arguments string) string {
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

// onePartition shows that looking a serial up touches the one partition of each table that can hold it.
func onePartition(t *testing.T, db *postgres.DB, s cert.Serial) {
	t.Helper()
	for _, like := range []string{"%i.tbs%WHERE  i.serial = $1", "%EXISTS (SELECT FROM outcome WHERE serial = $1%"} {
		var name string
		must(t, db.QueryRow(t.Context(), `
			SELECT name
			FROM   pg_prepared_statements
			WHERE  statement LIKE $1`, like).Scan(&name))
		plan := explain(t, db, "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF)", name, `'\x`+s.String()+`'`)
		for _, table := range []string{"intent", "outcome", "revocation"} {
			if n := strings.Count(plan, " on "+table+"_") - len(regexp.MustCompile(" on "+table+"_.*never executed").FindAllString(plan, -1)); n > 1 {
				t.Errorf("%d partitions of %s are touched:\n%s", n, table, plan)
			}
		}
	}
}
