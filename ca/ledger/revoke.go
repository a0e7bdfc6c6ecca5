package ledger

import (
	"context"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// revoke writes a batch of revocations: the row, the fact, the blocked key and the notice, in one transaction. The
// commit is the moment of revocation. An unknown serial, one revoked before and a caller revoked meanwhile are three
// answers.
func (l *Ledger) revoke(ctx context.Context, batch []*asked[ca.Revocation]) error {
	batch, again := apart(batch, func(r ca.Revocation) cert.Serial { return r.Serial })
	n := len(batch)
	serial, at, reason := make([][]byte, n), make([]any, n), make([]int16, n)
	caller, key := make([][]byte, n), make([][]byte, n)
	facts := make([]audit.Fact, n)
	for i, a := range batch {
		r := a.write
		serial[i], at[i], reason[i], facts[i] = r.Serial.Bytes(), r.At, int16(r.Reason), r.Fact
		if !r.Caller.IsZero() {
			caller[i] = r.Caller.Bytes()
		}
		if r.BlockKey != ([32]byte{}) {
			key[i] = r.BlockKey[:]
		}
	}
	verdicts, err := once(ctx, l.db, pgx.RowToStructByPos[revoked], `
		WITH ask AS (
			SELECT a.*,
			       (SELECT true FROM revocation r WHERE r.serial = a.caller) AS caller_revoked,
			       (SELECT i.authority FROM intent i WHERE i.serial = a.serial) AS authority,
			       (SELECT i.scope FROM intent i WHERE i.serial = a.serial) AS scope
			FROM   unnest($10::bytea[], $11::timestamptz[], $12::smallint[], $13::bytea[], $14::bytea[])
			       WITH ORDINALITY AS a (serial, at, reason, caller, key, n)
		), done AS (
			INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
			SELECT serial, at, authority, scope, reason
			FROM   ask
			WHERE  authority IS NOT NULL AND caller_revoked IS NULL
			ON     CONFLICT DO NOTHING
			RETURNING serial
		), noted AS (`+audit.Insert+`
			WHERE f.serial IN (SELECT serial FROM done)
		), blocked AS (
			INSERT INTO blocked_key (key, serial, at)
			SELECT DISTINCT ON (key) key, serial, at
			FROM   ask
			WHERE  key IS NOT NULL AND authority IS NOT NULL AND caller_revoked IS NULL -- also where another reason came first
			ON     CONFLICT DO NOTHING
		)
		SELECT ask.authority IS NOT NULL,
		       coalesce(ask.caller_revoked, false),
		       d.serial IS NOT NULL,
		       (SELECT pg_notify('`+RevokedChannel+`', encode(d.serial, 'hex')) WHERE d.serial IS NOT NULL)::text
		FROM   ask LEFT JOIN done d USING (serial)
		ORDER  BY ask.n`,
		append(audit.Columns(facts...), serial, at, reason, caller, key)...)
	if err != nil {
		return err
	}
	for i, v := range verdicts {
		batch[i].err = v.err()
	}
	for _, a := range again {
		if err := l.revoke(ctx, []*asked[ca.Revocation]{a}); err != nil {
			a.err = explained(err)
		}
	}
	return nil
}

// revoked is what became of one revocation.
type revoked struct {
	Known, CallerRevoked, Done bool
	Noticed                    *string // the notice's void result, read so that it is sent
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
