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

// Status implements ocsp.Ledger: one look-up a serial, each in one partition. Requests that come at once share a round trip.
func (l *Ledger) Status(ctx context.Context, list []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	if len(list) == 1 {
		at := leafOf(list[0].UID())
		there, err := l.has(ctx, "intent", at)
		if err != nil || !there {
			return nil, err
		}
		found, err := statusIn(ctx, l, at, list)
		return found, err
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

// statusColumns say what became of an intent i.
const statusColumns = `i.serial, i.authority, o.signature IS NOT NULL, r.revoked_at, r.reason`

func statusIn(ctx context.Context, l *Ledger, at leaf, list []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	asked := make([][]byte, len(list))
	for i, s := range list {
		asked[i] = s.Bytes()
	}
	rows, err := l.db.Query(ctx, `
		SELECT `+statusColumns+`
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
	var (
		serial    []byte
		st        ocsp.Status
		signed    bool
		revokedAt *time.Time
		reason    *int16
	)
	_, err = pgx.ForEachRow(rows, []any{&serial, &st.Authority, &signed, &revokedAt, &reason}, func() error {
		s, err := cert.SerialFromBytes(serial)
		st.State, st.At, st.Reason = ocsp.Open, time.Time{}, cert.Unspecified
		switch {
		case revokedAt != nil:
			st.State, st.At, st.Reason = ocsp.Revoked, revokedAt.UTC(), cert.Reason(*reason) //nolint:gosec // a CHECK bounds it
		case signed:
			st.State = ocsp.Good
		}
		out[s] = st
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
