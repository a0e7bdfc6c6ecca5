package ledger

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// mostLooked is how many facts a page looks at, at most, to find those that a query selects: what a statement costs does
// not grow with the ledger, only how many pages a search takes.
const mostLooked = 5000

// Read returns a page of facts in the order they became known, or its reverse. It stops short of transactions still in
// flight, so that whoever goes on from the last position misses none: identifiers commit out of order.
//
// A certificate's facts, a request's and a scope's refusals are looked up; other selections walk.
func (l *Ledger) Read(ctx context.Context, q audit.Query) (audit.Page, error) {
	if q.Limit < 1 {
		return audit.Page{}, fmt.Errorf("reading facts: a page of %d: want at least one", q.Limit)
	}
	if !q.Serial.IsZero() && q.Request == "" {
		return l.about(ctx, q)
	}
	if q.Request == "" && q.After.IsZero() {
		var err error
		if q.After, err = l.beginning(ctx, q); err != nil {
			return audit.Page{}, err
		}
	}
	return l.look(ctx, q, sourceOf(q))
}

// Edge returns the position of the newest fact that a reader may see: who goes on from there sees what comes.
func (l *Ledger) Edge(ctx context.Context) (audit.Position, error) {
	p, err := l.look(ctx, audit.Query{Newest: true, After: endOfFacts, Limit: 1}, everything)
	if err != nil || len(p.Entries) == 0 {
		return audit.Position{}, err
	}
	return p.Entries[0].Position, nil
}

var endOfFacts = audit.Position{Transaction: math.MaxUint64, ID: math.MaxInt64}

// A source is where a statement finds the facts it looks at.
type source uint8

const (
	everything source = iota // the facts by position
	refused                  // the refusals by position
	refusedIn                // the refusals of each scope by position
	requested                // the refusals of a request
	after                    // what happened to a certificate after it was made
)

func sourceOf(q audit.Query) source {
	switch {
	case q.Request != "":
		return requested
	case q.Refused && !q.Scope.IsZero():
		return refusedIn
	case q.Refused:
		return refused
	}
	return everything
}

// from returns the rows that a statement looks at, as f: $1 and $2 are where it goes on, $3 and $4 bound the partitions, $5 is
// how many, $6 and $7 whose, and $8 a serial or a request.
func (s source) from(cursor string) string {
	switch s {
	case refused:
		return `
			FROM   fact f
			WHERE  NOT f.allowed` + cursor
	case refusedIn:
		return `
			FROM   scope c
			CROSS  JOIN LATERAL (
				SELECT f.xid, f.id, f.at, f.scope, f.allowed, f.what, f.actor, f.act, f.serial, f.subject, f.why, f.request
				FROM   fact f
				WHERE  f.scope = c.id AND NOT f.allowed` + cursor + `
				LIMIT  $5
			) f
			WHERE  (c.path = $6 OR starts_with(c.path, $7))`
	case requested:
		return `
			FROM   fact f
			WHERE  f.request = $8::text` + cursor
	case after:
		return `
			FROM   fact f
			WHERE  f.serial = decode($8, 'hex')
			AND    f.what NOT IN ('certificate.issue', 'certificate.renew', 'enrolment.use')` + cursor
	}
	return `
			FROM   fact f
			WHERE  true` + cursor
}

// finished leaves out what transactions still in flight may yet come before.
const finished = `
			AND    f.xid < ledger_horizon()`

// cursors go on from a position, forwards or (true) backwards. Times only choose partitions here: as a filter of rows they would have it look
// at any number of them.
var cursors = map[bool]string{
	false: finished + `
			AND    (f.xid, f.id) > ($1::text::xid8, $2)
			AND    f.at >= $3 AND f.at < $4
			ORDER  BY f.xid, f.id`,
	true: finished + `
			AND    (f.xid, f.id) < ($1::text::xid8, $2)
			AND    f.at >= $3 AND f.at < $4
			ORDER  BY f.xid DESC, f.id DESC`,
}

// look runs one statement: it looks at a bounded number of facts of a source, and returns those that q selects.
func (l *Ledger) look(ctx context.Context, q audit.Query, at source) (audit.Page, error) {
	until, way := q.Until, ""
	if until.IsZero() {
		until = endOfTime
	}
	from, to := epochOf(q.Since).Start(), epochOf(until).End()
	if q.Newest {
		way = " DESC"
		if q.After.IsZero() {
			q.After = endOfFacts
		}
	}
	most, about := mostLooked, q.Request
	if q.What == "" && q.Actor == "" && q.Since.IsZero() && q.Until.IsZero() && (q.Scope.IsZero() || at == refusedIn) {
		most = q.Limit
	}
	if at == after {
		about = q.Serial.String()
	}
	outer := ""
	if at == refusedIn {
		outer = `
			ORDER  BY f.xid` + way + `, f.id` + way
	}
	path := q.Scope.String()
	rows, err := page(ctx, l.db, looked, `
		WITH looked AS MATERIALIZED (
			SELECT f.xid, f.id, f.at, f.scope, f.allowed, f.what, f.actor, f.act, f.serial, f.subject, f.why, f.request`+at.from(cursors[q.Newest])+outer+`
			LIMIT  $5
		), chosen AS (
			SELECT l.xid, l.id, l.at, s.path, l.allowed, l.what, l.actor, l.act, l.serial, l.subject, l.why, l.request
			FROM   looked l
			LEFT   JOIN scope s ON s.id = l.scope
			WHERE  ($6 = '' OR s.path = $6 OR starts_with(s.path, $7))
			AND    $8::text IS NOT NULL -- what it looks up, its source has chosen
			AND    ($9 = '' OR l.what = $9)
			AND    ($10 = '' OR l.actor = $10)
			AND    (NOT $11 OR NOT l.allowed)
			AND    l.at >= $13
			AND    l.at < $14
			ORDER  BY l.xid`+way+`, l.id`+way+`
			LIMIT  $12
		), ended AS (
			SELECT xid, id, at
			FROM   looked
			ORDER  BY xid`+reverse(way)+`, id`+reverse(way)+`
			LIMIT  1
		)
		SELECT (SELECT count(*) FROM looked), e.xid::text, e.id, e.at, c.xid::text, c.id, c.at, c.path, c.allowed, c.what, c.actor, c.act,
		       c.serial, c.subject, c.why, c.request
		FROM   ended e
		LEFT   JOIN chosen c ON true
		ORDER  BY c.xid`+way+`, c.id`+way,
		decimal(q.After.Transaction), q.After.ID, from, to, most, path, path+"/", about, q.What, q.Actor, q.Refused, q.Limit, q.Since, until)
	if err != nil {
		return audit.Page{}, fmt.Errorf("reading facts: %w", err)
	}
	return paged(q, rows, most)
}

func reverse(way string) string {
	if way == "" {
		return " DESC"
	}
	return ""
}

// A lookedRow is a chosen fact, or none, with how many were looked at and where that ended.
type lookedRow struct {
	Looked    int
	EndXID    string
	EndID     int64
	EndAt     time.Time
	XID       *string
	ID        *int64
	At        *time.Time
	Scope     *string
	Allowed   *bool
	What      *string
	Actor     *string
	Act       *string
	Serial    []byte
	Subject   *string
	Why       *string
	RequestID *string
}

func looked(r pgx.CollectableRow) (lookedRow, error) { return pgx.RowToStructByPos[lookedRow](r) }

// paged makes a page of rows, of which most were looked at if there may be more.
func paged(q audit.Query, rows []lookedRow, most int) (audit.Page, error) {
	p := audit.Page{Next: q.After}
	for _, r := range rows {
		end, err := audit.ParsePosition(r.EndXID + "." + fmt.Sprint(r.EndID))
		if err != nil {
			return p, err
		}
		p.Next, p.More = end, r.Looked == most && !past(q, r.EndAt)
		if r.XID == nil {
			continue
		}
		e, err := r.entry()
		if err != nil {
			return p, err
		}
		p.Entries = append(p.Entries, e)
	}
	if n := len(p.Entries); n == q.Limit {
		p.Next, p.More = p.Entries[n-1].Position, true
	}
	return p, nil
}

// past reports whether reading q has come to where none of its facts are left.
func past(q audit.Query, at time.Time) bool {
	if q.Newest {
		return at.Before(q.Since.Add(-slack))
	}
	return !q.Until.IsZero() && at.After(q.Until.Add(slack))
}

func (r lookedRow) entry() (e audit.Entry, err error) {
	if e.Position, err = audit.ParsePosition(*r.XID + "." + fmt.Sprint(*r.ID)); err != nil {
		return e, err
	}
	e.At, e.Refused, e.What, e.Subject, e.Why = r.At.UTC(), !*r.Allowed, *r.What, orNone(r.Subject), orNone(r.Why)
	e.Who = identity.Caller{Actor: orNone(r.Actor), Act: orNone(r.Act), Request: orNone(r.RequestID)}
	if r.Scope != nil {
		if e.Scope, err = identity.ParseScope(*r.Scope); err != nil {
			return e, err
		}
	}
	if r.Serial != nil {
		e.Serial, err = cert.SerialFromBytes(r.Serial)
	}
	return e, err
}

func orNone(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// slack is how far the order of facts and that of their times may be apart: a transaction's length and two replicas' clocks.
const slack = 30 * time.Second

// beginning returns where reading in q's order begins, by its times. The zero Position is the beginning of all.
func (l *Ledger) beginning(ctx context.Context, q audit.Query) (audit.Position, error) {
	switch {
	case !q.Newest && !q.Since.IsZero():
		return l.around(ctx, q.Since.Add(-slack))
	case q.Newest && !q.Until.IsZero():
		p, err := l.around(ctx, q.Until.Add(slack))
		if p.IsZero() {
			p = endOfFacts
		}
		return p, err
	}
	return audit.Position{}, nil
}

// around returns a position before which facts are from before t, give or take how far the two orders are apart. It
// halves the transactions of t's partition, a look-up each time. Zero: that partition holds nothing, or nothing so late.
func (l *Ledger) around(ctx context.Context, t time.Time) (audit.Position, error) {
	epoch := epochOf(t)
	found, err := page(ctx, l.db, pgx.RowTo[*string], `
		WITH RECURSIVE halved (low, high, n) AS (
			SELECT (SELECT f.xid FROM fact f WHERE f.at >= $2 AND f.at < $3 ORDER BY f.xid, f.id LIMIT 1)::text::numeric,
			       (SELECT f.xid FROM fact f WHERE f.at >= $2 AND f.at < $3 ORDER BY f.xid DESC, f.id DESC LIMIT 1)::text::numeric + 1,
			       0
			UNION  ALL
			SELECT CASE WHEN p.at < $1 THEN m.middle + 1 ELSE h.low END,
			       CASE WHEN p.at < $1 THEN h.high ELSE m.middle END,
			       h.n + 1
			FROM   halved h
			CROSS  JOIN LATERAL (SELECT div(h.low + h.high, 2) AS middle) m
			LEFT   JOIN LATERAL (
				SELECT f.at
				FROM   fact f
				WHERE  f.at >= $2 AND f.at < $3 AND f.xid >= m.middle::text::xid8
				ORDER  BY f.xid, f.id
				LIMIT  1
			) p ON true
			WHERE  h.low < h.high AND h.n < 64
		)
		SELECT low::text
		FROM   halved
		ORDER  BY n DESC
		LIMIT  1`, t, epoch.Start(), epoch.End())
	if err != nil {
		return audit.Position{}, fmt.Errorf("finding where the facts of %s begin: %w", t.UTC().Format(time.RFC3339), err)
	}
	if len(found) == 0 || found[0] == nil {
		return audit.Position{}, nil
	}
	return audit.ParsePosition(*found[0] + ".0")
}

// about returns the facts of one certificate. What happened to it later is looked up; that it was made stands among the
// facts of the moment its outcome became known.
func (l *Ledger) about(ctx context.Context, q audit.Query) (audit.Page, error) {
	all := q
	all.Limit = mostLooked
	p, err := l.look(ctx, all, after)
	if err != nil {
		return p, err
	}
	made, err := l.making(ctx, q)
	if err != nil {
		return p, err
	}
	for _, e := range made {
		onward := q.After.IsZero() || q.After.Before(e.Position) == !q.Newest && e.Position != q.After
		if onward && q.Matches(e) {
			p.Entries = append(p.Entries, e)
		}
	}
	slices.SortFunc(p.Entries, func(a, b audit.Entry) int {
		if a.Position.Before(b.Position) == !q.Newest {
			return -1
		}
		return 1
	})
	if len(p.Entries) > q.Limit {
		p.Entries, p.More = p.Entries[:q.Limit], true
	}
	if n := len(p.Entries); n > 0 {
		p.Next = p.Entries[n-1].Position
	}
	return p, nil
}

// making returns the facts of a certificate's making: those of the transaction that wrote its outcome.
func (l *Ledger) making(ctx context.Context, q audit.Query) ([]audit.Entry, error) {
	v := leafOf(q.Serial.UID())
	if there, err := l.has(ctx, "outcome", v); err != nil || !there {
		return nil, err
	}
	var at *time.Time
	err := l.db.QueryRow(ctx, `
		SELECT (SELECT o.at FROM `+v.of("outcome")+` o WHERE o.serial = $1 AND o.signature IS NOT NULL)`, q.Serial.Bytes()).Scan(&at)
	if missingTable(err) {
		return nil, nil
	}
	if err != nil || at == nil {
		return nil, err
	}
	const near, pages = 2 * time.Second, 4
	begin, err := l.around(ctx, at.Add(-near))
	if err != nil {
		return nil, err
	}
	walk := audit.Query{Since: at.Add(-near), Until: at.Add(near), After: begin, Limit: mostLooked}
	for range pages {
		p, err := l.look(ctx, walk, everything)
		if err != nil {
			return nil, err
		}
		made := slices.DeleteFunc(p.Entries, func(e audit.Entry) bool {
			return e.Serial != q.Serial || e.What != audit.Issue && e.What != audit.Renew && e.What != audit.EnrolmentUsed || e.Refused
		})
		if len(made) > 0 || !p.More {
			return made, nil
		}
		walk.After = p.Next
	}
	return nil, nil
}

// epochOf is the epoch of t, or the first one for a time before all.
func epochOf(t time.Time) uid.Epoch {
	if t.Unix() < 0 {
		return 0
	}
	return uid.EpochOf(t)
}
