package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Bindings are those that give tokens, compiled in memory and replaced as a whole. Reading one costs no query.
type Bindings struct {
	db   *postgres.DB
	life time.Duration // how long one that ended is remembered
	now  func() time.Time
	all  atomic.Pointer[bindings]

	mu     sync.Mutex // guards below
	begun  uint64     // counts readings
	newest uint64     // the reading that all is of
}

var _ token.Bindings = (*Bindings)(nil)

// bindings are all at one moment. They are never changed.
type bindings struct {
	living map[int64]bool
	of     map[string][]credentials.Binding // by the tenant of whom they are for
	ended  []ending
}

type ending struct {
	id int64
	at time.Time
}

// NewBindings returns none: Reload reads them.
func NewBindings(db *postgres.DB, life time.Duration, now func() time.Time) *Bindings {
	b := &Bindings{db: db, life: life, now: now}
	b.all.Store(&bindings{})
	return b
}

// Reload reads them again. Of several at once the one that began last is kept. It reports whether anything is different.
func (b *Bindings) Reload(ctx context.Context) (changed bool, err error) {
	b.mu.Lock()
	b.begun++
	reading := b.begun
	b.mu.Unlock()
	next, err := b.read(ctx)
	if err != nil {
		return false, fmt.Errorf("reading bindings of tokens: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if reading < b.newest {
		return false, nil
	}
	b.newest = reading
	had := b.all.Swap(next)
	return len(had.living) != len(next.living) || len(had.ended) != len(next.ended), nil // a binding is made or ended, never changed
}

func (b *Bindings) read(ctx context.Context) (*bindings, error) {
	rows, err := b.db.Query(ctx, `
		SELECT b.id, b.name, s.path, b.subject, b.life, b.audiences, b.scopes, b.ended_at
		FROM   credential_binding b
		JOIN   scope s ON s.id = b.scope
		WHERE  b.target IS NULL
		AND    (b.ended_at IS NULL OR b.ended_at > $1)
		ORDER  BY b.id`, b.now().Add(-b.life))
	if err != nil {
		return nil, err
	}
	next := &bindings{living: map[int64]bool{}, of: map[string][]credentials.Binding{}}
	var row struct {
		name, path, subject string
		life                int32
		ended               *time.Time
	}
	var v credentials.Binding
	_, err = pgx.ForEachRow(rows, []any{&v.ID, &row.name, &row.path, &row.subject, &row.life, &v.Audiences, &v.Scopes, &row.ended}, func() error {
		if row.ended != nil {
			next.ended = append(next.ended, ending{v.ID, *row.ended})
			return nil
		}
		one := credentials.Binding{ID: v.ID, Name: credentials.Label(row.name), Life: time.Duration(row.life) * time.Second, Audiences: v.Audiences, Scopes: v.Scopes}
		v.Audiences, v.Scopes = nil, nil
		var err error
		if one.Scope, err = identity.ParseScope(row.path); err != nil {
			return err
		}
		if one.For, err = credentials.ParsePattern(row.subject); err != nil {
			return err
		}
		next.living[one.ID] = true
		next.of[one.Scope.Tenant()] = append(next.of[one.Scope.Tenant()], one)
		return nil
	})
	return next, err
}

// Tokens implements token.Bindings. A binding is for identities of its own scope or below, so of its own tenant.
func (b *Bindings) Tokens(id identity.ID) []credentials.Binding {
	var out []credentials.Binding
	for _, v := range b.all.Load().of[id.Scope().Tenant()] {
		if v.For.Matches(id) {
			out = append(out, v)
		}
	}
	return out
}

// Holds implements token.Bindings.
func (b *Bindings) Holds(id int64) bool { return b.all.Load().living[id] }

// EndedSince implements token.Bindings.
func (b *Bindings) EndedSince(at time.Time) []int64 {
	var out []int64
	for _, e := range b.all.Load().ended {
		if !e.at.Before(at) {
			out = append(out, e.id)
		}
	}
	return out
}
