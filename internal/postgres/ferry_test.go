package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// A put is a row to insert, and whether it was read back.
type put struct {
	n    int
	seen bool
}

// puts returns a kind that inserts rows, and how many trips it was part of.
func puts(f *postgres.Ferry, before func()) (postgres.Kind[*put], *atomic.Int32) {
	trips := new(atomic.Int32)
	return postgres.NewKind(f, func(_ context.Context, b *pgx.Batch, all []*put) func(pgx.BatchResults) error {
		before()
		trips.Add(1)
		numbers := make([]int, len(all))
		for i, p := range all {
			numbers[i], p.seen = p.n, false
		}
		b.Queue(`INSERT INTO scratch SELECT unnest($1::integer[]) RETURNING n`, numbers)
		return func(results pgx.BatchResults) error {
			rows, err := results.Query()
			if err != nil {
				return err
			}
			var n int
			_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
				for _, p := range all {
					p.seen = p.seen || p.n == n
				}
				return nil
			})
			return err
		}
	}), trips
}

func TestAFerryTakesManyInFewTrips(t *testing.T) {
	db := scratch(t)
	f := postgres.NewFerry(db, time.Millisecond)
	kind, trips := puts(f, func() {})
	const many = 300
	var all sync.WaitGroup
	for n := range many {
		all.Go(func() {
			p := &put{n: n + 1}
			if err := kind.Do(t.Context(), p); err != nil || !p.seen {
				t.Errorf("entry %d: %v, seen %v", n, err, p.seen)
			}
		})
	}
	all.Wait()
	if n := count(t, db); n != many {
		t.Errorf("%d rows of %d", n, many)
	}
	if n := trips.Load(); n > many/2 {
		t.Errorf("%d trips for %d entries", n, many)
	}
}

func TestAFerryRefusesOnlyTheOneAtFault(t *testing.T) {
	db := scratch(t)
	exec(t, db, `ALTER TABLE scratch ADD CONSTRAINT small CHECK (n < 1000)`)
	f := postgres.NewFerry(db, 0)
	gate := make(chan struct{})
	first := sync.OnceFunc(func() { <-gate })
	kind, _ := puts(f, first)
	other, _ := puts(f, func() {})
	var all sync.WaitGroup
	ask := func(k postgres.Kind[*put], n int) {
		all.Go(func() {
			err := k.Do(t.Context(), &put{n: n})
			if violated := postgres.Violated(err) == "small"; (n >= 1000) != violated || (n < 1000) != (err == nil) {
				t.Errorf("entry %d: %v", n, err)
			}
		})
	}
	ask(kind, 50) // it holds the first trip until the others wait
	eventually(t, "the first trip", func() bool { return f.Under() })
	for n := 1; n <= 8; n++ {
		ask(kind, n)
		ask(other, 100+n)
	}
	ask(kind, 1000)
	ask(other, 2000)
	eventually(t, "all wait", func() bool { return f.Waiting() == 18 })
	close(gate)
	all.Wait()
	if n := count(t, db); n != 17 {
		t.Errorf("%d rows of 17 that are allowed", n)
	}
}

func TestWhoLeavesAFerryIsNotTakenOver(t *testing.T) {
	db := scratch(t)
	f := postgres.NewFerry(db, 0)
	gate := make(chan struct{})
	kind, _ := puts(f, sync.OnceFunc(func() { <-gate }))
	var all sync.WaitGroup
	all.Go(func() { kind.Do(t.Context(), &put{n: 1}) }) //nolint:errcheck // counted below
	eventually(t, "the first trip", func() bool { return f.Under() })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- kind.Do(ctx, &put{n: 2}) }()
	eventually(t, "the second waits", func() bool { return f.Waiting() == 1 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("whoever left was told %v", err)
	}
	close(gate)
	all.Wait()
	f.Close()
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows: whoever left was taken over", n)
	}
	if err := kind.Do(t.Context(), &put{n: 3}); err == nil {
		t.Error("a closed ferry took somebody on")
	}
}

func TestAPanicOnAFerryKeepsNobodyWaiting(t *testing.T) {
	db := scratch(t)
	f := postgres.NewFerry(db, 0)
	broken := postgres.NewKind(f, func(context.Context, *pgx.Batch, []int) func(pgx.BatchResults) error { panic("of the test") })
	kind, _ := puts(f, func() {})
	if err := broken.Do(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "of the test") {
		t.Errorf("a panic is %v", err)
	}
	if err := kind.Do(t.Context(), &put{n: 1}); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}
