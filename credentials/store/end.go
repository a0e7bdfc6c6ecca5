package store

import (
	"context"
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

// noting is the facts of leases that the statement before it, called ended, returned: its actor is $1 and its time $2.
const noting = `
		INSERT INTO fact (at, scope, allowed, what, actor, serial, subject, why)
		SELECT $2, e.scope, true, '` + audit.LeaseEnded + `', $1, e.serial, encode(e.id, 'hex'), e.why
		FROM   ended e`

// End implements credentials.Book.
func (s *Store) End(ctx context.Context, ids []uid.UID, why credentials.Cause, at time.Time, who identity.Caller) ([]credentials.Lease, error) {
	list := make([][]byte, len(ids))
	for i, id := range ids {
		list[i] = id.Bytes()
	}
	rows, err := s.db.Query(ctx, `
		WITH ended AS (
			UPDATE lease
			SET    ended_at = $2, why = $3, retry_at = $2
			WHERE  id = ANY ($4::bytea[]) AND ended_at IS NULL
			RETURNING id, scope, serial, why
		), noted AS (`+noting+`
		)
		SELECT `+leaseColumns+leases+`
		WHERE  l.id IN (SELECT id FROM ended)`, audit.Clip(who.Actor), at, why, list)
	if err != nil {
		return nil, err
	}
	out, err := pgx.CollectRows(rows, scanLease)
	for i := range out { // the statement sees its rows as they were
		out[i].EndedAt, out[i].Why = at, why
	}
	return out, err
}

// EndOf implements credentials.Book.
func (s *Store) EndOf(ctx context.Context, serials []cert.Serial, at time.Time, who identity.Caller) (int, error) {
	list := make([][]byte, len(serials))
	for i, c := range serials {
		list[i] = c.Bytes()
	}
	return ended(ctx, s.db, `
			UPDATE lease
			SET    ended_at = $2, why = '`+string(credentials.Revoked)+`', retry_at = $2
			WHERE  serial = ANY ($3::bytea[]) AND ended_at IS NULL
			RETURNING id, scope, serial, why`, who, at, list)
}

// An asker is the database, or a transaction.
type asker interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ended runs an UPDATE of leases, and notes their facts.
func ended(ctx context.Context, db asker, update string, who identity.Caller, at time.Time, args ...any) (n int, err error) {
	err = db.QueryRow(ctx, `
		WITH ended AS (`+update+`
		), noted AS (`+noting+`
		)
		SELECT count(id)
		FROM   ended`, append([]any{audit.Clip(who.Actor), at}, args...)...).Scan(&n)
	return n, err
}

// EndDue implements credentials.Book. Each kind of reason is looked up by an index of its own.
func (s *Store) EndDue(ctx context.Context, now, stale time.Time, most int, who identity.Caller) (int, error) {
	return ended(ctx, s.db, `
			UPDATE lease l
			SET    ended_at = $2, why = d.why, retry_at = $2
			FROM   (
				(SELECT id, '`+string(credentials.Incomplete)+`' AS why FROM lease WHERE ended_at IS NULL AND ready_at IS NULL AND made_at < $3 ORDER BY made_at LIMIT $4)
				UNION  ALL
				(SELECT id, '`+string(credentials.Expired)+`' FROM lease WHERE ended_at IS NULL AND expires_at <= $2 ORDER BY expires_at LIMIT $4)
				UNION  ALL
				(SELECT l.id, '`+string(credentials.Unbound)+`'
				FROM   credential_binding b
				JOIN   lease l ON l.binding = b.id AND l.ended_at IS NULL
				WHERE  b.ended_at IS NOT NULL
				LIMIT  $4)
				UNION  ALL
				(SELECT l.id, '`+string(credentials.Unbound)+`'
				FROM   credential_target t
				JOIN   lease l ON l.target = t.id AND l.ended_at IS NULL
				WHERE  t.ended_at IS NOT NULL
				LIMIT  $4)
				UNION  ALL
				(SELECT l.id, '`+string(credentials.Suspension)+`'
				FROM   scope u
				JOIN   scope s ON s.path = u.path OR starts_with(s.path, u.path || '/')
				JOIN   lease l ON l.scope = s.id AND l.ended_at IS NULL
				WHERE  u.suspended_at IS NOT NULL
				LIMIT  $4)
			) d
			WHERE  l.id = d.id AND l.ended_at IS NULL
			RETURNING l.id, l.scope, l.serial, l.why`, who, now, stale, most)
}

// Living implements credentials.Book.
func (s *Store) Living(ctx context.Context, after cert.Serial, most int) ([]cert.Serial, error) {
	from := []byte{}
	if !after.IsZero() {
		from = after.Bytes()
	}
	rows, err := s.db.Query(ctx, `
		SELECT DISTINCT serial
		FROM   lease
		WHERE  ended_at IS NULL AND serial > $1
		ORDER  BY serial
		LIMIT  $2`, from, most)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (cert.Serial, error) {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return cert.Serial{}, err
		}
		return cert.SerialFromBytes(b)
	})
}

// Due implements credentials.Book.
func (s *Store) Due(ctx context.Context, now time.Time, most int) ([]credentials.Lease, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+leaseColumns+`
		FROM   credential_target t
		JOIN   scope ts ON ts.id = t.scope
		CROSS  JOIN LATERAL (
			SELECT o.id, o.binding, o.scope, o.identity, o.serial, o.principal, o.made_at, o.expires_at, o.ready_at, o.ended_at, o.why, o.gone_at, o.tries,
			       o.retry_at, o.trouble
			FROM   lease o
			WHERE  o.target = t.id AND o.retry_at <= $1
			ORDER  BY o.retry_at
			LIMIT  $2
		) l
		JOIN   scope s ON s.id = l.scope
		JOIN   credential_binding b ON b.id = l.binding
		JOIN   scope bs ON bs.id = b.scope`, now, most)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanLease)
}

// Settle implements credentials.Book. What another replica has settled meanwhile stays as it is.
func (s *Store) Settle(ctx context.Context, list []credentials.Settled, now time.Time) error {
	n := len(list)
	ids, retry, trouble := make([][]byte, n), make([]*time.Time, n), make([]*string, n)
	for i := range list {
		ids[i] = list[i].Lease.Bytes()
		if !list[i].RetryAt.IsZero() {
			retry[i], trouble[i] = &list[i].RetryAt, &list[i].Trouble
		}
	}
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE lease l
			SET    gone_at = CASE WHEN d.retry IS NULL THEN $2::timestamptz END, retry_at = d.retry, trouble = coalesce(d.trouble, l.trouble),
			       tries = l.tries + (d.retry IS NOT NULL)::integer
			FROM   unnest($1::bytea[], $3::timestamptz[], $4::text[]) AS d (id, retry, trouble)
			WHERE  l.id = d.id AND l.ended_at IS NOT NULL AND l.gone_at IS NULL
			RETURNING l.id`, ids, now, retry, trouble)
		if err != nil {
			return err
		}
		changed, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return err
		}
		ours := make(map[string]bool, len(changed))
		for _, id := range changed {
			ours[string(id)] = true
		}
		var done []credentials.Settled
		for _, d := range list {
			if ours[string(d.Lease.Bytes())] {
				done = append(done, d)
			}
		}
		return receipts(ctx, tx, done)
	})
}

// Debt implements credentials.Book.
func (s *Store) Debt(ctx context.Context) ([]credentials.Debt, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+targetColumns+`, d.n, d.since, d.tries
		FROM   (
			SELECT target, count(*) AS n, min(ended_at) AS since, max(tries) AS tries
			FROM   lease
			WHERE  retry_at IS NOT NULL
			GROUP  BY target
		) d
		JOIN   credential_target t ON t.id = d.target
		JOIN   scope ts ON ts.id = t.scope
		ORDER  BY ts.path, t.name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (d credentials.Debt, err error) {
		var t targetRow
		if err := r.Scan(append(t.into(), &d.Leases, &d.Since, &d.Tries)...); err != nil {
			return d, err
		}
		d.Target, err = t.target()
		d.Since = d.Since.UTC()
		return d, err
	})
}

// Strays implements credentials.Book.
func (s *Store) Strays(ctx context.Context, principals []string) ([]string, error) {
	rows, err := s.db.Query(ctx, `
		SELECT p.name
		FROM   unnest($1::text[]) p (name)
		WHERE  NOT EXISTS (
			SELECT
			FROM   lease l
			WHERE  l.principal = p.name AND starts_with(l.principal, 'segl_') AND l.gone_at IS NULL
		)`, principals)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Swept implements credentials.Book: each stray is a fact.
func (s *Store) Swept(ctx context.Context, t credentials.Target, list []credentials.Ended, now time.Time, who identity.Caller) error {
	facts := make([]audit.Fact, len(list))
	for i, e := range list {
		why := "dropped"
		if e.Err != nil {
			why = e.Err.Error()
		}
		facts[i] = audit.Fact{At: now, Who: who, Scope: t.Scope, What: audit.LeaseStray, Subject: fmt.Sprintf("%s at %s", e.Principal, t.Name), Why: why}
	}
	_, err := s.db.Exec(ctx, audit.Insert, audit.Columns(facts...)...)
	return err
}

// Forget implements credentials.Book.
func (s *Store) Forget(ctx context.Context, before time.Time, most int) (int, error) {
	tag, err := s.db.Exec(ctx, `
		DELETE FROM lease
		WHERE  id IN (SELECT id FROM lease WHERE gone_at < $1 ORDER BY gone_at LIMIT $2)`, before, most)
	return int(tag.RowsAffected()), err
}
