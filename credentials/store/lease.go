package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// suspended says whether the scope s, or one above it, is.
const suspended = `EXISTS (
				SELECT
				FROM   scope u
				WHERE  u.suspended_at IS NOT NULL AND (u.path = s.path OR starts_with(s.path, u.path || '/'))
			)`

// Open implements credentials.Book. Two that ask at once for the last that may be had wait for one another.
func (s *Store) Open(ctx context.Context, l credentials.Lease) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, hashtext($2))`, int32(l.Binding.ID), l.Identity) //nolint:gosec // only spreads
		if err != nil {
			return err
		}
		var stands, stopped bool
		var used int
		err = tx.QueryRow(ctx, `
			SELECT b.ended_at IS NULL AND t.ended_at IS NULL, `+suspended+`,
			       (SELECT count(*) FROM lease l WHERE l.binding = b.id AND l.identity = $3 AND l.ended_at IS NULL AND l.expires_at > $4)
			FROM   credential_binding b
			JOIN   credential_target t ON t.id = b.target
			JOIN   scope s ON s.path = $2
			WHERE  b.id = $1`, l.Binding.ID, l.Scope.String(), l.Identity, l.MadeAt).Scan(&stands, &stopped, &used)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return credentials.ErrNotFound
		case err != nil:
			return err
		case !stands:
			return credentials.ErrEnded
		case stopped:
			return credentials.ErrSuspended
		case used >= l.Binding.Leases && l.Binding.Way != credentials.Static:
			return fmt.Errorf("%w: %d", credentials.ErrTooMany, used)
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO lease (id, binding, target, scope, identity, serial, principal, made_at, expires_at)
			SELECT $1, $2, $3, s.id, $5, $6, $7, $8, $9
			FROM   scope s
			WHERE  s.path = $4`,
			l.ID.Bytes(), l.Binding.ID, l.Binding.Target.ID, l.Scope.String(), l.Identity, l.Serial.Bytes(), l.Principal, l.MadeAt, l.ExpiresAt)
		return err
	})
}

// Ready implements credentials.Book.
func (s *Store) Ready(ctx context.Context, l credentials.Lease, made []credentials.Receipt, f audit.Fact) error {
	if l.Binding.Way == credentials.Static { // who had the role before may be where this caller sees nothing
		ctx = postgres.AsOwner(ctx)
	}
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE lease l
			SET    ready_at = $2
			FROM   credential_binding b, credential_target t, scope s
			WHERE  l.id = $1 AND l.ended_at IS NULL AND l.ready_at IS NULL AND l.expires_at > $2
			AND    b.id = l.binding AND b.ended_at IS NULL
			AND    t.id = l.target AND t.ended_at IS NULL
			AND    s.id = l.scope AND NOT `+suspended, l.ID.Bytes(), l.ReadyAt)
		if err == nil && tag.RowsAffected() != 1 {
			err = credentials.ErrEnded
		}
		if err != nil {
			return err
		}
		if l.Binding.Way == credentials.Static { // the password before no longer works
			_, err = ended(ctx, tx, `
				UPDATE lease
				SET    ended_at = $2, why = '`+string(credentials.Superseded)+`', retry_at = $2
				WHERE  target = $3 AND principal = $4 AND id <> $5 AND ended_at IS NULL
				RETURNING id, scope, serial, why`, f.Who, l.ReadyAt, l.Binding.Target.ID, l.Principal, l.ID.Bytes())
			if err != nil {
				return err
			}
		}
		if err := receipts(ctx, tx, []credentials.Settled{{Lease: l.ID, Receipts: made}}); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, audit.Insert, audit.Columns(f)...)
		return err
	})
}

// receipts writes down what was done.
func receipts(ctx context.Context, tx pgx.Tx, list []credentials.Settled) error {
	var lease [][]byte
	var effect []string
	var count []int
	var at []time.Time
	for _, s := range list {
		for _, r := range s.Receipts {
			lease, effect, count, at = append(lease, s.Lease.Bytes()), append(effect, string(r.Effect)), append(count, r.Count), append(at, r.At)
		}
	}
	if len(lease) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO lease_receipt (lease, effect, count, at)
		SELECT r.lease, r.effect, r.count, r.at
		FROM   unnest($1::bytea[], $2::text[], $3::integer[], $4::timestamptz[]) WITH ORDINALITY AS r (lease, effect, count, at, n)
		ORDER  BY r.n`, lease, effect, count, at)
	return err
}

// Extend implements credentials.Book.
func (s *Store) Extend(ctx context.Context, l credentials.Lease, f audit.Fact) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE lease
			SET    expires_at = $2, serial = $3
			WHERE  id = $1 AND ended_at IS NULL AND ready_at IS NOT NULL AND expires_at > $4`, l.ID.Bytes(), l.ExpiresAt, l.Serial.Bytes(), f.At)
		if err == nil && tag.RowsAffected() != 1 {
			err = credentials.ErrEnded
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, audit.Insert, audit.Columns(f)...)
		return err
	})
}

// Extended implements credentials.Book.
func (s *Store) Extended(ctx context.Context, id uid.UID, done []credentials.Receipt) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error { return receipts(ctx, tx, []credentials.Settled{{Lease: id, Receipts: done}}) })
}

// leaseColumns are read by scanLease, from leases.
const leaseColumns = `l.id, l.identity, l.serial, l.principal, l.made_at, l.expires_at, l.ready_at, l.gone_at, l.tries, l.retry_at, l.trouble, s.path,
		       coalesce(l.ended_at, b.ended_at, t.ended_at, (
		           SELECT min(u.suspended_at)
		           FROM   scope u
		           WHERE  u.suspended_at IS NOT NULL AND (u.path = s.path OR starts_with(s.path, u.path || '/'))
		       )), coalesce(l.why, CASE WHEN b.ended_at IS NOT NULL OR t.ended_at IS NOT NULL THEN 'unbound' WHEN ` + suspended + ` THEN 'suspended' END, ''),
		       ` + bindingColumns + `, ` + targetColumns

const leases = `
		FROM   lease l
		JOIN   scope s ON s.id = l.scope
		JOIN   credential_binding b ON b.id = l.binding
		JOIN   scope bs ON bs.id = b.scope
		JOIN   credential_target t ON t.id = l.target
		JOIN   scope ts ON ts.id = t.scope`

func scanLease(r pgx.CollectableRow) (credentials.Lease, error) {
	var (
		l                              credentials.Lease
		id, serial                     []byte
		ready, gone, retryAt, ended    *time.Time
		trouble                        *string
		path                           string
		b                              bindingRow
		t                              targetRow
		uerr, serr, perr, berr, scaned error
	)
	into := []any{&id, &l.Identity, &serial, &l.Principal, &l.MadeAt, &l.ExpiresAt, &ready, &gone, &l.Tries, &retryAt, &trouble, &path, &ended, &l.Why}
	if scaned = r.Scan(append(append(into, b.into()...), t.into()...)...); scaned != nil {
		return l, scaned
	}
	l.ID, uerr = uid.FromBytes(id)
	l.Serial, serr = cert.SerialFromBytes(serial)
	l.Scope, perr = identity.ParseScope(path)
	l.Binding, berr = b.binding(&t)
	l.MadeAt, l.ExpiresAt = l.MadeAt.UTC(), l.ExpiresAt.UTC()
	l.ReadyAt, l.GoneAt, l.RetryAt, l.EndedAt = orZero(ready), orZero(gone), orZero(retryAt), orZero(ended)
	if trouble != nil {
		l.Trouble = *trouble
	}
	return l, errors.Join(uerr, serr, perr, berr)
}

// Lease implements credentials.Book.
func (s *Store) Lease(ctx context.Context, id uid.UID) (credentials.Lease, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+leaseColumns+leases+`
		WHERE  l.id = $1`, id.Bytes())
	if err != nil {
		return credentials.Lease{}, err
	}
	l, err := pgx.CollectExactlyOneRow(rows, scanLease)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, fmt.Errorf("%w: lease %s", credentials.ErrNotFound, id)
	}
	return l, err
}

// Leases implements credentials.Book. Its state is what the caller computes: what a page selects by state may be short.
func (s *Store) Leases(ctx context.Context, q credentials.Query) ([]credentials.Lease, error) {
	var after, serial []byte
	if !q.After.IsZero() {
		after = q.After.Bytes()
	}
	if !q.Serial.IsZero() {
		serial = q.Serial.Bytes()
	}
	rows, err := s.db.Query(ctx, `
		SELECT `+leaseColumns+leases+`
		WHERE  ($1 = '' OR s.path = $1 OR starts_with(s.path, $1 || '/'))
		AND    ($2 = '' OR l.identity = $2)
		AND    ($3::bytea IS NULL OR l.serial = $3)
		AND    ($4 = '' OR t.name = $4)
		AND    ($5 = '' OR b.name = $5)
		AND    ($6::bytea IS NULL OR l.id < $6)
		AND    ($7 <> 'gone' OR l.gone_at IS NOT NULL)
		AND    ($7 <> 'live' OR l.ended_at IS NULL)
		AND    ($7 NOT IN ('ending', 'overdue') OR l.gone_at IS NULL)
		ORDER  BY l.id DESC
		LIMIT  $8`, q.Scope.String(), q.Identity, serial, q.Target, q.Binding, after, q.State, q.Limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanLease)
}

// Receipts implements credentials.Book.
func (s *Store) Receipts(ctx context.Context, id uid.UID) ([]credentials.Receipt, error) {
	rows, err := s.db.Query(ctx, `
		SELECT effect, count, at
		FROM   lease_receipt
		WHERE  lease = $1
		ORDER  BY n`, id.Bytes())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (c credentials.Receipt, err error) {
		err = r.Scan(&c.Effect, &c.Count, &c.At)
		c.At = c.At.UTC()
		return c, err
	})
}
