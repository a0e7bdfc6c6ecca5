// Package store keeps acme's facts in Postgres.
//
// Orders, authorizations, validations and finalizations are inserted, never updated; what must happen once is decided by a
// primary key. Each method is one round trip and one transaction. Statements look rows up one by one: what would be a join
// is LATERAL with a LIMIT, because partitions are young and without statistics when their plans are made, and a hash over
// a whole one would be chosen. It reads the ledger's origin and outcome for an order's certificate, and writes neither.
//
// Nonces (nonce.go) cost no write to issue. A Store is safe for concurrent use; Close it when its users have finished.
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Store implements acme.Store.
type Store struct {
	db     *postgres.DB
	nonces *nonces
	// What reads, and writes nothing but unlogged rows, waits for no disk, and so not for what does.
	quick, durable *postgres.Ferry
	admitted       postgres.Kind[*entry]
	sought         postgres.Kind[*search]
	finals         postgres.Kind[*examination]
	orders         postgres.Kind[acme.Order]
	ended          postgres.Kind[*settlement]

	weeks sync.Map // names of partitions, with when one was found missing; the zero time: it is there
	turn  struct {
		sync.Mutex
		after []byte // the account after which the next pass over the queue begins
	}
}

var _ acme.Store = (*Store)(nil)

// How long a trip waits for more where the last one served several.
const (
	quickLinger   = 3 * time.Millisecond
	durableLinger = 4 * time.Millisecond // about as long as a disk takes
)

// New returns a Store in db, whose nonces age by now.
func New(db *postgres.DB, now func() time.Time) *Store {
	n := &nonces{db: db.Unwalled(), now: now}
	s := &Store{db: db, nonces: n, quick: postgres.NewFerry(db, quickLinger), durable: postgres.NewFerry(db, durableLinger)}
	s.admitted = postgres.NewKind(s.quick, s.admit)
	s.sought = postgres.NewKind(s.quick, s.search)
	s.finals = postgres.NewKind(s.quick, s.examine)
	s.orders = postgres.NewKind(s.durable, s.createOrders)
	s.ended = postgres.NewKind(s.durable, s.settleAll)
	return s
}

// Ferry is what takes s's quick questions over, for others that have such: they are to add theirs before s is used.
func (s *Store) Ferry() *postgres.Ferry { return s.quick }

// Close waits for what is under way.
func (s *Store) Close() {
	s.quick.Close()
	s.durable.Close()
}

// write runs statements in one round trip and one transaction, and returns how many rows the first of them changed.
func (s *Store) write(ctx context.Context, b *pgx.Batch) (int64, error) {
	results := s.db.SendBatch(ctx, b)
	tag, err := results.Exec()
	return tag.RowsAffected(), errors.Join(err, results.Close())
}

// queue adds facts to a batch.
func queue(b *pgx.Batch, facts ...audit.Fact) {
	if len(facts) > 0 {
		b.Queue(audit.Insert, audit.Columns(facts...)...)
	}
}

// Note implements acme.Store.
func (s *Store) Note(ctx context.Context, facts ...audit.Fact) error {
	if len(facts) == 0 {
		return nil
	}
	// Where somebody may not go is where a refusal is noted: behind their wall it could not be.
	_, err := s.db.Exec(postgres.AsOwner(ctx), audit.InsertRefusals, audit.RefusalColumns(facts...)...)
	return err
}

// missing turns pgx's word for nothing into the domain's.
func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return acme.ErrNotFound
	}
	return err
}

// ids reads identifiers of kind k.
func ids(k uid.Kind, raw ...[]byte) ([]uid.UID, error) {
	out := make([]uid.UID, len(raw))
	for i, b := range raw {
		u, err := uid.FromBytes(b)
		if err != nil || u.Kind() != k {
			return nil, fmt.Errorf("reading an identifier of kind %#x: %w", byte(k), errors.Join(err, errWrongKind))
		}
		out[i] = u
	}
	return out, nil
}

var errWrongKind = errors.New("another kind is stored")
