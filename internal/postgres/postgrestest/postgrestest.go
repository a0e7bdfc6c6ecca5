// Package postgrestest gives each test a real Postgres database with the whole schema.
//
// The first call in a test binary starts a private cluster, without fsync, from a data directory that was made and
// migrated once for this schema and kept in the user's cache; each test then gets a copy of that database. The cluster
// ends with the test binary, however that ends, and its directory is removed by a small shell that waits for this.
//
// It is not for tests of durability: Cluster gives those one of their own, with fsync.
//
// The functions may be called by parallel tests. They need Postgres's programs (package cluster) and fail the test where
// there are none.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
)

// shared is the one cluster of this test binary: starting one a test would cost more than most tests.
var shared = sync.OnceValues(func() (testCluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return startCluster(ctx, cluster.Config{Test: true})
})

var lastDatabase atomic.Int64

// New returns the URL of a database of the test's own with every migration applied, dropped when the test ends. Its user
// owns it and is no superuser.
func New(t testing.TB) string {
	t.Helper()
	return create(t, template)
}

// Empty is New without any migration.
func Empty(t testing.TB) string {
	t.Helper()
	return create(t, "template1")
}

// prepared are the databases that From copies, by their names.
var prepared struct {
	sync.Mutex
	made map[string]error
}

// From is New with what fill has put there, too: fill runs once in a test binary for each name, and the database it was given
// is copied. It leaves no connection behind.
func From(t testing.TB, name string, fill func(ctx context.Context, url string) error) string {
	t.Helper()
	from := "prepared_" + name
	if err := prepare(from, fill); err != nil {
		t.Fatalf("preparing database %s: %v", name, err)
	}
	return create(t, from)
}

func prepare(name string, fill func(ctx context.Context, url string) error) error {
	prepared.Lock()
	defer prepared.Unlock()
	if err, ok := prepared.made[name]; ok {
		return err
	}
	if prepared.made == nil {
		prepared.made = map[string]error{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := shared()
	if err == nil {
		err = admin(ctx, c, "CREATE DATABASE "+name+" TEMPLATE "+template+" OWNER segl")
	}
	if err == nil {
		err = fill(ctx, within(c.URL(), name))
	}
	prepared.made[name] = err
	return err
}

// Open is New with a pool on it, closed when the test ends.
func Open(t testing.TB) *postgres.DB {
	t.Helper()
	return Connect(t, New(t))
}

// Connect opens a pool, closed when the test ends, on a database that New or Cluster gave.
func Connect(t testing.TB, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// Cluster starts a cluster of the test's own that keeps what it acknowledges (fsync is on), with settings added. Its
// database has every migration applied. It is stopped when the test ends.
func Cluster(t testing.TB, settings map[string]string) *cluster.Cluster {
	t.Helper()
	c, err := startCluster(t.Context(), cluster.Config{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Stop(), c.home.alive.Close()); err != nil {
			t.Error(err)
		}
	})
	return c.Cluster
}

const dropTimeout = 30 * time.Second

func create(t testing.TB, from string) string {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test_%d", lastDatabase.Add(1))
	if err := admin(t.Context(), c, "CREATE DATABASE "+name+" TEMPLATE "+from+" OWNER segl STRATEGY FILE_COPY"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), dropTimeout)
		defer cancel()
		if err := admin(ctx, c, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return within(c.URL(), name)
}

// admin runs one statement as superuser, outside the template database: CREATE DATABASE wants nobody in it.
func admin(ctx context.Context, c testCluster, sql string) error {
	conn, err := pgx.Connect(ctx, within(c.SuperuserURL(), "postgres"))
	if err != nil {
		return fmt.Errorf("preparing test database: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's own error counts
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("preparing test database: %w", err)
	}
	return nil
}

// within is a URL of the same server for another database.
func within(server, database string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic("postgrestest: internal error: cluster URL: " + strings.ReplaceAll(err.Error(), server, "URL"))
	}
	u.Path = "/" + database
	return u.String()
}
