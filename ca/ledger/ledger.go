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
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

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
	db     *postgres.DB
	site   byte
	frames *frames
	plain  struct { // writes that nothing speaks against, as far as one can see (plain.go)
		intents   *group[stored]
		completes *group[plainCompletion]
	}
	intents   *group[stored]
	completes *group[ca.Completion]
	refusals  *group[audit.Fact]
	revokes   *group[ca.Revocation]
	vouches   *group[vouched]
	leaves    sync.Map // the names of partitions known to be there
	scopes    sync.Map // path to number
	splits    sync.Map // week to in how many parts it is listed
	partMost  float64  // certificates that one list is meant to speak for
}

var _ ca.Ledger = (*Ledger)(nil)

// New returns site's ledger in db.
func New(db *postgres.DB, site byte) *Ledger {
	l := &Ledger{db: db, site: site, frames: newFrames(db.Unwalled()), partMost: partMost}
	l.plain.intents, l.plain.completes = newGroup(l.intendPlain), newGroup(l.completePlain)
	l.intents = newGroup(l.intend)
	l.completes = newGroup(l.complete)
	l.refusals = newGroup(l.refuse)
	l.revokes = newGroup(l.revoke)
	l.vouches = newGroup(l.vouch)
	return l
}

// Close waits for the writes under way.
func (l *Ledger) Close() {
	l.plain.intents.close()
	l.plain.completes.close()
	l.intents.close()
	l.completes.close()
	l.refusals.close()
	l.revokes.close()
	l.vouches.close()
}

// Intend implements ca.Ledger. A caller whose certificate's epoch is not here, or no longer, is nobody who may ask.
func (l *Ledger) Intend(ctx context.Context, in ca.Intent) error {
	if !in.Caller.IsZero() {
		there, err := l.has(ctx, "revocation", leafOf(in.Caller.UID()))
		if err != nil {
			return explained(err)
		}
		if !there {
			return ca.ErrCallerRevoked
		}
	}
	body, err := l.frames.pack(ctx, in)
	if err != nil {
		return explained(err)
	}
	write := stored{in, l.scopeID(ctx, in.Scope), body, marksOf(in.TBS)}
	if write.isPlain() {
		if err := l.plain.intents.do(ctx, write); !errors.Is(err, errNotPlain) {
			return err
		}
	}
	return l.intents.do(ctx, write)
}

// A stored intent is one as the table has it.
type stored struct {
	ca.Intent
	scopeID int32 // 0: not known
	body    []byte
	marks   marked
}

// Complete implements ca.Ledger.
func (l *Ledger) Complete(ctx context.Context, c ca.Completion) error {
	if !c.Replaces.IsZero() {
		there, err := l.has(ctx, "replacement", leafOf(c.Replaces.UID()))
		if err != nil {
			return explained(err)
		}
		if !there {
			c.Replaces = cert.Serial{} // it has expired, and its epoch is gone
		}
	}
	if write, ok := l.plainly(ctx, c); ok {
		if err := l.plain.completes.do(ctx, write); !errors.Is(err, errNotPlain) {
			return err
		}
	}
	return l.completes.do(ctx, c)
}

// Refuse implements ca.Ledger.
func (l *Ledger) Refuse(ctx context.Context, f audit.Fact) error { return l.refusals.do(ctx, f) }

// A statement is SQL with its arguments.
type statement struct {
	sql  string
	args []any
}

// all runs statements that write and return rows, in one round trip and one transaction.
func all[T any](ctx context.Context, db *postgres.DB, row pgx.RowToFunc[T], list []statement) ([][]T, error) {
	var b pgx.Batch
	for _, s := range list {
		b.Queue(s.sql, s.args...)
	}
	results := db.SendBatch(ctx, &b)
	out := make([][]T, len(list))
	for i := range list {
		rows, err := results.Query()
		if err == nil {
			out[i], err = pgx.CollectRows(rows, row)
		}
		if err != nil {
			return nil, errors.Join(err, results.Close())
		}
	}
	return out, results.Close()
}

// once runs one statement that writes and returns a row each, in one round trip and one transaction.
func once[T any](ctx context.Context, db *postgres.DB, row pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	out, err := all(ctx, db, row, []statement{{sql, args}})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// page runs one statement that lists. It is planned for its arguments: how much of a table a LIMIT leaves is not to be
// guessed.
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

// places are the partitions that an intent's statement names: its own, and that of its caller's certificate.
type places struct{ own, caller leaf }

func placesOf(in stored) places {
	p := places{own: leafOf(in.Serial.UID())}
	if !in.Caller.IsZero() {
		p.caller = leafOf(in.Caller.UID())
	}
	return p
}

// intend writes a batch of intents and claims their origins, in one transaction: a statement for each epoch that callers'
// certificates are of.
func (l *Ledger) intend(ctx context.Context, batch []*asked[stored]) error {
	parts := parted(batch, placesOf)
	list := make([]statement, len(parts))
	for i, part := range parts {
		list[i] = l.intending(placesOf(part[0].write), part)
	}
	verdicts, err := all(ctx, l.db, pgx.RowToStructByPos[verdict], list)
	if err != nil {
		return err
	}
	for i, part := range parts {
		for j, a := range part {
			a.err = verdicts[i][j].err()
		}
	}
	return nil
}

// intending is the statement that writes a part. The database decides about each intent: a revoked caller, a blocked key, an
// origin that has this attempt already. Where the clock is so far behind that an intent stands below what is settled,
// settled comes down with it.
func (l *Ledger) intending(at places, part []*asked[stored]) statement {
	n := len(part)
	serial, caller, key, body := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	origin, digest := make([][]byte, n), make([][]byte, n)
	authority, attempt := make([]int, n), make([]int16, n)
	scope, profile, notAfter := make([]string, n), make([]string, n), make([]time.Time, n)
	keyMarks, nameMarks := make([]int64, n), make([]*int64, n)
	var more further
	least, origins := part[0].write.Serial.Bytes(), false
	for i, a := range part {
		in := a.write
		serial[i], key[i], body[i], authority[i] = in.Serial.Bytes(), in.Key[:], in.body, in.Authority
		keyMarks[i], nameMarks[i] = keyMark(in.Key), in.marks.first
		more.add(serial[i], in)
		scope[i], profile[i], notAfter[i] = in.Scope.String(), in.Profile, in.NotAfter
		if bytes.Compare(serial[i], least) < 0 {
			least = serial[i]
		}
		if !in.Caller.IsZero() {
			caller[i] = in.Caller.Bytes()
		}
		if !in.Origin.ID.IsZero() {
			origins = true
			origin[i], digest[i], attempt[i] = in.Origin.ID.Bytes(), in.Origin.Digest, int16(in.Attempt) //nolint:gosec // a handful
		}
	}
	revoked := `NULL::boolean`
	if at.caller != (leaf{}) {
		revoked = `(SELECT true WHERE ` + at.caller.isRevoked("a.caller") + `)`
	}
	claimed, won := ``, ``
	if origins {
		claimed = `, claimed AS (
			INSERT INTO origin (origin, attempt, serial, digest)
			SELECT origin, attempt, serial, digest
			FROM   ask
			WHERE  origin IS NOT NULL AND revoked IS NULL AND blocked IS NULL AND suspended IS NULL
			ON     CONFLICT DO NOTHING
			RETURNING serial
		)`
		won = `
			AND    (origin IS NULL OR serial IN (SELECT serial FROM claimed))`
	}
	args := []any{
		serial, caller, key, body, origin, digest, authority, attempt, scope, profile, notAfter, int16(l.site), least, keyMarks, nameMarks,
	}
	listed := ``
	if len(more.marks) > 0 {
		listed = `, listed AS (
			INSERT INTO ` + at.own.of("further_name") + ` (serial, mark, not_after)
			SELECT f.serial, f.mark, f.not_after
			FROM   unnest($16::bytea[], $17::bigint[], $18::timestamptz[]) AS f (serial, mark, not_after)
			WHERE  f.serial IN (SELECT serial FROM recorded)
		)`
		args = append(args, more.serials, more.marks, more.notAfter)
	}
	return statement{`
		WITH ask AS MATERIALIZED (
			SELECT a.serial, a.caller, a.key, a.tbs, a.origin, a.digest, a.authority, a.attempt, a.scope, a.profile, a.not_after, a.key_mark,
			       a.name_mark, a.n,
			       s.id AS scope_id,
			       ` + revoked + ` AS revoked,
			       (SELECT true FROM blocked_key b WHERE b.key = a.key) AS blocked,
			       (SELECT true FROM scope u WHERE u.suspended_at IS NOT NULL AND u.path IN (s.tenant, s.parent, s.path) LIMIT 1) AS suspended
			FROM   unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::integer[], $8::smallint[],
			              $9::text[], $10::text[], $11::timestamptz[], $14::bigint[], $15::bigint[])
			       WITH ORDINALITY AS a (serial, caller, key, tbs, origin, digest, authority, attempt, scope, profile, not_after, key_mark,
			                             name_mark, n)
			LEFT   JOIN scope s ON s.path = a.scope
		)` + claimed + `, recorded AS (
			INSERT INTO ` + at.own.of("intent") + ` (serial, not_after, authority, scope, profile, tbs, origin, key_mark, name_mark)
			SELECT serial, not_after, authority, scope_id, profile, tbs, origin, key_mark, name_mark
			FROM   ask
			WHERE  revoked IS NULL AND blocked IS NULL AND suspended IS NULL` + won + `
			RETURNING serial
		)` + listed + `, lowered AS (
			UPDATE settled
			SET    serial = $13
			WHERE  site = $12
			AND    serial > $13
		)
		SELECT coalesce(ask.revoked, false), coalesce(ask.blocked, false), coalesce(ask.suspended, false),
		       ask.serial IN (SELECT serial FROM recorded)
		FROM   ask
		ORDER  BY ask.n`,
		args}
}

// further are the rows of names beyond the first.
type further struct {
	serials  [][]byte
	marks    []int64
	notAfter []time.Time
}

func (f *further) add(serial []byte, in stored) {
	for _, m := range in.marks.further {
		f.serials, f.marks, f.notAfter = append(f.serials, serial), append(f.marks, m), append(f.notAfter, in.NotAfter)
	}
}

// A verdict is what became of one intent.
type verdict struct{ Revoked, Blocked, Suspended, Recorded bool }

func (v verdict) err() error {
	switch {
	case v.Revoked:
		return ca.ErrCallerRevoked
	case v.Blocked:
		return ca.ErrKeyBlocked
	case v.Suspended:
		return ca.ErrSuspended
	case !v.Recorded:
		return ca.ErrOriginTaken
	}
	return nil
}

// complete writes a batch of signatures, each with its facts, where the intent is there and still open.
func (l *Ledger) complete(ctx context.Context, batch []*asked[ca.Completion]) error {
	batch, again := apart(batch, func(c ca.Completion) cert.Serial { return c.Serial })
	parts := parted(batch, func(c ca.Completion) leaf { return leafOf(c.Serial.UID()) })
	list := make([]statement, len(parts))
	for i, part := range parts {
		list[i] = completing(leafOf(part[0].write.Serial.UID()), part)
	}
	done, err := all(ctx, l.db, pgx.RowTo[[]byte], append(list, replacing(batch)...))
	if missingTable(err) && len(batch) == 1 {
		done, err = nil, nil // an epoch that is not there has no intents
	}
	if err != nil {
		return err
	}
	won := make(map[string]bool, len(batch))
	for _, s := range slices.Concat(done...) {
		won[string(s)] = true
	}
	for _, a := range batch {
		if !won[string(a.write.Serial.Bytes())] {
			a.err = ca.ErrSettled
		}
	}
	for _, a := range again {
		a.err = ca.ErrSettled
	}
	return nil
}

// completing is the statement that writes a part. That the intent is there is asked here, not by a foreign key: intents are
// never deleted one by one, and a key's check would lock each of them, in the log as well. What was revoked meanwhile is not
// issued any more.
func completing(at leaf, part []*asked[ca.Completion]) statement {
	n := len(part)
	serial, when, signature := make([][]byte, n), make([]time.Time, n), make([][]byte, n)
	facts := make([]audit.Fact, 0, n)
	for i, a := range part {
		serial[i], when[i], signature[i] = a.write.Serial.Bytes(), a.write.At, a.write.Signature
		facts = append(facts, a.write.Facts...)
	}
	return statement{`
		WITH done AS (
			INSERT INTO ` + at.of("outcome") + ` (serial, at, signature)
			SELECT c.serial, c.at, c.signature
			FROM   unnest($10::bytea[], $11::timestamptz[], $12::bytea[]) AS c (serial, at, signature)
			WHERE  EXISTS (SELECT FROM ` + at.of("intent") + ` WHERE serial = c.serial OFFSET 0)
			AND    NOT ` + at.isRevoked("c.serial") + `
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (` + audit.Insert + `
			WHERE f.serial IN (SELECT serial FROM done)
		)
		SELECT serial FROM done`,
		append(audit.Columns(facts...), serial, when, signature)}
}

func (l *Ledger) refuse(ctx context.Context, batch []*asked[audit.Fact]) error {
	facts := make([]audit.Fact, len(batch))
	for i, a := range batch {
		facts[i] = a.write
	}
	// Where somebody may not go is where a refusal is noted: behind their wall it could not be.
	_, err := l.db.Exec(postgres.AsOwner(ctx), audit.InsertRefusals, audit.RefusalColumns(facts...)...)
	return err
}
