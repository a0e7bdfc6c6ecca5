package duty

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// ErrLost: another holder has taken the duty over, or the term was never ours. What was begun under it must not land.
var ErrLost = errors.New("duty is held under another term")

// A lease is a duty held by us under a term, until a moment of our own monotonic clock.
type lease struct {
	term  int64
	until time.Time
}

// claim takes the duty, or renews it, and reports whether it is ours. The database's clock says whether the last lease has
// ended; clock_timestamp and not now, because the statement may wait for a row lock and now would then be old.
func claim(ctx context.Context, db *postgres.DB, d Duty, holder string) (lease, bool, error) {
	// Our trust ends TTL after the moment before we asked: the database counts from a later one.
	asked := time.Now()
	rows, err := db.Query(ctx, `
		SELECT holder = @holder OR expires_at <= clock_timestamp()
		FROM   duty
		WHERE  name = @name`,
		pgx.NamedArgs{"name": d.Name, "holder": holder})
	if err != nil {
		return lease{}, false, fmt.Errorf("looking at duty %s: %w", d.Name, err)
	}
	// Asking first keeps replicas that do not hold the duty from writing anything.
	free, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil {
		return lease{}, false, fmt.Errorf("looking at duty %s: %w", d.Name, err)
	}
	if len(free) == 1 && !free[0] {
		return lease{}, false, nil
	}
	// Were the reply lost, we would hold a lease we do not trust: it ends, nobody is hurt.
	var term int64
	err = db.QueryRow(ctx, `
		INSERT INTO duty AS d (name, holder, term, expires_at)
		VALUES (@name, @holder, 1, clock_timestamp() + @ttl)
		ON CONFLICT ON CONSTRAINT duty_pk DO UPDATE
		SET    holder = excluded.holder,
		       expires_at = clock_timestamp() + @ttl,
		       term = d.term + CASE WHEN d.holder = excluded.holder AND d.expires_at > clock_timestamp() THEN 0 ELSE 1 END
		WHERE  d.holder = excluded.holder OR d.expires_at <= clock_timestamp()
		RETURNING d.term`,
		pgx.NamedArgs{"name": d.Name, "holder": holder, "ttl": d.TTL}).Scan(&term)
	if errors.Is(err, pgx.ErrNoRows) {
		return lease{}, false, nil
	}
	if err != nil {
		return lease{}, false, fmt.Errorf("claiming duty %s: %w", d.Name, err)
	}
	return lease{term: term, until: asked.Add(d.TTL)}, true, nil
}

// release lets another replica have the duty at once. Losing this write only makes it wait for the lease to end.
func release(ctx context.Context, db *postgres.DB, d Duty, holder string, term int64) error {
	_, err := db.Exec(ctx, `
		UPDATE duty
		SET    expires_at = clock_timestamp()
		WHERE  name = @name AND holder = @holder AND term = @term`,
		pgx.NamedArgs{"name": d.Name, "holder": holder, "term": term})
	if err != nil {
		return fmt.Errorf("releasing duty %s: %w", d.Name, err)
	}
	return nil
}

// StillHeld returns nil when nobody has taken the duty over since term, and keeps it so until tx ends: a successor's claim
// waits for the row. Call it in the transaction whose effect must not come after a successor's. It returns ErrLost when
// the duty has moved on.
func StillHeld(ctx context.Context, tx pgx.Tx, name string, term int64) error {
	var at int64
	err := tx.QueryRow(ctx, `
		SELECT term
		FROM   duty
		WHERE  name = @name
		FOR SHARE`,
		pgx.NamedArgs{"name": name}).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("duty %s: %w: nobody ever held it", name, ErrLost)
	}
	if err != nil {
		return fmt.Errorf("checking duty %s: %w", name, err)
	}
	if at != term {
		return fmt.Errorf("duty %s: %w: ours was %d, it is at %d", name, ErrLost, term, at)
	}
	return nil
}
