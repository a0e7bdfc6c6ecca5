package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// Guarded has a second operator confirm what widens the platform's own rights.
func (r *Registry) Guarded(g access.Guard) { r.guard = g }

// creatable decides whether who may make s: above it, since a tenant's admin must not widen what the tenant may.
func (r *Registry) creatable(ctx context.Context, who identity.Caller, s identity.Scope, rights policy.Rights) error {
	if err := access.Check(who, access.ChangeScopes, access.Above(s)); err != nil {
		return err
	}
	if err := formed(s, rights); err != nil {
		return err
	}
	if strings.HasPrefix(s.Tenant(), gonePrefix) {
		return &policy.Refusal{What: "scope " + s.String(), Rule: "names of deleted tenants", Remedy: "choose a name that does not begin with " + gonePrefix}
	}
	if state := r.State(s); state == Deleting {
		return &policy.Refusal{What: "scope " + s.String(), Rule: "its tenant is being deleted", Remedy: "wait until it is, or choose another"}
	}
	var resting bool
	err := r.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM scope WHERE born = $1 AND deleted_at > $2)`, s.String(), r.now().Add(-rest)).Scan(&resting)
	if err != nil {
		return fmt.Errorf("looking for a deleted %s: %w", s, err)
	}
	if resting {
		return &policy.Refusal{
			What: "scope " + s.String(), Rule: "the name of a deleted tenant rests",
			Remedy: "wait until " + rest.String() + " after its deletion, when whatever the old one was given is void; or choose another name",
		}
	}
	return nil
}

func (r *Registry) changeable(who identity.Caller, s identity.Scope, rights policy.Rights) error {
	if err := access.Check(who, access.ChangeScopes, access.Above(s)); err != nil {
		return err
	}
	if err := formed(s, rights); err != nil {
		return err
	}
	_, err := r.Scope(s)
	return err
}

func formed(s identity.Scope, rights policy.Rights) error {
	if _, err := policy.Compile(s, rights); err != nil {
		return &policy.Refusal{What: "the rights of " + s.String(), Rule: "the form of name rights", Remedy: err.Error()}
	}
	return nil
}

// widening has a second operator confirm what gives the platform a name that it had not.
func (r *Registry) widening(ctx context.Context, who identity.Caller, s identity.Scope, rights policy.Rights) error {
	had, err := r.Scope(s)
	if err != nil || !s.IsPlatform() {
		return err
	}
	more := func(was, is []string) bool {
		return was != nil && is == nil || slices.ContainsFunc(is, func(p string) bool { return !slices.Contains(was, p) })
	}
	if !more(had.Rights.DNS, rights.DNS) && !more(had.Rights.IP, rights.IP) && !more(had.Rights.SPIFFE, rights.SPIFFE) {
		return nil
	}
	return r.guard.Pass(ctx, who, access.Request{Kind: access.WidenPlatform, Scope: s, Terms: "set the name rights of the platform to " + describe(rights)})
}

// suspendable decides whether who may stop s or let it go on: above it, or a tenant that was stopped would go on by itself.
func (r *Registry) suspendable(ctx context.Context, who identity.Caller, s identity.Scope, what string) error {
	at := access.Above(s)
	if at.IsZero() {
		return fmt.Errorf("%w: %s", ErrNotFound, s)
	}
	f := audit.Fact{At: r.now(), Who: who, Scope: s, What: what, Subject: s.String()}
	return r.refused(ctx, f, access.Check(who, access.Suspend, at))
}
