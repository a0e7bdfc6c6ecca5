// Package ledger keeps ca's ledger in Postgres. It is the only writer of intents, outcomes, origins, revocations and their
// facts.
//
// Intents and outcomes are inserted, never updated. Writes of the hot path share transactions (group.go): one statement
// writes a batch and says of each row what became of it. What must not happen twice is refused by a primary key: an
// origin's second attempt, an intent's second outcome, a certificate's second revocation. A method that returns nil is
// durable. An error that is none of ca's sentinels leaves the outcome unknown.
//
// A Ledger is safe for concurrent use; Close it when its users have finished.
package ledger

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// RevokedChannel is the Postgres channel on which a revocation is noticed; the payload is the serial. It is a hint: who
// depends on it polls as well.
const RevokedChannel = "segl_revoked"

// A Ledger is a site's ledger.
type Ledger struct {
	db        *postgres.DB
	site      byte
	intents   *group[ca.Intent]
	completes *group[ca.Completion]
	refusals  *group[audit.Fact]
	revokes   *group[ca.Revocation]
}

var _ ca.Ledger = (*Ledger)(nil)

// New returns site's ledger in db.
func New(db *postgres.DB, site byte) *Ledger {
	l := &Ledger{db: db, site: site}
	l.intents = newGroup(l.intend)
	l.completes = newGroup(l.complete)
	l.refusals = newGroup(l.refuse)
	l.revokes = newGroup(l.revoke)
	return l
}

// Close waits for the writes under way.
func (l *Ledger) Close() {
	l.intents.close()
	l.completes.close()
	l.refusals.close()
	l.revokes.close()
}

// Intend implements ca.Ledger.
func (l *Ledger) Intend(ctx context.Context, in ca.Intent) error { return l.intents.do(ctx, in) }

// Complete implements ca.Ledger.
func (l *Ledger) Complete(ctx context.Context, c ca.Completion) error { return l.completes.do(ctx, c) }

// Refuse implements ca.Ledger.
func (l *Ledger) Refuse(ctx context.Context, f audit.Fact) error { return l.refusals.do(ctx, f) }

// Revoke implements ca.Ledger.
func (l *Ledger) Revoke(ctx context.Context, r ca.Revocation) error { return l.revokes.do(ctx, r) }

// once runs one statement that writes and returns a row each, in one round trip and one transaction.
func once[T any](ctx context.Context, db *postgres.DB, row pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var b pgx.Batch
	b.Queue(sql, args...)
	results := db.SendBatch(ctx, &b)
	rows, err := results.Query()
	var out []T
	if err == nil {
		out, err = pgx.CollectRows(rows, row)
	}
	return out, errors.Join(err, results.Close())
}

// page runs one statement that lists. Unlike all others it is planned for its arguments: how much of a table a LIMIT leaves
// is not to be guessed.
func page[T any](ctx context.Context, db *postgres.DB, row pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var b pgx.Batch
	b.Queue(`SELECT set_config('plan_cache_mode', 'force_custom_plan', true)`)
	b.Queue(sql, args...)
	results := db.SendBatch(ctx, &b)
	_, err := results.Exec()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	var out []T
	if err == nil {
		out, err = pgx.CollectRows(rows, row)
	}
	return out, errors.Join(err, results.Close())
}

// intend writes a batch of intents and claims their origins. The database decides about each: a revoked caller, a
// blocked key, an origin that has this attempt already. Where the clock is so far behind that an intent stands below what
// is settled, settled comes down with it.
func (l *Ledger) intend(ctx context.Context, batch []*asked[ca.Intent]) error {
	n := len(batch)
	serial, caller, key, tbs := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	origin, digest := make([][]byte, n), make([][]byte, n)
	authority, attempt := make([]int, n), make([]int16, n)
	scope, profile, notAfter := make([]string, n), make([]string, n), make([]any, n)
	for i, a := range batch {
		in := a.write
		serial[i], key[i], tbs[i], authority[i] = in.Serial.Bytes(), in.Key[:], in.TBS, in.Authority
		scope[i], profile[i], notAfter[i] = in.Scope.String(), in.Profile, in.NotAfter
		if !in.Caller.IsZero() {
			caller[i] = in.Caller.Bytes()
		}
		if !in.Origin.ID.IsZero() {
			origin[i], digest[i], attempt[i] = in.Origin.ID.Bytes(), in.Origin.Digest, int16(in.Attempt) //nolint:gosec // a handful
		}
	}
	verdicts, err := once(ctx, l.db, pgx.RowToStructByPos[verdict], `
		WITH ask AS (
			SELECT a.*,
			       s.id AS scope_id,
			       (SELECT true FROM revocation r WHERE r.serial = a.caller) AS revoked,
			       (SELECT true FROM blocked_key b WHERE b.key = a.key) AS blocked
			FROM   unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::integer[], $8::smallint[],
			              $9::text[], $10::text[], $11::timestamptz[])
			       WITH ORDINALITY AS a (serial, caller, key, tbs, origin, digest, authority, attempt, scope, profile, not_after, n)
			LEFT   JOIN scope s ON s.path = a.scope
		), claimed AS (
			INSERT INTO origin (origin, attempt, serial, digest)
			SELECT origin, attempt, serial, digest
			FROM   ask
			WHERE  origin IS NOT NULL AND revoked IS NULL AND blocked IS NULL
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), recorded AS (
			INSERT INTO intent (serial, not_after, authority, scope, profile, tbs, origin)
			SELECT serial, not_after, authority, scope_id, profile, tbs, origin
			FROM   ask
			WHERE  revoked IS NULL AND blocked IS NULL
			AND    (origin IS NULL OR serial IN (SELECT serial FROM claimed))
			RETURNING serial
		), lowered AS (
			UPDATE settled
			SET    serial = (SELECT serial FROM recorded ORDER BY serial LIMIT 1)
			WHERE  site = $12
			AND    serial > (SELECT serial FROM recorded ORDER BY serial LIMIT 1)
		)
		SELECT coalesce(ask.revoked, false), coalesce(ask.blocked, false), ask.serial IN (SELECT serial FROM recorded)
		FROM   ask
		ORDER  BY ask.n`,
		serial, caller, key, tbs, origin, digest, authority, attempt, scope, profile, notAfter, int16(l.site))
	if err != nil {
		return err
	}
	for i, v := range verdicts {
		batch[i].err = v.err()
	}
	return nil
}

// A verdict is what became of one intent.
type verdict struct{ Revoked, Blocked, Recorded bool }

func (v verdict) err() error {
	switch {
	case v.Revoked:
		return ca.ErrCallerRevoked
	case v.Blocked:
		return ca.ErrKeyBlocked
	case !v.Recorded:
		return ca.ErrOriginTaken
	}
	return nil
}

// complete writes a batch of signatures, each with its facts, where the intent is still open.
func (l *Ledger) complete(ctx context.Context, batch []*asked[ca.Completion]) error {
	batch, again := apart(batch, func(c ca.Completion) cert.Serial { return c.Serial })
	n := len(batch)
	serial, at, signature := make([][]byte, n), make([]any, n), make([][]byte, n)
	var facts []audit.Fact
	for i, a := range batch {
		serial[i], at[i], signature[i] = a.write.Serial.Bytes(), a.write.At, a.write.Signature
		facts = append(facts, a.write.Facts...)
	}
	done, err := once(ctx, l.db, pgx.RowTo[[]byte], `
		WITH done AS (
			INSERT INTO outcome (serial, at, signature)
			SELECT c.serial, c.at, c.signature
			FROM   unnest($10::bytea[], $11::timestamptz[], $12::bytea[]) AS c (serial, at, signature)
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (`+audit.Insert+`
			WHERE f.serial IN (SELECT serial FROM done)
		)
		SELECT serial FROM done`,
		append(audit.Columns(facts...), serial, at, signature)...)
	if err != nil {
		if postgres.Violated(err) != "outcome_needs_intent" || n > 1 {
			return err
		}
		done = nil
	}
	won := make(map[string]bool, len(done))
	for _, s := range done {
		won[string(s)] = true
	}
	for i, a := range batch {
		if !won[string(serial[i])] {
			a.err = ca.ErrSettled
		}
	}
	for _, a := range again {
		a.err = ca.ErrSettled
	}
	return nil
}

func (l *Ledger) refuse(ctx context.Context, batch []*asked[audit.Fact]) error {
	facts := make([]audit.Fact, len(batch))
	for i, a := range batch {
		facts[i] = a.write
	}
	_, err := l.db.Exec(ctx, audit.Insert, audit.Columns(facts...)...)
	return err
}
