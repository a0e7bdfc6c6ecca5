// Package trail reads facts from Postgres.
//
// Facts are in the order of their transactions. Identifiers commit out of order, so only finished transactions are read:
// those below pg_snapshot_xmin. Who goes on from the last fact read misses none and sees none twice. The package writes
// nothing. A Reader is safe for concurrent use.
package trail

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Reader reads facts.
type Reader struct{ db *postgres.DB }

// New returns a reader of db's facts.
func New(db *postgres.DB) *Reader { return &Reader{db} }

// Read returns the facts that q selects, at most q.Limit, in order.
func (r *Reader) Read(ctx context.Context, q audit.Query) ([]audit.Entry, error) {
	var scope, serial any
	if !q.Scope.IsZero() {
		scope = q.Scope.String()
	}
	if !q.Serial.IsZero() {
		serial = q.Serial.Bytes()
	}
	rows, err := r.db.Query(ctx, `
		SELECT f.xid::text::bigint, f.id, f.at, s.path, f.allowed, f.what, f.actor, f.act, f.serial, f.subject, f.why
		FROM   fact f
		LEFT   JOIN scope s ON s.id = f.scope
		WHERE  (f.xid, f.id) > (@transaction::text::xid8, @id)
		AND    f.xid < pg_snapshot_xmin(pg_current_snapshot())
		AND    (@scope::text IS NULL OR s.path = @scope OR starts_with(s.path, @scope || '/'))
		AND    (@what = '' OR f.what = @what)
		AND    (@actor = '' OR f.actor = @actor)
		AND    (@serial::bytea IS NULL OR f.serial = @serial)
		AND    f.at >= @since
		ORDER  BY f.xid, f.id
		LIMIT  @most`,
		pgx.NamedArgs{
			"transaction": fmt.Sprint(q.After.Transaction), "id": q.After.ID, "scope": scope, "what": q.What, "actor": q.Actor,
			"serial": serial, "since": since(q.Since), "most": q.Limit,
		})
	if err != nil {
		return nil, fmt.Errorf("reading facts: %w", err)
	}
	out, err := pgx.CollectRows(rows, entry)
	if err != nil {
		return nil, fmt.Errorf("reading facts: %w", err)
	}
	return out, nil
}

// since turns the zero time into one that the database knows.
func since(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0)
	}
	return t
}

func entry(row pgx.CollectableRow) (audit.Entry, error) {
	var e audit.Entry
	var scope, act, subject, why *string
	var serial []byte
	var allowed bool
	err := row.Scan(&e.Position.Transaction, &e.Position.ID, &e.At, &scope, &allowed, &e.What, &e.Who.Actor, &act, &serial, &subject, &why)
	if err != nil {
		return audit.Entry{}, err
	}
	e.At, e.Refused = e.At.UTC(), !allowed
	e.Who.Act, e.Subject, e.Why = text(act), text(subject), text(why)
	if scope != nil {
		if e.Scope, err = identity.ParseScope(*scope); err != nil {
			return audit.Entry{}, err
		}
	}
	if serial != nil {
		if e.Serial, err = cert.SerialFromBytes(serial); err != nil {
			return audit.Entry{}, err
		}
	}
	return e, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
