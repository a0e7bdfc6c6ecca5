package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// members are the certificates that an incident n touches, with what became of each: those that were valid when it was made,
// and not revoked before.
func (v leaf) members(c choice) string {
	return v.intended(c, `
		JOIN   `+v.of("outcome")+` o ON o.serial = i.serial AND o.signature IS NOT NULL`)
}

// intended are members of which an outcome is as said.
func (v leaf) intended(c choice, outcome string) string {
	return `
		FROM   n
		CROSS  JOIN ` + v.of("intent") + ` i` + outcome + v.revoked() + v.successor() + `
		WHERE  i.serial > $12
		AND    i.serial <= $13
		AND    i.not_after + interval '0' >= n.made_at` + v.touches() + c.narrowed(v) + ` -- the sum keeps another index out of it
		AND    (r.serial IS NULL OR r.revoked_at >= date_trunc('second', n.made_at))`
}

// fate spells incident.Fate; $11 is now.
const fate = `CASE WHEN r.serial IS NOT NULL THEN 'revoked' WHEN p.successor IS NOT NULL THEN 'replaced' WHEN i.not_after < $11 THEN 'expired' ELSE 'waiting' END`

// walkedAtOnce is how many certificates a statement looks at to count them.
const walkedAtOnce = 20_000

// Count implements incident.Book. It counts the youngest epochs first.
func (l *Ledger) Count(ctx context.Context, i incident.Incident, now time.Time) (t incident.Tally, err error) {
	c, err := l.choose(ctx, i)
	if err != nil {
		return t, err
	}
	if c.listed {
		if t, ok, err := l.preview(ctx, c, i); ok || err != nil {
			return t, err
		}
	}
	leaves, err := l.held(ctx, c.since, c.upto)
	if err != nil {
		return t, err
	}
	for _, v := range slices.Backward(leaves) {
		err := l.walk(ctx, v, c, c.since, walkedAtOnce, func(from, to []byte) error { return l.countIn(ctx, v, c, i.At, now, from, to, &t) })
		if ctx.Err() != nil {
			return t, nil
		}
		if err != nil && !missingTable(err) {
			return t, err
		}
	}
	t.Complete = true
	return t, nil
}

// walk calls do for each part of v after from, until it returns an error.
func (l *Ledger) walk(ctx context.Context, v leaf, c choice, from []byte, most int, do func(from, to []byte) error) error {
	for slices.Compare(from, v.ceiling()) < 0 {
		to, err := l.until(ctx, v, c, from, most)
		if err != nil {
			return err
		}
		if err := do(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func (l *Ledger) countIn(ctx context.Context, v leaf, c choice, made, now time.Time, from, to []byte, t *incident.Tally) error {
	rows, err := l.db.Query(ctx, literal+`
		SELECT `+fate+`, count(*)`+v.members(c)+`
		GROUP  BY 1`, c.args(made, now, from, to)...)
	if err != nil {
		return err
	}
	var fate incident.Fate
	var n int
	_, err = pgx.ForEachRow(rows, []any{&fate, &n}, func() error {
		t.Chosen += n
		switch fate {
		case incident.Waiting:
			t.Waiting += n
		case incident.Replaced:
			t.Replaced += n
		case incident.Revoked:
			t.Revoked += n
		case incident.Expired:
			t.Expired += n
		}
		return nil
	})
	return err
}

// Members implements incident.Book.
func (l *Ledger) Members(ctx context.Context, i incident.Incident, of incident.Fate, now time.Time, p incident.Page) ([]incident.Member, error) {
	c, err := l.choose(ctx, i)
	if err != nil {
		return nil, err
	}
	from := c.since
	if p.After != nil {
		from = p.After
	}
	leaves, err := l.held(ctx, from, c.upto)
	if err != nil {
		return nil, err
	}
	var out []incident.Member
	for _, v := range leaves {
		err := l.walk(ctx, v, c, from, walkedAtOnce, func(from, to []byte) error {
			found, err := l.membersIn(ctx, v, c, i.At, now, from, to, of, p.Limit-len(out))
			out = append(out, found...)
			if err == nil && len(out) >= p.Limit {
				err = errEnough
			}
			return err
		})
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil && !missingTable(err) {
			return nil, err
		}
	}
	return out, nil
}

// errEnough ends a walk.
var errEnough = errors.New("a page is full")

func (l *Ledger) membersIn(
	ctx context.Context, v leaf, c choice, made, now time.Time, from, to []byte, of incident.Fate, limit int,
) ([]incident.Member, error) {
	rows, err := l.db.Query(ctx, literal+`
		SELECT i.serial, (SELECT path FROM scope WHERE id = i.scope), i.profile, i.not_after, `+fate+`, p.successor`+v.members(c)+`
		AND    ($14 = '' OR `+fate+` = $14)
		ORDER  BY i.serial
		LIMIT  $15`, c.args(made, now, from, to, string(of), limit)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, member)
}

func member(r pgx.CollectableRow) (m incident.Member, err error) {
	var serial, by []byte
	if err = r.Scan(&serial, &m.Scope, &m.Profile, &m.NotAfter, &m.Fate, &by); err != nil {
		return m, err
	}
	m.NotAfter = m.NotAfter.UTC()
	if by != nil {
		if m.ReplacedBy, err = cert.SerialFromBytes(by); err != nil {
			return m, err
		}
	}
	m.Serial, err = cert.SerialFromBytes(serial)
	return m, err
}

// The end of a name is found by reading: no index knows it. mostListed bounds how many certificates an incident lists, and
// listedAtOnce how many are read by a statement.
const (
	mostListed   = 200_000
	listedAtOnce = 5000
)

// preview counts what an incident that is not recorded would list; false for one that is.
func (l *Ledger) preview(ctx context.Context, c choice, i incident.Incident) (t incident.Tally, ok bool, err error) {
	err = l.db.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM incident WHERE id = $1)`, c.id).Scan(&ok)
	if err != nil || !ok {
		return t, false, err
	}
	list, err := l.below(ctx, c, i)
	return incident.Tally{Chosen: len(list), Waiting: len(list), Complete: true}, true, err
}

// below reads the serials of certificates with a name below the one that an incident chooses by, of those with them that are
// being made.
func (l *Ledger) below(ctx context.Context, c choice, i incident.Incident) ([][]byte, error) {
	leaves, err := l.held(ctx, c.since, c.upto)
	if err != nil {
		return nil, err
	}
	wide := c
	wide.listed = false
	suffix := []byte("." + i.Choice.Below)
	var list [][]byte
	for _, v := range leaves {
		err := l.walk(ctx, v, wide, c.since, listedAtOnce, func(from, to []byte) error {
			found, err := l.belowIn(ctx, v, wide, i.At, from, to, suffix)
			list = append(list, found...)
			return err
		})
		if ctx.Err() != nil || len(list) > mostListed {
			return nil, fmt.Errorf("%w: choose by scope or authority too", incident.ErrUncounted)
		}
		if err != nil && !missingTable(err) {
			return nil, err
		}
	}
	return list, nil
}

func (l *Ledger) belowIn(ctx context.Context, v leaf, c choice, made time.Time, from, to, suffix []byte) ([][]byte, error) {
	read, err := l.namedIn(ctx, v, c, made, from, to)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, r := range read {
		ok, err := l.ends(ctx, r, suffix)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, r.serial)
		}
	}
	return list, nil
}

// A named is a certificate to be read for its names.
type named struct{ serial, tbs []byte }

func (l *Ledger) namedIn(ctx context.Context, v leaf, c choice, made time.Time, from, to []byte) ([]named, error) {
	rows, err := l.db.Query(ctx, literal+`
		SELECT i.serial, i.tbs`+v.intended(c, ``)+`
		AND    NOT EXISTS (SELECT FROM `+v.of("outcome")+` WHERE serial = i.serial AND signature IS NULL OFFSET 0)
		AND    i.not_after > $11`, c.args(made, time.Time{}, from, to)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (v named, err error) { return v, r.Scan(&v.serial, &v.tbs) })
}

// ends reports whether a certificate has a DNS name with that end.
func (l *Ledger) ends(ctx context.Context, r named, suffix []byte) (bool, error) {
	serial, err := cert.SerialFromBytes(r.serial)
	if err != nil {
		return false, err
	}
	body, err := l.frames.Unpack(ctx, r.tbs, serial)
	if err != nil {
		return false, err
	}
	parts, err := tbs.Read(body)
	if err != nil {
		return false, fmt.Errorf("reading the names of %s: %w", serial, err)
	}
	const dNSName = 0x82 // RFC 5280 §4.2.1.6: dNSName [2] IA5String
	return slices.ContainsFunc(parts.Names, func(der []byte) bool { return der[0] == dNSName && bytes.HasSuffix(der, suffix) }), nil
}
