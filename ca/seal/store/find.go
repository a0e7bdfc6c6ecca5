package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// How far from the second in its serial a certificate's fact may say it happened: an issuance's deadlines, with room, and how
// far the facts of a tile are from being in the order of time.
const (
	issuedWithin = 2 * time.Minute
	disorder     = time.Minute
	tileSize     = 1 << seal.Height
)

// Issuing implements seal.Store. Facts have no index by the serial they made: the tree says which of them are of that time.
func (s *Store) Issuing(ctx context.Context, serial cert.Serial) (seal.Row, int64, error) {
	from := serial.Time().Add(-disorder)
	after, err := s.before(ctx, from)
	if err != nil {
		return seal.Row{}, 0, err
	}
	rows, err := s.q.Query(ctx, `
		SELECT `+factColumns+`
		FROM   fact f
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		AND    f.at >= $3
		AND    f.at < $4
		AND    f.serial = $5
		AND    f.what = ANY ($6)
		AND    f.allowed
		LIMIT  1`,
		decimal(after.Transaction), after.ID, from, serial.Time().Add(issuedWithin), serial.Bytes(), seal.Issues())
	if err != nil {
		return seal.Row{}, 0, err
	}
	some, err := pgx.CollectRows(rows, fact)
	if err != nil {
		return seal.Row{}, 0, err
	}
	found, err := s.fill(ctx, some)
	if err != nil {
		return seal.Row{}, 0, err
	}
	if len(found) == 0 {
		return seal.Row{}, 0, seal.ErrNotFound
	}
	tile, err := s.tileOf(ctx, found[0].Position)
	return found[0], tile, err
}

// before returns the position of the last fact of a tile all of which is from before t.
func (r reader) before(ctx context.Context, t time.Time) (p audit.Position, err error) {
	err = r.q.QueryRow(ctx, `
		SELECT xid::text::bigint, id
		FROM   seal_tile
		WHERE  level = 0 AND at < $1
		ORDER  BY at DESC
		LIMIT  1`, t.Add(-disorder)).Scan(&p.Transaction, &p.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return p, err
}

// tileOf returns the number of the tile of leaves that a position is in: of the unfinished one where no other has it.
func (r reader) tileOf(ctx context.Context, p audit.Position) (n int64, err error) {
	err = r.q.QueryRow(ctx, `
		SELECT n
		FROM   seal_tile
		WHERE  level = 0 AND (xid, id) >= ($1::text::xid8, $2)
		ORDER  BY xid, id
		LIMIT  1`, decimal(p.Transaction), p.ID).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		err = r.q.QueryRow(ctx, `SELECT coalesce(max(size), 0) / $1 FROM seal_head`, tileSize).Scan(&n)
	}
	return n, err
}

// Bundle implements seal.Store.
func (s *Store) Bundle(ctx context.Context, n int64) ([]seal.Row, error) {
	var after audit.Position
	if n > 0 {
		err := s.q.QueryRow(ctx, `
			SELECT xid::text::bigint, id
			FROM   seal_tile
			WHERE  level = 0 AND n = $1`, n-1).Scan(&after.Transaction, &after.ID)
		if err != nil {
			return nil, missing(err)
		}
	}
	return s.Facts(ctx, after, tileSize)
}

// Published implements seal.Store.
func (s *Store) Published(ctx context.Context, era int) (size int64, checkpoint string, err error) {
	err = s.q.QueryRow(ctx, `
		SELECT size, checkpoint
		FROM   seal_published
		WHERE  era = $1`, era).Scan(&size, &checkpoint)
	return size, checkpoint, missing(err)
}

// Publish implements seal.Store.
func (s *Store) Publish(ctx context.Context, era int, size int64, checkpoint string) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO seal_published AS p (era, size, checkpoint)
		VALUES ($1, $2, $3)
		ON     CONFLICT (one) DO UPDATE
		SET    era = excluded.era, size = excluded.size, checkpoint = excluded.checkpoint
		WHERE  (p.era, p.size) <= (excluded.era, excluded.size)`, era, size, checkpoint)
	return err
}
