// Package store keeps ca/seal's tree in Postgres, and reads the ledger's rows for it.
//
// It writes the tables of migration 0003 and no other, but for the rows that accepting a gap puts into the ledger
// (gap.go). A head moves by one statement that compares size, era and the duty's term, with its tiles in the same
// transaction. Facts are read in the order of transactions that have ended (ledger_horizon), so that none is passed over.
//
// A Store is safe for concurrent use.
package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Store is a seal.Store.
type Store struct {
	db *postgres.DB
	reader
}

var _ seal.Store = (*Store)(nil)

// New returns the store in db.
func New(db *postgres.DB) *Store { return &Store{db, readerOf(db)} }

func readerOf(q querier) reader {
	return reader{q, tbs.NewFrames(func(ctx context.Context, id int64) (body []byte, err error) {
		err = q.QueryRow(ctx, `
			SELECT body
			FROM   frame
			WHERE  id = $1`, id).Scan(&body)
		return body, missing(err)
	}), new(sync.Map)}
}

// querier is a pool, or a transaction that sees one instant.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A reader reads rows and the tree.
type reader struct {
	q      querier
	frames *tbs.Frames
	leaves *sync.Map // partitions that are there, by name
}

// has reports whether a partition is there. That it is not is asked each time: a statement on it would end a transaction.
func (r reader) has(ctx context.Context, table string) (bool, error) {
	if _, ok := r.leaves.Load(table); ok {
		return true, nil
	}
	var there bool
	err := r.q.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&there)
	if there {
		r.leaves.Store(table, struct{}{})
	}
	return there, err
}

// Head implements seal.Store.
func (r reader) Head(ctx context.Context) (seal.Head, error) {
	h := seal.Head{Era: 1}
	var edge []byte
	err := r.q.QueryRow(ctx, `
		SELECT era, size, xid::text::bigint, id, edge, checkpoint, sealed_at
		FROM   seal_head`).
		Scan(&h.Era, &h.Size, &h.Last.Transaction, &h.Last.ID, &edge, &h.Checkpoint, &h.SealedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	h.Edge, err = seal.ParseEdge(h.Size, edge)
	return h, err
}

// factColumns are those of a fact f in its scope s.
const factColumns = `
	f.xid::text::bigint, f.id, f.at, s.path, f.allowed, f.what, f.actor, f.act, f.serial, f.subject, f.why, f.request`

// Finished implements seal.Store.
func (r reader) Finished(ctx context.Context, after audit.Position, since time.Time, limit int) ([]seal.Row, error) {
	rows, err := r.q.Query(ctx, `
		SELECT `+factColumns+`
		FROM   fact f
		LEFT   JOIN scope s ON s.id = f.scope
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		AND    f.xid < ledger_horizon()
		AND    f.at >= $3
		ORDER  BY f.xid, f.id
		LIMIT  $4`,
		decimal(after.Transaction), after.ID, since, limit)
	return r.filled(ctx, rows, err)
}

// Facts implements seal.Snapshot.
func (r reader) Facts(ctx context.Context, after audit.Position, limit int) ([]seal.Row, error) {
	rows, err := r.q.Query(ctx, `
		SELECT `+factColumns+`
		FROM   fact f
		LEFT   JOIN scope s ON s.id = f.scope
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		ORDER  BY f.xid, f.id
		LIMIT  $3`,
		decimal(after.Transaction), after.ID, limit)
	return r.filled(ctx, rows, err)
}

func fact(row pgx.CollectableRow) (f seal.Row, err error) {
	var serial []byte
	err = row.Scan(&f.Position.Transaction, &f.Position.ID, &f.At, &f.Scope, &f.Allowed, &f.What, &f.Actor, &f.Act, &serial, &f.Subject,
		&f.Why, &f.Request)
	if err == nil && serial != nil {
		f.Serial, err = cert.SerialFromBytes(serial)
	}
	return f, err
}

// filled collects facts and reads what they record, by serial: a look-up each, in one partition.
func (r reader) filled(ctx context.Context, rows pgx.Rows, err error) ([]seal.Row, error) {
	if err != nil {
		return nil, err
	}
	facts, err := pgx.CollectRows(rows, fact)
	if err != nil {
		return nil, err
	}
	var made, gone []cert.Serial
	for _, f := range facts {
		if f.Allowed && !f.Serial.IsZero() && seal.Certifies(f.What) {
			made = append(made, f.Serial)
		}
		if f.Allowed && !f.Serial.IsZero() && seal.Ends(f.What) {
			gone = append(gone, f.Serial)
		}
	}
	certificates, err := r.certificates(ctx, made)
	if err != nil {
		return nil, err
	}
	revocations, err := r.revocations(ctx, gone)
	if err != nil {
		return nil, err
	}
	for i := range facts {
		f := &facts[i]
		if f.Allowed && seal.Certifies(f.What) {
			f.Certificate = certificates[f.Serial]
		}
		if f.Allowed && seal.Ends(f.What) {
			f.Revocation = revocations[f.Serial]
		}
	}
	return facts, nil
}

// byLeaf sorts serials by the partition that holds them: a statement on the parent would cost more with every week.
func byLeaf(serials []cert.Serial) map[string][][]byte {
	out := map[string][][]byte{}
	for _, s := range serials {
		at := fmt.Sprintf("_%x_s%d_e%d", byte(s.UID().Kind()), s.UID().Site(), s.Epoch())
		out[at] = append(out[at], s.Bytes())
	}
	return out
}

func (r reader) certificates(ctx context.Context, serials []cert.Serial) (map[cert.Serial]*seal.Certificate, error) {
	out := make(map[cert.Serial]*seal.Certificate, len(serials))
	for at, some := range byLeaf(serials) {
		if there, err := r.has(ctx, "intent"+at); err != nil {
			return nil, err
		} else if !there {
			continue // its epoch has left
		}
		rows, err := r.q.Query(ctx, `
			SELECT i.serial, a.name, s.path, i.profile, i.not_after, i.origin, i.tbs, o.at, o.signature
			FROM   intent`+at+` i
			JOIN   authority a ON a.id = i.authority
			JOIN   scope s ON s.id = i.scope
			LEFT   JOIN outcome`+at+` o ON o.serial = i.serial
			WHERE  i.serial = ANY ($1::bytea[])`, some)
		if err != nil {
			return nil, err
		}
		all, err := pgx.CollectRows(rows, certificate)
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			if c.TBS, err = r.frames.Unpack(ctx, c.TBS, c.Serial); err != nil {
				c.TBS = nil // damaged: its leaf is another than the one that was sealed
			}
			out[c.Serial] = c
		}
	}
	return out, nil
}

func certificate(row pgx.CollectableRow) (*seal.Certificate, error) {
	var (
		c      seal.Certificate
		serial []byte
	)
	err := row.Scan(&serial, &c.Authority, &c.Scope, &c.Profile, &c.NotAfter, &c.Origin, &c.TBS, &c.At, &c.Signature)
	if err == nil {
		c.Serial, err = cert.SerialFromBytes(serial)
	}
	return &c, err
}

func (r reader) revocations(ctx context.Context, serials []cert.Serial) (map[cert.Serial]*seal.Revocation, error) {
	out := make(map[cert.Serial]*seal.Revocation, len(serials))
	for at, some := range byLeaf(serials) {
		if there, err := r.has(ctx, "revocation"+at); err != nil {
			return nil, err
		} else if !there {
			continue
		}
		rows, err := r.q.Query(ctx, `
			SELECT r.serial, a.name, s.path, r.revoked_at, r.reason
			FROM   revocation`+at+` r
			JOIN   authority a ON a.id = r.authority
			JOIN   scope s ON s.id = r.scope
			WHERE  r.serial = ANY ($1::bytea[])`, some)
		if err != nil {
			return nil, err
		}
		all, err := pgx.CollectRows(rows, revocation)
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			out[v.Serial] = v
		}
	}
	return out, nil
}

func revocation(row pgx.CollectableRow) (*seal.Revocation, error) {
	var (
		v      seal.Revocation
		serial []byte
	)
	err := row.Scan(&serial, &v.Authority, &v.Scope, &v.At, &v.Reason)
	if err == nil {
		v.Serial, err = cert.SerialFromBytes(serial)
	}
	return &v, err
}

// Tile implements seal.Store.
func (r reader) Tile(ctx context.Context, level int, n int64) (hashes []byte, err error) {
	err = r.q.QueryRow(ctx, `
		SELECT hashes
		FROM   seal_tile
		WHERE  level = $1 AND n = $2`, level, n).Scan(&hashes)
	return hashes, missing(err)
}

func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return seal.ErrNotFound
	}
	return err
}

// Advance implements seal.Store: one statement, which a successor's claim of the duty waits for.
func (s *Store) Advance(ctx context.Context, old int64, next seal.Head, tiles []seal.Tile, term int64) error {
	var (
		level  = make([]int16, len(tiles))
		n      = make([]int64, len(tiles))
		xid    = make([]*string, len(tiles))
		id     = make([]*int64, len(tiles))
		at     = make([]*time.Time, len(tiles))
		hashes = make([][]byte, len(tiles))
	)
	for i := range tiles {
		t := &tiles[i]
		level[i], n[i], hashes[i] = int16(t.Level), t.N, t.Hashes //nolint:gosec // eight levels
		if t.Level == 0 {
			x := decimal(t.Last.Transaction)
			xid[i], id[i], at[i] = &x, &t.Last.ID, &t.At
		}
	}
	var stored bool
	err := s.db.QueryRow(ctx, `
		WITH held AS (
			SELECT term
			FROM   duty
			WHERE  name = $1 AND term = $2
			FOR    SHARE
		), moved AS (
			INSERT INTO seal_head AS h (era, size, xid, id, edge, checkpoint, sealed_at)
			SELECT $3, $5, $6::text::xid8, $7, $8, $9, $10
			FROM   held
			WHERE  $4 = 0 OR EXISTS (SELECT FROM seal_head)
			ON     CONFLICT (one) DO UPDATE
			SET    size = excluded.size, xid = excluded.xid, id = excluded.id, edge = excluded.edge,
			       checkpoint = excluded.checkpoint, sealed_at = excluded.sealed_at
			WHERE  h.size = $4 AND h.era = excluded.era
			RETURNING size
		), grown AS (
			INSERT INTO seal_tile (level, n, xid, id, at, hashes)
			SELECT t.level, t.n, t.xid::xid8, t.id, t.at, t.hashes
			FROM   moved
			CROSS  JOIN unnest($11::smallint[], $12::bigint[], $13::text[], $14::bigint[], $15::timestamptz[], $16::bytea[])
			       AS t (level, n, xid, id, at, hashes)
		)
		SELECT EXISTS (SELECT FROM moved)`,
		seal.Duty, term, next.Era, old, next.Size, decimal(next.Last.Transaction), next.Last.ID, next.Edge.Bytes(), next.Checkpoint,
		next.SealedAt, level, n, xid, id, at, hashes).Scan(&stored)
	if err == nil && !stored {
		err = seal.ErrMoved
	}
	return err
}

// decimal writes a transaction id the way xid8 is read: pgx has no codec for it.
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
