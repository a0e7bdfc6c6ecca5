// Package store counts uses of limits in Postgres, so that all replicas together allow no more than one would.
//
// Each bucket is a row with one number (GCRA), changed by one statement that grants what is left and no more; the database's
// clock decides. Requests that come together share a round trip. A replica that is asked for the same subject again and again
// takes several uses at once, counted when they are taken, and spends them itself: a lease. What it does not spend within
// leaseTerm is lost, so the rate is never exceeded; a lease grows only while it is spent in time.
//
// It decides nothing about who may be limited how: rates come from definitions, and from overrides of a scope or one above
// it. A Store is safe for concurrent use; Close it when its users have finished.
package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Store counts.
type Store struct {
	db          *postgres.DB
	now         func() time.Time
	definitions []limit.Definition
	rates       rates
	ferry       *postgres.Ferry
	counted     postgres.Kind[[]*ask]

	mu     sync.Mutex
	leases leases
}

// New returns a Store of the limits defined. now is the clock that leases end by.
func New(db *postgres.DB, now func() time.Time, defined []limit.Definition) *Store {
	return Over(postgres.NewFerry(db, 0), db, now, defined)
}

// Over is New for a Store that shares its trips with others: f must not be in use yet. Its transactions write nothing but unlogged
// rows: they wait for no disk.
func Over(f *postgres.Ferry, db *postgres.DB, now func() time.Time, defined []limit.Definition) *Store {
	s := &Store{db: db, now: now, definitions: slices.Clone(defined), rates: rates{reading: make(chan struct{}, 1)}, ferry: f, leases: newLeases()}
	s.counted = postgres.NewKind(f, s.fill)
	return s
}

// Close waits for the counting under way.
func (s *Store) Close() { s.ferry.Close() }

// Take counts every charge, or returns a *limit.Exceeded for the first that is not allowed now. What was counted with it is
// kept for the next of the same subject, for as long as a lease lasts.
func (s *Store) Take(ctx context.Context, charges ...limit.Charge) error {
	asks := make([]*ask, 0, len(charges))
	for _, c := range charges {
		r, err := s.Rate(ctx, c.Limit, c.Scope)
		if err != nil {
			return err
		}
		if !r.Unlimited() {
			asks = append(asks, &ask{key: key{c.Limit, c.Subject}, charge: c, rate: r})
		}
	}
	open, refused := s.lease(asks)
	if refused == nil && len(open) > 0 {
		if err := s.counted.Do(ctx, open); err != nil {
			return fmt.Errorf("counting uses: %w", err)
		}
		refused = s.settle(open)
	}
	if refused == nil {
		return nil
	}
	s.giveBack(asks)
	return refused
}

// lease serves asks from what was taken before, and returns those for the database, each with how much to take.
func (s *Store) lease(asks []*ask) ([]*ask, error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []*ask
	for _, a := range asks {
		l := s.leases.of(a.key, now)
		switch {
		case now.Before(l.refused):
			return nil, a.exceeded(l.refused.Sub(now))
		case a.charge.Peek && now.Before(l.looked):
		case a.charge.Peek:
			open = append(open, a)
		case l.tokens > 0 && now.Before(l.until):
			l.tokens--
			a.taken = true
		default:
			a.want = l.grow(now, a.rate)
			open = append(open, a)
		}
	}
	return open, nil
}

// settle keeps what was granted beyond one use, and returns what was refused.
func (s *Store) settle(open []*ask) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var refused error
	for _, a := range open {
		l := s.leases.of(a.key, now)
		switch {
		case a.charge.Peek && !a.found && a.rate.Count >= leasePart:
			l.looked = now.Add(lookedFor)
		case a.granted > 0:
			a.taken = true
			l.looked = time.Time{}
			l.keep(a.granted-1, now)
		case a.wait > 0:
			l.refused = now.Add(min(a.wait, refusedFor))
			if refused == nil {
				refused = a.exceeded(a.wait)
			}
		}
	}
	return refused
}

// giveBack leaves what a refused request had taken to the next one.
func (s *Store) giveBack(asks []*ask) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range asks {
		if a.taken {
			s.leases.of(a.key, now).keep(1, now)
		}
	}
}

func (a *ask) exceeded(wait time.Duration) error {
	return &limit.Exceeded{Charge: a.charge, Rate: a.rate, Wait: wait}
}
