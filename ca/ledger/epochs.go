package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An epoch's life: made ahead, open while it is its week, closed, expired once everything in it is past its retention,
// archived, dropped; perhaps restored. It leaves as a whole, so that a file has all that was said in a week.

// A Retention says how long rows are kept: certificates after they have expired, by profile, the rest after their week.
type Retention struct {
	Certificates time.Duration            // after expiry, of profiles that have none of their own
	Profiles     map[string]time.Duration // after expiry
	Facts        time.Duration            // after their week; requests and tokens go with them
}

// An Epoch is what the ledger has of a week.
type Epoch struct {
	Epoch     uid.Epoch
	State     string    // ahead, open, closed, expired, archived, dropped or restored
	Rows      int64     // of the certificates' table, as the database estimates
	Octets    int64     // of all tables, with their indexes
	KeptUntil time.Time // when everything in it is past its retention, no earlier than; zero while it is not closed
	File      string    // of its archive
}

// The states of an epoch.
const (
	Ahead    = "ahead"
	Open     = "open"
	Closed   = "closed"
	Expired  = "expired"
	Archived = "archived"
	Dropped  = "dropped"
	Restored = "restored"
)

// closedAfter is how long after its week a request begun within it may still write.
const closedAfter = time.Hour

// Epochs returns every epoch of this site, those to come and those dropped among them.
func (l *Ledger) Epochs(ctx context.Context, keep Retention, now time.Time) ([]Epoch, error) {
	archives, err := l.archives(ctx)
	if err != nil {
		return nil, err
	}
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return nil, err
	}
	var all []Epoch
	for _, v := range leaves {
		if v.site != l.site {
			continue
		}
		e, err := l.epoch(ctx, v, keep, now)
		if err != nil {
			return nil, fmt.Errorf("reading epoch %d: %w", v.epoch, err)
		}
		if a, ok := archives[v.epoch]; ok {
			e.File = a.File
			switch {
			case a.RestoredAt != nil:
				e.State = Restored
			case e.State == Expired:
				e.State = Archived
			}
		}
		delete(archives, v.epoch)
		all = append(all, e)
	}
	for n, a := range archives {
		all = append(all, Epoch{Epoch: n, State: Dropped, Rows: a.Rows["intent"], KeptUntil: a.ArchivedAt, File: a.File})
	}
	slices.SortFunc(all, func(a, b Epoch) int { return int(a.Epoch - b.Epoch) })
	return all, nil
}

func (l *Ledger) epoch(ctx context.Context, v leaf, keep Retention, now time.Time) (Epoch, error) {
	e := Epoch{Epoch: v.epoch, State: Closed}
	switch {
	case now.Before(v.epoch.Start()):
		e.State = Ahead
	case now.Before(v.epoch.End().Add(closedAfter)):
		e.State = Open
	}
	tables, err := l.tablesOf(ctx, v.epoch)
	if err != nil {
		return e, err
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.name
	}
	err = l.db.QueryRow(ctx, `
		SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0), greatest(max(c.reltuples) FILTER (WHERE c.relname = $2), 0)::bigint
		FROM   pg_class c
		WHERE  c.relkind = 'r' AND c.relname = ANY ($1::text[])`, names, v.of("intent")).Scan(&e.Octets, &e.Rows)
	if err != nil || e.State != Closed {
		return e, err
	}
	e.KeptUntil, err = l.keptUntil(ctx, v, keep, now)
	if err == nil && !now.Before(e.KeptUntil) {
		e.State = Expired
	}
	return e, err
}

// keptUntil returns when everything in a closed epoch is past its retention. It asks when certificates end only once the rest
// is past it: until then it says when that will be. Nor does it read them, unless the epoch has just been closed.
func (l *Ledger) keptUntil(ctx context.Context, v leaf, keep Retention, now time.Time) (time.Time, error) {
	until := v.epoch.End().Add(max(keep.Facts, closedAfter))
	if now.Before(until) {
		return until.UTC(), nil
	}
	known, err := l.closed(ctx)
	if err != nil {
		return until, err
	}
	ends, ok := known[v]
	if !ok {
		if _, ends, err = contentsOf(ctx, l.db, v); err != nil {
			return until, err
		}
	}
	for profile, last := range ends {
		kept, ok := keep.Profiles[profile]
		if !ok {
			kept = keep.Certificates
		}
		until = later(until, last.Add(kept))
	}
	return until.UTC(), nil
}

// A table is one partition of an epoch.
type table struct {
	parent, name string
	reference    bool // its rows stand on those of another
}

// tablesOf returns the partitions of an epoch that are there, those that stand on others first.
func (l *Ledger) tablesOf(ctx context.Context, e uid.Epoch) ([]table, error) {
	rows, err := l.db.Query(ctx, `
		SELECT parent, coalesce(kind, 0), reference IS NOT NULL
		FROM   epoch_table
		ORDER  BY reference IS NULL, parent, kind`)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t table, err error) {
		var kind int16
		err = r.Scan(&t.parent, &kind, &t.reference)
		t.name = fmt.Sprintf("%s_e%d", t.parent, e)
		if kind != 0 {
			t.name = uid.Partition(t.parent, uid.Kind(kind), l.site, e) //nolint:gosec // an octet
		}
		return t, err
	})
	if err != nil {
		return nil, err
	}
	var there []table
	for _, t := range all {
		var ok bool
		if err := l.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, t.name).Scan(&ok); err != nil {
			return nil, err
		}
		if ok {
			there = append(there, t)
		}
	}
	return there, nil
}

// An archive is a row of epoch_archive.
type archive struct {
	Epoch      uid.Epoch
	File       string
	SHA256     []byte
	Size       int64
	Rows       map[string]int64
	ArchivedAt time.Time
	DroppedAt  *time.Time
	RestoredAt *time.Time
}

func (l *Ledger) archives(ctx context.Context) (map[uid.Epoch]archive, error) {
	rows, err := l.db.Query(ctx, `
		SELECT epoch, file, sha256, size, rows, archived_at, dropped_at, restored_at
		FROM   epoch_archive
		WHERE  site = $1`, int16(l.site))
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[archive])
	out := map[uid.Epoch]archive{}
	for _, a := range list {
		out[a.Epoch] = a
	}
	return out, err
}

// ErrNotArchived: the epoch has no archive, or has changed since.
var ErrNotArchived = errors.New("its archive does not have what the ledger has of the epoch")

// ErrValid: the epoch has a certificate that has not expired.
var ErrValid = errors.New("a certificate of it is still valid, and who asks must be told of it")

// Drop takes an epoch's partitions away, once all its certificates have expired and its archive has been found to hold every
// row of them. Each is detached first, so that nobody waits; what a crash leaves half done the next call ends.
func (l *Ledger) Drop(ctx context.Context, e uid.Epoch, now time.Time) error {
	archives, err := l.archives(ctx)
	if err != nil {
		return err
	}
	a, ok := archives[e]
	if !ok {
		return fmt.Errorf("dropping epoch %d: %w", e, ErrNotArchived)
	}
	tables, err := l.tablesOf(ctx, e)
	if err != nil {
		return err
	}
	if a.DroppedAt == nil || a.RestoredAt != nil {
		if err := l.expired(ctx, tables, now); err != nil {
			return fmt.Errorf("dropping epoch %d: %w", e, err)
		}
		if err := l.holds(ctx, a, tables); err != nil {
			return fmt.Errorf("dropping epoch %d: %w", e, err)
		}
		if _, err := l.db.Exec(ctx, `
			UPDATE epoch_archive
			SET    dropped_at = $3, restored_at = NULL
			WHERE  site = $1 AND epoch = $2`, int16(l.site), int32(e), now); err != nil {
			return err
		}
	}
	if _, err := l.db.Exec(ctx, `
		DELETE FROM closed_epoch
		WHERE  site = $1 AND epoch = $2`, int16(l.site), int32(e)); err != nil {
		return err
	}
	for _, t := range tables {
		if err := l.dropTable(ctx, t); err != nil {
			return fmt.Errorf("dropping %s: %w", t.name, err)
		}
		l.leaves.Delete(t.name)
	}
	return nil
}

// expired returns ErrValid unless every certificate of tables has expired.
func (l *Ledger) expired(ctx context.Context, tables []table, now time.Time) error {
	for _, t := range tables {
		if t.parent != "intent" {
			continue
		}
		var last *time.Time
		err := l.db.QueryRow(ctx, `
			SELECT max(not_after)
			FROM   `+pgx.Identifier{t.name}.Sanitize()).Scan(&last)
		if err != nil {
			return err
		}
		if last != nil && !last.Before(now) {
			return fmt.Errorf("%w: drop it after %s", ErrValid, last.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// holds compares how many rows the archive has of each table with how many there are.
func (l *Ledger) holds(ctx context.Context, a archive, tables []table) error {
	for _, t := range tables {
		var n int64
		if err := l.db.QueryRow(ctx, `SELECT count(*) FROM `+pgx.Identifier{t.name}.Sanitize()).Scan(&n); err != nil {
			return err
		}
		if n != a.Rows[t.name] {
			return fmt.Errorf("%w: %d rows of %s, and there are %d", ErrNotArchived, a.Rows[t.name], t.name, n)
		}
	}
	return nil
}

// dropTable detaches a partition without locking its parent against anybody, and drops it. DETACH CONCURRENTLY runs outside a
// transaction; cut off, it leaves the partition pending, to be finalized.
func (l *Ledger) dropTable(ctx context.Context, t table) error {
	var attached, pending bool
	err := l.db.QueryRow(ctx, `
		SELECT count(*) > 0, coalesce(bool_or(inhdetachpending), false)
		FROM   pg_inherits
		WHERE  inhrelid = to_regclass($1)`, t.name).Scan(&attached, &pending)
	if err != nil {
		return err
	}
	parent, name := pgx.Identifier{t.parent}.Sanitize(), pgx.Identifier{t.name}.Sanitize()
	how := ` CONCURRENTLY`
	if pending {
		how = ` FINALIZE`
	}
	if attached {
		if _, err := l.db.Unwalled().Pool.Exec(ctx, `ALTER TABLE `+parent+` DETACH PARTITION `+name+how, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+name+` CASCADE`) // with the walls that look at it
		return err
	})
}
