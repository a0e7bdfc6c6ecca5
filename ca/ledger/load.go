package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// loadChunk is how many records stand in one transaction of Load.
const loadChunk = 10_000

// Load writes records whose serials are all of one epoch as the ledger would have written them one by one, without facts and
// origins, by COPY. It is for what an archive gives back. What is there already is an error; chunks before it stay.
func (l *Ledger) Load(ctx context.Context, records iter.Seq2[ca.Record, error]) (n int, err error) {
	chunk := make([]ca.Record, 0, loadChunk)
	for rec, err := range records {
		if err != nil {
			return n, err
		}
		if chunk = append(chunk, rec); len(chunk) == loadChunk {
			if err := l.loadChunk(ctx, chunk); err != nil {
				return n, err
			}
			n, chunk = n+len(chunk), chunk[:0]
		}
	}
	if len(chunk) == 0 {
		return n, nil
	}
	return n + len(chunk), l.loadChunk(ctx, chunk)
}

func (l *Ledger) loadChunk(ctx context.Context, chunk []ca.Record) error {
	at := leafOf(chunk[0].Serial.UID())
	scopes, err := l.scopeIDs(ctx)
	if err != nil {
		return err
	}
	var intents, outcomes, endings, names [][]any
	for _, rec := range chunk {
		serial := rec.Serial.Bytes()
		id, ok := scopes[rec.Scope.String()]
		switch {
		case leafOf(rec.Serial.UID()) != at:
			return fmt.Errorf("loading %s: it is of another epoch than %s", rec.Serial, chunk[0].Serial)
		case !ok:
			return fmt.Errorf("loading %s: no scope %s: create it first", rec.Serial, rec.Scope)
		}
		body, err := l.frames.pack(ctx, rec.Intent)
		if err != nil {
			return err
		}
		marks := marksOf(rec.TBS)
		var origin []byte
		if !rec.Origin.ID.IsZero() {
			origin = rec.Origin.ID.Bytes()
		}
		intents = append(intents, []any{serial, rec.NotAfter, rec.Authority, id, rec.Profile, body, origin, marks.key, marks.first})
		for _, m := range marks.further {
			names = append(names, []any{serial, m, rec.NotAfter})
		}
		if !rec.At.IsZero() {
			outcomes = append(outcomes, []any{serial, rec.At, rec.Signature})
		}
		if r := rec.Revoked; r != nil {
			endings = append(endings, []any{serial, r.At, rec.Authority, id, int16(r.Reason)})
		}
	}
	return l.copied(ctx,
		copying{at.of("intent"), []string{"serial", "not_after", "authority", "scope", "profile", "tbs", "origin", "key_mark", "name_mark"}, intents},
		copying{at.of("outcome"), []string{"serial", "at", "signature"}, outcomes},
		copying{at.of("revocation"), []string{"serial", "revoked_at", "authority", "scope", "reason"}, endings},
		copying{at.of("further_name"), []string{"serial", "mark", "not_after"}, names})
}

// A copying is rows for one table.
type copying struct {
	table   string
	columns []string
	rows    [][]any
}

// copied writes rows to several tables in one transaction.
func (l *Ledger) copied(ctx context.Context, list ...copying) error {
	err := postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		for _, c := range list {
			if len(c.rows) == 0 {
				continue
			}
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{c.table}, c.columns, pgx.CopyFromRows(c.rows)); err != nil {
				return fmt.Errorf("copying to %s: %w", c.table, err)
			}
		}
		return nil
	})
	if missingTable(err) {
		return errors.Join(errors.New("its epoch has no partitions: make them first"), err)
	}
	return err
}

// scopeIDs returns what intents call the scopes.
func (l *Ledger) scopeIDs(ctx context.Context) (map[string]int32, error) {
	rows, err := l.db.Query(ctx, `
		SELECT path, id
		FROM   scope`)
	if err != nil {
		return nil, err
	}
	ids := map[string]int32{}
	var path string
	var id int32
	_, err = pgx.ForEachRow(rows, []any{&path, &id}, func() error {
		ids[path] = id
		return nil
	})
	return ids, err
}
