package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Usage returns what is used most, the fullest first.
func (s *Store) Usage(ctx context.Context, q limit.Query) ([]limit.Usage, error) {
	rows, err := s.db.Query(ctx, `
		SELECT b.name, b.subject, ((b.clear - t.now + b.step - 1) / b.step)::integer AS used, b.burst, to_timestamp(b.clear / 1000000.0)
		FROM   limit_bucket b
		CROSS  JOIN (SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS now) t
		WHERE  b.clear > t.now
		AND    ($1 = '' OR b.name = $1)
		AND    starts_with(b.subject, $2)
		AND    (b.clear - t.now) * 100 >= b.step * b.burst * $3::bigint
		ORDER  BY (b.clear - t.now)::double precision / (b.step * b.burst) DESC, b.name, b.subject
		LIMIT  $4`, string(q.Limit), q.Subject, q.Percent, q.Most)
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (limit.Usage, error) {
		var u limit.Usage
		err := row.Scan(&u.Limit, &u.Subject, &u.Used, &u.Burst, &u.Clear)
		return u, err
	})
}

// Forget lets a subject of a limit begin anew, or returns limit.ErrNotFound where nothing was used. It takes access.ChangeLimits at the platform. What
// a replica refused less than a second ago it may refuse a moment longer.
func (s *Store) Forget(ctx context.Context, who identity.Caller, name limit.Name, subject string) error {
	if err := access.Check(who, access.ChangeLimits, identity.Platform); err != nil {
		return err
	}
	if _, err := s.defined(name); err != nil {
		return err
	}
	f := audit.Fact{At: s.now(), Who: who, What: audit.LimitChanged, Subject: string(name) + " of " + subject, Why: "begins anew"}
	err := postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			DELETE FROM limit_bucket
			WHERE  name = $1 AND subject = $2`, string(name), subject)
		if err == nil && tag.RowsAffected() != 1 {
			err = limit.ErrNotFound
		}
		if err == nil {
			_, err = tx.Exec(ctx, audit.Insert, audit.Columns(f)...)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("forgetting uses of %s by %.120q: %w", name, subject, err)
	}
	return nil
}

// Sweep removes rows that say nothing any more, so that they do not grow in number: it is a duty's work.
func (s *Store) Sweep(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM limit_bucket
		WHERE  clear < (extract(epoch FROM statement_timestamp()) * 1000000)::bigint`)
	if err != nil {
		return fmt.Errorf("sweeping uses: %w", err)
	}
	return nil
}
