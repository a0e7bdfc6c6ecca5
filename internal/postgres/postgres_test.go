package postgres_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func TestOpenNeverRepeatsTheURL(t *testing.T) {
	for name, url := range map[string]string{
		"empty":            "",
		"no URL":           "hunter2 is not a url",
		"bad port":         "postgres://segl:hunter2@localhost:port/db",
		"bad escape":       "postgres://segl:hunter2%zz@localhost/db",
		"bad sslmode":      "postgres://segl:hunter2@localhost/db?sslmode=hunter2",
		"bad timeout":      "postgres://segl:hunter2@localhost/db?connect_timeout=hunter2",
		"backquote inside": "postgres://segl:hunter2`: hunter2@localhost:port/db",
		"keywords":         "host=localhost password=hunter2 port=x",
		"bad pool setting": "postgres://segl:hunter2@localhost/db?pool_max_conns=hunter2",
		"nobody there":     "postgres://segl:hunter2@127.0.0.1:1/db?connect_timeout=1",
	} {
		t.Run(name, func(t *testing.T) {
			db, err := postgres.Open(t.Context(), postgres.Config{URL: url})
			if err == nil {
				db.Close()
				t.Fatal("it opened")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells the password: %v", err)
			}
			if err := postgres.Migrate(t.Context(), url, nil); err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Migrate's error tells the password: %v", err)
			}
		})
	}
}

func TestOpenTellsAwayFromRefused(t *testing.T) {
	_, err := postgres.Open(t.Context(), postgres.Config{URL: "postgres://segl@127.0.0.1:1/db"})
	if !postgres.Unavailable(err) {
		t.Errorf("nobody listening is not unavailable: %v", err)
	}
	url := postgrestest.New(t)
	_, err = postgres.Open(t.Context(), postgres.Config{URL: strings.Replace(url, "segl:", "segl:x", 1)})
	if err == nil || postgres.Unavailable(err) {
		t.Errorf("a wrong password is temporary: %v", err)
	}
	_, err = postgres.Open(t.Context(), postgres.Config{URL: strings.Replace(url, "/test_", "/no_test_", 1)})
	if err == nil || postgres.Unavailable(err) {
		t.Errorf("a missing database is temporary: %v", err)
	}
}

func TestViolatedNamesTheConstraint(t *testing.T) {
	db := scratch(t)
	insert := func() error {
		_, err := db.Exec(t.Context(), `INSERT INTO scratch (n) VALUES (1)`)
		return err
	}
	if err := insert(); err != nil || postgres.Violated(err) != "" {
		t.Fatal(err)
	}
	if err := insert(); postgres.Violated(err) != "scratch_once" || postgres.InDoubt(err) || postgres.Unavailable(err) {
		t.Errorf("a refused write: %v", err)
	}
	_, err := db.Exec(t.Context(), `INSERT INTO scratch (n) VALUES (-1)`)
	if postgres.Violated(err) != "scratch_positive" {
		t.Errorf("violated %q", postgres.Violated(err))
	}
	if got := postgres.Violated(errors.New("x")); got != "" {
		t.Errorf("another error violates %q", got)
	}
}

func TestTxCommitsAllOrNothing(t *testing.T) {
	db := scratch(t)
	add := func(n int) func(pgx.Tx) error {
		return func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO scratch (n) VALUES ($1)`, n)
			return err
		}
	}
	if err := postgres.Tx(t.Context(), db, add(1)); err != nil {
		t.Fatal(err)
	}
	why := errors.New("changed my mind")
	err := postgres.Tx(t.Context(), db, func(tx pgx.Tx) error { return errors.Join(add(2)(tx), why) })
	if !errors.Is(err, why) || postgres.InDoubt(err) {
		t.Errorf("an abandoned transaction: %v", err)
	}
	func() {
		defer func() { recover() }()
		postgres.Tx(t.Context(), db, func(tx pgx.Tx) error { add(3)(tx); panic("x") })
	}()
	// A statement that failed is no commit, whatever do returns.
	err = postgres.Tx(t.Context(), db, func(tx pgx.Tx) error { add(1)(tx); return nil })
	if !errors.Is(err, pgx.ErrTxCommitRollback) || postgres.InDoubt(err) {
		t.Errorf("committing a failed transaction: %v", err)
	}
	if got := count(t, db); got != 1 {
		t.Errorf("%d rows", got)
	}
	if got := db.Stat().AcquiredConns(); got != 0 {
		t.Errorf("%d connections were not given back", got)
	}
}

func TestABatchIsOneTransaction(t *testing.T) {
	db := scratch(t)
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO scratch (n) VALUES (1)`)
	batch.Queue(`INSERT INTO scratch (n) VALUES (1)`)
	if err := db.SendBatch(t.Context(), batch).Close(); postgres.Violated(err) != "scratch_once" || postgres.InDoubt(err) {
		t.Errorf("batch with a duplicate: %v", err)
	}
	if got := count(t, db); got != 0 {
		t.Errorf("%d rows of a refused batch", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"close": db.SendBatch(ended, batch).Close(),
		"row":   db.SendBatch(ended, batch).QueryRow().Scan(),
	} {
		if !errors.Is(err, context.Canceled) || postgres.InDoubt(err) {
			t.Errorf("%s of a batch never sent: %v", name, err)
		}
	}
	if got := db.Stat().AcquiredConns(); got != 0 {
		t.Errorf("%d connections were not given back", got)
	}
}

// Every way to commit, and a postmaster killed while it waits: the deferred trigger holds the commit up.
func TestALostReplyToACommitIsInDoubt(t *testing.T) {
	ways := map[string]func(ctx context.Context, db *postgres.DB) error{
		"tx": func(ctx context.Context, db *postgres.DB) error {
			return postgres.Tx(ctx, db, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO slow (n) VALUES (1)`)
				return err
			})
		},
		"exec": func(ctx context.Context, db *postgres.DB) error {
			_, err := db.Exec(ctx, `INSERT INTO slow (n) VALUES (1)`)
			return err
		},
		"batch": func(ctx context.Context, db *postgres.DB) error {
			batch := &pgx.Batch{}
			batch.Queue(`INSERT INTO slow (n) VALUES (1)`)
			return db.SendBatch(ctx, batch).Close()
		},
		"batch, read": func(ctx context.Context, db *postgres.DB) error {
			batch := &pgx.Batch{}
			batch.Queue(`INSERT INTO slow (n) VALUES (1)`)
			results := db.SendBatch(ctx, batch)
			_, err := results.Exec()
			return errors.Join(err, results.Close())
		},
	}
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			url := postgrestest.New(t)
			db, other := postgrestest.Connect(t, url), postgrestest.Connect(t, url)
			exec(t, db, `CREATE TABLE slow (n integer)`)
			exec(t, db, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'`)
			exec(t, db, `CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
			terminate := func() {
				exec(t, other, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()`)
			}
			waiting := func(want int) func() bool {
				return func() bool {
					var n int
					err := other.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()`).Scan(&n)
					return err == nil && n == want
				}
			}
			for how, stop := range map[string]func(cancel func()){
				"gave up":    func(cancel func()) { cancel() },
				"terminated": func(func()) { terminate() },
			} {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- write(ctx, db) }()
				eventually(t, "the commit waits", waiting(1))
				stop(cancel)
				if err := <-ended; !postgres.InDoubt(err) {
					t.Errorf("%s: %v", how, err)
				} else if how == "terminated" && !postgres.Unavailable(err) {
					t.Errorf("%s is not unavailable: %v", how, err)
				}
				cancel()
				terminate()
				eventually(t, "nobody waits any more", waiting(0))
			}
		})
	}
}

func TestACommitWithoutItsStandbyIsInDoubt(t *testing.T) {
	c := postgrestest.Cluster(t, map[string]string{"synchronous_standby_names": "nobody"})
	root := postgrestest.Connect(t, c.SuperuserURL())
	exec(t, root, `SET synchronous_commit = local`)
	db := postgrestest.Connect(t, c.URL())
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`SET LOCAL synchronous_commit = local`, `CREATE TABLE scratch (n integer)`} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatalf("a commit that asks for no standby: %v", err)
	}
	ways := map[string]func() error{
		"exec": func() error {
			_, err := db.Exec(t.Context(), `INSERT INTO scratch (n) VALUES (1)`)
			return err
		},
		"tx": func() error {
			return postgres.Tx(t.Context(), db, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `INSERT INTO scratch (n) VALUES (1)`)
				return err
			})
		},
		"batch": func() error {
			batch := &pgx.Batch{}
			batch.Queue(`INSERT INTO scratch (n) VALUES (1)`)
			return db.SendBatch(t.Context(), batch).Close()
		},
	}
	for name, write := range ways {
		ended := make(chan error, 1)
		go func() { ended <- write() }()
		eventually(t, "the commit waits for its standby, and is cancelled", func() bool {
			var n int
			err := root.QueryRow(t.Context(), `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&n)
			return err == nil && n > 0
		})
		if err := <-ended; !postgres.InDoubt(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := count(t, db); got != len(ways) {
		t.Errorf("%d rows: each was committed locally", got)
	}
}

func TestUnavailableIsTheTemporaryClass(t *testing.T) {
	for code, want := range map[string]bool{
		"57P01": true, "57P02": true, "57P03": true, "08006": true, "53100": true, "53300": true, "25006": true,
		"23505": false, "28P01": false, "3D000": false, "42P01": false, "40001": false, "": false,
	} {
		if got := postgres.Unavailable(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	for _, err := range []error{nil, errors.New("x"), context.Canceled} {
		if postgres.Unavailable(err) {
			t.Errorf("%v is temporary", err)
		}
	}
	if !postgres.Unavailable(context.DeadlineExceeded) {
		t.Error("a database too slow for the deadline is not unavailable")
	}
}

func TestThePoolSurvivesAKilledServer(t *testing.T) {
	c := postgrestest.Cluster(t, nil)
	db := postgrestest.Connect(t, c.URL())
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "queries are answered again", func() bool {
		_, err := db.Exec(t.Context(), `SELECT 1`)
		if err != nil && !postgres.Unavailable(err) {
			t.Errorf("meanwhile: %v", err)
		}
		return err == nil
	})
}

// scratch is a database with one table.
func scratch(t *testing.T) *postgres.DB {
	t.Helper()
	db := postgrestest.Connect(t, postgrestest.Empty(t))
	exec(t, db, `CREATE TABLE scratch (n integer CONSTRAINT scratch_once UNIQUE CONSTRAINT scratch_positive CHECK (n > 0))`)
	return db
}

func exec(t *testing.T, db *postgres.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, db *postgres.DB) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM scratch`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}
