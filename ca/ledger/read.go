package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// recordColumns are those of row, of an intent i with its scope s, outcome o and revocation r.
const recordColumns = `i.serial, i.not_after, i.authority, s.path, i.profile, i.tbs, i.origin, o.at, o.signature, r.revoked_at, r.reason`

const recordTables = `
	JOIN scope s ON s.id = i.scope` + endTables

// endTables look up the outcome and the revocation of an i, each by its serial in one partition. OFFSET 0 keeps them look-ups:
// the planner does not count on partitions being pruned as a statement runs, and would rather read tables from end to end.
const endTables = `
	LEFT JOIN LATERAL (SELECT serial, at, signature FROM outcome WHERE serial = i.serial OFFSET 0) o ON true
	LEFT JOIN LATERAL (SELECT serial, revoked_at, reason FROM revocation WHERE serial = i.serial OFFSET 0) r ON true`

type row struct {
	Serial    []byte
	NotAfter  time.Time
	Authority int
	Scope     string
	Profile   string
	TBS       []byte
	Origin    []byte
	At        *time.Time
	Signature []byte
	RevokedAt *time.Time
	Reason    *int16
}

func (r row) record() (ca.Record, error) {
	serial, err := cert.SerialFromBytes(r.Serial)
	if err != nil {
		return ca.Record{}, err
	}
	scope, err := identity.ParseScope(r.Scope)
	if err != nil {
		return ca.Record{}, err
	}
	rec := ca.Record{
		Intent: ca.Intent{Serial: serial, Authority: r.Authority, Scope: scope, Profile: r.Profile, NotAfter: r.NotAfter, TBS: r.TBS},
	}
	if r.Origin != nil {
		if rec.Origin.ID, err = uid.FromBytes(r.Origin); err != nil {
			return ca.Record{}, err
		}
	}
	if r.At != nil {
		rec.At, rec.Signature, rec.Abandoned = r.At.UTC(), r.Signature, r.Signature == nil
	}
	if r.RevokedAt != nil {
		rec.Revoked = &ca.Revoked{At: r.RevokedAt.UTC(), Reason: cert.Reason(*r.Reason)} //nolint:gosec // a CHECK bounds it
	}
	return rec, nil
}

// BySerial implements ca.Ledger.
func (l *Ledger) BySerial(ctx context.Context, s cert.Serial) (ca.Record, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+recordColumns+`
		FROM   intent i`+recordTables+`
		WHERE  i.serial = $1`, s.Bytes())
	return one(rows, err)
}

// ByOrigin implements ca.Ledger.
func (l *Ledger) ByOrigin(ctx context.Context, id uid.UID) (ca.Record, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+recordColumns+`, g.attempt, g.digest
		FROM   (
			SELECT attempt, serial, digest
			FROM   origin
			WHERE  origin = $1
			ORDER  BY attempt DESC
			LIMIT  1
		) g
		CROSS  JOIN LATERAL (
			SELECT serial, not_after, authority, scope, profile, tbs, origin
			FROM   intent
			WHERE  serial = g.serial
			OFFSET 0
		) i`+recordTables, id.Bytes())
	if err != nil {
		return ca.Record{}, err
	}
	type originRow struct {
		row
		Attempt int16
		Digest  []byte
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[originRow])
	if err != nil {
		return ca.Record{}, missing(err)
	}
	rec, err := r.record()
	rec.Origin, rec.Attempt = ca.Origin{ID: id, Digest: r.Digest}, int(r.Attempt)
	return rec, err
}

func one(rows pgx.Rows, err error) (ca.Record, error) {
	if err != nil {
		return ca.Record{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return ca.Record{}, missing(err)
	}
	return r.record()
}

func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ca.ErrNotFound
	}
	return err
}

// candidates are the intents of a scope that a query looks at: by expiry, or, if only the revoked are asked for, all of those.
func candidates(q ca.Query) string {
	if !q.Revoked {
		return `
			FROM   intent c
			WHERE  c.scope = s.id`
	}
	return `
			FROM   revocation v
			CROSS  JOIN LATERAL (
				SELECT serial, not_after, authority, profile, tbs, origin
				FROM   intent
				WHERE  serial = v.serial
				OFFSET 0
			) c
			WHERE  v.scope = s.id`
}

// Select implements ca.Ledger. Each scope is read by its own index from the cursor on, so a page costs the same however
// large the ledger is; a page of revoked ones costs what the scope has of them.
func (l *Ledger) Select(ctx context.Context, q ca.Query) ([]ca.Record, error) {
	path, pattern := q.Scope.String(), q.Scope.String()+"/%"
	if q.Scope.IsZero() {
		path, pattern = "", "%"
	}
	serial := q.After.Serial.Bytes()
	if q.After.Serial.IsZero() {
		serial = []byte{}
	}
	from, to := later(q.After.NotAfter, q.ExpiringAfter), q.ExpiringBefore
	if to.IsZero() {
		to = endOfTime
	}
	return page(ctx, l.db, selected, `
		SELECT `+recordColumns+`
		FROM   scope s
		CROSS  JOIN LATERAL (
			SELECT c.serial, c.not_after, c.authority, c.profile, c.tbs, c.origin
			`+candidates(q)+`
			AND    (c.not_after, c.serial) > ($3, $4)
			AND    c.not_after < $5
			AND    EXISTS (SELECT FROM outcome d WHERE d.serial = c.serial AND d.signature IS NOT NULL OFFSET 0)
			ORDER  BY c.not_after, c.serial
			LIMIT  $6
		) i`+endTables+`
		WHERE  s.path = $1 OR s.path LIKE $2
		ORDER  BY i.not_after, i.serial
		LIMIT  $6`,
		path, pattern, from, serial, to, q.Limit)
}

func selected(r pgx.CollectableRow) (ca.Record, error) {
	v, err := pgx.RowToStructByPos[row](r)
	if err != nil {
		return ca.Record{}, err
	}
	return v.record()
}

var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
