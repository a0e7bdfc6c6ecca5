package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Read returns facts in the order they became known. It stops short of transactions still in flight, so that whoever goes
// on from the last position misses none: identifiers commit out of order.
func (l *Ledger) Read(ctx context.Context, q audit.Query) ([]audit.Entry, error) {
	path, pattern := "", "%"
	if !q.Scope.IsZero() {
		path, pattern = q.Scope.String(), q.Scope.String()+"/%"
	}
	var serial []byte
	if !q.Serial.IsZero() {
		serial = q.Serial.Bytes()
	}
	return page(ctx, l.db, entry, `
		SELECT f.xid::text::bigint, f.id, f.at, coalesce(s.path, ''), f.allowed, f.what, f.actor, coalesce(f.act, ''), f.serial,
		       coalesce(f.subject, ''), coalesce(f.why, '')
		FROM   fact f
		LEFT   JOIN scope s ON s.id = f.scope
		WHERE  (f.xid, f.id) > ($1::text::xid8, $2)
		AND    f.xid < pg_snapshot_xmin(pg_current_snapshot())
		AND    f.at >= $3
		AND    ($4 = '' OR f.what = $4)
		AND    ($5 = '' OR f.actor = $5)
		AND    ($6::bytea IS NULL OR f.serial = $6)
		AND    ($7 = '' OR s.path = $7 OR s.path LIKE $8)
		ORDER  BY f.xid, f.id
		LIMIT  $9`,
		decimal(q.After.Transaction), q.After.ID, q.Since, q.What, q.Actor, serial, path, pattern, q.Limit)
}

func entry(r pgx.CollectableRow) (e audit.Entry, err error) {
	var (
		scope   string
		allowed bool
		serial  []byte
		at      time.Time
	)
	err = r.Scan(&e.Position.Transaction, &e.Position.ID, &at, &scope, &allowed, &e.What, &e.Who.Actor, &e.Who.Act, &serial, &e.Subject, &e.Why)
	if err != nil {
		return e, err
	}
	e.At, e.Refused = at.UTC(), !allowed
	if scope != "" {
		if e.Scope, err = identity.ParseScope(scope); err != nil {
			return e, err
		}
	}
	if serial != nil {
		e.Serial, err = cert.SerialFromBytes(serial)
	}
	return e, err
}
