package ledger

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// How long after its epoch a shard may still hold a certificate that has not expired, by the longest life of a profile:
// authorities under a root, and everything else.
const (
	rootShardLife = 6 * 365 * 24 * time.Hour
	leafShardLife = 92 * 24 * time.Hour
)

// Due implements crl.Shards. It reads the newest list of each shard that is alive and the index of endings by transaction:
// never the endings a list has already.
func (l *Ledger) Due(ctx context.Context, authorities []int, now, stale time.Time) ([]crl.Due, error) {
	rows, err := l.db.Query(ctx, `
		SELECT a.id, e.epoch, coalesce(c.number, 0)
		FROM   authority a
		CROSS  JOIN LATERAL (
			SELECT epoch FROM crl WHERE crl.authority = a.id
			UNION
			SELECT unnest(ARRAY[$6::integer, $2::integer, $2::integer + 1])
		) e
		LEFT   JOIN crl c ON c.authority = a.id AND c.epoch = e.epoch
		WHERE  a.id = ANY ($1::integer[])
		AND    (
			e.epoch = $6
			OR to_timestamp((e.epoch + 1) * 604800::bigint) + CASE WHEN a.purpose = 'root' THEN $4::interval ELSE $5::interval END >= $3
		)
		AND    (
			c.number IS NULL
			OR c.this_update < $3
			OR EXISTS (SELECT FROM revocation r WHERE r.authority = a.id AND r.xid >= c.seen AND (e.epoch = $6 OR epoch_of(r.serial) = e.epoch))
		)
		ORDER  BY a.id, e.epoch`,
		authorities, int(uid.EpochOf(now)), stale, rootShardLife, leafShardLife, int(crl.Whole))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (d crl.Due, err error) {
		return d, r.Scan(&d.Authority, &d.Epoch, &d.Number)
	})
}

// Ended implements crl.Shards. It streams: a shard of any size takes the memory of one row.
func (l *Ledger) Ended(ctx context.Context, s crl.Shard, entry func(crl.Entry) error) (seen uint64, err error) {
	tx, err := l.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only reads
	if err := tx.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&seen); err != nil {
		return 0, err
	}
	from, to := uid.Floor(uid.Certificate, l.site, s.Epoch.Start()), uid.Floor(uid.Certificate, l.site, s.Epoch.End())
	if s.Epoch == crl.Whole {
		to = uid.Floor(uid.Certificate, l.site, time.Unix(math.MaxUint32, 0))
	}
	rows, err := tx.Query(ctx, `
		SELECT serial, revoked_at, reason
		FROM   revocation
		WHERE  serial >= $1 AND serial < $2
		AND    authority = $3
		ORDER  BY serial`,
		from.Bytes(), to.Bytes(), s.Authority)
	if err != nil {
		return 0, err
	}
	var (
		serial []byte
		at     time.Time
		reason int16
	)
	_, err = pgx.ForEachRow(rows, []any{&serial, &at, &reason}, func() error {
		n, err := cert.SerialFromBytes(serial)
		if err != nil {
			return err
		}
		return entry(crl.Entry{Serial: n, At: at.UTC(), Reason: cert.Reason(reason)}) //nolint:gosec // a CHECK bounds it
	})
	return seen, err
}

// Publish implements crl.Shards: the number decides, by compare and set.
func (l *Ledger) Publish(ctx context.Context, v crl.List, previous int64) error {
	tag, err := l.db.Exec(ctx, `
		INSERT INTO crl (authority, epoch, number, this_update, next_update, seen, der)
		SELECT $1, $2, $3, $4, $5, $6::text::xid8, $7
		WHERE  $8 = 0 OR EXISTS (SELECT FROM crl WHERE authority = $1 AND epoch = $2)
		ON     CONFLICT (authority, epoch) DO UPDATE
		SET    number = excluded.number, this_update = excluded.this_update, next_update = excluded.next_update,
		       seen = excluded.seen, der = excluded.der
		WHERE  crl.number = $8`,
		v.Authority, int(v.Epoch), v.Number, v.ThisUpdate, v.NextUpdate, decimal(v.Seen), v.DER, previous)
	if err == nil && tag.RowsAffected() != 1 {
		return crl.ErrStale
	}
	return err
}

const listColumns = `authority, epoch, number, this_update, next_update, seen::text::bigint, der`

// Find implements crl.Shards.
func (l *Ledger) Find(ctx context.Context, s crl.Shard) (crl.List, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+listColumns+`
		FROM   crl
		WHERE  authority = $1 AND epoch = $2`, s.Authority, int(s.Epoch))
	if err != nil {
		return crl.List{}, err
	}
	lists, err := pgx.CollectRows(rows, list)
	if err == nil && len(lists) == 0 {
		return crl.List{}, crl.ErrNotFound
	}
	if err != nil {
		return crl.List{}, err
	}
	return lists[0], nil
}

// Live implements crl.Shards.
func (l *Ledger) Live(ctx context.Context, now time.Time) ([]crl.List, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+listColumns+`
		FROM   crl
		WHERE  next_update > $1
		ORDER  BY authority, epoch`, now)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, list)
}

func list(r pgx.CollectableRow) (v crl.List, err error) {
	err = r.Scan(&v.Authority, &v.Epoch, &v.Number, &v.ThisUpdate, &v.NextUpdate, &v.Seen, &v.DER)
	v.ThisUpdate, v.NextUpdate = v.ThisUpdate.UTC(), v.NextUpdate.UTC()
	return v, err
}

// decimal writes a transaction id the way xid8 is read: pgx has no codec for it.
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// ListsEnd returns when the first of the lists ends that a certificate may name: those of the present epoch and of all that
// have not ended long ago.
func (l *Ledger) ListsEnd(ctx context.Context, now time.Time) (ends time.Time, err error) {
	err = l.db.QueryRow(ctx, `
		SELECT coalesce(min(c.next_update), $1)
		FROM   crl c JOIN authority a ON a.id = c.authority
		WHERE  c.epoch = 0
		OR     to_timestamp((c.epoch + 1) * 604800::bigint) + CASE WHEN a.purpose = 'root' THEN $2::interval ELSE $3::interval END >= $1`,
		now, rootShardLife, leafShardLife).Scan(&ends)
	return ends, err
}
