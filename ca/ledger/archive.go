package ledger

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An archive is one gzip file of lines, each a JSON object, that says by itself what it holds:
//
//	{"format":"segl-epoch/1", …}                 the head: schema, site, epoch, the scopes and authorities that rows name by number,
//	                                             and the signed checkpoint that the proof leads to
//	{"table":"intent_10_s1_e2968","row":{…}}     a row, by column, bytes as \x and hexadecimal; to-be-signed bytes are whole
//	{"tile":[level,n],"hashes":"…"}              a tile of the Merkle tree that proves the facts, or that joins them to the checkpoint
//	{"rows":{"intent_10_s1_e2968":172800, …},"sha256":"…"}   the end: rows of each table, and the SHA-256 of every line above it
//
// Reading and writing take the memory of a few rows.

// archiveFormat changes when a reader would have to.
const archiveFormat = "segl-epoch/1"

// An archiveHead is the first line.
type archiveHead struct {
	Format      string            `json:"format"`
	Schema      int64             `json:"schema"`
	Site        int               `json:"site"`
	Epoch       uid.Epoch         `json:"epoch"`
	From        time.Time         `json:"from"`
	To          time.Time         `json:"to"`
	At          time.Time         `json:"archived_at"`
	Scopes      map[string]string `json:"scopes"`      // path by number
	Authorities map[string]string `json:"authorities"` // name by number
	Checkpoint  string            `json:"checkpoint,omitempty"`
	Edge        string            `json:"edge,omitempty"` // hashes of the tree's unfinished tiles
}

type archiveRow struct {
	Table string          `json:"table"`
	Row   json.RawMessage `json:"row"`
}

type archiveTile struct {
	Tile   [2]int64 `json:"tile"`
	Hashes string   `json:"hashes"`
}

type archiveEnd struct {
	Rows   map[string]int64 `json:"rows"`
	SHA256 string           `json:"sha256"`
}

// ErrOpen: an epoch that may still be written to, or whose facts are not all sealed, cannot be archived.
var ErrOpen = errors.New("the epoch is not closed")

// A Written says what an archive holds.
type Written struct {
	Rows   map[string]int64
	SHA256 [sha256.Size]byte // of the file
	Size   int64
}

// Archive writes a closed epoch to w, as of one instant. Nothing is recorded: Archived does that once the file is durable.
func (l *Ledger) Archive(ctx context.Context, e uid.Epoch, now time.Time, w io.Writer) (Written, error) {
	if now.Before(e.End().Add(closedAfter)) {
		return Written{}, fmt.Errorf("archiving epoch %d: %w: it ends %s", e, ErrOpen, e.End().Add(closedAfter).Format(time.RFC3339))
	}
	tables, err := l.tablesOf(ctx, e)
	if err != nil {
		return Written{}, err
	}
	if len(tables) == 0 {
		return Written{}, fmt.Errorf("archiving epoch %d: there is no such epoch", e)
	}
	counted := &counter{w: w, sum: sha256.New()}
	z := gzip.NewWriter(counted)
	out := &lines{w: bufio.NewWriter(z), sum: sha256.New(), rows: map[string]int64{}}
	tx, err := l.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Written{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only reads
	if err := l.archive(ctx, tx, out, e, now, tables); err != nil {
		return Written{}, fmt.Errorf("archiving epoch %d: %w", e, err)
	}
	if err := errors.Join(out.w.Flush(), z.Close()); err != nil {
		return Written{}, fmt.Errorf("archiving epoch %d: %w", e, err)
	}
	return Written{Rows: out.rows, SHA256: [sha256.Size]byte(counted.sum.Sum(nil)), Size: counted.n}, nil
}

func (l *Ledger) archive(ctx context.Context, tx pgx.Tx, out *lines, e uid.Epoch, now time.Time, tables []table) error {
	head, err := l.head(ctx, tx, e, now)
	if err != nil {
		return err
	}
	if err := out.line(head); err != nil {
		return err
	}
	for i := len(tables) - 1; i >= 0; i-- { // what others stand on first, so that they can be restored in this order
		if err := l.archiveTable(ctx, tx, out, tables[i]); err != nil {
			return fmt.Errorf("reading %s: %w", tables[i].name, err)
		}
	}
	if err := archiveTiles(ctx, tx, out, fmt.Sprintf("fact_e%d", e)); err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	return out.end()
}

// head is the first line. Facts that the tree does not have yet cannot be proved later.
func (l *Ledger) head(ctx context.Context, tx pgx.Tx, e uid.Epoch, now time.Time) (archiveHead, error) {
	h := archiveHead{Format: archiveFormat, Site: int(l.site), Epoch: e, From: e.Start(), To: e.End(), At: now.UTC()}
	err := tx.QueryRow(ctx, `
		SELECT (SELECT max(version_id) FROM goose_db_version WHERE is_applied),
		       coalesce((SELECT jsonb_object_agg(id, coalesce(born, path)) FROM scope), '{}'),
		       coalesce((SELECT jsonb_object_agg(id, name) FROM authority), '{}'),
		       coalesce((SELECT checkpoint FROM seal_head), ''),
		       coalesce((SELECT encode(edge, 'hex') FROM seal_head), '')`).
		Scan(&h.Schema, &h.Scopes, &h.Authorities, &h.Checkpoint, &h.Edge)
	if err != nil || h.Checkpoint == "" {
		return h, err
	}
	var unsealed bool
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM fact_e`+fmt.Sprint(int32(e))+` f JOIN seal_head h ON (f.xid, f.id) > (h.xid, h.id))`).Scan(&unsealed)
	if unsealed {
		return h, fmt.Errorf("%w: some of its facts are not sealed: see the log of the seal duty", ErrOpen)
	}
	return h, err
}

// archiveTable writes a table's rows. To-be-signed bytes are written whole: a file must not need the frames.
func (l *Ledger) archiveTable(ctx context.Context, tx pgx.Tx, out *lines, t table) error {
	rows, err := tx.Query(ctx, `
		SELECT to_jsonb(r)
		FROM   `+pgx.Identifier{t.name}.Sanitize()+` r`)
	if err != nil {
		return err
	}
	var row json.RawMessage
	_, err = pgx.ForEachRow(rows, []any{&row}, func() (err error) {
		if t.parent == "intent" {
			if row, err = l.whole(ctx, row); err != nil {
				return err
			}
		}
		out.rows[t.name]++
		return out.line(archiveRow{t.name, row})
	})
	if out.rows[t.name] == 0 {
		out.rows[t.name] = 0 // an empty table is told apart from one that was not there
	}
	return err
}

// whole is an intent's row with its to-be-signed bytes as they were signed.
func (l *Ledger) whole(ctx context.Context, row json.RawMessage) (json.RawMessage, error) {
	var columns map[string]json.RawMessage
	var serial, stored string
	err := json.Unmarshal(row, &columns)
	if err == nil {
		err = errors.Join(json.Unmarshal(columns["serial"], &serial), json.Unmarshal(columns["tbs"], &stored))
	}
	if err != nil {
		return nil, err
	}
	s, err := cert.ParseSerial(strings.TrimPrefix(serial, `\x`))
	if err != nil {
		return nil, err
	}
	body, err := hex.DecodeString(strings.TrimPrefix(stored, `\x`))
	if err != nil {
		return nil, err
	}
	if body, err = l.frames.Unpack(ctx, body, s); err != nil {
		return nil, err
	}
	if columns["tbs"], err = json.Marshal(`\x` + hex.EncodeToString(body)); err != nil {
		return nil, err
	}
	return json.Marshal(columns)
}

// archiveTiles writes the tiles that prove the facts of a table: those of leaves that hold them, and all above.
func archiveTiles(ctx context.Context, tx pgx.Tx, out *lines, facts string) error {
	rows, err := tx.Query(ctx, `
		WITH span AS (
			SELECT (SELECT xid FROM `+facts+` ORDER BY xid LIMIT 1) AS low,
			       (SELECT xid FROM `+facts+` ORDER BY xid DESC LIMIT 1) AS high
		)
		SELECT t.level, t.n, encode(t.hashes, 'hex')
		FROM   seal_tile t
		CROSS  JOIN span
		WHERE  t.level > 0
		OR     t.xid >= span.low AND t.n <= coalesce((SELECT min(n) FROM seal_tile WHERE level = 0 AND xid > span.high), t.n)
		ORDER  BY t.level, t.n`)
	if err != nil {
		return err
	}
	var level int16
	var n int64
	var hashes string
	_, err = pgx.ForEachRow(rows, []any{&level, &n, &hashes}, func() error {
		return out.line(archiveTile{[2]int64{int64(level), n}, hashes})
	})
	return err
}

// Archived records that a file holds an epoch, durably. It takes the place of an archive from before.
func (l *Ledger) Archived(ctx context.Context, e uid.Epoch, file string, w Written, now time.Time) error {
	_, err := l.db.Exec(ctx, `
		INSERT INTO epoch_archive (site, epoch, file, sha256, size, rows, archived_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON     CONFLICT (site, epoch) DO UPDATE
		SET    file = excluded.file, sha256 = excluded.sha256, size = excluded.size, rows = excluded.rows, archived_at = excluded.archived_at`,
		int16(l.site), int32(e), file, w.SHA256[:], w.Size, w.Rows, now)
	return err
}

// lines writes JSON objects, a line each, and remembers their hash.
type lines struct {
	w    *bufio.Writer
	sum  hash.Hash
	rows map[string]int64
}

func (o *lines) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	o.sum.Write(b)
	_, err = o.w.Write(b)
	return err
}

func (o *lines) end() error {
	return o.line(archiveEnd{o.rows, hex.EncodeToString(o.sum.Sum(nil))})
}

// A counter passes on what is written, and remembers its hash and length.
type counter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.sum.Write(b[:n])
	c.n += int64(n)
	return n, err
}
