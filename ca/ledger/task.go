package ledger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Revoking what an incident touches walks the epochs in order, a bounded number of certificates a transaction. The same
// transaction moves the incident's cursor from where it was, so that a step is done once, whoever does it and wherever it
// was cut short. When all is walked and whatever was being issued has landed, the youngest are walked once more.

// stepSize is how many certificates a step looks at.
const stepSize = 8192

// Due implements incident.Book.
func (l *Ledger) Due(ctx context.Context, now time.Time) ([]uid.UID, error) {
	rows, err := l.db.Query(ctx, `
		SELECT id
		FROM   incident
		WHERE  deadline <= $1 AND finished_at IS NULL AND ended_at IS NULL
		ORDER  BY deadline, id`, now)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (uid.UID, error) {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return uid.UID{}, err
		}
		return uid.FromBytes(b)
	})
}

// Begin implements incident.Book.
func (l *Ledger) Begin(ctx context.Context, id uid.UID, f audit.Fact) error {
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE incident
			SET    revoking_at = $2
			WHERE  id = $1 AND revoking_at IS NULL AND ended_at IS NULL AND deadline <= $2`, id.Bytes(), f.At)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if err := begun(ctx, tx, id.Bytes(), f.At); err != nil {
			return err
		}
		return note(ctx, tx, f, IncidentsChannel)
	})
}

// A task is where an incident's revoking is.
type task struct {
	choice
	incident   incident.Incident
	everything bool
	revoking   time.Time
	cursor     []byte
	passes     int
	reason     string
}

// Step implements incident.Book.
func (l *Ledger) Step(ctx context.Context, id uid.UID, now time.Time) (more bool, err error) {
	t, err := l.task(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil // cancelled, or finished
	}
	if err != nil {
		return false, err
	}
	from := t.cursor
	if slices.Compare(from, t.since) < 0 {
		from = t.since
	}
	leaves, err := l.held(ctx, from, t.upto)
	if err != nil {
		return false, err
	}
	if len(leaves) > 0 {
		to, err := l.until(ctx, leaves[0], t.choice, t.cursor, stepSize)
		if err != nil {
			return false, err
		}
		return true, l.end(ctx, leaves[0], t, to, now)
	}
	return l.settle(ctx, t, now)
}

func (l *Ledger) task(ctx context.Context, id uid.UID) (task, error) {
	i, err := l.Incident(ctx, id)
	if errors.Is(err, incident.ErrNotFound) {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return task{}, err
	}
	t := task{choice: choice{id: id.Bytes()}, incident: i, everything: i.Everything, reason: i.Reason.String()}
	return t, l.db.QueryRow(ctx, `
		SELECT authority, profile, scope, name_mark, key_mark, listed, since, upto, revoking_at, cursor, passes
		FROM   incident
		WHERE  id = $1 AND revoking_at IS NOT NULL AND finished_at IS NULL`, t.id).
		Scan(&t.authority, &t.profile, &t.scope, &t.nameMark, &t.keyMark, &t.listed, &t.since, &t.upto, &t.revoking, &t.cursor, &t.passes)
}

// end revokes the certificates of v up to to. Of everything, intents that nothing was signed for yet are among them: their
// completion is refused. Otherwise who has a successor is spared.
func (l *Ledger) end(ctx context.Context, v leaf, t task, to []byte, now time.Time) error {
	spared := `
			JOIN   ` + v.of("outcome") + ` o ON o.serial = i.serial AND o.signature IS NOT NULL` + v.successor()
	unless := `
			AND    p.successor IS NULL`
	if t.everything {
		spared, unless = ``, ``
	}
	_, err := l.db.Exec(ctx, `
		WITH n AS MATERIALIZED (
			SELECT id, authority, profile, scope, name_mark, key_mark, listed, since, upto, reason, revoking_at, actor
			FROM   incident
			WHERE  id = $1 AND cursor = $11 AND passes = $12 AND finished_at IS NULL
			AND    (authority, profile, scope, name_mark, key_mark, listed, since, upto)
			       IS NOT DISTINCT FROM ($2::integer, $3::text, $4::text, $5::bigint, $6::bigint, $7::boolean, $8::bytea, $9::bytea)
			FOR    UPDATE
		), chosen AS MATERIALIZED (
			SELECT i.serial, i.authority, i.scope
			FROM   n
			CROSS  JOIN `+v.of("intent")+` i`+spared+`
			WHERE  i.serial > $11
			AND    i.serial <= $13
			AND    i.not_after + interval '0' >= $10`+v.touches()+t.narrowed(v)+unless+`
			AND    NOT EXISTS (SELECT FROM `+v.of("revocation")+` WHERE serial = i.serial OFFSET 0)
		), ended AS (
			INSERT INTO `+v.of("revocation")+` (serial, revoked_at, authority, scope, reason, at)
			SELECT c.serial, date_trunc('second', n.revoking_at), c.authority, c.scope, n.reason, n.revoking_at
			FROM   chosen c CROSS JOIN n
			ON     CONFLICT DO NOTHING
			RETURNING serial, scope
		), noted AS (
			INSERT INTO fact (at, scope, what, actor, serial, subject, why)
			SELECT $10, e.scope, '`+audit.Revoke+`', n.actor, e.serial, 'incident ' || encode(n.id, 'hex'), $14
			FROM   ended e CROSS JOIN n
		), told AS (
			SELECT pg_notify('`+RevokedChannel+`', '')
			FROM   ended
			LIMIT  1
		)
		UPDATE incident
		SET    revoked = revoked + (SELECT count(*) FROM ended) + 0 * (SELECT count(*) FROM told),
		       cursor = $13
		WHERE  id = (SELECT id FROM n)`,
		t.args(now, t.cursor, t.passes, to, t.reason)...)
	if missingTable(err) { // the epoch has left, and all that it held had expired
		_, err = l.db.Exec(ctx, `
			UPDATE incident
			SET    cursor = $3
			WHERE  id = $1 AND cursor = $2`, t.id, t.cursor, v.ceiling())
	}
	return err
}

// settle ends a walk: the first is followed by a look at the youngest, once nothing that it could have missed is still being
// recorded, and the second by the end.
func (l *Ledger) settle(ctx context.Context, t task, now time.Time) (more bool, err error) {
	if t.passes > 0 {
		_, err = l.db.Exec(ctx, `
			UPDATE incident
			SET    finished_at = $2
			WHERE  id = $1 AND passes > 0 AND finished_at IS NULL`, t.id, now)
		return false, err
	}
	if now.Before(t.revoking.Add(settleMargin)) {
		return false, nil
	}
	again := uid.Floor(uid.Certificate, l.site, second(t.upto).Add(-settleMargin)).Bytes()
	late, err := l.late(ctx, t, again)
	if err != nil {
		return false, err
	}
	err = postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE incident
			SET    passes = 1, cursor = $3
			WHERE  id = $1 AND passes = 0 AND cursor = $2`, t.id, t.cursor, again)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return listing(ctx, tx, t.choice, late)
	})
	return err == nil, err
}

// late reads again what an incident that lists its certificates lists from again on: some were being recorded when it was
// made.
func (l *Ledger) late(ctx context.Context, t task, again []byte) ([][]byte, error) {
	if !t.listed {
		return nil, nil
	}
	c := t.choice
	if slices.Compare(c.since, again) < 0 {
		c.since = again
	}
	return l.below(ctx, c, t.incident)
}
