package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// authorizationColumns are those of authorizationRow, of a claim c with its attempt t and its validation v.
const authorizationColumns = `c.id, c.account, c.expires_at, c.name, c.token, c.subdomains, c.deactivated_at, t.method, t.asked_at, t.problem, t.next_try_at, v.method, v.at, v.evidence, v.problem`

type authorizationRow struct {
	ID, Account []byte
	ExpiresAt   time.Time
	Name        string
	Token       []byte
	Subdomains  *bool
	EndedAt     *time.Time
	Attempted   *string
	AskedAt     *time.Time
	Tried       []byte
	NextAt      *time.Time
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
	a.Subdomains, a.Deactivated = r.Subdomains != nil, orZero(r.EndedAt)
	if r.Attempted != nil {
		a.Attempt = &acme.Attempt{Method: acme.Method(*r.Attempted), Asked: r.AskedAt.UTC()}
		if a.Attempt.Problem, err = readProblem(r.Tried); err != nil {
			return acme.Authorization{}, err
		}
		if a.Attempt.Problem != nil {
			a.Attempt.Next = r.NextAt.UTC()
		}
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

// selectAuthorizations reads several of one week (Store.week).
func selectAuthorizations(week string) string {
	return `
	SELECT ` + authorizationColumns + `
	FROM   unnest($1::bytea[]) AS n (id)
	CROSS  JOIN LATERAL (
	           SELECT d.id, d.account, d.expires_at, d.name, d.token, d.subdomains, d.deactivated_at
	           FROM   acme_authorization` + week + ` d
	           WHERE  d.id = n.id
	           LIMIT  1
	       ) c
	LEFT   JOIN LATERAL (
	           SELECT d.method, d.asked_at, d.problem, d.next_try_at
	           FROM   acme_attempt d
	           WHERE  d.authorization_id = n.id
	           LIMIT  1
	       ) t ON true
	LEFT   JOIN LATERAL (
	           SELECT d.method, d.at, d.evidence, d.problem
	           FROM   acme_validation` + week + ` d
	           WHERE  d.authorization_id = n.id
	           LIMIT  1
	       ) v ON true`
}

// Authorization implements acme.Store.
func (s *Store) Authorization(ctx context.Context, id uid.UID) (acme.Authorization, error) {
	rows, err := s.db.Query(ctx, selectAuthorization, id.Bytes())
	if err != nil {
		return acme.Authorization{}, err
	}
	a, err := pgx.CollectExactlyOneRow(rows, toAuthorization)
	return a, missing(err)
}
