package ledger

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Bounds of an archive's lines, and of what one statement restores.
const (
	archiveLine  = 16 << 20
	restoreChunk = 1000
)

// ErrArchive: the file is no archive, is damaged, or is of another ledger.
var ErrArchive = errors.New("not an archive that can be restored")

// A Restoration says what came back.
type Restoration struct {
	Epoch uid.Epoch
	Rows  map[string]int64
}

// Restore puts the epoch of an archive back, all of it or nothing: its partitions are made, and its rows are as they were. It
// reads the file twice, first to see that it is whole. An epoch of which anything is there is left alone.
func (l *Ledger) Restore(ctx context.Context, file io.ReadSeeker, now time.Time) (Restoration, error) {
	var r Restoration
	head, err := l.inspect(ctx, file, &r)
	if err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	err = postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		if err := l.prepare(ctx, tx, head.Epoch, r.Rows); err != nil {
			return err
		}
		in := &restoring{tx: tx, tables: r.Rows, columns: map[string]string{}}
		if err := readArchive(file, func(line []byte) error { return in.line(ctx, line) }); err != nil {
			return err
		}
		if err := in.flush(ctx); err != nil {
			return err
		}
		// What was known of the week before is of partitions that are gone, and nothing of these would take it away.
		if _, err := tx.Exec(ctx, `
			DELETE FROM closed_epoch
			WHERE  site = $1 AND epoch = $2`, int16(l.site), int32(head.Epoch)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE epoch_archive
			SET    restored_at = $3, dropped_at = coalesce(dropped_at, $3)
			WHERE  site = $1 AND epoch = $2`, int16(l.site), int32(head.Epoch), now)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("restoring epoch %d: %w", head.Epoch, err)
	}
	return r, nil
}

// inspect reads a file to its end, and refuses what is not whole or not of this ledger.
func (l *Ledger) inspect(ctx context.Context, file io.Reader, r *Restoration) (head archiveHead, err error) {
	var (
		end  archiveEnd
		sum  = sha256.New()
		rows = map[string]int64{}
		n    int
	)
	err = readArchive(file, func(line []byte) error {
		if n++; n == 1 {
			if err := json.Unmarshal(line, &head); err != nil || head.Format != archiveFormat {
				return fmt.Errorf("%w: it does not begin as %s does", ErrArchive, archiveFormat)
			}
		} else if end.SHA256 != "" {
			return fmt.Errorf("%w: something follows its end", ErrArchive)
		} else if bytes.HasPrefix(line, []byte(`{"rows":`)) {
			if err := json.Unmarshal(line, &end); err != nil {
				return fmt.Errorf("%w: its end is no object: %w", ErrArchive, err)
			}
			return nil
		} else if row, ok := rowOf(line); ok {
			rows[row.Table]++
		}
		sum.Write(line)
		sum.Write([]byte{'\n'})
		return nil
	})
	maps.DeleteFunc(end.Rows, func(_ string, n int64) bool { return n == 0 })
	switch {
	case err != nil:
		return head, err
	case end.SHA256 != hex.EncodeToString(sum.Sum(nil)) || !maps.Equal(end.Rows, rows):
		return head, fmt.Errorf("%w: it is cut short, or was altered: its end does not fit what is before it", ErrArchive)
	case head.Site != int(l.site):
		return head, fmt.Errorf("%w: it is of site %d, and this is site %d", ErrArchive, head.Site, l.site)
	}
	r.Epoch, r.Rows = head.Epoch, rows
	return head, l.ofThis(ctx, head)
}

func rowOf(line []byte) (row archiveRow, ok bool) {
	if !bytes.HasPrefix(line, []byte(`{"table":`)) {
		return row, false
	}
	err := json.Unmarshal(line, &row)
	return row, err == nil
}

// ofThis refuses an archive whose numbers mean other scopes or authorities here: it is of another ledger.
func (l *Ledger) ofThis(ctx context.Context, head archiveHead) error {
	var scopes, authorities map[string]string
	err := l.db.QueryRow(ctx, `
		SELECT coalesce((SELECT jsonb_object_agg(id, coalesce(born, path)) FROM scope), '{}'),
		       coalesce((SELECT jsonb_object_agg(id, name) FROM authority), '{}')`).Scan(&scopes, &authorities)
	if err != nil {
		return err
	}
	for kind, pair := range map[string][2]map[string]string{"scope": {head.Scopes, scopes}, "authority": {head.Authorities, authorities}} {
		for id, was := range pair[0] {
			if is := pair[1][id]; is != was {
				return fmt.Errorf("%w: its %s %s is %s, and here it is %q: restore into the ledger it came from", ErrArchive, kind, id, was, is)
			}
		}
	}
	return nil
}

// prepare makes the epoch's partitions, and refuses an epoch that has anything.
func (l *Ledger) prepare(ctx context.Context, tx pgx.Tx, e uid.Epoch, tables map[string]int64) error {
	if _, err := tx.Exec(ctx, `SELECT make_epoch($1, $2)`, int(l.site), int(e)); err != nil {
		return err
	}
	for name := range tables {
		if !strings.HasSuffix(name, fmt.Sprintf("_e%d", e)) {
			return fmt.Errorf("%w: it has rows of %q, which is no table of its epoch", ErrArchive, name)
		}
		var member, some bool
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (
				SELECT
				FROM   pg_inherits i
				JOIN   epoch_table t ON to_regclass(t.parent) = i.inhparent
				WHERE  i.inhrelid = to_regclass($1)
			)`, name).Scan(&member)
		if err != nil {
			return err
		}
		if !member {
			return fmt.Errorf("%w: it has rows of %q, which is no table of this schema", ErrArchive, name)
		}
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+pgx.Identifier{name}.Sanitize()+`)`).Scan(&some); err != nil {
			return err
		}
		if some {
			return fmt.Errorf("%s has rows already: only an epoch that was dropped can be restored", name)
		}
	}
	return nil
}

// restoring gathers rows of one table and writes them a chunk at a time.
type restoring struct {
	tx      pgx.Tx
	tables  map[string]int64
	columns map[string]string // by table, as a list
	table   string
	rows    []json.RawMessage
}

func (r *restoring) line(ctx context.Context, line []byte) error {
	row, ok := rowOf(line)
	if !ok {
		return nil
	}
	if row.Table != r.table || len(r.rows) == restoreChunk {
		if err := r.flush(ctx); err != nil {
			return err
		}
		r.table = row.Table
	}
	if _, ok := r.columns[row.Table]; !ok {
		if err := r.learn(ctx, row); err != nil {
			return err
		}
	}
	r.rows = append(r.rows, row.Row)
	return nil
}

// learn finds the columns that a table's rows bring; one that the table no longer has is refused, one that it has got since
// takes its default.
func (r *restoring) learn(ctx context.Context, row archiveRow) error {
	var brought map[string]json.RawMessage
	if err := json.Unmarshal(row.Row, &brought); err != nil {
		return fmt.Errorf("%w: a row of %s: %w", ErrArchive, row.Table, err)
	}
	rows, err := r.tx.Query(ctx, `
		SELECT attname::text
		FROM   pg_attribute
		WHERE  attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped`, row.Table)
	if err != nil {
		return err
	}
	has, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var list []string
	for _, column := range slices.Sorted(maps.Keys(brought)) {
		if !slices.Contains(has, column) {
			return fmt.Errorf("%w: %s has no column %s any more: restore with the version that wrote it", ErrArchive, row.Table, column)
		}
		list = append(list, pgx.Identifier{column}.Sanitize())
	}
	r.columns[row.Table] = strings.Join(list, ", ")
	return nil
}

func (r *restoring) flush(ctx context.Context) error {
	if len(r.rows) == 0 {
		return nil
	}
	all, err := json.Marshal(r.rows)
	if err != nil {
		return err
	}
	name, columns := pgx.Identifier{r.table}.Sanitize(), r.columns[r.table]
	_, err = r.tx.Exec(ctx, `
		INSERT INTO `+name+` (`+columns+`)
		SELECT `+columns+`
		FROM   jsonb_populate_recordset(NULL::`+name+`, $1::jsonb)`, string(all))
	if err != nil {
		return fmt.Errorf("writing %s: %w", r.table, err)
	}
	r.rows = r.rows[:0]
	return nil
}

// readArchive gives each line of a file to do.
func readArchive(file io.Reader, do func(line []byte) error) error {
	z, err := gzip.NewReader(file)
	if err != nil {
		return fmt.Errorf("%w: it is not compressed as one: %w", ErrArchive, err)
	}
	in := bufio.NewScanner(z)
	in.Buffer(make([]byte, 0, bufio.MaxScanTokenSize), archiveLine)
	for in.Scan() {
		if err := do(in.Bytes()); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return nil
}
