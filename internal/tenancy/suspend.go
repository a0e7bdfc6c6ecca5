package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// ErrUnchanged says that a scope is suspended already, or was not.
var ErrUnchanged = errors.New("nothing to change")

// stored returns v with its suspension, and notes whom that concerns. A parent is stored before its children.
func (n *snapshot) stored(v Scope, suspended *time.Time) Scope {
	if suspended != nil {
		v.SuspendedAt = suspended.UTC()
		n.suspended[v.Scope] = v.Scope
	}
	if parent, ok := v.Scope.Parent(); ok {
		if by, ok := n.suspended[parent]; ok {
			n.suspended[v.Scope] = by
		}
	}
	return v
}

// Suspended returns the scope by whose suspension s is suspended, itself or one above it; the zero Scope when none is.
func (r *Registry) Suspended(s identity.Scope) identity.Scope { return r.all.Load().suspended[s] }

// AllSuspended returns the scopes that are suspended themselves.
func (r *Registry) AllSuspended() []identity.Scope {
	var out []identity.Scope
	for s, by := range r.all.Load().suspended {
		if s == by {
			out = append(out, s)
		}
	}
	return out
}

// Suspend ends issuance and renewal in s and everything below it, at every door, from the moment that it returns; what was
// issued stays valid, and its status is served. ErrUnchanged: it is suspended already. ErrNotFound.
func (r *Registry) Suspend(ctx context.Context, who identity.Caller, s identity.Scope, why string) (Scope, error) {
	if err := r.suspendable(ctx, who, s, audit.ScopeSuspended); err != nil {
		return Scope{}, err
	}
	if s.IsPlatform() {
		return Scope{}, &policy.Refusal{What: "suspending platform", Rule: "the platform serves every tenant", Remedy: "suspend tenants, or stop the service"}
	}
	now := r.now()
	return r.suspension(ctx, s, audit.Fact{At: now, Who: who, Scope: s, What: audit.ScopeSuspended, Subject: s.String(), Why: why}, `
		UPDATE scope
		SET    suspended_at = $11
		WHERE  path = $10 AND suspended_at IS NULL
		RETURNING path`, s.String(), now)
}

// Resume lets s issue again, as far as no scope above it is suspended. ErrUnchanged: it was not suspended. ErrNotFound.
func (r *Registry) Resume(ctx context.Context, who identity.Caller, s identity.Scope, why string) (Scope, error) {
	if err := r.suspendable(ctx, who, s, audit.ScopeResumed); err != nil {
		return Scope{}, err
	}
	return r.suspension(ctx, s, audit.Fact{At: r.now(), Who: who, Scope: s, What: audit.ScopeResumed, Subject: s.String(), Why: why}, `
		UPDATE scope
		SET    suspended_at = NULL
		WHERE  path = $10 AND suspended_at IS NOT NULL AND deleting_at IS NULL
		RETURNING path`, s.String())
}

// suspension changes one scope; of several at once one does, and the others find it done.
func (r *Registry) suspension(ctx context.Context, s identity.Scope, f audit.Fact, sql string, args ...any) (Scope, error) {
	if _, err := r.Scope(s); err != nil {
		return Scope{}, err
	}
	changed, err := r.changed(ctx, f, sql, args...)
	if err != nil {
		return Scope{}, fmt.Errorf("recording %s of %s: %w", f.What, s, err)
	}
	if err := r.Reload(ctx); err != nil {
		return Scope{}, err
	}
	if !changed {
		return Scope{}, fmt.Errorf("%w: %s", ErrUnchanged, s)
	}
	return r.Scope(s)
}

// changed runs an UPDATE that changes one row or none and, where it did, notes its fact and gives notice, in one statement.
// The fact's arguments come before those of the UPDATE.
func (r *Registry) changed(ctx context.Context, f audit.Fact, update string, args ...any) (bool, error) {
	var n int
	err := r.db.QueryRow(ctx, `
		WITH changed AS (`+update+`
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM changed)
		)
		SELECT count(pg_notify('`+Channel+`', '')::text)
		FROM   changed`,
		append(audit.Columns(f), args...)...).Scan(&n)
	return n == 1, err
}
