package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

var _ crl.Shards = (*Ledger)(nil)

// A week is an authority's epoch.
type week struct {
	authority int
	epoch     uid.Epoch
}

// partMost is how many certificates one list is meant to speak for: were all of them revoked, it would have ten megabytes.
const partMost = 200_000.

// Parts implements crl.Shards. What was decided is remembered: it never changes. The volume that decides is what the
// database's statistics say of the four epochs before; how large the ledger is does not matter.
func (l *Ledger) Parts(ctx context.Context, authority int, e uid.Epoch) (int, error) {
	key := week{authority, e}
	if n, ok := l.splits.Load(key); ok {
		return n.(int), nil //nolint:forcetypeassert // this method alone stores
	}
	ctx = postgres.AsOwner(ctx) // it is decided once for everybody
	var parts int
	err := l.db.QueryRow(ctx, `
		SELECT parts
		FROM   crl_split
		WHERE  authority = $1 AND epoch = $2`, authority, int(e)).Scan(&parts)
	if errors.Is(err, pgx.ErrNoRows) {
		parts, err = l.split(ctx, key)
	}
	if err != nil {
		return 0, explained(err)
	}
	l.splits.Store(key, parts)
	return parts, nil
}

// split decides in how many parts w is listed, unless somebody was faster.
func (l *Ledger) split(ctx context.Context, w week) (parts int, err error) {
	tables := make([]string, 0, 4)
	for e := w.epoch - 4; e < w.epoch; e++ {
		tables = append(tables, leaf{uid.Certificate, l.site, e}.of("intent"))
	}
	var volume float64
	err = l.db.QueryRow(ctx, `
		SELECT coalesce(max(c.reltuples * v.share), 0)::float8
		FROM   pg_class c
		JOIN   pg_stats s ON s.tablename = c.relname AND s.schemaname = current_schema() AND s.attname = 'authority'
		CROSS  JOIN LATERAL unnest(s.most_common_vals::text::integer[], s.most_common_freqs) v (authority, share)
		WHERE  c.oid = ANY (SELECT to_regclass(t) FROM unnest($1::text[]) t)
		AND    v.authority = $2`, tables, w.authority).Scan(&volume)
	if err != nil {
		return 0, fmt.Errorf("reading how many certificates the epochs before %d had: %w", w.epoch, err)
	}
	parts = 1
	for float64(parts)*l.partMost < volume && parts < 256 {
		parts *= 2
	}
	_, err = l.db.Exec(ctx, `
		INSERT INTO crl_split (authority, epoch, parts, at)
		VALUES ($1, $2, $3, clock_timestamp())
		ON     CONFLICT DO NOTHING`, w.authority, int(w.epoch), int16(parts)) //nolint:gosec // 256 at most
	if err != nil {
		return 0, err
	}
	err = l.db.QueryRow(ctx, `
		SELECT parts
		FROM   crl_split
		WHERE  authority = $1 AND epoch = $2`, w.authority, int(w.epoch)).Scan(&parts)
	return parts, err
}

const standingColumns = `c.authority, c.epoch, c.part, coalesce(s.parts, 1), c.number, c.this_update, c.next_update, c.seen::text, c.entries,
		       c.size, c.delta_size, c.base, c.base_at`

const standingTables = `
		FROM   crl c
		LEFT   JOIN crl_split s ON s.authority = c.authority AND s.epoch = c.epoch`

// Standing implements crl.Shards.
func (l *Ledger) Standing(ctx context.Context, authorities []int) ([]crl.Standing, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+standingColumns+standingTables+`
		WHERE  c.authority = ANY ($1::integer[])`, authorities)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, standing)
}

// Head implements crl.Shards.
func (l *Ledger) Head(ctx context.Context, s crl.Shard) (crl.Standing, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+standingColumns+standingTables+`
		WHERE  c.authority = $1 AND c.epoch = $2 AND c.part = $3`, s.Authority, int(s.Epoch), int16(s.Part))
	if err != nil {
		return crl.Standing{}, err
	}
	head, err := pgx.CollectExactlyOneRow(rows, standing)
	if errors.Is(err, pgx.ErrNoRows) {
		err = crl.ErrNotFound
	}
	return head, err
}

func standing(r pgx.CollectableRow) (v crl.Standing, err error) {
	err = r.Scan(&v.Authority, &v.Epoch, &v.Part, &v.Parts, &v.Number, &v.ThisUpdate, &v.NextUpdate, &v.Seen, &v.Entries,
		&v.Size, &v.DeltaSize, &v.Base, &v.BaseAt)
	v.ThisUpdate, v.NextUpdate, v.BaseAt = v.ThisUpdate.UTC(), v.NextUpdate.UTC(), v.BaseAt.UTC()
	return v, err
}

// noSnapshot is a pg_snapshot that sees no transaction there ever was.
const noSnapshot = "1:1:"

// Since implements crl.Shards. It reads, epoch by epoch, the index of endings by transaction from seen on: never what was seen,
// but for what ran beside a transaction that is open for long.
func (l *Ledger) Since(ctx context.Context, within []crl.Reach, seen crl.Snapshot, ending func(crl.Ending)) (now crl.Snapshot, err error) {
	if seen == "" {
		seen = noSnapshot
	}
	leaves, err := l.leavesOf(ctx, "revocation")
	if err != nil {
		return "", err
	}
	var b pgx.Batch
	b.Queue(`SELECT ledger_snapshot()::text, pg_snapshot_xmax($1::text::pg_snapshot) > pg_snapshot_xmax(ledger_snapshot())`, string(seen))
	for _, at := range leaves {
		if ids := l.reached(at, within); len(ids) > 0 {
			b.Queue(`
				SELECT authority, xid::text::bigint, serial, revoked_at, reason, at
				FROM   `+at.of("revocation")+`
				WHERE  authority = ANY ($1::integer[])
				AND    xid >= pg_snapshot_xmin($2::text::pg_snapshot)
				AND    NOT pg_visible_in_snapshot(xid, $2::text::pg_snapshot)`, ids, string(seen))
		}
	}
	err = pgx.BeginTxFunc(ctx, l.db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		results := tx.SendBatch(ctx, &b)
		defer results.Close() //nolint:errcheck // what went wrong is said by its query
		var foreign bool
		if err := results.QueryRow().Scan(&now, &foreign); err != nil {
			return err
		}
		if foreign {
			return crl.ErrForeign
		}
		for range b.Len() - 1 {
			if err := endingsOf(results, ending); err != nil {
				return err
			}
		}
		return nil
	})
	return now, err
}

// reached are the authorities that may have certificates in at that have not expired.
func (l *Ledger) reached(at leaf, within []crl.Reach) (ids []int) {
	if at.kind != uid.Certificate || at.site != l.site {
		return nil
	}
	for _, r := range within {
		if at.epoch >= r.From {
			ids = append(ids, r.Authority)
		}
	}
	return ids
}

func endingsOf(results pgx.BatchResults, ending func(crl.Ending)) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var (
		e      crl.Ending
		serial []byte
		at     time.Time
		reason int16
		asked  *time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&e.Authority, &e.Transaction, &serial, &at, &reason, &asked}, func() (err error) {
		if e.Entry, err = entryOf(serial, at, reason); err == nil {
			if asked != nil {
				e.Asked = *asked
			}
			ending(e)
		}
		return err
	})
	return err
}

func entryOf(serial []byte, at time.Time, reason int16) (crl.Entry, error) {
	s, err := cert.SerialFromBytes(serial)
	return crl.Entry{Serial: s, At: at.UTC(), Reason: cert.Reason(reason)}, err //nolint:gosec // a CHECK bounds it
}

// Ended implements crl.Shards. It streams: a shard of any size takes the memory of one row.
func (l *Ledger) Ended(ctx context.Context, s crl.Standing, from uid.Epoch, entry func(crl.Entry) error) (seen crl.Snapshot, err error) {
	leaves, err := l.leavesOf(ctx, "revocation") // partitions are made weeks before anything stands in them
	if err != nil {
		return "", err
	}
	tx, err := l.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return "", err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only reads
	if err := tx.QueryRow(ctx, `SELECT ledger_snapshot()::text`).Scan(&seen); err != nil {
		return "", err
	}
	for _, at := range leaves {
		if at.kind != uid.Certificate || at.site != l.site || at.epoch < from || s.Epoch != crl.Whole && at.epoch != s.Epoch {
			continue
		}
		if err := endedIn(ctx, tx, at, s, entry); err != nil {
			return "", err
		}
	}
	return seen, nil
}

// endedIn reads one partition. One that was dropped since it was listed has nothing to say.
func endedIn(ctx context.Context, tx pgx.Tx, at leaf, s crl.Standing, entry func(crl.Entry) error) error {
	rows, err := tx.Query(ctx, `
		SELECT serial, revoked_at, reason
		FROM   `+at.of("revocation")+`
		WHERE  authority = $1
		AND    get_byte(serial, 17) % $2 = $3
		ORDER  BY serial`,
		s.Authority, max(1, s.Parts), int(s.Part))
	if err != nil {
		return err
	}
	var (
		serial []byte
		ended  time.Time
		reason int16
	)
	_, err = pgx.ForEachRow(rows, []any{&serial, &ended, &reason}, func() error {
		e, err := entryOf(serial, ended, reason)
		if err != nil {
			return err
		}
		return entry(e)
	})
	return err
}

// pieceSize is how much of a list one statement carries.
const pieceSize = 1 << 20

// Publish implements crl.Shards: the number decides, by compare and set, and the duty's term, which nobody can take while the
// transaction lasts.
func (l *Ledger) Publish(ctx context.Context, p crl.Publication) error {
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		if err := duty.StillHeld(ctx, tx, crl.Duty, p.Term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			WITH moved AS (
				INSERT INTO crl (authority, epoch, part, number, this_update, next_update, seen, entries, size, delta_size, base, base_at)
				SELECT $1, $2, $3, $4, $5, $6, $7::text::pg_snapshot, $8, $9, $10, $11, $12
				WHERE  $13::bigint = 0 OR EXISTS (SELECT FROM crl WHERE authority = $1 AND epoch = $2 AND part = $3)
				ON     CONFLICT (authority, epoch, part) DO UPDATE
				SET    number = excluded.number, this_update = excluded.this_update, next_update = excluded.next_update, seen = excluded.seen,
				       entries = excluded.entries, size = excluded.size, delta_size = excluded.delta_size, base = excluded.base,
				       base_at = excluded.base_at
				WHERE  crl.number = $13
				RETURNING authority, epoch, part, number, seen, entries
			), gone AS (
				DELETE FROM crl_piece
				WHERE  authority = $1 AND epoch = $2 AND part = $3 AND EXISTS (SELECT FROM moved)
			)
			INSERT INTO crl_publication (authority, epoch, part, number, at, site, seen, entries)
			SELECT authority, epoch, part, number, $14, $15, seen, entries
			FROM   moved`,
			p.Authority, int(p.Epoch), int16(p.Part), p.Number, p.ThisUpdate, p.NextUpdate, string(p.Seen), p.Entries, len(p.DER), len(p.Delta),
			p.Base, p.BaseAt, p.Previous, p.At, int16(l.site))
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return crl.ErrStale
		}
		if err := putPieces(ctx, tx, p, crl.Complete, p.DER); err != nil {
			return err
		}
		return putPieces(ctx, tx, p, crl.Delta, p.Delta)
	})
}

func putPieces(ctx context.Context, tx pgx.Tx, p crl.Publication, k crl.Kind, der []byte) error {
	for n := 0; len(der) > 0; n++ {
		size := min(pieceSize, len(der))
		_, err := tx.Exec(ctx, `
			INSERT INTO crl_piece (authority, epoch, part, delta, number, piece, der)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			p.Authority, int(p.Epoch), int16(p.Part), k == crl.Delta, p.Number, n, der[:size])
		if err != nil {
			return err
		}
		der = der[size:]
	}
	return nil
}

// Octets implements crl.Shards. It streams.
func (l *Ledger) Octets(ctx context.Context, s crl.Shard, number int64, k crl.Kind, piece func([]byte) error) error {
	rows, err := l.db.Query(ctx, `
		SELECT der
		FROM   crl_piece
		WHERE  authority = $1 AND epoch = $2 AND part = $3 AND delta = $4 AND number = $5
		ORDER  BY piece`, s.Authority, int(s.Epoch), int16(s.Part), k == crl.Delta, number)
	if err != nil {
		return err
	}
	var der []byte
	found := false
	_, err = pgx.ForEachRow(rows, []any{&der}, func() error {
		found = true
		taken := der
		der = nil
		return piece(taken)
	})
	if err == nil && !found {
		err = crl.ErrNotFound
	}
	return err
}

// Withdraw implements crl.Shards.
func (l *Ledger) Withdraw(ctx context.Context, s crl.Shard) error {
	_, err := l.db.Exec(ctx, `
		WITH gone AS (
			DELETE FROM crl
			WHERE  authority = $1 AND epoch = $2 AND part = $3
		)
		DELETE FROM crl_piece
		WHERE  authority = $1 AND epoch = $2 AND part = $3`, s.Authority, int(s.Epoch), int16(s.Part))
	return err
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
		now, crl.RootLife, crl.LeafLife).Scan(&ends)
	return ends, err
}
