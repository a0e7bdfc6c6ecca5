package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// settleMargin is how long after its second an intent may still become visible without having seen the mark: the deadline of
// a batch, several times over. Every run looks at what is younger than this again.
const settleMargin = time.Minute

// Abandon implements ca.Ledger. It reads only the serials made since the last run found everything settled, however
// large the ledger is; a clock that went back makes it read from there, and an intent made meanwhile by a replica whose
// clock is behind leaves the mark where that put it.
func (l *Ledger) Abandon(ctx context.Context, before time.Time, f audit.Fact) ([]cert.Serial, error) {
	upto := uid.Floor(uid.Certificate, l.site, before)
	settled := uid.Floor(uid.Certificate, l.site, before.Add(-settleMargin))
	gone, err := once(ctx, l.db, firstColumn, `
		WITH was AS MATERIALIZED (
			SELECT serial
			FROM   settled
			WHERE  site = $3
		), open AS MATERIALIZED (
			SELECT i.serial, i.authority, i.scope
			FROM   intent i
			WHERE  i.serial >= (SELECT least($2, coalesce((SELECT serial FROM was), '\x00')))
			AND    i.serial < $1
			AND    NOT EXISTS (SELECT FROM outcome o WHERE o.serial = i.serial OFFSET 0)
		), gone AS (
			INSERT INTO outcome (serial, at, signature)
			SELECT serial, $4, NULL
			FROM   open
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (
			INSERT INTO fact (at, scope, what, actor, serial)
			SELECT $4, scope, $5, $6, serial
			FROM   gone JOIN open USING (serial)
		), ended AS (
			INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
			SELECT serial, date_trunc('second', $4::timestamptz), authority, scope, 0
			FROM   gone JOIN open USING (serial)
			ON     CONFLICT DO NOTHING
		), moved AS (
			INSERT INTO settled (site, serial)
			VALUES ($3, $2)
			ON     CONFLICT (site) DO UPDATE
			SET    serial = excluded.serial
			WHERE  settled.serial = (SELECT serial FROM was)
		)
		SELECT serial, pg_notify('`+RevokedChannel+`', encode(serial, 'hex'))::text
		FROM   gone`,
		upto.Bytes(), settled.Bytes(), int16(l.site), f.At, f.What, f.Who.Actor)
	if err != nil {
		return nil, err
	}
	return serials(gone)
}

// firstColumn reads a serial and leaves the rest, such as the void result of a notice.
func firstColumn(r pgx.CollectableRow) (serial []byte, err error) {
	var notice *string
	return serial, r.Scan(&serial, &notice)
}

func serials(rows [][]byte) ([]cert.Serial, error) {
	out := make([]cert.Serial, 0, len(rows))
	for _, b := range rows {
		s, err := cert.SerialFromBytes(b)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
