package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// unrenewed leaves out the certificates that have a successor: one that renewed them or was said to replace them; or, since
// most ACME clients say nothing, for those of ACME orders a newer certificate of the scope with the same first name.
func (l *Ledger) unrenewed(ctx context.Context, leaves []leaf, recs []ca.Record) ([]ca.Record, error) {
	parts := map[leaf][][]byte{}
	var orders []ca.Record
	for _, r := range recs {
		at := leafOf(r.Serial.UID())
		parts[at] = append(parts[at], r.Serial.Bytes())
		if k := r.Origin.ID; !k.IsZero() && k.Kind() == uid.Order {
			orders = append(orders, r)
		}
	}
	var list []statement
	for at, serials := range parts {
		list = append(list, statement{`
		SELECT i.serial
		FROM   unnest($1::bytea[]) AS i (serial)` + at.successor() + `
		WHERE  p.successor IS NOT NULL`, []any{serials}})
	}
	if len(orders) > 0 {
		list = append(list, newer(leaves, orders))
	}
	if len(list) == 0 {
		return recs, nil
	}
	rows, err := all(ctx, l.db, pgx.RowTo[[]byte], list)
	if err != nil {
		return nil, fmt.Errorf("looking for successors: %w", err)
	}
	have := map[string]bool{}
	for _, s := range slices.Concat(rows...) {
		have[string(s)] = true
	}
	return slices.DeleteFunc(recs, func(r ca.Record) bool { return have[string(r.Serial.Bytes())] }), nil
}

// newer chooses, among certificates of ACME orders, those whose first name a later one of their scope bears.
func newer(leaves []leaf, recs []ca.Record) statement {
	n := len(recs)
	serial, mark, scope, ends := make([][]byte, n), make([]*int64, n), make([]string, n), make([]time.Time, n)
	first := leafOf(recs[0].Serial.UID()).epoch
	for i, r := range recs {
		serial[i], mark[i], scope[i], ends[i] = r.Serial.Bytes(), marksOf(r.TBS).first, r.Scope.String(), r.NotAfter
		first = min(first, leafOf(r.Serial.UID()).epoch)
	}
	sql := `
		SELECT a.serial
		FROM   unnest($1::bytea[], $2::bigint[], $3::text[], $4::timestamptz[]) AS a (serial, mark, scope, ends)
		JOIN   scope s ON s.path = a.scope
		WHERE  false`
	for _, v := range leaves {
		if v.epoch >= first {
			sql += `
			OR     EXISTS (
				SELECT
				FROM   ` + v.of("intent") + ` c
				JOIN   ` + v.of("outcome") + ` o ON o.serial = c.serial AND o.signature IS NOT NULL
				WHERE  c.name_mark = a.mark AND c.not_after > a.ends AND c.scope = s.id
			)`
		}
	}
	return statement{sql, []any{serial, mark, scope, ends}}
}

// requested returns a page of the certificates that an actor asked for, the newest first: by the facts of their making.
func (l *Ledger) requested(ctx context.Context, q ca.Query) (ca.Page, error) {
	asked := audit.Query{Scope: q.Scope, Actor: q.Requester, Newest: true, After: q.After.Fact, Limit: q.Limit}
	facts, err := l.Read(ctx, asked)
	if err != nil {
		return ca.Page{}, err
	}
	page := ca.Page{Next: ca.Cursor{Fact: facts.Next}, More: facts.More}
	var made []candidate
	for _, f := range facts.Entries {
		if !f.Refused && (f.What == audit.Issue || f.What == audit.Renew) && !f.Serial.IsZero() {
			made = append(made, candidate{serial: f.Serial})
		}
	}
	recs, err := l.records(ctx, made, q)
	if missingTable(err) { // an epoch left, with the certificates whose making the facts still tell
		recs, err = l.those(ctx, made, q)
	}
	if err != nil {
		return ca.Page{}, fmt.Errorf("reading the certificates that %.100s asked for: %w", q.Requester, err)
	}
	for _, r := range recs {
		c := candidate{r.Serial, r.NotAfter, &r.Authority, &r.Profile}
		if c.meant(q) {
			page.Records = append(page.Records, r)
		}
	}
	if !q.Overdue.IsZero() {
		leaves, err := l.leavesOf(ctx, "intent")
		if err != nil {
			return ca.Page{}, err
		}
		page.Records, err = l.unrenewed(ctx, leaves, page.Records)
		return page, err
	}
	return page, nil
}

// those reads what is still there of a list.
func (l *Ledger) those(ctx context.Context, list []candidate, q ca.Query) ([]ca.Record, error) {
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return nil, err
	}
	kept := slices.DeleteFunc(slices.Clone(list), func(c candidate) bool { return !slices.Contains(leaves, leafOf(c.serial.UID())) })
	return l.records(ctx, kept, q)
}
