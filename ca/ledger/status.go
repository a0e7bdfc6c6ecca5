package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Status implements ocsp.Ledger: one look-up a serial, each in one partition.
func (l *Ledger) Status(ctx context.Context, list []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	asked := make([][]byte, len(list))
	for i, s := range list {
		asked[i] = s.Bytes()
	}
	rows, err := l.db.Query(ctx, `
		SELECT i.serial, i.authority, o.signature IS NOT NULL, r.revoked_at, r.reason
		FROM   unnest($1::bytea[]) a (serial)
		CROSS  JOIN LATERAL (SELECT serial, authority FROM intent WHERE serial = a.serial OFFSET 0) i`+endTables, asked)
	if err != nil {
		return nil, err
	}
	type row struct {
		Serial    []byte
		Authority int
		Signed    bool
		At        *time.Time
		Reason    *int16
	}
	out := make(map[cert.Serial]ocsp.Status, len(list))
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		serial, err := cert.SerialFromBytes(r.Serial)
		if err != nil {
			return nil, err
		}
		st := ocsp.Status{State: ocsp.Open, Authority: r.Authority}
		switch {
		case r.At != nil:
			st.State, st.At, st.Reason = ocsp.Revoked, r.At.UTC(), cert.Reason(*r.Reason) //nolint:gosec // a CHECK bounds it
		case r.Signed:
			st.State = ocsp.Good
		}
		out[serial] = st
	}
	return out, nil
}

// Stands implements ca.Ledger.
func (l *Ledger) Stands(ctx context.Context, s cert.Serial) error {
	var signed, revoked bool
	err := l.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM outcome WHERE serial = $1 AND signature IS NOT NULL),
		       EXISTS (SELECT FROM revocation WHERE serial = $1)`, s.Bytes()).Scan(&signed, &revoked)
	switch {
	case err != nil:
		return err
	case revoked:
		return ca.ErrCallerRevoked
	case !signed:
		return ca.ErrNotFound
	}
	return nil
}
