package ledger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// IncidentsChannel is the Postgres channel on which an incident is noticed. It is a hint.
const IncidentsChannel = "segl_incidents"

// touches says of an incident n whether it chose an intent i of v. What a certificate's intent says never changes, so the
// answer is the same for ever. It is the one place that knows: windows, counts, revocations and status all ask it.
func (v leaf) touches() string {
	return `
		AND    i.serial >= n.since
		AND    i.serial < n.upto
		AND    i.profile NOT IN ('authority', 'ocsp-responder')
		AND    (n.authority IS NULL OR n.authority = i.authority)
		AND    (n.profile IS NULL OR n.profile = i.profile)
		AND    (n.scope IS NULL OR EXISTS (SELECT FROM scope u WHERE u.id = i.scope AND n.scope IN (u.tenant, u.parent, u.path)))
		AND    (n.key_mark IS NULL OR n.key_mark = i.key_mark)
		AND    (
			n.name_mark IS NULL
			OR n.name_mark = i.name_mark
			OR EXISTS (SELECT FROM ` + v.of("further_name") + ` f WHERE f.mark = n.name_mark AND f.not_after = i.not_after AND f.serial = i.serial)
		)
		AND    (NOT n.listed OR EXISTS (SELECT FROM incident_certificate m WHERE m.incident = n.id AND m.serial = i.serial))`
}

// ending says of an incident n that everything it touches is revoked though not every row says so yet.
const ending = `n.everything AND n.revoking_at IS NOT NULL AND n.finished_at IS NULL`

// revoked looks up how an intent i of v was revoked: by its own row, or by an incident that is revoking everything it
// touches.
func (v leaf) revoked() string {
	return `
		LEFT   JOIN LATERAL (
			SELECT e.serial, e.revoked_at, e.reason
			FROM   ` + v.of("revocation") + ` e
			WHERE  e.serial = i.serial
			UNION  ALL
			SELECT i.serial, date_trunc('second', n.revoking_at), n.reason
			FROM   incident n
			WHERE  ` + ending + v.touches() + `
			LIMIT  1
		) r ON true`
}

// isRevoked says whether the certificate of v with that serial is, in either way.
func (v leaf) isRevoked(serial string) string {
	return `(
				EXISTS (SELECT FROM ` + v.of("revocation") + ` WHERE serial = ` + serial + ` OFFSET 0)
				OR EXISTS (
					SELECT
					FROM   incident n
					CROSS  JOIN LATERAL (
						SELECT serial, authority, scope, profile, not_after, key_mark, name_mark
						FROM   ` + v.of("intent") + `
						WHERE  serial = ` + serial + `
						OFFSET 0
					) i
					WHERE  ` + ending + v.touches() + `
				)
			)`
}

// A choice is what an incident chooses by, as it is stored.
type choice struct {
	id        []byte
	authority *int
	profile   *string
	scope     *string
	name      *string
	nameMark  *int64
	key       []byte
	keyMark   *int64
	listed    bool
	since     []byte
	upto      []byte
}

// choose looks up what an incident chooses by. ErrNothing.
func (l *Ledger) choose(ctx context.Context, i incident.Incident) (choice, error) {
	c, q := choice{id: i.ID.Bytes()}, i.Choice
	var there bool
	err := l.db.QueryRow(ctx, `
		SELECT (SELECT id FROM authority WHERE name = $1), $2 = '' OR EXISTS (SELECT FROM scope WHERE path = $2)`,
		q.Authority, q.Scope.String()).Scan(&c.authority, &there)
	if err != nil {
		return c, err
	}
	if q.Authority != "" && c.authority == nil || !there {
		return c, incident.ErrNothing
	}
	c.since, c.upto = uid.Floor(uid.Certificate, l.site, q.From).Bytes(), uid.Floor(uid.Certificate, l.site, q.To).Bytes()
	c.profile, c.scope, c.name = word(q.Profile), word(q.Scope.String()), word(q.Names())
	if q.Key != (cert.KeyID{}) {
		mark := keyMark(q.Key)
		c.key, c.keyMark = q.Key[:], &mark
	}
	if q.Name != (cert.Name{}) {
		mark := nameMark(tbs.GeneralName(q.Name))
		c.nameMark = &mark
	}
	c.listed = q.Below != ""
	return c, nil
}

// word is a text as it is stored: NULL for an empty one.
func word(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// literal is an incident n that may not have been recorded: its first ten arguments are those of choice.args.
const literal = `
		WITH n AS (
			SELECT $1::bytea AS id, $2::integer AS authority, $3::text AS profile, $4::text AS scope, $5::bigint AS name_mark,
			       $6::bigint AS key_mark, $7::boolean AS listed, $8::bytea AS since, $9::bytea AS upto, $10::timestamptz AS made_at
		)`

func (c choice) args(made time.Time, more ...any) []any {
	return append([]any{c.id, c.authority, c.profile, c.scope, c.nameMark, c.keyMark, c.listed, c.since, c.upto, made}, more...)
}

// narrow reports whether an index finds what c touches. Else certificates are walked, some at a time.
func (c choice) narrow() bool { return c.keyMark != nil || c.nameMark != nil }

// narrowed has that index find it. It says nothing that touches does not.
func (c choice) narrowed(v leaf) string {
	switch {
	case c.keyMark != nil:
		return `
		AND    i.key_mark = $6`
	case c.nameMark != nil:
		return `
		AND    i.serial IN (
			SELECT serial FROM ` + v.of("intent") + ` WHERE name_mark = $5
			UNION ALL
			SELECT serial FROM ` + v.of("further_name") + ` WHERE mark = $5
		)`
	}
	return ""
}

// until returns the serial up to which v is walked at once, from after from on.
func (l *Ledger) until(ctx context.Context, v leaf, c choice, from []byte, most int) ([]byte, error) {
	if c.narrow() {
		return v.ceiling(), nil
	}
	var to []byte
	err := l.db.QueryRow(ctx, `
		SELECT serial
		FROM   `+v.of("intent")+`
		WHERE  serial > $1
		ORDER  BY serial
		OFFSET $2
		LIMIT  1`, from, most-1).Scan(&to)
	if errors.Is(err, pgx.ErrNoRows) || missingTable(err) {
		return v.ceiling(), nil
	}
	return to, err
}

// held returns the partitions that can hold what c touches, the youngest last.
func (l *Ledger) held(ctx context.Context, since, upto []byte) ([]leaf, error) {
	all, err := l.leavesOf(ctx, "intent")
	return slices.DeleteFunc(all, func(v leaf) bool {
		return v.kind != uid.Certificate || v.site != l.site ||
			slices.Compare(v.floor(), upto) >= 0 || slices.Compare(v.ceiling(), since) <= 0
	}), err
}

func (v leaf) floor() []byte   { return uid.Floor(v.kind, v.site, v.epoch.Start()).Bytes() }
func (v leaf) ceiling() []byte { return uid.Floor(v.kind, v.site, v.epoch.End()).Bytes() }

// mostInForce bounds how many incidents a window is computed from.
const mostInForce = 100

// Record implements incident.Book.
func (l *Ledger) Record(ctx context.Context, i incident.Incident, f audit.Fact) error {
	c, err := l.choose(ctx, i)
	if err != nil {
		return err
	}
	var list [][]byte
	if c.listed {
		if list, err = l.below(ctx, c, i); err != nil {
			return err
		}
	}
	err = postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		if err := room(ctx, tx, i.At); err != nil {
			return err
		}
		if err := l.open(ctx, tx, i, c); err != nil {
			return err
		}
		if err := listing(ctx, tx, c, list); err != nil {
			return err
		}
		if i.Everything {
			if err := begun(ctx, tx, c.id, i.At); err != nil {
				return err
			}
		}
		return note(ctx, tx, f, IncidentsChannel)
	})
	if postgres.Violated(err) == "incident_pk" {
		return l.same(ctx, i)
	}
	return err
}

// room refuses one incident too many. Two at once may both find room.
func room(ctx context.Context, tx pgx.Tx, now time.Time) error {
	var n int
	err := tx.QueryRow(ctx, `
		SELECT count(*)
		FROM   incident
		WHERE  ended_at IS NULL AND ends_at > $1
		AND    (spread IS NOT NULL OR finished_at IS NULL)`, now).Scan(&n)
	if err == nil && n >= mostInForce {
		return incident.ErrTooMany
	}
	return err
}

// open writes an incident's row.
func (l *Ledger) open(ctx context.Context, tx pgx.Tx, i incident.Incident, c choice) error {
	var spread *time.Duration
	var reason *int16
	if i.Spread > 0 {
		spread = &i.Spread
	}
	if !i.Deadline.IsZero() {
		code := int16(i.Reason)
		reason = &code
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO incident (id, cause, why, explanation, made_at, actor, authority, profile, scope, name, name_mark, key, key_mark, listed,
		                      since, upto, spread, deadline, reason, everything, ends_at, revoking_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)`,
		i.ID.Bytes(), string(i.Cause), i.Why, word(i.Explanation), i.At, i.Actor, c.authority, c.profile, c.scope, c.name, c.nameMark, c.key,
		c.keyMark, c.listed, append([]byte{}, c.since...), c.upto, spread, moment(i.Deadline), reason, i.Everything, i.Ends, moment(i.Revoking))
	return err
}

func listing(ctx context.Context, tx pgx.Tx, c choice, list [][]byte) error {
	if !c.listed {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO incident_certificate (incident, serial)
		SELECT $1, serial
		FROM   unnest($2::bytea[]) AS a (serial)
		ON     CONFLICT DO NOTHING`, c.id, list)
	return err
}

// begun is what begins with the revocations of an incident: its key is never certified again, and everybody forgets what
// they believed.
func begun(ctx context.Context, tx pgx.Tx, id []byte, now time.Time) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO blocked_key (key, serial, at)
		SELECT key, upto, $2
		FROM   incident
		WHERE  id = $1 AND key IS NOT NULL AND reason = 1
		ON     CONFLICT DO NOTHING`, id, now)
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT pg_notify('`+RevokedChannel+`', '')`)
	}
	return err
}

// same returns nil if the incident recorded under i's identifier asks what i asks.
func (l *Ledger) same(ctx context.Context, i incident.Incident) error {
	had, err := l.Incident(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, c := range []*incident.Choice{&had.Choice, &i.Choice} { // the bounds come from when it was asked
		c.From, c.To = time.Time{}, time.Time{}
	}
	if had.Everything {
		had.Deadline, i.Deadline = time.Time{}, time.Time{}
	}
	if had.Choice != i.Choice || had.Why != i.Why || had.Explanation != i.Explanation || had.Spread != i.Spread ||
		!had.Deadline.Equal(i.Deadline.Truncate(time.Microsecond)) || had.Reason != i.Reason || had.Everything != i.Everything {
		return incident.ErrConflict
	}
	return nil
}

const incidentColumns = `n.id, n.cause, n.why, coalesce(n.explanation, ''), n.made_at, n.actor,
		       coalesce((SELECT a.name FROM authority a WHERE a.id = n.authority), ''), coalesce(n.profile, ''), coalesce(n.scope, ''),
		       coalesce(n.name, ''), n.key, n.since, n.upto, n.spread, n.deadline, coalesce(n.reason, 0), n.everything, n.ends_at, n.ended_at,
		       n.revoking_at, n.finished_at, n.revoked`

// Incident implements incident.Book.
func (l *Ledger) Incident(ctx context.Context, id uid.UID) (incident.Incident, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+incidentColumns+`
		FROM   incident n
		WHERE  n.id = $1`, id.Bytes())
	if err != nil {
		return incident.Incident{}, err
	}
	i, err := pgx.CollectExactlyOneRow(rows, readIncident)
	if errors.Is(err, pgx.ErrNoRows) {
		err = incident.ErrNotFound
	}
	return i, err
}

// Incidents implements incident.Book. They are few: what chooses certificates is made by people.
func (l *Ledger) Incidents(ctx context.Context, p incident.Page) ([]incident.Incident, error) {
	rows, err := l.db.Query(ctx, `
		SELECT `+incidentColumns+`
		FROM   incident n
		LEFT   JOIN incident b ON b.id = $1
		WHERE  b.id IS NULL OR (n.made_at, n.id) < (b.made_at, b.id)
		ORDER  BY n.made_at DESC, n.id DESC
		LIMIT  $2`, p.After, p.Limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, readIncident)
}

func readIncident(r pgx.CollectableRow) (i incident.Incident, err error) {
	var (
		id, key, since, upto                []byte
		scope, name                         string
		spread                              *time.Duration
		deadline, ended, revoking, finished *time.Time
		reason                              int16
	)
	err = r.Scan(&id, &i.Cause, &i.Why, &i.Explanation, &i.At, &i.Actor, &i.Choice.Authority, &i.Choice.Profile, &scope, &name, &key, &since, &upto,
		&spread, &deadline, &reason, &i.Everything, &i.Ends, &ended, &revoking, &finished, &i.Revoked)
	if err != nil {
		return i, err
	}
	i.At, i.Ends, i.Reason = i.At.UTC(), i.Ends.UTC(), cert.Reason(reason) //nolint:gosec // a CHECK bounds it
	i.Deadline, i.Ended, i.Revoking, i.Finished = instant(deadline), instant(ended), instant(revoking), instant(finished)
	if spread != nil {
		i.Spread = *spread
	}
	copy(i.Choice.Key[:], key)
	i.Choice.From, i.Choice.To = second(since), second(upto)
	if i.ID, err = uid.FromBytes(id); err != nil {
		return i, err
	}
	if scope != "" {
		if i.Choice.Scope, err = identity.ParseScope(scope); err != nil {
			return i, err
		}
	}
	if name != "" {
		err = i.Choice.ParseNames(name)
	}
	return i, err
}

// second is when the bound of a range was; the zero time for none.
func second(bound []byte) time.Time {
	if u, err := uid.FromBytes(bound); err == nil {
		return u.Time()
	}
	return time.Time{}
}

// Cancel implements incident.Book.
func (l *Ledger) Cancel(ctx context.Context, id uid.UID, f audit.Fact) error {
	if _, err := l.Incident(ctx, id); err != nil {
		return err
	}
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE incident
			SET    ended_at = $2
			WHERE  id = $1 AND ended_at IS NULL AND revoking_at IS NULL AND ends_at > $2`, id.Bytes(), f.At)
		if err == nil && tag.RowsAffected() != 1 {
			err = incident.ErrOver
		}
		if err != nil {
			return err
		}
		return note(ctx, tx, f, IncidentsChannel)
	})
}

var _ incident.Book = (*Ledger)(nil)
