package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Revoke implements ca.Ledger.
func (l *Ledger) Revoke(ctx context.Context, r ca.Revocation) error {
	if err := l.mayRevoke(ctx, r); err != nil {
		return err
	}
	return l.revokes.do(ctx, r)
}

// RevokeAll records many revocations in one transaction, a statement for each epoch, and returns what became of each as
// Revoke would. An error besides means that nothing is known of any: doing it again is safe.
func (l *Ledger) RevokeAll(ctx context.Context, list []ca.Revocation) ([]error, error) {
	batch := make([]*asked[ca.Revocation], len(list))
	var known []*asked[ca.Revocation]
	for i, r := range list {
		batch[i] = &asked[ca.Revocation]{ctx: ctx, write: r}
		if batch[i].err = l.mayRevoke(ctx, r); batch[i].err == nil {
			known = append(known, batch[i])
		}
	}
	if len(known) > 0 {
		if err := l.revoke(ctx, known); err != nil {
			return nil, explained(err)
		}
	}
	out := make([]error, len(list))
	for i, a := range batch {
		out[i] = a.err
	}
	return out, nil
}

// mayRevoke refuses what names an epoch that is not here, or no longer: no statement could.
func (l *Ledger) mayRevoke(ctx context.Context, r ca.Revocation) error {
	there, err := l.has(ctx, "revocation", leafOf(r.Serial.UID()))
	if err == nil && !there {
		return ca.ErrNotFound
	}
	if err == nil && !r.Caller.IsZero() {
		there, err = l.has(ctx, "revocation", leafOf(r.Caller.UID()))
		if err == nil && !there {
			return ca.ErrCallerRevoked
		}
	}
	return explained(err)
}

// revoke writes a batch of revocations in one transaction, a statement for each epoch of certificates and of callers'. The
// commit is the moment of revocation. An unknown serial, one revoked before and a caller revoked meanwhile are three answers.
func (l *Ledger) revoke(ctx context.Context, batch []*asked[ca.Revocation]) error {
	batch, again := apart(batch, func(r ca.Revocation) cert.Serial { return r.Serial })
	parts := parted(batch, endsOf)
	list := make([]statement, len(parts))
	for i, part := range parts {
		list[i] = revoking(endsOf(part[0].write), part)
	}
	verdicts, err := all(ctx, l.db, pgx.RowToStructByPos[revoked], list)
	if err != nil {
		return err
	}
	for i, part := range parts {
		for j, a := range part {
			a.err = verdicts[i][j].err()
		}
	}
	for _, a := range again {
		if err := l.revoke(ctx, []*asked[ca.Revocation]{a}); err != nil {
			a.err = explained(err)
		}
	}
	return nil
}

// endsOf are the partitions that a revocation's statement names.
func endsOf(r ca.Revocation) places {
	p := places{own: leafOf(r.Serial.UID())}
	if !r.Caller.IsZero() {
		p.caller = leafOf(r.Caller.UID())
	}
	return p
}

// noticed is how many serials stand in one notice: a payload has less than 8000 octets.
const noticed = "200"

// revoking is the statement that writes a part: the row, the fact, the blocked key and the notices.
func revoking(at places, part []*asked[ca.Revocation]) statement {
	n := len(part)
	serial, when, asked, reason := make([][]byte, n), make([]time.Time, n), make([]time.Time, n), make([]int16, n)
	caller, key := make([][]byte, n), make([][]byte, n)
	facts, blocks := make([]audit.Fact, n), false
	for i, a := range part {
		r := a.write
		serial[i], when[i], asked[i], reason[i], facts[i] = r.Serial.Bytes(), r.At, r.Fact.At, int16(r.Reason), r.Fact
		if !r.Caller.IsZero() {
			caller[i] = r.Caller.Bytes()
		}
		if r.BlockKey != ([32]byte{}) {
			key[i], blocks = r.BlockKey[:], true
		}
	}
	callerRevoked := `NULL::boolean`
	if at.caller != (leaf{}) {
		callerRevoked = `(SELECT true WHERE ` + at.caller.isRevoked("a.caller") + `)`
	}
	blocked := ``
	if blocks {
		blocked = `, blocked AS (
			INSERT INTO blocked_key (key, serial, at)
			SELECT DISTINCT ON (key) key, serial, at
			FROM   ask
			WHERE  key IS NOT NULL AND authority IS NOT NULL AND caller_revoked IS NULL -- also where another reason came first
			ON     CONFLICT DO NOTHING
		)`
	}
	return statement{`
		WITH ask AS MATERIALIZED (
			SELECT a.serial, a.at, a.reason, a.caller, a.key, a.asked_at, a.n, i.authority, i.scope, ` + callerRevoked + ` AS caller_revoked
			FROM   unnest($10::bytea[], $11::timestamptz[], $12::smallint[], $13::bytea[], $14::bytea[], $15::timestamptz[])
			       WITH ORDINALITY AS a (serial, at, reason, caller, key, asked_at, n)
			LEFT   JOIN LATERAL (SELECT authority, scope FROM ` + at.own.of("intent") + ` WHERE serial = a.serial OFFSET 0) i ON true
		), done AS (
			INSERT INTO ` + at.own.of("revocation") + ` (serial, revoked_at, authority, scope, reason, at)
			SELECT serial, at, authority, scope, reason, asked_at
			FROM   ask
			WHERE  authority IS NOT NULL AND caller_revoked IS NULL
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (` + audit.Insert + `
			WHERE f.serial IN (SELECT serial FROM done)
		)` + blocked + `, told AS MATERIALIZED (
			SELECT count(pg_notify('` + RevokedChannel + `', w.serials)) AS notices
			FROM   (
				SELECT string_agg(encode(d.serial, 'hex'), ' ') AS serials
				FROM   (SELECT serial, row_number() OVER () / ` + noticed + ` AS n FROM done) d
				GROUP  BY d.n
			) w
		)
		SELECT ask.authority IS NOT NULL,
		       coalesce(ask.caller_revoked, false),
		       d.serial IS NOT NULL,
		       (SELECT notices FROM told)
		FROM   ask LEFT JOIN done d USING (serial)
		ORDER  BY ask.n`,
		append(audit.Columns(facts...), serial, when, reason, caller, key, asked)}
}

// revoked is what became of one revocation. The notices are read so that they are sent.
type revoked struct {
	Known, CallerRevoked, Done bool
	Notices                    int64
}

func (v revoked) err() error {
	switch {
	case !v.Known:
		return ca.ErrNotFound
	case v.CallerRevoked:
		return ca.ErrCallerRevoked
	case !v.Done:
		return ca.ErrAlreadyRevoked
	}
	return nil
}
