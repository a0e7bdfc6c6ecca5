package ledger

import (
	"cmp"
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

// ends looks up the outcome and the revocation of an intent i that is kept in v.
func (v leaf) ends() string {
	return `
		LEFT   JOIN ` + v.of("outcome") + ` o ON o.serial = i.serial` + v.revoked()
}

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

// record is r with its to-be-signed bytes as they were signed.
func (l *Ledger) record(ctx context.Context, r row) (ca.Record, error) {
	serial, err := cert.SerialFromBytes(r.Serial)
	if err != nil {
		return ca.Record{}, err
	}
	scope, err := identity.ParseScope(r.Scope)
	if err != nil {
		return ca.Record{}, err
	}
	body, err := l.frames.Unpack(ctx, r.TBS, serial)
	if err != nil {
		return ca.Record{}, err
	}
	rec := ca.Record{
		Intent: ca.Intent{Serial: serial, Authority: r.Authority, Scope: scope, Profile: r.Profile, NotAfter: r.NotAfter, TBS: body},
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
	at := leafOf(s.UID())
	if there, err := l.has(ctx, "intent", at); err != nil || !there {
		return ca.Record{}, cmp.Or(err, ca.ErrNotFound)
	}
	rows, err := l.db.Query(ctx, `
		SELECT `+recordColumns+`
		FROM   `+at.of("intent")+` i
		JOIN   scope s ON s.id = i.scope`+at.ends()+`
		WHERE  i.serial = $1`, s.Bytes())
	if err != nil {
		return ca.Record{}, missing(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return ca.Record{}, missing(err)
	}
	return l.record(ctx, r)
}

// ByOrigin implements ca.Ledger.
func (l *Ledger) ByOrigin(ctx context.Context, id uid.UID) (ca.Record, error) {
	at := leafOf(id)
	if there, err := l.has(ctx, "origin", at); err != nil || !there {
		return ca.Record{}, cmp.Or(err, ca.ErrNotFound)
	}
	var attempt int16
	var serial, digest []byte
	err := l.db.QueryRow(ctx, `
		SELECT attempt, serial, digest
		FROM   `+at.of("origin")+`
		WHERE  origin = $1
		ORDER  BY attempt DESC
		LIMIT  1`, id.Bytes()).Scan(&attempt, &serial, &digest)
	if err != nil {
		return ca.Record{}, missing(err)
	}
	s, err := cert.SerialFromBytes(serial)
	if err != nil {
		return ca.Record{}, err
	}
	rec, err := l.BySerial(ctx, s)
	rec.Origin, rec.Attempt = ca.Origin{ID: id, Digest: digest}, int(attempt)
	return rec, err
}

func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) || missingTable(err) {
		return ca.ErrNotFound
	}
	return err
}
