package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Listing takes two steps. One statement asks an index of each epoch for the next candidates, in order; then the rows of those
// that are meant are read by serial. Each epoch's part is bounded by the page, so a page costs the same however large the
// ledger is, and a few microseconds for each epoch that is kept.

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
	found, err := l.candidates(ctx, choosing(leaves, q), q, most)
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
	return (q.Profile == "" || c.profile == q.Profile) &&
		(q.Authority == 0 || c.authority == q.Authority) &&
		(q.Overdue.IsZero() || ca.Overdue(c.serial.UID().Time(), c.notAfter, q.Overdue)) &&
		!c.notAfter.Before(q.ExpiringAfter) &&
		(q.ExpiringBefore.IsZero() || c.notAfter.Before(q.ExpiringBefore))
}

// A candidate is a certificate that an index has found.
type candidate struct {
	serial    cert.Serial
	notAfter  time.Time
	authority int
	profile   string
}

func (l *Ledger) candidates(ctx context.Context, sql string, q ca.Query, most int) ([]candidate, error) {
	path, pattern := q.Scope.String(), q.Scope.String()+"/%"
	if q.Scope.IsZero() {
		path, pattern = "", "%"
	}
	serial := []byte{}
	if !q.After.Serial.IsZero() {
		serial = q.After.Serial.Bytes()
	}
	from, to := later(q.After.NotAfter, q.ExpiringAfter), q.ExpiringBefore
	if to.IsZero() {
		to = endOfTime
	}
	args := []any{path, pattern, from, serial, to, most}
	switch {
	case byEnding(q):
		args = []any{path, pattern, serial, most}
	case q.Name != (cert.Name{}):
		args = append(args, nameMark(tbs.GeneralName(q.Name)))
	case q.Key != (cert.KeyID{}):
		args = append(args, keyMark(q.Key))
	}
	rows, err := l.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (c candidate, err error) {
		var serial []byte
		if err = r.Scan(&serial, &c.notAfter, &c.authority, &c.profile); err == nil {
			c.serial, err = cert.SerialFromBytes(serial)
		}
		return c, err
	})
}

// choosing is the statement that finds a page of candidates: the first of each epoch's first.
func choosing(leaves []leaf, q ca.Query) string {
	var arms []string
	for _, v := range leaves {
		switch {
		case q.Name != (cert.Name{}):
			arms = append(arms, v.named(), v.furtherNamed())
		case q.Key != (cert.KeyID{}):
			arms = append(arms, v.keyed())
		case q.Revoked:
			arms = append(arms, v.ended())
		default:
			arms = append(arms, v.expiring())
		}
	}
	union := strings.Join(arms, `
			UNION ALL`)
	if byEnding(q) {
		return `
		SELECT i.serial, i.not_after, i.authority, i.profile
		FROM   scope s
		CROSS  JOIN LATERAL (` + union + `
		) i
		WHERE  s.path = $1 OR s.path LIKE $2
		ORDER  BY i.serial
		LIMIT  $4`
	}
	if q.Name == (cert.Name{}) && q.Key == (cert.KeyID{}) { // each scope by its own index
		return `
		SELECT i.serial, i.not_after, i.authority, i.profile
		FROM   scope s
		CROSS  JOIN LATERAL (` + union + `
		) i
		WHERE  s.path = $1 OR s.path LIKE $2
		ORDER  BY i.not_after, i.serial
		LIMIT  $6`
	}
	return `
		SELECT i.serial, i.not_after, i.authority, i.profile
		FROM   (` + union + `
		) i
		ORDER  BY i.not_after, i.serial
		LIMIT  $6`
}

// byEnding reports whether q is answered by the index of revocations, in the order of serials.
func byEnding(q ca.Query) bool {
	return q.Revoked && q.Name == (cert.Name{}) && q.Key == (cert.KeyID{})
}

// within is what every candidate c of v has to be: after the cursor, before the end, and signed.
func (v leaf) within() string {
	return `
			AND    c.not_after >= $3 AND c.not_after < $5
			AND    (c.not_after, c.serial) > ($3, $4)
			AND    EXISTS (SELECT FROM ` + v.of("outcome") + ` d WHERE d.serial = c.serial AND d.signature IS NOT NULL OFFSET 0)
			ORDER  BY c.not_after, c.serial
			LIMIT  $6
			)`
}

const ofScopes = `
			AND    c.scope IN (SELECT id FROM scope WHERE path = $1 OR path LIKE $2)`

func (v leaf) expiring() string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.scope = s.id` + v.within()
}

func (v leaf) ended() string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("revocation") + ` e
			JOIN   ` + v.of("intent") + ` c ON c.serial = e.serial
			WHERE  e.scope = s.id
			AND    e.serial > $3
			AND    EXISTS (SELECT FROM ` + v.of("outcome") + ` d WHERE d.serial = e.serial AND d.signature IS NOT NULL OFFSET 0)
			ORDER  BY e.serial
			LIMIT  $4
			)`
}

func (v leaf) named() string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.name_mark = $7` + ofScopes + v.within()
}

func (v leaf) furtherNamed() string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("further_name") + ` n
			JOIN   ` + v.of("intent") + ` c ON c.serial = n.serial
			WHERE  n.mark = $7 AND n.not_after >= $3 AND n.not_after < $5` + ofScopes + v.within()
}

func (v leaf) keyed() string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.key_mark = $7` + ofScopes + v.within()
}

// meant reports whether rec is what q asks for: marks only make it likely.
func meant(q ca.Query, rec ca.Record) bool {
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
