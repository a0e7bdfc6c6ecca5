package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// ratesFor is how long a replica believes what it read of overrides: so late it may heed a change.
const ratesFor = 5 * time.Second

// An override is a limit in a scope.
type override struct {
	limit limit.Name
	scope identity.Scope
}

// ratesWhile is how much longer what was read is believed while somebody reads anew: the database may take its time.
const ratesWhile = 5 * time.Second

// rates remembers all overrides: operators make them, so they are few.
type rates struct {
	reading chan struct{} // one slot: who has it reads, with mu free

	mu    sync.Mutex // guards below
	all   map[override]limit.Rate
	until time.Time
	reset int // how often they were changed here
}

// known returns what is remembered, if it may be believed for more after its time.
func (r *rates) known(now time.Time, more time.Duration) (map[override]limit.Rate, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all, r.all != nil && now.Before(r.until.Add(more)) && r.until.Sub(now) <= ratesFor
}

// overrides returns all of them, not older than ratesFor, or than ratesWhile more if somebody is reading them just now.
func (s *Store) overrides(ctx context.Context) (map[override]limit.Rate, error) {
	if all, ok := s.rates.known(s.now(), 0); ok {
		return all, nil
	}
	select {
	case s.rates.reading <- struct{}{}:
	default:
		if all, ok := s.rates.known(s.now(), ratesWhile); ok {
			return all, nil
		}
		select {
		case s.rates.reading <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("reading the rates of scopes: %w", ctx.Err())
		}
	}
	defer func() { <-s.rates.reading }()
	if all, ok := s.rates.known(s.now(), 0); ok { // somebody else has read them meanwhile
		return all, nil
	}
	return s.readRates(ctx)
}

// readRates reads all overrides and remembers them, unless they were changed while it read.
func (s *Store) readRates(ctx context.Context) (map[override]limit.Rate, error) {
	now := s.now()
	s.rates.mu.Lock()
	reset := s.rates.reset
	s.rates.mu.Unlock()
	all, err := s.readOverrides(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the rates of scopes: %w", err)
	}
	s.rates.mu.Lock()
	defer s.rates.mu.Unlock()
	if s.rates.reset == reset {
		s.rates.all, s.rates.until = all, now.Add(ratesFor)
	}
	return all, nil
}

func (s *Store) readOverrides(ctx context.Context) (map[override]limit.Rate, error) {
	rows, err := s.db.Query(ctx, `
		SELECT o.name, s.path, o.rate
		FROM   limit_override o
		JOIN   scope s ON s.id = o.scope`)
	if err != nil {
		return nil, err
	}
	all := make(map[override]limit.Rate)
	var name, path, rate string
	_, err = pgx.ForEachRow(rows, []any{&name, &path, &rate}, func() error {
		scope, err := identity.ParseScope(path)
		if err != nil {
			return err
		}
		r, err := limit.ParseRate(rate)
		all[override{limit.Name(name), scope}] = r
		return err
	})
	return all, err
}

// Set gives scope, and those below it that have none of their own, rate r of a limit; nil takes its own away. It takes
// access.ChangeLimits above it. Other replicas heed it within seconds.
func (s *Store) Set(ctx context.Context, who identity.Caller, name limit.Name, scope identity.Scope, r *limit.Rate) error {
	if err := access.Check(who, access.ChangeLimits, access.Above(scope)); err != nil {
		return err
	}
	if _, err := s.defined(name); err != nil {
		return err
	}
	f := audit.Fact{At: s.now(), Who: who, Scope: scope, What: audit.LimitChanged, Subject: string(name), Why: "as elsewhere"}
	if r != nil {
		f.Why = r.String()
	}
	err := postgres.Tx(ctx, s.db, func(tx pgx.Tx) error { return s.set(ctx, tx, f, r) })
	if err != nil {
		return fmt.Errorf("changing limit %s of %s: %w", name, scope, err)
	}
	s.rates.mu.Lock()
	s.rates.all = nil
	s.rates.reset++
	s.rates.mu.Unlock()
	return nil
}

func (s *Store) set(ctx context.Context, tx pgx.Tx, f audit.Fact, r *limit.Rate) error {
	var err error
	var tag pgconn.CommandTag
	if r == nil {
		tag, err = tx.Exec(ctx, `
			DELETE FROM limit_override o
			USING  scope s
			WHERE  o.name = $1 AND s.path = $2 AND o.scope = s.id`, f.Subject, f.Scope.String())
	} else {
		tag, err = tx.Exec(ctx, `
			INSERT INTO limit_override AS o (name, scope, rate, changed_at)
			SELECT $1, s.id, $3, $4
			FROM   scope s
			WHERE  s.path = $2
			ON     CONFLICT ON CONSTRAINT limit_override_pk DO UPDATE
			SET    rate = excluded.rate,
			       changed_at = excluded.changed_at`, f.Subject, f.Scope.String(), r.String(), f.At)
	}
	if err == nil && tag.RowsAffected() != 1 {
		err = limit.ErrNotFound
	}
	if err == nil {
		_, err = tx.Exec(ctx, audit.Insert, audit.Columns(f)...)
	}
	return err
}

// defined returns the limit called name.
func (s *Store) defined(name limit.Name) (limit.Definition, error) {
	for _, d := range s.definitions {
		if d.Name == name {
			return d, nil
		}
	}
	return limit.Definition{}, fmt.Errorf("limit %.60q: %w", name, limit.ErrUnknown)
}

// Rate returns how much of a limit scope may have: its own override, that of the nearest scope above, or what is defined.
func (s *Store) Rate(ctx context.Context, name limit.Name, scope identity.Scope) (limit.Rate, error) {
	d, err := s.defined(name)
	if err != nil {
		return limit.Rate{}, err
	}
	all, err := s.overrides(ctx)
	return standing(all, d, scope).Now, err
}

// standing is how d is in scope.
func standing(all map[override]limit.Rate, d limit.Definition, scope identity.Scope) limit.Standing {
	for at, ok := scope, true; ok; at, ok = at.Parent() {
		if r, is := all[override{d.Name, at}]; is {
			return limit.Standing{Definition: d, Now: r, From: at}
		}
	}
	return limit.Standing{Definition: d, Now: d.Rate}
}

// Standings returns every limit as it is in scope.
func (s *Store) Standings(ctx context.Context, scope identity.Scope) ([]limit.Standing, error) {
	all, err := s.overrides(ctx)
	out := make([]limit.Standing, len(s.definitions))
	for i, d := range s.definitions {
		out[i] = standing(all, d, scope)
	}
	return out, err
}
