package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// authorizationColumns are those of authorizationRow, of a claim c with its attempt t and its validation v.
const authorizationColumns = `c.id, c.account, c.expires_at, c.name, c.token, t.method, t.asked_at, v.method, v.at, v.evidence, v.problem`

type authorizationRow struct {
	ID, Account []byte
	ExpiresAt   time.Time
	Name        string
	Token       []byte
	Attempted   *string
	AskedAt     *time.Time
	Validated   *string
	At          *time.Time
	Evidence    *string
	Problem     []byte
}

func (r authorizationRow) authorization() (acme.Authorization, error) {
	id, err := ids(uid.Authorization, r.ID)
	if err != nil {
		return acme.Authorization{}, err
	}
	account, err := ids(uid.Account, r.Account)
	if err != nil {
		return acme.Authorization{}, err
	}
	name, err := cert.ParseName(r.Name)
	if err != nil {
		return acme.Authorization{}, err
	}
	a := acme.Authorization{ID: id[0], Account: account[0], Name: name, Expires: r.ExpiresAt.UTC()}
	copy(a.Token[:], r.Token)
	if r.Attempted != nil {
		a.Attempt = &acme.Attempt{Method: acme.Method(*r.Attempted), Asked: r.AskedAt.UTC()}
	}
	if r.Validated == nil {
		return a, nil
	}
	a.Validation = &acme.Validation{Method: acme.Method(*r.Validated), At: r.At.UTC()}
	if r.Evidence != nil {
		a.Validation.Evidence = *r.Evidence
	}
	a.Validation.Problem, err = readProblem(r.Problem)
	return a, err
}

func toAuthorization(row pgx.CollectableRow) (acme.Authorization, error) {
	r, err := pgx.RowToStructByPos[authorizationRow](row)
	if err != nil {
		return acme.Authorization{}, err
	}
	return r.authorization()
}

// selectAuthorization reads one, with its name known to every partitioned table.
const selectAuthorization = `
	SELECT ` + authorizationColumns + `
	FROM   acme_authorization c
	LEFT   JOIN acme_attempt t ON t.authorization_id = $1
	LEFT   JOIN acme_validation v ON v.authorization_id = $1
	WHERE  c.id = $1`

// Authorization implements acme.Store.
func (s *Store) Authorization(ctx context.Context, id uid.UID) (acme.Authorization, error) {
	rows, err := s.db.Query(ctx, selectAuthorization, id.Bytes())
	if err != nil {
		return acme.Authorization{}, err
	}
	a, err := pgx.CollectExactlyOneRow(rows, toAuthorization)
	return a, missing(err)
}

// Attempt implements acme.Store. That the method may prove the name is the domain's rule (acme.MethodsFor); it stands in
// the statement as well because that is where the decision falls.
func (s *Store) Attempt(ctx context.Context, ask acme.Ask) (acme.Authorization, bool, error) {
	id := ask.Authorization
	var b pgx.Batch
	b.Queue(`
		INSERT INTO acme_attempt (authorization_id, method, asked_at, tries, next_try_at, leased_until)
		SELECT c.id, $3::text, $4::timestamptz, 1, clock_timestamp(), clock_timestamp() + $5::interval
		FROM   acme_authorization c
		WHERE  c.id = $1
		AND    c.account = $2
		AND    c.expires_at > $4
		AND    CASE
		           WHEN c.name LIKE 'ip:%' THEN $3 IN ('http-01', 'tls-alpn-01')
		           WHEN c.name LIKE 'dns:*.%' THEN $3 = 'dns-01'
		           ELSE $3 IN ('http-01', 'dns-01', 'tls-alpn-01')
		       END
		AND    NOT EXISTS (SELECT FROM acme_validation v WHERE v.authorization_id = $1)
		ON     CONFLICT ON CONSTRAINT acme_attempt_pk DO NOTHING`,
		id.Bytes(), ask.Account.Bytes(), string(ask.Method), ask.At, ask.Lease)
	b.Queue(selectAuthorization, id.Bytes())
	results := s.db.SendBatch(ctx, &b)
	tag, err := results.Exec()
	var a acme.Authorization
	if err == nil {
		var rows pgx.Rows
		if rows, err = results.Query(); err == nil {
			a, err = pgx.CollectExactlyOneRow(rows, toAuthorization)
		}
	}
	if err = errors.Join(missing(err), results.Close()); err != nil {
		return acme.Authorization{}, false, err
	}
	if _, has := a.Challenge(ask.Method); a.Account != ask.Account || !has {
		return acme.Authorization{}, false, acme.ErrNotFound
	}
	return a, tag.RowsAffected() == 1, nil
}

// TakeOver implements acme.Store. Who finds a row locked passes on: somebody else is taking it.
func (s *Store) TakeOver(ctx context.Context, lease time.Duration, limit int) ([]acme.Task, error) {
	rows, err := s.db.Query(ctx, `
		WITH due AS (
			SELECT authorization_id
			FROM   acme_attempt
			WHERE  leased_until <= clock_timestamp() AND next_try_at <= clock_timestamp()
			ORDER  BY leased_until
			LIMIT  $2
			FOR UPDATE SKIP LOCKED
		), t AS (
			UPDATE acme_attempt q
			SET    leased_until = clock_timestamp() + $1::interval, tries = least(q.tries + 1, 32000)
			FROM   due
			WHERE  q.authorization_id = due.authorization_id
			RETURNING q.authorization_id, q.method, q.asked_at
		)
		SELECT c.id, c.account, c.expires_at, c.name, c.token, t.method, t.asked_at, s.path, a.thumbprint
		FROM   t
		CROSS  JOIN LATERAL (
		           SELECT d.id, d.account, d.expires_at, d.name, d.token
		           FROM   acme_authorization d
		           WHERE  d.id = t.authorization_id
		           LIMIT  1
		       ) c
		CROSS  JOIN LATERAL (
		           SELECT d.scope, d.thumbprint
		           FROM   acme_account d
		           WHERE  d.id = c.account
		           LIMIT  1
		       ) a
		JOIN   scope s ON s.id = a.scope`, lease, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, toTask)
}

func toTask(row pgx.CollectableRow) (acme.Task, error) {
	var r authorizationRow
	var scope string
	var t acme.Task
	err := row.Scan(&r.ID, &r.Account, &r.ExpiresAt, &r.Name, &r.Token, &r.Attempted, &r.AskedAt, &scope, &t.Thumbprint)
	if err != nil {
		return acme.Task{}, err
	}
	if t.Scope, err = identity.ParseScope(scope); err != nil {
		return acme.Task{}, err
	}
	t.Authorization, err = r.authorization()
	return t, err
}

// Release implements acme.Store.
func (s *Store) Release(ctx context.Context, id uid.UID) error {
	_, err := s.db.Exec(ctx, `
		UPDATE acme_attempt
		SET    leased_until = clock_timestamp()
		WHERE  authorization_id = $1`, id.Bytes())
	return err
}

// Settle implements acme.Store. Facts are written by whoever's outcome counts.
func (s *Store) Settle(ctx context.Context, id uid.UID, queued acme.Queued, v acme.Validation, facts ...audit.Fact) (bool, error) {
	var evidence *string
	var problem []byte
	if v.Problem == nil {
		evidence = &v.Evidence
	} else {
		raw, err := json.Marshal(v.Problem)
		if err != nil {
			return false, err
		}
		problem = raw
	}
	var b pgx.Batch
	if len(facts) == 0 {
		b.Queue(settle, id.Bytes(), v.At, string(v.Method), evidence, problem)
	} else {
		b.Queue(settleNoting, append(audit.Columns(facts...), id.Bytes(), v.At, string(v.Method), evidence, problem)...)
	}
	if queued {
		b.Queue(`
			DELETE FROM acme_attempt
			WHERE  authorization_id = $1`, id.Bytes())
	}
	did, err := s.write(ctx, &b)
	return did == 1, err
}

const (
	settle = `
		INSERT INTO acme_validation (authorization_id, at, method, evidence, problem)
		VALUES ($1, $2, $3, $4, $5)
		ON     CONFLICT DO NOTHING`
	settleNoting = `
		WITH settled AS (
			INSERT INTO acme_validation (authorization_id, at, method, evidence, problem)
			VALUES ($10::bytea, $11::timestamptz, $12::text, $13::text, $14::jsonb)
			ON     CONFLICT DO NOTHING
			RETURNING authorization_id
		), noted AS (` + audit.Insert + `
			WHERE EXISTS (SELECT FROM settled)
		)
		SELECT authorization_id
		FROM   settled`
)
