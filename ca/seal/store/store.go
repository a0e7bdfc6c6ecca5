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
	}), new(sync.Map), new(words)}
}

// querier is a pool, or a transaction that sees one instant.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// A reader reads rows and the tree.
type reader struct {
	q      querier
	frames *tbs.Frames
	leaves *sync.Map // partitions that are there, by name
	words  *words
}

// words are what rows name by number: scopes and authorities. They are read when one is met that is not known, so that no fact
// costs a join; a number never means another.
type words struct {
	mu          sync.Mutex // guards what follows; held while reading, which happens once in a while
	scopes      map[int32]string
	authorities map[int32]string
}

// named returns the words for numbers, each of which is there by a constraint or was a row's fault.
func (r reader) named(ctx context.Context, scopes, authorities []int32) (scope, authority map[int32]string, err error) {
	r.words.mu.Lock()
	defer r.words.mu.Unlock()
	if !hasAll(r.words.scopes, scopes) {
		if r.words.scopes, err = r.list(ctx, `
			SELECT id, coalesce(born, path)
			FROM   scope`); err != nil {
			return nil, nil, err
		}
	}
	if !hasAll(r.words.authorities, authorities) {
		if r.words.authorities, err = r.list(ctx, `
			SELECT id, name
			FROM   authority`); err != nil {
			return nil, nil, err
		}
	}
	return r.words.scopes, r.words.authorities, nil
}

func hasAll(m map[int32]string, want []int32) bool {
	for _, id := range want {
		if _, ok := m[id]; !ok {
			return false
		}
	}
	return true
}

func (r reader) list(ctx context.Context, sql string) (map[int32]string, error) {
	rows, err := r.q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	out := map[int32]string{}
	var (
		id   int32
		word string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &word}, func() error {
		out[id] = word
		return nil
	})
	return out, err
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

// factColumns are those of a fact f.
const factColumns = `
	f.xid::text::bigint, f.id, f.at, f.scope, f.allowed, f.what, f.actor, f.act, f.serial, f.subject, f.why, f.request`

// Finished implements seal.Store.
func (r reader) Finished(ctx context.Context, after audit.Position, since time.Time, limit int) ([]seal.Row, error) {
	return r.ordered(ctx, `
		SELECT `+factColumns+`
		FROM   fact f
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		AND    f.xid < ledger_horizon()
		AND    f.at >= $3
		ORDER  BY f.xid, f.id
		LIMIT  $4`,
		decimal(after.Transaction), after.ID, since, limit)
}

// Facts implements seal.Snapshot.
func (r reader) Facts(ctx context.Context, after audit.Position, limit int) ([]seal.Row, error) {
	return r.ordered(ctx, `
		SELECT `+factColumns+`
		FROM   fact f
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		ORDER  BY f.xid, f.id
		LIMIT  $3`,
		decimal(after.Transaction), after.ID, limit)
}

// ordered reads facts in their order, in one round trip. It keeps the planner from reading all that follows and sorting that,
// which it takes for cheap while a table is young: a page must not cost what is left of the ledger.
func (r reader) ordered(ctx context.Context, sql string, args ...any) ([]seal.Row, error) {
	var b pgx.Batch
	b.Queue(`SELECT set_config('enable_sort', 'off', true)`)
	b.Queue(sql, args...)
	results := r.q.SendBatch(ctx, &b)
	if _, err := results.Exec(); err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	var facts []stored
	if err == nil {
		facts, err = pgx.CollectRows(rows, fact)
	}
	if err := errors.Join(err, results.Close()); err != nil {
		return nil, err
	}
	return r.fill(ctx, facts)
}

// A stored row names its scope by number.
type stored struct {
	seal.Row
	scope *int32
}

func fact(row pgx.CollectableRow) (f stored, err error) {
	var serial []byte
	err = row.Scan(&f.Position.Transaction, &f.Position.ID, &f.At, &f.scope, &f.Allowed, &f.What, &f.Actor, &f.Act, &serial, &f.Subject,
		&f.Why, &f.Request)
	if err == nil && serial != nil {
		f.Serial, err = cert.SerialFromBytes(serial)
	}
	return f, err
}

// fill reads what facts record, by serial: a look-up each, in one partition.
func (r reader) fill(ctx context.Context, facts []stored) ([]seal.Row, error) {
	var (
		made, gone []cert.Serial
		scopes     []int32
	)
	for _, f := range facts {
		if f.Allowed && !f.Serial.IsZero() && seal.Certifies(f.What) {
			made = append(made, f.Serial)
		}
		if f.Allowed && !f.Serial.IsZero() && seal.Ends(f.What) {
			gone = append(gone, f.Serial)
		}
		if f.scope != nil {
			scopes = append(scopes, *f.scope)
		}
	}
	paths, _, err := r.named(ctx, scopes, nil)
	if err != nil {
		return nil, err
	}
	certificates, err := r.certificates(ctx, made)
	if err != nil {
		return nil, err
	}
	revocations, err := r.revocations(ctx, gone)
	if err != nil {
		return nil, err
	}
	out := make([]seal.Row, len(facts))
	for i := range facts {
		f := &facts[i].Row
		if id := facts[i].scope; id != nil {
			if path, ok := paths[*id]; ok {
				f.Scope = &path
			}
		}
		if f.Allowed && seal.Certifies(f.What) {
			f.Certificate = certificates[f.Serial]
		}
		if f.Allowed && seal.Ends(f.What) {
			f.Revocation = revocations[f.Serial]
		}
		out[i] = *f
	}
	return out, nil
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
			SELECT i.serial, i.authority, i.scope, i.profile, i.not_after, i.origin, i.tbs, o.at, o.signature
			FROM   unnest($1::bytea[]) k (serial)
			CROSS  JOIN LATERAL (
				SELECT serial, authority, scope, profile, not_after, origin, tbs
				FROM   intent`+at+`
				WHERE  serial = k.serial
				OFFSET 0
			) i
			LEFT   JOIN LATERAL (SELECT at, signature FROM outcome`+at+` WHERE serial = k.serial OFFSET 0) o ON true`, some)
		if err != nil {
			return nil, err
		}
		all, err := pgx.CollectRows(rows, intent)
		if err != nil {
			return nil, err
		}
		for _, i := range all {
			c := &i.Certificate
			if c.TBS, err = r.frames.Unpack(ctx, c.TBS, c.Serial); err != nil {
				c.TBS = nil // damaged: its leaf is another than the one that was sealed
			}
			scopes, authorities, err := r.named(ctx, []int32{i.scope}, []int32{i.authority})
			if err != nil {
				return nil, err
			}
			c.Scope, c.Authority = scopes[i.scope], authorities[i.authority]
			out[c.Serial] = c
		}
	}
	return out, nil
}

// An intended certificate names scope and authority by number.
type intended struct {
	seal.Certificate
	authority, scope int32
}

func intent(row pgx.CollectableRow) (*intended, error) {
	var (
		c      intended
		serial []byte
	)
	err := row.Scan(&serial, &c.authority, &c.scope, &c.Profile, &c.NotAfter, &c.Origin, &c.TBS, &c.At, &c.Signature)
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
			SELECT r.serial, r.authority, r.scope, r.revoked_at, r.reason
			FROM   unnest($1::bytea[]) k (serial)
			CROSS  JOIN LATERAL (
				SELECT serial, authority, scope, revoked_at, reason
				FROM   revocation`+at+`
				WHERE  serial = k.serial
				OFFSET 0
			) r`, some)
		if err != nil {
			return nil, err
		}
		all, err := pgx.CollectRows(rows, revoked)
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			scopes, authorities, err := r.named(ctx, []int32{v.scope}, []int32{v.authority})
			if err != nil {
				return nil, err
			}
			v.Scope, v.Authority = scopes[v.scope], authorities[v.authority]
			out[v.Serial] = &v.Revocation
		}
	}
	return out, nil
}

// An ended serial names scope and authority by number.
type ended struct {
	seal.Revocation
	authority, scope int32
}

func revoked(row pgx.CollectableRow) (*ended, error) {
	var (
		v      ended
		serial []byte
	)
	err := row.Scan(&serial, &v.authority, &v.scope, &v.At, &v.Reason)
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
