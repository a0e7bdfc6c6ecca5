package duty_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// forever is longer than any test: what happens despite it was not waited for.
const forever = time.Hour

func TestOnlyOneHolderWorks(t *testing.T) {
	a, b := replicas(t)
	working, finish := make(chan int64), make(chan struct{})
	d := duty.Duty{Name: "x", Every: forever, TTL: forever, Once: func(_ context.Context, term int64) error {
		working <- term
		<-finish
		return nil
	}}
	stop := run(t, a, d)
	if term := <-working; term != 1 {
		t.Errorf("the first term is %d", term)
	}
	ran, err := duty.Once(t.Context(), b, duty.Duty{Name: "x", TTL: forever, Once: fail(t)})
	if ran || err != nil {
		t.Errorf("the other replica: ran %v, err %v", ran, err)
	}
	// Another duty is another's.
	if ran, err := duty.Once(t.Context(), b, duty.Duty{Name: "y", Once: nothing}); !ran || err != nil {
		t.Errorf("another duty: ran %v, err %v", ran, err)
	}
	close(finish)
	stop()
	// Stopping gave it up, long before the lease would have ended.
	var term int64
	ran, err = duty.Once(t.Context(), b, duty.Duty{Name: "x", TTL: forever, Once: func(_ context.Context, at int64) error {
		term = at
		return nil
	}})
	if !ran || err != nil || term != 2 {
		t.Errorf("after it was given up: ran %v, term %d, err %v", ran, term, err)
	}
}

func TestReplicasNeverWorkAtOnce(t *testing.T) {
	a, b := replicas(t)
	var inside, runs atomic.Int64
	enough := make(chan struct{})
	d := duty.Duty{Name: "x", Every: time.Millisecond, TTL: forever, Once: func(context.Context, int64) error {
		if inside.Add(1) != 1 {
			t.Error("two at once")
		}
		defer inside.Add(-1)
		if runs.Add(1) == 50 {
			close(enough)
		}
		return nil
	}}
	stopA, stopB := run(t, a, d), run(t, b, d)
	<-enough
	stopA()
	stopB()
}

func TestAVanishedHolderIsSucceededWhenItsLeaseEnds(t *testing.T) {
	_, db := replicas(t)
	// What kill -9 leaves: a lease nobody renews.
	exec(t, db, `INSERT INTO duty (name, holder, term, expires_at) VALUES ('x', 'killed', 7, clock_timestamp() + interval '300 ms')`)
	if ran, err := duty.Once(t.Context(), db, duty.Duty{Name: "x", Once: fail(t)}); ran || err != nil {
		t.Errorf("before its end: ran %v, err %v", ran, err)
	}
	terms := make(chan int64, 1)
	stop := run(t, db, duty.Duty{Name: "x", Every: 5 * time.Millisecond, TTL: forever, Once: func(_ context.Context, term int64) error {
		select {
		case terms <- term:
		default:
		}
		return nil
	}})
	if term := <-terms; term != 8 {
		t.Errorf("the successor's term is %d", term)
	}
	stop()
	tx(t, db, func(tx pgx.Tx) {
		if err := duty.StillHeld(t.Context(), tx, "x", 7); !errors.Is(err, duty.ErrLost) {
			t.Errorf("the killed holder's write: %v", err)
		}
		if err := duty.StillHeld(t.Context(), tx, "x", 8); err != nil {
			t.Errorf("the successor's: %v", err)
		}
		if err := duty.StillHeld(t.Context(), tx, "nobody's", 1); !errors.Is(err, duty.ErrLost) {
			t.Errorf("a duty nobody had: %v", err)
		}
	})
}

func TestAHolderThatLostItsLeaseIsToldAndNotSucceededTwice(t *testing.T) {
	a, b := replicas(t)
	working, cause := make(chan struct{}), make(chan error, 1)
	stop := run(t, a, duty.Duty{Name: "x", Every: forever, TTL: 300 * time.Millisecond, Once: func(ctx context.Context, _ int64) error {
		close(working)
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}})
	<-working
	exec(t, b, `UPDATE duty SET holder = 'thief', term = term + 1, expires_at = clock_timestamp() + interval '1 hour' WHERE name = 'x'`)
	if err := <-cause; !errors.Is(err, duty.ErrLost) {
		t.Errorf("its context ended with %v", err)
	}
	stop()
	var holder string
	if err := b.QueryRow(t.Context(), `SELECT holder FROM duty WHERE expires_at > clock_timestamp()`).Scan(&holder); err != nil || holder != "thief" {
		t.Errorf("the loser gave away what is %q's: %v", holder, err)
	}
}

func TestWorkEndsWithALeaseThatCannotBeRenewed(t *testing.T) {
	c := postgrestest.Cluster(t, nil)
	db := postgrestest.Connect(t, c.URL())
	cause := make(chan error, 1)
	ran, err := duty.Once(t.Context(), db, duty.Duty{Name: "x", TTL: time.Second, Once: func(ctx context.Context, _ int64) error {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return nil
	}})
	if ran || !errors.Is(err, duty.ErrLost) || !errors.Is(<-cause, duty.ErrLost) {
		t.Errorf("ran %v, err %v", ran, err)
	}
}

func TestALeaseIsRenewedWhileTheWorkLasts(t *testing.T) {
	a, b := replicas(t)
	const ttl = 200 * time.Millisecond
	ran, err := duty.Once(t.Context(), a, duty.Duty{Name: "x", TTL: ttl, Once: func(ctx context.Context, _ int64) error {
		begun := time.Now()
		for time.Since(begun) < 5*ttl {
			if ran, err := duty.Once(ctx, b, duty.Duty{Name: "x", Once: fail(t)}); ran || err != nil {
				t.Errorf("the other replica: ran %v, err %v", ran, err)
			}
		}
		return ctx.Err()
	}})
	if !ran || err != nil {
		t.Errorf("ran %v, err %v", ran, err)
	}
}

func TestASuccessorWaitsForAFencedTransaction(t *testing.T) {
	a, b := replicas(t)
	exec(t, a, `INSERT INTO duty (name, holder, term, expires_at) VALUES ('x', 'stalled', 1, clock_timestamp())`)
	terms := make(chan int64, 1)
	var wg sync.WaitGroup
	tx(t, a, func(tx pgx.Tx) {
		if err := duty.StillHeld(t.Context(), tx, "x", 1); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			_, err := duty.Once(t.Context(), b, duty.Duty{Name: "x", Once: func(_ context.Context, term int64) error {
				terms <- term
				return nil
			}})
			if err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the successor waits", func() bool {
			var n int
			err := a.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&n)
			return err == nil && n == 1
		})
		if len(terms) != 0 {
			t.Error("it worked meanwhile")
		}
	})
	wg.Wait()
	if term := <-terms; term != 2 {
		t.Errorf("its term is %d", term)
	}
}

func TestAWakeUpRunsAtOnceAndAPollSuffices(t *testing.T) {
	a, _ := replicas(t)
	runs := make(chan struct{})
	once := func(context.Context, int64) error { runs <- struct{}{}; return nil }
	wake := make(chan struct{}, 1)
	stop := run(t, a, duty.Duty{Name: "woken", Every: forever, Wake: wake, Once: once})
	for range 3 {
		<-runs
		wake <- struct{}{}
	}
	<-runs
	stop()
	stop = run(t, a, duty.Duty{Name: "polled", Every: time.Millisecond, Once: once})
	for range 3 {
		<-runs
	}
	go func() {
		for range runs { // it may be in the middle of one
		}
	}()
	stop()
	close(runs)
}

func TestAFailureIsLoggedOnceEachAndNotHurried(t *testing.T) {
	a, _ := replicas(t)
	var out syncBuffer
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	runs := make(chan int)
	n := 0
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	wg.Go(func() {
		duty.Run(ctx, a, duty.Duty{Name: "x", Every: 20 * time.Millisecond, Wake: wake, Once: func(context.Context, int64) error {
			n++
			runs <- n
			if n <= 3 {
				return errors.New("disk is full")
			}
			return nil
		}}, slog.New(slog.NewTextHandler(&out, nil)))
	})
	for n := range runs {
		if n == 3 && len(wake) != 1 {
			t.Error("a wake-up hurried a failing duty")
		}
		if n == 5 {
			break
		}
	}
	cancel()
	go func() {
		for range runs {
		}
	}()
	wg.Wait()
	close(runs)
	if got := strings.Count(out.String(), "disk is full"); got != 3 {
		t.Errorf("3 failures made %d lines: %s", got, out.String())
	}
	if got := strings.Count(out.String(), "duty recovered"); got != 1 {
		t.Errorf("%d recoveries", got)
	}
}

func TestBackoffGrowsToABound(t *testing.T) {
	for _, every := range []time.Duration{0, time.Millisecond, time.Second, time.Hour} {
		most := max(every, time.Minute)
		for failed := 1; failed < 100; failed++ {
			if got := duty.Backoff(every, failed); got < every*4/5 || got <= 0 || got > most {
				t.Errorf("every %v, failure %d: %v", every, failed, got)
			}
		}
		if got := duty.Backoff(every, 99); got < most*4/5 {
			t.Errorf("every %v: the bound is not reached: %v", every, got)
		}
	}
}

// replicas are two pools on one database.
func replicas(t *testing.T) (a, b *postgres.DB) {
	t.Helper()
	url := postgrestest.New(t)
	return postgrestest.Connect(t, url), postgrestest.Connect(t, url)
}

// run starts a duty; the function it returns stops it and waits until it has ended.
func run(t *testing.T, db *postgres.DB, d duty.Duty) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { duty.Run(ctx, db, d, slog.New(slog.DiscardHandler)) })
	return func() {
		t.Helper()
		cancel()
		wg.Wait()
	}
}

func nothing(context.Context, int64) error { return nil }

func fail(t *testing.T) func(context.Context, int64) error {
	return func(context.Context, int64) error {
		t.Error("it worked without holding the duty")
		return nil
	}
}

func exec(t *testing.T, db *postgres.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func tx(t *testing.T, db *postgres.DB, do func(pgx.Tx)) {
	t.Helper()
	if err := postgres.Tx(t.Context(), db, func(tx pgx.Tx) error { do(tx); return nil }); err != nil {
		t.Fatal(err)
	}
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

type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
