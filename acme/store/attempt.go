package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// provable holds of an authorization c that method $3 may prove. That is the domain's rule (acme.MethodsFor); it stands in
// the statements as well because that is where the decision falls.
const provable = `
	CASE
	    WHEN c.deactivated_at IS NOT NULL THEN false
	    WHEN c.subdomains THEN $3 IN ('dns-01', 'dns-account-01')
	    WHEN c.name LIKE 'ip:%' THEN $3 IN ('http-01', 'tls-alpn-01')
	    WHEN c.name LIKE 'dns:*.%' THEN $3 IN ('dns-01', 'dns-account-01', 'dns-persist-01')
	    WHEN c.name LIKE 'permanent-identifier:%' THEN $3 = 'device-attest-01'
	    WHEN c.name LIKE 'dns:%' THEN $3 IN ('http-01', 'dns-01', 'tls-alpn-01', 'dns-account-01', 'dns-persist-01')
	    ELSE false
	END
	AND EXISTS (SELECT FROM acme_account u WHERE u.id = $2 AND u.deactivated_at IS NULL)`

// Attempt implements acme.Store.
func (s *Store) Attempt(ctx context.Context, ask acme.Ask) (acme.Authorization, bool, error) {
	id := ask.Authorization
	var b pgx.Batch
	b.Queue(`
		INSERT INTO acme_attempt (authorization_id, account, method, asked_at, payload, tries, next_try_at, leased_until)
		SELECT c.id, c.account, $3::text, $4::timestamptz, $6::bytea, 1, $4, clock_timestamp() + $5::interval
		FROM   acme_authorization c
		WHERE  c.id = $1
		AND    c.account = $2
		AND    c.expires_at > $4
		AND    `+provable+`
		AND    NOT EXISTS (SELECT FROM acme_validation v WHERE v.authorization_id = $1)
		AND    (SELECT count(*) FROM acme_attempt q WHERE q.account = $2) < $7
		ON     CONFLICT ON CONSTRAINT acme_attempt_pk DO NOTHING`,
		id.Bytes(), ask.Account.Bytes(), string(ask.Method), ask.At, ask.Lease, ask.Payload, most(ask))
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
	_, has := a.Challenge(ask.Method)
	switch {
	case a.Account != ask.Account || !has:
		return acme.Authorization{}, false, acme.ErrNotFound
	case a.Attempt == nil && a.Status(ask.At) == acme.Pending:
		return acme.Authorization{}, false, acme.ErrQueueFull
	}
	return a, tag.RowsAffected() == 1, nil
}

// most is how many attempts an account may have: an Ask that does not say bounds nothing.
func most(ask acme.Ask) int {
	if ask.Most <= 0 {
		return 1 << 30
	}
	return ask.Most
}

// Retry implements acme.Store.
func (s *Store) Retry(ctx context.Context, ask acme.Ask, tries int, t acme.Attempt) error {
	problem, err := json.Marshal(t.Problem)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO acme_attempt AS q (authorization_id, account, method, asked_at, payload, tries, problem, next_try_at, leased_until)
		SELECT c.id, c.account, $3::text, $4::timestamptz, $5::bytea, $6::smallint, $7::jsonb, $8::timestamptz, clock_timestamp()
		FROM   acme_authorization c
		WHERE  c.id = $1
		AND    c.account = $2
		AND    `+provable+`
		AND    NOT EXISTS (SELECT FROM acme_validation v WHERE v.authorization_id = $1)
		ON     CONFLICT ON CONSTRAINT acme_attempt_pk DO UPDATE
		SET    tries = greatest(q.tries, excluded.tries),
		       problem = excluded.problem,
		       next_try_at = excluded.next_try_at,
		       leased_until = excluded.leased_until`,
		ask.Authorization.Bytes(), ask.Account.Bytes(), string(ask.Method), ask.At, ask.Payload, tries, problem, t.Next)
	return err
}

// takeOverLook bounds how many accounts are looked at in one pass to give scopes their turns; the next pass goes on with those
// after them.
const takeOverLook = 1000

// TakeOver implements acme.Store. Who finds a row locked passes on: somebody else is taking it. Of attempts whose
// authorization has left, nothing is returned. What one account has waiting never hides another's: accounts are looked at
// first, then the oldest few of each.
func (s *Store) TakeOver(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]acme.Task, error) {
	accounts, err := s.queuing(ctx)
	if err != nil || len(accounts) == 0 {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `
		WITH waiting AS (
			SELECT q.authorization_id, q.next_try_at, u.scope, row_number() OVER (PARTITION BY u.id ORDER BY q.next_try_at) AS nth
			FROM   unnest($4::bytea[]) AS w (account)
			CROSS  JOIN LATERAL (
			           SELECT d.id, d.scope
			           FROM   acme_account d
			           WHERE  d.id = w.account
			           LIMIT  1
			       ) u
			CROSS  JOIN LATERAL (
			           SELECT d.authorization_id, d.next_try_at
			           FROM   acme_attempt d
			           WHERE  d.account = w.account AND d.next_try_at <= $3 AND d.leased_until <= clock_timestamp()
			           ORDER  BY d.next_try_at
			           LIMIT  $2
			       ) q
		), turns AS (
			SELECT authorization_id, next_try_at, row_number() OVER (PARTITION BY scope ORDER BY nth, next_try_at) AS turn
			FROM   waiting
		), chosen AS (
			SELECT authorization_id
			FROM   turns
			ORDER  BY turn, next_try_at
			LIMIT  $2
		), due AS (
			SELECT q.authorization_id
			FROM   acme_attempt q
			JOIN   chosen USING (authorization_id)
			WHERE  q.leased_until <= clock_timestamp()
			FOR UPDATE OF q SKIP LOCKED
		), t AS (
			UPDATE acme_attempt q
			SET    leased_until = clock_timestamp() + $1::interval
			FROM   due
			WHERE  q.authorization_id = due.authorization_id
			RETURNING q.authorization_id, q.method, q.asked_at, q.payload, least(q.tries + 1, 32000) AS tries, q.problem, q.next_try_at, q.leased_until
		)
		SELECT c.id, c.account, c.expires_at, c.name, c.token, c.subdomains, t.method, t.asked_at, t.problem, t.next_try_at, t.payload, t.tries, t.leased_until,
		       s.path, a.thumbprint
		FROM   t
		CROSS  JOIN LATERAL (
		           SELECT d.id, d.account, d.expires_at, d.name, d.token, d.subdomains
		           FROM   acme_authorization d
		           WHERE  d.id = t.authorization_id
		           LIMIT  1
		       ) c
		CROSS  JOIN LATERAL (
		           SELECT d.scope, d.thumbprint
		           FROM   acme_account d
		           WHERE  d.id = c.account AND d.deactivated_at IS NULL
		           LIMIT  1
		       ) a
		JOIN   scope s ON s.id = a.scope`, lease, limit, now, accounts)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, toTask)
}

// queuing returns accounts that have attempts recorded: those after the ones of the last call, and then from the first on.
func (s *Store) queuing(ctx context.Context) ([][]byte, error) {
	s.turn.Lock()
	from := s.turn.after
	s.turn.Unlock()
	all, err := s.queuingAfter(ctx, from, takeOverLook)
	if err != nil {
		return nil, err
	}
	if len(from) > 0 && len(all) < takeOverLook {
		first, err := s.queuingAfter(ctx, nil, takeOverLook-len(all))
		if err != nil {
			return nil, err
		}
		for _, account := range first {
			if bytes.Compare(account, from) <= 0 {
				all = append(all, account)
			}
		}
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.turn.after = nil; len(all) == takeOverLook {
		s.turn.after = all[len(all)-1]
	}
	return all, nil
}

// queuingAfter skips from account to account: how many attempts each has does not count.
func (s *Store) queuingAfter(ctx context.Context, after []byte, limit int) ([][]byte, error) {
	rows, err := s.db.Query(ctx, `
		WITH RECURSIVE whose (account, nth) AS (
			(
				SELECT q.account, 1
				FROM   acme_attempt q
				WHERE  q.account > coalesce($1::bytea, '')
				ORDER  BY q.account
				LIMIT  1
			)
			UNION  ALL
			SELECT n.account, w.nth + 1
			FROM   whose w
			CROSS  JOIN LATERAL (
			           SELECT q.account
			           FROM   acme_attempt q
			           WHERE  q.account > w.account
			           ORDER  BY q.account
			           LIMIT  1
			       ) n
			WHERE  w.nth < $2
		)
		SELECT account
		FROM   whose
		ORDER  BY nth`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]byte])
}

// Begin implements acme.Store. Whoever takes an attempt over changes its lease, and whoever begins a try its tries, so that of
// two who believe to have it one is refused.
func (s *Store) Begin(ctx context.Context, t acme.Task, lease time.Duration) (bool, error) {
	tag, err := s.db.Exec(ctx, `
		UPDATE acme_attempt
		SET    leased_until = clock_timestamp() + $2::interval,
		       tries = $3
		WHERE  authorization_id = $1 AND tries <= $3 AND ($4::timestamptz IS NULL OR leased_until = $4)`,
		t.Authorization.ID.Bytes(), lease, t.Tries, orNull(t.Leased))
	return tag.RowsAffected() == 1, err
}

func toTask(row pgx.CollectableRow) (acme.Task, error) {
	var r authorizationRow
	var scope string
	var t acme.Task
	err := row.Scan(&r.ID, &r.Account, &r.ExpiresAt, &r.Name, &r.Token, &r.Subdomains, &r.Attempted, &r.AskedAt, &r.Tried, &r.NextAt, &t.Payload, &t.Tries, &t.Leased,
		&scope, &t.Thumbprint)
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

// attemptLife bounds how long an attempt is taken over again and again. A schedule is over within minutes; what is left after
// a day has lost its account or its authorization, and whoever still wants it answers the challenge again.
const attemptLife = 24 * time.Hour

func (s *Store) sweepAttempts(ctx context.Context, now time.Time) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM acme_attempt
		WHERE  asked_at < $1`, now.Add(-attemptLife))
	return err
}
