// Package store keeps what access tokens need kept in Postgres: their keys, what may be used but once, and the facts of their ends.
//
// It writes no row a token. A method that returns nil is durable. Rows of other packages, facts and incidents, are only read,
// beside the facts of its own changes. A Store is safe for concurrent use.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Channel is the Postgres channel on which a change of keys or the end of a token is noticed. It is a hint.
const Channel = "segl_tokens"

// A Store is Postgres.
type Store struct{ db *postgres.DB }

var _ token.Store = (*Store)(nil)

// New returns the store in db.
func New(db *postgres.DB) *Store { return &Store{db} }

// Keys implements token.Store.
func (s *Store) Keys(ctx context.Context) ([]token.KeyRow, error) {
	rows, err := s.db.Query(ctx, `
		SELECT id, algorithm, name, made_at, signs_from, revoked_at
		FROM   token_key
		ORDER  BY signs_from, id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (token.KeyRow, error) {
		var k token.KeyRow
		var revoked *time.Time
		err := r.Scan(&k.ID, &k.Algorithm, &k.Name, &k.MadeAt, &k.SignsFrom, &revoked)
		k.MadeAt, k.SignsFrom = k.MadeAt.UTC(), k.SignsFrom.UTC()
		if revoked != nil {
			k.RevokedAt = revoked.UTC()
		}
		return k, err
	})
}

// AddKey implements token.Store.
func (s *Store) AddKey(ctx context.Context, k token.KeyRow, f audit.Fact) error {
	return s.change(ctx, f, `
		INSERT INTO token_key (id, algorithm, name, made_at, signs_from)
		VALUES (@id, @algorithm, @name, @made, @from)`,
		pgx.NamedArgs{"id": k.ID, "algorithm": k.Algorithm, "name": k.Name, "made": k.MadeAt, "from": k.SignsFrom})
}

// RevokeKey implements token.Store.
func (s *Store) RevokeKey(ctx context.Context, id string, f audit.Fact) error {
	return s.change(ctx, f, `
		UPDATE token_key
		SET    revoked_at = @at
		WHERE  id = @id AND revoked_at IS NULL`,
		pgx.NamedArgs{"id": id, "at": f.At})
}

// change runs a statement that touches one row, with its fact and a notice, in one transaction. No row: nothing of it happened.
func (s *Store) change(ctx context.Context, f audit.Fact, sql string, args pgx.NamedArgs) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sql, args)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return token.ErrNotFound
		}
		return note(ctx, tx, f)
	})
}

func note(ctx context.Context, tx pgx.Tx, f audit.Fact) error {
	if _, err := tx.Exec(ctx, audit.Insert, audit.Columns(f)...); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, Channel)
	return err
}

// Revoke implements token.Store: that a token was revoked is a fact, and nothing else.
func (s *Store) Revoke(ctx context.Context, f audit.Fact) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error { return note(ctx, tx, f) })
}

// pageSize is how many ends are read at once.
const pageSize = 1000

// Ended implements token.Store. It stops short of transactions still in flight, so that who goes on from the last position
// misses none.
func (s *Store) Ended(ctx context.Context, after audit.Position, since time.Time) (token.Endings, error) {
	out := token.Endings{Next: after}
	var b pgx.Batch
	b.Queue(`
		SELECT max(revoking_at)
		FROM   incident
		WHERE  everything AND revoking_at IS NOT NULL AND finished_at IS NULL`)
	b.Queue(`
		SELECT xid::text, id, at, what, serial, subject
		FROM   fact
		WHERE  allowed AND what IN ('certificate.revoke', 'token.revoke')
		AND    xid < ledger_horizon()
		AND    (xid, id) > ($1::text::xid8, $2)
		AND    at >= $3
		ORDER  BY xid, id
		LIMIT  $4`, strconv.FormatUint(after.Transaction, 10), after.ID, since, pageSize)
	results := s.db.SendBatch(ctx, &b)
	var mass *time.Time
	err := results.QueryRow().Scan(&mass)
	if err == nil && mass != nil {
		out.Floor = mass.UTC()
	}
	if err == nil {
		err = readEnds(results, &out)
	}
	return out, errors.Join(err, results.Close())
}

func readEnds(results pgx.BatchResults, out *token.Endings) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var xid, what string
	var id int64
	var at time.Time
	var serial []byte
	var subject *string
	read := 0
	_, err = pgx.ForEachRow(rows, []any{&xid, &id, &at, &what, &serial, &subject}, func() error {
		transaction, err := strconv.ParseUint(xid, 10, 64)
		if err != nil {
			return fmt.Errorf("position %q: %w", xid, err)
		}
		read++
		out.Next = audit.Position{Transaction: transaction, ID: id}
		switch {
		case what == audit.TokenRevoked && subject != nil:
			out.List = append(out.List, token.End{At: at, Kind: "jti", Value: *subject})
		case what == audit.Revoke && serial != nil:
			v, err := cert.SerialFromBytes(serial)
			if err != nil {
				return err
			}
			out.List = append(out.List, token.End{At: at, Kind: "crt", Value: v.String()})
		}
		return nil
	})
	out.More = read == pageSize
	return err
}

// Spend implements token.Store: of all who spend a mark at once, the primary key lets one.
func (s *Store) Spend(ctx context.Context, mark string, until time.Time) (bool, error) {
	sum := sha256.Sum256([]byte(mark))
	tag, err := s.db.Exec(ctx, `
		INSERT INTO token_spent (mark, until)
		VALUES ($1, $2)
		ON     CONFLICT ON CONSTRAINT token_spent_pk DO NOTHING`, base64.RawURLEncoding.EncodeToString(sum[:]), until)
	return tag.RowsAffected() == 1, err
}

// Sweep implements token.Store. A margin is left for replicas whose clocks are behind.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	const margin = 5 * time.Minute
	_, err := s.db.Exec(ctx, `
		DELETE FROM token_spent
		WHERE  until < $1`, now.Add(-margin))
	return err
}
