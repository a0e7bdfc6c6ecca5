package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Listing takes two steps. An index of each epoch is asked for the next candidates, in order; then the rows of those that are
// meant are read by serial. Each epoch's part is bounded by the page, so a page costs the same however large the ledger is; by
// name or key only those epochs are asked that may hold it (sieve.go).

// mostExamined is how many candidates a page looks at, where not every one is meant.
const mostExamined = 2000

// Select implements ca.Ledger.
func (l *Ledger) Select(ctx context.Context, q ca.Query) (ca.Page, error) {
	if q.Requester != "" {
		return l.requested(ctx, q)
	}
	out, err := l.selected(ctx, q)
	if missingTable(err) { // an epoch left meanwhile: what is there now is asked
		return l.selected(ctx, q)
	}
	return out, err
}

func (l *Ledger) selected(ctx context.Context, q ca.Query) (ca.Page, error) {
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil || len(leaves) == 0 {
		return ca.Page{}, err
	}
	if !q.Overdue.IsZero() {
		q.ExpiringAfter = later(q.ExpiringAfter, q.Overdue)
	}
	most := q.Limit
	if narrowed(q) {
		most = max(q.Limit, mostExamined)
	}
	found, err := l.candidates(ctx, leaves, q, most)
	if err != nil {
		return ca.Page{}, fmt.Errorf("listing certificates: %w", err)
	}
	page := ca.Page{Next: q.After, More: len(found) == most}
	var likely []candidate
	for _, c := range found {
		if len(likely) == q.Limit {
			page.More = true
			break
		}
		page.Next = ca.Cursor{NotAfter: c.notAfter, Serial: c.serial}
		if c.meant(q) {
			likely = append(likely, c)
		}
	}
	page.Records, err = l.records(ctx, likely, q)
	if err != nil {
		return ca.Page{}, fmt.Errorf("reading listed certificates: %w", err)
	}
	if !q.Overdue.IsZero() {
		page.Records, err = l.unrenewed(ctx, leaves, page.Records)
	}
	return page, err
}

// narrowed reports whether q asks for what no index answers.
func narrowed(q ca.Query) bool {
	ofRevoked := q.Revoked && (!q.ExpiringAfter.IsZero() || !q.ExpiringBefore.IsZero())
	return q.Profile != "" || q.Authority != 0 || !q.Overdue.IsZero() || ofRevoked
}

// meant reports whether c is what q asks for, as far as a candidate tells.
func (c candidate) meant(q ca.Query) bool {
	return (q.Profile == "" || c.profile == nil || *c.profile == q.Profile) &&
		(q.Authority == 0 || c.authority == nil || *c.authority == q.Authority) &&
		(q.Overdue.IsZero() || ca.Overdue(c.serial.UID().Time(), c.notAfter, q.Overdue)) &&
		!c.notAfter.Before(q.ExpiringAfter) &&
		(q.ExpiringBefore.IsZero() || c.notAfter.Before(q.ExpiringBefore))
}

// A candidate is a certificate that an index has found.
type candidate struct {
	serial    cert.Serial
	notAfter  time.Time
	authority *int    // nil: the index does not say
	profile   *string // likewise
}

// candidates returns the first most candidates after the cursor.
func (l *Ledger) candidates(ctx context.Context, leaves []leaf, q ca.Query, most int) ([]candidate, error) {
	scopes, err := l.scopesIn(ctx, q.Scope)
	if err != nil || len(scopes) == 0 {
		return nil, err
	}
	if byEnding(q) {
		return l.ending(ctx, leaves, scopes, q.Scope.IsZero(), q.After.Serial, most)
	}
	leaves, err = l.living(ctx, leaves, later(q.After.NotAfter, q.ExpiringAfter))
	if err != nil {
		return nil, err
	}
	leaves = begunBefore(leaves, q.ExpiringBefore)
	if len(leaves) == 0 {
		return nil, nil
	}
	var found []candidate
	switch {
	case q.Name != (cert.Name{}):
		found, err = l.marked(ctx, leaves, scopes, q, most, nameMark(tbs.GeneralName(q.Name)), leaf.named, leaf.furtherNamed)
	case q.Key != (cert.KeyID{}):
		found, err = l.marked(ctx, leaves, scopes, q, most, keyMark(q.Key), leaf.keyed)
	default:
		found, err = l.expiring(ctx, leaves, scopes, q, most)
	}
	return firstOf(found, most), err
}

// firstOf returns the first most of a list, in the order of pages.
func firstOf(list []candidate, most int) []candidate {
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(a.notAfter.Compare(b.notAfter), bytes.Compare(a.serial.Bytes(), b.serial.Bytes()))
	})
	return list[:min(most, len(list))]
}

// scopesIn returns what rows call a scope and those below it; the zero Scope is all of them.
func (l *Ledger) scopesIn(ctx context.Context, s identity.Scope) ([]int32, error) {
	path, pattern := s.String(), s.String()+"/%"
	if s.IsZero() {
		path, pattern = "", "%"
	}
	rows, err := l.db.Query(ctx, `
		SELECT id
		FROM   scope
		WHERE  path = $1 OR path LIKE $2`, path, pattern)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int32])
}

// candidateArguments are those of the statements below, from the second on.
func candidateArguments(q ca.Query) []any {
	serial := []byte{}
	if !q.After.Serial.IsZero() {
		serial = q.After.Serial.Bytes()
	}
	from, to := later(q.After.NotAfter, q.ExpiringAfter), q.ExpiringBefore
	if to.IsZero() {
		to = endOfTime
	}
	return []any{from, serial, to}
}

func readCandidate(r pgx.CollectableRow) (c candidate, err error) {
	var serial []byte
	if err = r.Scan(&serial, &c.notAfter, &c.authority, &c.profile); err == nil {
		c.serial, err = cert.SerialFromBytes(serial)
	}
	return c, err
}

// bound is what a statement that lists stops at: a page or more. It is written into the statement, so that one plan serves
// every call and yet knows how little is wanted of a large table; there are few of them.
func bound(most int) string {
	for _, n := range []int{10, 100, 1000} {
		if most <= n {
			return strconv.Itoa(n)
		}
	}
	return strconv.Itoa(max(most, mostExamined))
}

// longestLife is longer than any profile lets a certificate live, an authority's apart.
const longestLife = 92 * 24 * time.Hour

// living leaves out the epochs of which nothing is valid at from any more: by the longest life of a profile, but for those in
// which authorities were made.
func (l *Ledger) living(ctx context.Context, leaves []leaf, from time.Time) ([]leaf, error) {
	if from.IsZero() {
		return leaves, nil
	}
	rows, err := l.db.Query(ctx, `
		SELECT created_at
		FROM   authority`)
	if err != nil {
		return nil, err
	}
	made, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, err
	}
	kept := leaves[:0:0]
	for _, v := range leaves {
		authorities := slices.ContainsFunc(made, func(t time.Time) bool {
			return !t.Before((v.epoch - 1).Start()) && t.Before((v.epoch + 1).End())
		})
		if authorities || v.epoch.End().Add(longestLife).After(from) {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

// merged is a statement whose parts are each read in the order of an index, a page at most, whatever the server thinks of how
// many there are.
func merged(leaves []leaf, most int, parts ...func(leaf) string) string {
	var arms []string
	for _, v := range leaves {
		for _, part := range parts {
			arms = append(arms, `
			(`+part(v)+`
			AND    c.not_after >= $2 AND c.not_after < $4
			AND    (c.not_after, c.serial) > ($2, $3)
			ORDER  BY c.not_after, c.serial
			LIMIT  `+bound(most)+`
			)`)
		}
	}
	return `
		SELECT i.serial, i.not_after, i.authority, i.profile
		FROM   (` + strings.Join(arms, `
			UNION ALL`) + `
		) i
		ORDER  BY i.not_after, i.serial
		LIMIT  ` + bound(most)
}

// What follows are the parts of those statements that read one epoch. Whether a candidate was signed its record says. scope
// stands in a sum where a mark decides: the server must not read the index by expiry as well, which in a week without
// statistics it would read whole.

func (v leaf) named() string {
	return `
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.name_mark = $5
			AND    c.scope + 0 = ANY ($1::integer[])`
}

func (v leaf) furtherNamed() string {
	return `
			SELECT c.serial, c.not_after, NULL::integer AS authority, NULL::text AS profile
			FROM   ` + v.of("further_name") + ` c
			WHERE  c.mark = $5
			AND    cardinality($1::integer[]) > 0` // which scope it is of, its record says
}

func (v leaf) keyed() string {
	return `
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.key_mark = $5
			AND    c.scope + 0 = ANY ($1::integer[])`
}

// meant reports whether rec is what q asks for: marks only make it likely.
func meant(q ca.Query, rec ca.Record) bool {
	if rec.Signature == nil || !q.Scope.IsZero() && !q.Scope.Contains(rec.Scope) ||
		q.Profile != "" && q.Profile != rec.Profile || q.Authority != 0 && q.Authority != rec.Authority {
		return false
	}
	if q.Revoked && rec.Revoked == nil || !q.Overdue.IsZero() && rec.Revoked != nil {
		return false
	}
	if q.Name == (cert.Name{}) && q.Key == (cert.KeyID{}) {
		return true
	}
	parts, err := tbs.Read(rec.TBS)
	return err == nil &&
		(q.Name == (cert.Name{}) || parts.Holds(q.Name)) &&
		(q.Key == (cert.KeyID{}) || sha256.Sum256(parts.SPKI) == q.Key)
}

// records returns the records of those candidates that q asks for, in their order.
func (l *Ledger) records(ctx context.Context, list []candidate, q ca.Query) ([]ca.Record, error) {
	parts := map[leaf][][]byte{}
	for _, c := range list {
		at := leafOf(c.serial.UID())
		parts[at] = append(parts[at], c.serial.Bytes())
	}
	var statements []statement
	for at, serials := range parts {
		statements = append(statements, statement{`
		SELECT ` + recordColumns + `
		FROM   ` + at.of("intent") + ` i
		JOIN   scope s ON s.id = i.scope` + at.ends() + `
		WHERE  i.serial = ANY ($1::bytea[])`, []any{serials}})
	}
	if len(statements) == 0 {
		return nil, nil
	}
	rows, err := all(ctx, l.db, pgx.RowToStructByPos[row], statements)
	if err != nil {
		return nil, err
	}
	found := map[cert.Serial]ca.Record{}
	for _, r := range slices.Concat(rows...) {
		rec, err := l.record(ctx, r)
		if err != nil {
			return nil, err
		}
		found[rec.Serial] = rec
	}
	out := make([]ca.Record, 0, len(list))
	for _, c := range list {
		if rec, ok := found[c.serial]; ok && meant(q, rec) {
			out = append(out, rec)
			delete(found, c.serial)
		}
	}
	return out, nil
}

var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
