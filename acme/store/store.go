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
	gate   *gate
	orders *group[acme.Order]
	ended  *group[*settlement]
	sought *group[*search]
	finals *group[*examination]
	weeks  sync.Map // names of partitions, with when one was found missing; the zero time: it is there
	turn   struct {
		sync.Mutex
		after []byte // the account after which the next pass over the queue begins
	}
}

var _ acme.Store = (*Store)(nil)

// New returns a Store in db, whose nonces age by now.
func New(db *postgres.DB, now func() time.Time) *Store {
	n := &nonces{db: db, now: now}
	s := &Store{db: db, nonces: n}
	s.gate = newGate(s)
	s.orders, s.ended, s.sought = newGroup(commitLinger, s.createOrders), newGroup(commitLinger, s.settleAll), newGroup(gateLinger, s.search)
	s.finals = newGroup(gateLinger, s.examine)
	return s
}

// Close waits for what is under way.
func (s *Store) Close() {
	s.gate.group.close()
	s.orders.close()
	s.ended.close()
	s.sought.close()
	s.finals.close()
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
	_, err := s.db.Exec(ctx, audit.InsertRefusals, audit.RefusalColumns(facts...)...)
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
