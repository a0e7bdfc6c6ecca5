package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// walled is a database in which the scopes demo (with demo/shop and demo/shop/dev below it) and other have a certificate and a
// fact each, and platform too.
type walled struct {
	*postgres.DB
	owner *postgres.DB
	leaf  string
	ids   map[string]int32
}

func newWalled(t *testing.T) walled {
	t.Helper()
	h := pkitest.New(t)
	w := walled{owner: h.DB, ids: map[string]int32{}}
	db, err := h.DB.Walled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	w.DB, w.leaf = db, uid.Partition("intent", uid.Certificate, 1, uid.EpochOf(time.Now()))
	rows, err := h.DB.Query(t.Context(), `SELECT path, id FROM scope`)
	if err != nil {
		t.Fatal(err)
	}
	var path string
	var id int32
	if _, err := pgx.ForEachRow(rows, []any{&path, &id}, func() error { w.ids[path] = id; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"demo", "demo/shop/dev", "other", "platform"} {
		serial := w.serial(path)
		exec(t, h.DB, `INSERT INTO intent (serial, not_after, authority, scope, profile, tbs) VALUES ('\x`+serial+`', now(), 1, `+w.id(path)+`, 'server', '\x00')`)
		exec(t, h.DB, `INSERT INTO outcome (serial, at, signature) VALUES ('\x`+serial+`', now(), '\x00')`)
		exec(t, h.DB, `INSERT INTO fact (at, scope, what, actor) VALUES (now(), `+w.id(path)+`, 'test.walled', 'x')`)
	}
	return w
}

func (w walled) serial(path string) string {
	low := map[string]string{"demo": "01", "demo/shop/dev": "02", "other": "03", "platform": "04"}[path]
	floor := uid.Floor(uid.Certificate, 1, time.Now()).String()
	return floor[:len(floor)-2] + low
}

func (w walled) id(path string) string {
	return strings.TrimSpace(strings.Join([]string{itoa(w.ids[path])}, ""))
}

func itoa(n int32) string {
	digits := ""
	for ; n > 0; n /= 10 {
		digits = string(rune('0'+n%10)) + digits
	}
	return digits
}

// as is the work of a caller of demo/shop/dev, or of whatever scopes are named.
func (w walled) as(t *testing.T, paths ...string) context.Context {
	var ids []int32
	for _, p := range paths {
		ids = append(ids, w.ids[p])
	}
	return postgres.Within(t.Context(), ids, nil)
}

func (w walled) count(t *testing.T, ctx context.Context, table string) (n int) {
	t.Helper()
	if err := w.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWorkThatNamesNobodySeesNothing(t *testing.T) {
	w := newWalled(t)
	for _, ctx := range []context.Context{t.Context(), postgres.Within(t.Context(), nil, nil)} {
		for _, table := range []string{"intent", w.leaf, "outcome", "fact", "scope"} {
			if n := w.count(t, ctx, strings.Replace(table, "scope", "(SELECT id FROM scope) s", 1)); n != 0 {
				t.Errorf("%s shows %d rows", table, n)
			}
		}
	}
}

func TestACallerSeesItsScopesByParentAndByPartition(t *testing.T) {
	w := newWalled(t)
	for _, table := range []string{"intent", w.leaf, "outcome", strings.Replace(w.leaf, "intent", "outcome", 1), "fact WHERE what = 'test.walled'"} {
		if n := w.count(t, w.as(t, "demo/shop/dev"), table); n != 1 {
			t.Errorf("%s shows %d rows to one scope, want 1", table, n)
		}
		if n := w.count(t, w.as(t, "demo", "demo/shop", "demo/shop/dev"), table); n != 2 {
			t.Errorf("%s shows %d rows to a tenant, want 2", table, n)
		}
	}
}

func TestOwnersWorkSeesEverything(t *testing.T) {
	w := newWalled(t)
	if n := w.count(t, postgres.AsOwner(t.Context()), "fact WHERE what = 'test.walled'"); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
	if n := w.count(t, postgres.Within(postgres.AsOwner(t.Context()), nil, nil), "fact"); n != 0 {
		t.Errorf("what was owner's work still sees %d rows", n)
	}
}

// Each way of asking is walled, and one transaction's scopes are not the next one's on the same connection.
func TestEveryWayOfAskingIsWalled(t *testing.T) {
	w := newWalled(t)
	const count = `SELECT count(*) FROM fact WHERE what = 'test.walled'`
	ways := map[string]func(context.Context) (int, error){
		"QueryRow": func(ctx context.Context) (n int, err error) { return n, w.QueryRow(ctx, count).Scan(&n) },
		"Query": func(ctx context.Context) (int, error) {
			rows, err := w.Query(ctx, count)
			if err != nil {
				return 0, err
			}
			return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
		},
		"SendBatch": func(ctx context.Context) (n int, err error) {
			var b pgx.Batch
			b.Queue(count)
			results := w.SendBatch(ctx, &b)
			err = results.QueryRow().Scan(&n)
			return n, errors.Join(err, results.Close())
		},
		"SendBatch with a callback": func(ctx context.Context) (n int, err error) {
			var b pgx.Batch
			b.Queue(count).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
			err = w.SendBatch(ctx, &b).Close()
			return n, err
		},
		"Tx": func(ctx context.Context) (n int, err error) {
			return n, postgres.Tx(ctx, w.DB, func(tx pgx.Tx) error { return tx.QueryRow(ctx, count).Scan(&n) })
		},
		"Exec": func(ctx context.Context) (int, error) {
			tag, err := w.Exec(ctx, `SELECT FROM fact WHERE what = 'test.walled'`)
			return int(tag.RowsAffected()), err
		},
	}
	for name, ask := range ways {
		for _, scopes := range [][]string{{"demo"}, {}, {"demo", "other"}, {"other"}} {
			if n, err := ask(w.as(t, scopes...)); err != nil || n != len(scopes) {
				t.Errorf("%s for %q: %d rows, %v", name, scopes, n, err)
			}
		}
	}
}

func TestNothingForeignIsWritten(t *testing.T) {
	w := newWalled(t)
	ctx := w.as(t, "demo/shop/dev")
	foreign, platform, own := w.id("other"), w.id("platform"), w.id("demo/shop/dev")
	last := "ff"
	fresh := w.serial("demo")
	fresh = fresh[:len(fresh)-2] + last
	for name, sql := range map[string]string{
		"an intent of another tenant":             `INSERT INTO ` + w.leaf + ` (serial, not_after, authority, scope, profile, tbs) VALUES ('\x` + fresh + `', now(), 1, ` + foreign + `, 'x', '')`,
		"an intent of the platform":               `INSERT INTO ` + w.leaf + ` (serial, not_after, authority, scope, profile, tbs) VALUES ('\x` + fresh + `', now(), 1, ` + platform + `, 'x', '')`,
		"an outcome of another tenant's intent":   `INSERT INTO outcome (serial, at) VALUES ('\x` + w.serial("other") + `', now())`,
		"a revocation in another tenant":          `INSERT INTO revocation (serial, revoked_at, authority, scope, reason) VALUES ('\x` + w.serial("other") + `', now(), 1, ` + foreign + `, 0)`,
		"a blocked key for another's certificate": `INSERT INTO blocked_key (key, serial, at) VALUES (decode(repeat('00', 32), 'hex'), '\x` + w.serial("other") + `', now())`,
		"a fact of another tenant":                `INSERT INTO fact (at, scope, what, actor) VALUES (now(), ` + foreign + `, 'x', 'x')`,
		"a fact of nobody":                        `INSERT INTO fact (at, what, actor) VALUES (now(), 'x', 'x')`,
		"a scope":                                 `INSERT INTO scope (path, tenant, created_at) VALUES ('mine', 'mine', now())`,
		"the rights of its own scope":             `UPDATE scope SET dns = '{*}' WHERE id = ` + own,
		"a key":                                   `SELECT sealed FROM kms_key`,
		"which key an authority has":              `SELECT key FROM authority`,
		"operators":                               `SELECT identity FROM operator`,
		"roles":                                   `SELECT role FROM role_binding`,
		"a change of what was recorded":           `UPDATE ` + w.leaf + ` SET not_after = now()`,
		"its own wall":                            `DROP POLICY wall ON ` + w.leaf,
	} {
		if _, err := w.Exec(ctx, sql); err == nil || !strings.Contains(err.Error(), "SQLSTATE 42501") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Exec(ctx, `INSERT INTO `+w.leaf+` (serial, not_after, authority, scope, profile, tbs) VALUES ('\x`+fresh+`', now(), 1, `+own+`, 'x', '')`); err != nil {
		t.Errorf("its own intent is refused: %v", err)
	}
}

func TestABatchOfSeveralSeesWhatEachMayAndNoMore(t *testing.T) {
	w := newWalled(t)
	ctx := postgres.Together(t.Context(), w.as(t, "demo"), w.as(t, "other"))
	if n := w.count(t, ctx, "fact WHERE what = 'test.walled'"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	// Owner's work that slipped in gives nobody its rights.
	ctx = postgres.Together(t.Context(), w.as(t, "demo"), postgres.AsOwner(t.Context()))
	if n := w.count(t, ctx, "fact WHERE what = 'test.walled'"); n != 1 {
		t.Errorf("mixed with owner's work: %d rows, want 1", n)
	}
	mixed := []context.Context{w.as(t, "demo"), postgres.AsOwner(t.Context()), w.as(t, "other"), postgres.AsOwner(t.Context())}
	parts := postgres.Apart(mixed, func(c context.Context) context.Context { return c })
	if len(parts) != 2 || len(parts[0]) != 2 || !postgres.IsOwner(parts[0][1]) || postgres.IsOwner(parts[1][0]) {
		t.Errorf("not separated: %v", parts)
	}
}

func TestWhatIsProvedWidensThatWorkAlone(t *testing.T) {
	w := newWalled(t)
	ctx, another := w.as(t), w.as(t)
	postgres.Widen(ctx, []int32{w.ids["other"]}, nil)
	postgres.Widen(t.Context(), []int32{w.ids["other"]}, nil)
	if n := w.count(t, ctx, "fact WHERE what = 'test.walled'"); n != 1 || !postgres.Sees(ctx, w.ids["other"]) {
		t.Errorf("%d rows, want 1", n)
	}
	for _, c := range []context.Context{another, t.Context()} {
		if n := w.count(t, c, "fact"); n != 0 || postgres.Sees(c, w.ids["other"]) {
			t.Errorf("other work sees %d rows", n)
		}
	}
}

// A week made later is walled as those before.
func TestNewPartitionsAreWalled(t *testing.T) {
	w := newWalled(t)
	e := int(uid.EpochOf(time.Now())) + 50
	if _, err := w.owner.Exec(t.Context(), `SELECT make_epoch(1, $1)`, e); err != nil {
		t.Fatal(err)
	}
	var open []string
	rows, err := w.owner.Query(t.Context(), `
		SELECT c.relname::text
		FROM   pg_class c
		JOIN   pg_inherits h ON h.inhrelid = c.oid
		JOIN   walled_table v ON v.name = h.inhparent::regclass::text
		WHERE  NOT c.relrowsecurity OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)`)
	if err == nil {
		open, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil || len(open) > 0 {
		t.Errorf("without a wall: %v, %v", open, err)
	}
	var n int
	err = w.owner.QueryRow(t.Context(), `SELECT count(*) FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relname LIKE '%e' || $1::integer`, e).Scan(&n)
	if err != nil || n < 15 {
		t.Errorf("the new week has %d walls, %v", n, err)
	}
	if err := postgres.CheckWall(t.Context(), w.owner); err != nil {
		t.Error(err)
	}
}

func TestAWallWithAHoleIsRefused(t *testing.T) {
	c := postgrestest.Cluster(t, nil)
	db, super := postgrestest.Connect(t, c.URL()), postgrestest.Connect(t, c.SuperuserURL())
	for name, hole := range map[string]struct{ made, mended, want string }{
		"a superuser":          {`ALTER ROLE segl_service SUPERUSER`, `ALTER ROLE segl_service NOSUPERUSER`, "NOSUPERUSER"},
		"passing by":           {`ALTER ROLE segl_service BYPASSRLS`, `ALTER ROLE segl_service NOBYPASSRLS`, "NOBYPASSRLS"},
		"a maker of roles":     {`ALTER ROLE segl_service CREATEROLE`, `ALTER ROLE segl_service NOCREATEROLE`, "NOCREATEROLE"},
		"a member of another":  {`GRANT pg_read_all_data TO segl_service`, `REVOKE pg_read_all_data FROM segl_service`, "pg_read_all_data"},
		"an owner":             {`ALTER TABLE intent OWNER TO segl_service`, `ALTER TABLE intent OWNER TO segl`, "give them another owner"},
		"a table without wall": {`GRANT SELECT ON kms_key TO segl_service`, `REVOKE ALL ON kms_key FROM segl_service`, "table kms_key"},
		"a wall taken down":    {`ALTER TABLE fact DISABLE ROW LEVEL SECURITY`, `ALTER TABLE fact ENABLE ROW LEVEL SECURITY`, "table fact"},
	} {
		exec(t, super, hole.made)
		if _, err := db.Walled(t.Context()); !errors.Is(err, postgres.ErrNoWall) || !strings.Contains(err.Error(), hole.want) {
			t.Errorf("%s: %v", name, err)
		}
		exec(t, super, hole.mended)
	}
	exec(t, super, `GRANT SELECT, INSERT ON intent TO segl_service`) // went with its owner
	walled, err := db.Walled(t.Context())
	if err != nil {
		t.Fatalf("once mended: %v", err)
	}
	walled.Close()
}
