package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Status implements ocsp.Ledger: one look-up a serial, each in one partition.
func (l *Ledger) Status(ctx context.Context, list []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	if len(list) == 1 {
		return l.statusOf(ctx, list[0])
	}
	byLeaf := map[leaf][]cert.Serial{}
	for _, s := range list {
		at := leafOf(s.UID())
		byLeaf[at] = append(byLeaf[at], s)
	}
	out := make(map[cert.Serial]ocsp.Status, len(list))
	for at, serials := range byLeaf {
		there, err := l.has(ctx, "intent", at)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		found, err := statusIn(ctx, l, at, serials)
		if err != nil {
			return nil, err
		}
		for s, st := range found {
			out[s] = st
		}
	}
	return out, nil
}

// statusOf looks one serial up, which is what nearly every request asks. While an incident revokes everything that it touches,
// the long way asks whether it touches this.
func (l *Ledger) statusOf(ctx context.Context, s cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	at := leafOf(s.UID())
	if there, err := l.has(ctx, "intent", at); err != nil || !there {
		return nil, err
	}
	var r statusRow
	var many bool
	err := l.db.QueryRow(ctx, `
		SELECT i.authority, o.signature IS NOT NULL, r.revoked_at, r.reason, EXISTS (SELECT FROM incident n WHERE `+ending+`)
		FROM   `+at.of("intent")+` i
		LEFT   JOIN `+at.of("outcome")+` o ON o.serial = i.serial
		LEFT   JOIN `+at.of("revocation")+` r ON r.serial = i.serial
		WHERE  i.serial = $1`, s.Bytes()).Scan(&r.authority, &r.signed, &r.revokedAt, &r.reason, &many)
	switch {
	case errors.Is(err, pgx.ErrNoRows), missingTable(err):
		return nil, nil
	case err != nil:
		return nil, err
	case many && r.revokedAt == nil:
		return statusIn(ctx, l, at, []cert.Serial{s})
	}
	return map[cert.Serial]ocsp.Status{s: r.status()}, nil
}

// A statusRow is what became of an intent.
type statusRow struct {
	authority int
	signed    bool
	revokedAt *time.Time
	reason    *int16
}

func (r statusRow) status() ocsp.Status {
	st := ocsp.Status{State: ocsp.Open, Authority: r.authority}
	switch {
	case r.revokedAt != nil:
		st.State, st.At, st.Reason = ocsp.Revoked, r.revokedAt.UTC(), cert.Reason(*r.reason) //nolint:gosec // a CHECK bounds it
	case r.signed:
		st.State = ocsp.Good
	}
	return st
}

func statusIn(ctx context.Context, l *Ledger, at leaf, list []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	asked := make([][]byte, len(list))
	for i, s := range list {
		asked[i] = s.Bytes()
	}
	rows, err := l.db.Query(ctx, `
		SELECT i.serial, i.authority, o.signature IS NOT NULL, r.revoked_at, r.reason
		FROM   unnest($1::bytea[]) a (serial)
		CROSS  JOIN LATERAL (
			SELECT serial, authority, scope, profile, not_after, key_mark, name_mark
			FROM   `+at.of("intent")+`
			WHERE  serial = a.serial
			OFFSET 0
		) i
		LEFT   JOIN LATERAL (SELECT signature FROM `+at.of("outcome")+` WHERE serial = a.serial OFFSET 0) o ON true`+at.revoked(), asked)
	if err != nil {
		return nil, gone(err)
	}
	out := make(map[cert.Serial]ocsp.Status, len(list))
	var serial []byte
	var r statusRow
	_, err = pgx.ForEachRow(rows, []any{&serial, &r.authority, &r.signed, &r.revokedAt, &r.reason}, func() error {
		s, err := cert.SerialFromBytes(serial)
		out[s] = r.status()
		return err
	})
	return out, gone(err)
}

// gone reads a partition that was dropped since it was seen as one that knows nothing.
func gone(err error) error {
	if missingTable(err) {
		return nil
	}
	return err
}

// Stands implements ca.Ledger.
func (l *Ledger) Stands(ctx context.Context, s cert.Serial) error {
	at := leafOf(s.UID())
	there, err := l.has(ctx, "outcome", at)
	if err != nil {
		return err
	}
	if !there {
		return ca.ErrNotFound
	}
	var signed, revoked bool
	err = l.db.QueryRow(ctx, `
		SELECT o.signature IS NOT NULL, `+at.isRevoked("$1::bytea")+`
		FROM   `+at.of("outcome")+` o
		WHERE  o.serial = $1`, s.Bytes()).Scan(&signed, &revoked)
	switch {
	case errors.Is(err, pgx.ErrNoRows), missingTable(err):
		return ca.ErrNotFound
	case err != nil:
		return err
	case revoked:
		return ca.ErrCallerRevoked
	case !signed:
		return ca.ErrNotFound
	}
	return nil
}

// Around returns up to limit serials made at or after s, whatever became of them.
func (l *Ledger) Around(ctx context.Context, s cert.Serial, limit int) ([]cert.Serial, error) {
	known, err := l.Serials(ctx, s, limit)
	list := make([]cert.Serial, 0, limit)
	for _, k := range known {
		if len(list) < limit {
			list = append(list, k.Serial)
		}
	}
	return list, err
}

// Report keeps what a checker found, in place of what it found before.
func (l *Ledger) Report(ctx context.Context, at time.Time, findings []byte, facts []audit.Fact) error {
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO check_report (one, at, findings)
			VALUES (true, $1, $2)
			ON     CONFLICT (one) DO UPDATE
			SET    at = excluded.at, findings = excluded.findings`, at, string(findings))
		if err != nil || len(facts) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, audit.Insert, audit.Columns(facts...)...)
		return err
	})
}

// Reported returns the newest report and when it was made; the zero time where there is none.
func (l *Ledger) Reported(ctx context.Context) (at time.Time, findings []byte, err error) {
	var text string
	err = l.db.QueryRow(ctx, `
		SELECT at, findings::text
		FROM   check_report`).Scan(&at, &text)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, []byte("[]"), nil
	}
	return at.UTC(), []byte(text), err
}
