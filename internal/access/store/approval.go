package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Guard is the access.Guard of this registry's rule. What was confirmed is used by the statement that finds it; what was not
// is recorded, once, however often it is asked for.
func (r *Registry) Guard(ctx context.Context, who identity.Caller, q access.Request) error {
	if !r.rule.Needs(q.Kind) || q.Kind == access.RevokeMany && q.Count <= r.rule.RevokeMany || own(who) {
		return nil
	}
	now := r.now()
	f := audit.Fact{At: now, Who: who, Scope: q.Scope, What: audit.ApprovalUsed, Subject: q.Terms}
	var used int
	err := r.db.QueryRow(ctx, `
		WITH used AS (
			UPDATE approval
			SET    used_at = $13
			WHERE  asked_by = $10 AND kind = $11 AND md5(terms) = md5($12) AND terms = $12 AND approved AND used_at IS NULL AND expires_at > $13
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM used)
		)
		SELECT count(*)
		FROM   used`, append(audit.Columns(f), who.Actor, string(q.Kind), q.Terms, now)...).Scan(&used)
	if err != nil {
		return fmt.Errorf("looking whether a second operator confirmed: %w", err)
	}
	if used == 1 {
		return nil
	}
	return r.ask(ctx, who, q, now)
}

// own reports whether who is no caller from outside: a duty, or a command that holds the keys.
func own(who identity.Caller) bool {
	return who.Operator && who.Grants.Len() == 0 && who.ID.IsZero() && who.Claims == nil
}

// ask records that a second operator is to confirm q, or finds that it is recorded.
func (r *Registry) ask(ctx context.Context, who identity.Caller, q access.Request, now time.Time) error {
	f := audit.Fact{At: now, Who: who, Scope: q.Scope, What: audit.ApprovalAsked, Subject: q.Terms}
	p := &access.Pending{}
	err := r.db.QueryRow(ctx, `
		WITH asked AS (
			INSERT INTO approval AS a (kind, scope, terms, asked_at, asked_by, asked_act, expires_at)
			VALUES ($10, $11, $12, $13, $14, nullif($15, ''), $16)
			ON     CONFLICT (asked_by, kind, md5(terms))
			WHERE  used_at IS NULL AND coalesce(approved, true) DO UPDATE
			SET    terms = excluded.terms,
			       asked_at = excluded.asked_at,
			       asked_act = excluded.asked_act,
			       expires_at = excluded.expires_at,
			       decided_at = NULL,
			       decided_by = NULL,
			       approved = NULL
			WHERE  a.expires_at <= excluded.asked_at
			RETURNING id, expires_at
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM asked)
		)
		SELECT id, expires_at
		FROM   asked
		UNION  ALL
		SELECT id, expires_at
		FROM   approval
		WHERE  asked_by = $14 AND kind = $10 AND md5(terms) = md5($12) AND used_at IS NULL AND coalesce(approved, true) AND expires_at > $13
		LIMIT  1`,
		append(audit.Columns(f), string(q.Kind), q.Scope.String(), q.Terms, now, who.Actor, who.Act, now.Add(r.rule.Within))...).Scan(&p.ID, &p.Expires)
	if err != nil {
		return fmt.Errorf("asking for a second operator: %w", err)
	}
	return p
}

const mostApprovals = 200

// Approvals returns the newest requests that who may see: its own, and all for who may read the platform's roles.
func (r *Registry) Approvals(ctx context.Context, who identity.Caller, before int64, limit int) ([]access.Approval, error) {
	own := who.Actor
	if access.May(who, access.ReadRoles, identity.Platform) {
		own = ""
	} else if own == "" {
		return nil, access.Check(who, access.ReadRoles, identity.Platform)
	}
	rows, err := r.db.Query(ctx, selectApproval+`
		WHERE  ($1 = '' OR asked_by = $1) AND ($2 = 0 OR id < $2)
		ORDER  BY id DESC
		LIMIT  $3`, own, before, min(limit, mostApprovals))
	if err != nil {
		return nil, fmt.Errorf("listing what waits for a second operator: %w", err)
	}
	list, err := pgx.CollectRows(rows, approvalOf)
	if err != nil {
		return nil, fmt.Errorf("listing what waits for a second operator: %w", err)
	}
	return list, nil
}

const selectApproval = `
		SELECT id, kind, scope, terms, asked_at, asked_by, coalesce(asked_act, ''), expires_at, decided_at, coalesce(decided_by, ''),
		       coalesce(approved, false), used_at
		FROM   approval`

func approvalOf(row pgx.CollectableRow) (access.Approval, error) {
	var a access.Approval
	var kind, at string
	var decided, used *time.Time
	err := row.Scan(&a.ID, &kind, &at, &a.Terms, &a.AskedAt, &a.AskedBy, &a.AskedAct, &a.Expires, &decided, &a.DecidedBy, &a.Approved, &used)
	if err != nil {
		return a, err
	}
	a.Kind = access.Kind(kind)
	if decided != nil {
		a.DecidedAt = decided.UTC()
	}
	if used != nil {
		a.UsedAt = used.UTC()
	}
	a.Scope, err = identity.ParseScope(at)
	return a, err
}

// Decide confirms a request or turns it down. ErrNotFound. ErrOver: it was decided before, has expired, or was done.
func (r *Registry) Decide(ctx context.Context, who identity.Caller, id int64, approve bool) (access.Approval, error) {
	a, err := r.approval(ctx, id)
	if err != nil {
		return a, err
	}
	f := audit.Fact{At: r.now(), Who: who, Scope: a.Scope, What: audit.ApprovalGiven, Subject: fmt.Sprintf("%d: %s", id, a.Terms)}
	if !approve {
		f.What = audit.ApprovalRejected
	}
	if err := a.MayDecide(who, approve); err != nil {
		if !access.May(who, access.ReadRoles, identity.Platform) && who.Actor != a.AskedBy {
			err = fmt.Errorf("request %d: %w", id, access.ErrNotFound)
		}
		return access.Approval{}, r.refused(ctx, f, err)
	}
	var n int
	err = r.db.QueryRow(ctx, `
		WITH decided AS (
			UPDATE approval
			SET    decided_at = $11, decided_by = $12, approved = $13
			WHERE  id = $10 AND decided_at IS NULL AND expires_at > $11
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM decided)
		)
		SELECT count(*)
		FROM   decided`, append(audit.Columns(f), id, f.At, who.Actor, approve)...).Scan(&n)
	if err != nil {
		return access.Approval{}, fmt.Errorf("deciding request %d: %w", id, err)
	}
	if n == 0 {
		return access.Approval{}, fmt.Errorf("request %d: %w", id, access.ErrOver)
	}
	return r.approval(ctx, id)
}

func (r *Registry) approval(ctx context.Context, id int64) (access.Approval, error) {
	rows, err := r.db.Query(ctx, selectApproval+`
		WHERE  id = $1`, id)
	if err != nil {
		return access.Approval{}, fmt.Errorf("reading request %d: %w", id, err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, approvalOf)
	if errors.Is(err, pgx.ErrNoRows) {
		err = access.ErrNotFound
	}
	if err != nil {
		return access.Approval{}, fmt.Errorf("reading request %d: %w", id, err)
	}
	return a, nil
}
