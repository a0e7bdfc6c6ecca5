package ledger

import (
	"bytes"
	"context"
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
	return `
		FROM   n
		CROSS  JOIN ` + v.of("intent") + ` i
		JOIN   ` + v.of("outcome") + ` o ON o.serial = i.serial AND o.signature IS NOT NULL` + v.revoked() + v.successor() + `
		WHERE  i.not_after >= n.made_at` + v.touches() + c.narrowed(v) + `
		AND    (r.serial IS NULL OR r.revoked_at >= date_trunc('second', n.made_at))`
}

// fate spells incident.Fate; $11 is now.
const fate = `CASE WHEN r.serial IS NOT NULL THEN 'revoked' WHEN p.by IS NOT NULL THEN 'replaced' WHEN i.not_after < $11 THEN 'expired' ELSE 'waiting' END`

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
		err := l.countIn(ctx, v, c, i.At, now, &t)
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

func (l *Ledger) countIn(ctx context.Context, v leaf, c choice, made, now time.Time, t *incident.Tally) error {
	rows, err := l.db.Query(ctx, literal+`
		SELECT `+fate+`, count(*)`+v.members(c)+`
		GROUP  BY 1`, c.args(made, now)...)
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
		rows, err := l.db.Query(ctx, literal+`
			SELECT i.serial, (SELECT path FROM scope WHERE id = i.scope), i.profile, i.not_after, `+fate+`, p.by`+v.members(c)+`
			AND    i.serial > $12
			AND    ($13 = '' OR `+fate+` = $13)
			ORDER  BY i.serial
			LIMIT  $14`, c.args(i.At, now, from, string(of), p.Limit-len(out))...)
		if err != nil {
			return nil, err
		}
		found, err := pgx.CollectRows(rows, member)
		if err != nil && !missingTable(err) {
			return nil, err
		}
		if out = append(out, found...); len(out) >= p.Limit {
			break
		}
	}
	return out, nil
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

// below reads the serials of certificates with a name below the one that an incident chooses by.
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
		from := c.since
		for more := true; more; {
			var read []named
			read, err = l.namedIn(ctx, v, wide, i.At, from)
			if ctx.Err() != nil || len(list) > mostListed {
				return nil, fmt.Errorf("%w: choose by scope or authority too", incident.ErrUncounted)
			}
			if err != nil && !missingTable(err) {
				return nil, err
			}
			for _, r := range read {
				ok, err := l.ends(ctx, r, suffix)
				if err != nil {
					return nil, err
				}
				if ok {
					list = append(list, r.serial)
				}
				from = r.serial
			}
			more = len(read) == listedAtOnce
		}
	}
	return list, nil
}

// A named is a certificate to be read for its names.
type named struct{ serial, tbs []byte }

func (l *Ledger) namedIn(ctx context.Context, v leaf, c choice, made time.Time, from []byte) ([]named, error) {
	rows, err := l.db.Query(ctx, literal+`
		SELECT i.serial, i.tbs`+v.members(c)+`
		AND    i.serial > $11
		ORDER  BY i.serial
		LIMIT  $12`, c.args(made, from, listedAtOnce)...)
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
