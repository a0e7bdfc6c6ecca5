package ledger

import (
	"bytes"
	"context"
	"slices"
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
	was, err := l.settled(ctx)
	if err != nil {
		return nil, err
	}
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return nil, err
	}
	from := settled.Bytes()
	if bytes.Compare(was, from) < 0 {
		from = was
	}
	var list []statement
	for _, v := range leaves {
		if within := v.site == l.site && v.epoch <= upto.Epoch(); within && (len(from) < uid.Size || v.epoch >= epochIn(from)) {
			list = append(list, abandoning(v, from, upto.Bytes(), f))
		}
	}
	list = append(list, statement{`
		INSERT INTO settled (site, serial)
		VALUES ($1, $2)
		ON     CONFLICT (site) DO UPDATE
		SET    serial = excluded.serial
		WHERE  settled.serial = $3
		RETURNING NULL::bytea, NULL::text`, []any{int16(l.site), settled.Bytes(), was}})
	gone, err := all(ctx, l.db, firstColumn, list)
	if err != nil {
		return nil, err
	}
	return serials(slices.Concat(gone[:len(gone)-1]...))
}

// settled returns the serial below which everything of this site has its outcome; empty is before all.
func (l *Ledger) settled(ctx context.Context) (serial []byte, err error) {
	err = l.db.QueryRow(ctx, `
		SELECT coalesce((SELECT serial FROM settled WHERE site = $1), '')`, int16(l.site)).Scan(&serial)
	return serial, err
}

func epochIn(serial []byte) uid.Epoch {
	id, err := uid.FromBytes(serial)
	if err != nil {
		return 0
	}
	return id.Epoch()
}

// abandoning is the statement that ends what is open in one epoch.
func abandoning(at leaf, from, upto []byte, f audit.Fact) statement {
	return statement{`
		WITH open AS MATERIALIZED (
			SELECT i.serial, i.authority, i.scope
			FROM   ` + at.of("intent") + ` i
			WHERE  i.serial >= $2 AND i.serial < $1
			AND    NOT EXISTS (SELECT FROM ` + at.of("outcome") + ` o WHERE o.serial = i.serial OFFSET 0)
		), gone AS (
			INSERT INTO ` + at.of("outcome") + ` (serial, at, signature)
			SELECT serial, $3, NULL
			FROM   open
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (
			INSERT INTO fact (at, scope, what, actor, serial)
			SELECT $3, scope, $4, $5, serial
			FROM   gone JOIN open USING (serial)
		), ended AS (
			INSERT INTO ` + at.of("revocation") + ` (serial, revoked_at, authority, scope, reason)
			SELECT serial, date_trunc('second', $3::timestamptz), authority, scope, 0
			FROM   gone JOIN open USING (serial)
			ON     CONFLICT DO NOTHING
		)
		SELECT serial, pg_notify('` + RevokedChannel + `', encode(serial, 'hex'))::text
		FROM   gone`, []any{upto, from, f.At, f.What, f.Who.Actor}}
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
