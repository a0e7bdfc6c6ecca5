package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// letFail waits until so many more requests were told to come back, or not answered at all.
func (l *load) letFail(more int) {
	l.t.Helper()
	l.mu.Lock()
	until := l.away + l.lost + more
	l.mu.Unlock()
	e2e.Eventually(l.t, 2*backSoon, func() error {
		select {
		case <-l.broken:
			l.t.FailNow()
		default:
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := l.away + l.lost; n < until {
			return fmt.Errorf("%d requests were told to come back, want %d", n, until)
		}
		return nil
	})
}

// Somebody holds a lock that every write waits for, until all connections of the pool wait. Clients are told to come back
// within their time; when the lock is gone, the service is there.
func TestNothingThatWasAnsweredIsLostByAnExhaustedPool(t *testing.T) {
	choose := rand.New(rand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	s := e2e.Start(t)
	l := startLoad(t, s, choose)
	for _, table := range []string{"fact", "scope"} {
		l.letAnswer(1 + choose.IntN(40))
		conn, err := pgx.Connect(t.Context(), s.Env["SEGL_DATABASE_URL"])
		if err != nil {
			t.Fatal(err)
		}
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		l.letFail(writers)
		if err := errors.Join(tx.Rollback(t.Context()), conn.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		l.back("pool", time.Now())
	}
	l.stop()
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}

// The database comes back as a standby that only reads, as after a failover gone wrong, and is promoted later.
func TestNothingThatWasAnsweredIsLostByADatabaseInRecovery(t *testing.T) {
	choose := rand.New(rand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	s := e2e.Start(t)
	l := startLoad(t, s, choose)
	for range 2 {
		l.letAnswer(1 + choose.IntN(40))
		if err := os.WriteFile(filepath.Join(s.Dir, "postgres", "data", "standby.signal"), nil, 0o644); err != nil { //nolint:gosec // Postgres reads it as another user
			t.Fatal(err)
		}
		if err := syscall.Kill(postmasterOf(t, s), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		standby(t, s, true)
		l.letFail(writers)
		standby(t, s, true) // it was one all the while
		promote(t, s)
		standby(t, s, false)
		l.back("standby", time.Now())
	}
	l.stop()
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}

// standby waits until the database says that it is in recovery, or that it is not.
func standby(t *testing.T, s *e2e.Segl, want bool) {
	t.Helper()
	e2e.Eventually(t, backSoon, func() error {
		conn, err := pgx.Connect(t.Context(), s.Env["SEGL_DATABASE_URL"])
		if err != nil {
			return err
		}
		defer conn.Close(t.Context()) //nolint:errcheck // it only asked
		var is bool
		if err := conn.QueryRow(t.Context(), `SELECT pg_is_in_recovery()`).Scan(&is); err != nil {
			return err
		}
		if is != want {
			return fmt.Errorf("in recovery: %t", is)
		}
		return nil
	})
}

// promote does what pg_ctl promote does: segl's role in the database may not.
func promote(t *testing.T, s *e2e.Segl) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, "postgres", "data", "promote"), nil, 0o644); err != nil { //nolint:gosec // Postgres reads it as another user
		t.Fatal(err)
	}
	if err := syscall.Kill(postmasterOf(t, s), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
}
