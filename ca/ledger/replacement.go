package ledger

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
)

// replacing are the statements that say, in a completion's transaction, which certificate it replaces: one for each epoch that
// the replaced are of, after those that record the signatures. What was not completed replaces nothing.
func replacing(batch []*asked[ca.Completion]) []statement {
	var some []*asked[ca.Completion]
	for _, a := range batch {
		if !a.write.Replaces.IsZero() {
			some = append(some, a)
		}
	}
	if some == nil {
		return nil
	}
	type pair struct{ old, new leaf }
	var list []statement
	for _, part := range parted(some, func(c ca.Completion) pair { return pair{leafOf(c.Replaces.UID()), leafOf(c.Serial.UID())} }) {
		old, by := make([][]byte, len(part)), make([][]byte, len(part))
		for i, a := range part {
			old[i], by[i] = a.write.Replaces.Bytes(), a.write.Serial.Bytes()
		}
		was, is := leafOf(part[0].write.Replaces.UID()), leafOf(part[0].write.Serial.UID())
		list = append(list, statement{`
			INSERT INTO ` + was.of("replacement") + ` (serial, successor)
			SELECT a.serial, a.successor
			FROM   unnest($1::bytea[], $2::bytea[]) AS a (serial, successor)
			WHERE  EXISTS (SELECT FROM ` + is.of("outcome") + ` WHERE serial = a.successor AND signature IS NOT NULL OFFSET 0)
			AND    EXISTS (SELECT FROM ` + was.of("intent") + ` WHERE serial = a.serial OFFSET 0)
			ON     CONFLICT DO NOTHING`,
			[]any{old, by}})
	}
	return list
}

// successor looks up the certificate that came in place of an i.
func (v leaf) successor() string {
	return `
		LEFT   JOIN LATERAL (
			SELECT successor
			FROM   ` + v.of("replacement") + `
			WHERE  serial = i.serial
			LIMIT  1
		) p ON true`
}

// Renewal implements ca.Ledger: the certificate and the incidents that touch it, in one round trip.
func (l *Ledger) Renewal(ctx context.Context, s cert.Serial, now time.Time) (ca.Renewal, error) {
	at := leafOf(s.UID())
	if there, err := l.has(ctx, "intent", at); err != nil || !there {
		return ca.Renewal{}, cmp.Or(err, ca.ErrNotFound)
	}
	var b pgx.Batch
	var r ca.Renewal
	var v replaced
	b.Queue(`
		SELECT `+recordColumns+`, p.successor
		FROM   `+at.of("intent")+` i
		JOIN   scope s ON s.id = i.scope`+at.ends()+at.successor()+`
		WHERE  i.serial = $1`, s.Bytes()).
		Query(func(rows pgx.Rows) (err error) {
			v, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[replaced])
			return err
		})
	b.Queue(`
		SELECT n.made_at, n.spread, coalesce(n.explanation, '')
		FROM   incident n
		CROSS  JOIN `+at.of("intent")+` i
		WHERE  i.serial = $1
		AND    n.ended_at IS NULL
		AND    n.ends_at > $2
		AND    n.spread IS NOT NULL`+at.touches()+`
		UNION  ALL
		SELECT u.suspended_at, $3, ''
		FROM   `+at.of("intent")+` i
		JOIN   scope s ON s.id = i.scope
		JOIN   scope u ON u.path IN (s.tenant, s.parent, s.path)
		WHERE  i.serial = $1
		AND    u.suspended_at IS NOT NULL`, s.Bytes(), now, incident.SuspensionSpread).
		Query(func(rows pgx.Rows) (err error) {
			r.Pulls, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p incident.Pull, err error) {
				return p, row.Scan(&p.At, &p.Spread, &p.Explanation)
			})
			return err
		})
	if err := l.db.SendBatch(ctx, &b).Close(); err != nil {
		return r, missing(err)
	}
	var err error
	if r.Record, err = l.record(ctx, v.row); err != nil || v.By == nil {
		return r, err
	}
	r.ReplacedBy, err = cert.SerialFromBytes(v.By)
	return r, err
}

// A replaced is a row with the serial of what came in its place.
type replaced struct {
	row
	By []byte
}
