package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// gonePrefix begins the names that deleted tenants have; no other tenant gets one.
const gonePrefix = "deleted-"

// rest is how long the name of a deleted tenant is not given again: until every key, token and memory of the old one is void.
const rest = 24 * time.Hour

// A Deletion is a tenant that is, or was, deleted, and how much of each was ended. Before it begins, it is how much there is.
type Deletion struct {
	ID           int64
	Tenant       identity.Scope
	Gone         identity.Scope // the name that its rows have since
	AskedAt      time.Time
	AskedBy      string
	Why          string
	Scopes       int
	Certificates int // revoked, of those that were valid
	Accounts     int // of ACME, deactivated
	Keys         int // external account keys, revoked
	Roles        int // bindings that ended
	Methods      int // of enrolment, ended
	Targets      int // where credentials were made, with the bindings that made them
	FinishedAt   time.Time
}

// An Ender ends the certificates of a tenant that is being deleted.
type Ender interface {
	// Count counts those that are valid.
	Count(ctx context.Context, tenant identity.Scope) (int, error)
	// End revokes them, and reports whether all are and how many there were. It is asked again until it says so, with the
	// same id.
	End(ctx context.Context, id int64, tenant identity.Scope) (revoked int, done bool, err error)
}

// A Deleter deletes tenants. From when Delete returns, nothing is issued there; RunOnce ends what there is and then sets the name
// free. Every step is done once however often it is begun, and what is not done yet is found again by whoever runs next.
type Deleter struct {
	*Registry
	Guard access.Guard
	Ender Ender
}

// Preview returns how much deleting a tenant would end, and changes nothing.
func (d *Deleter) Preview(ctx context.Context, who identity.Caller, tenant identity.Scope) (Deletion, error) {
	if err := d.deletable(who, tenant); err != nil {
		return Deletion{}, err
	}
	out := Deletion{Tenant: tenant}
	err := d.db.QueryRow(ctx, `
		WITH mine AS (
			SELECT array_agg(id) AS ids
			FROM   scope
			WHERE  path = $1 OR starts_with(path, $1 || '/')
		)
		SELECT cardinality(m.ids),
		       (SELECT count(*) FROM acme_account WHERE scope = ANY (m.ids) AND deactivated_at IS NULL),
		       (SELECT count(*) FROM acme_binding WHERE scope = ANY (m.ids) AND revoked_at IS NULL),
		       (SELECT count(*) FROM role_binding t WHERE (t.scope = ANY (m.ids) OR split_part(t.identity, '/', 4) = 'tenant' AND split_part(t.identity, '/', 5) = $1) AND t.ended_at IS NULL),
		       (SELECT count(*) FROM enrolment_method WHERE scope = ANY (m.ids) AND ended_at IS NULL),
		       (SELECT count(*) FROM credential_target WHERE scope = ANY (m.ids) AND ended_at IS NULL)
		FROM   mine m`, tenant.String()).Scan(&out.Scopes, &out.Accounts, &out.Keys, &out.Roles, &out.Methods, &out.Targets)
	if err != nil {
		return Deletion{}, fmt.Errorf("counting what %s has: %w", tenant, err)
	}
	if out.Certificates, err = d.Ender.Count(ctx, tenant); err != nil {
		return Deletion{}, fmt.Errorf("counting the certificates of %s: %w", tenant, err)
	}
	return out, nil
}

func (d *Deleter) deletable(who identity.Caller, tenant identity.Scope) error {
	if err := access.Check(who, access.Delete, access.Above(tenant)); err != nil {
		return err
	}
	if _, below := tenant.Parent(); below || tenant.IsPlatform() || tenant.IsZero() {
		return &policy.Refusal{What: "deleting " + tenant.String(), Rule: "tenants are deleted whole", Remedy: "suspend a project or an environment, or delete its tenant"}
	}
	v, err := d.Scope(tenant)
	if err == nil && !v.DeletedAt.IsZero() {
		err = fmt.Errorf("%w: %s", ErrNotFound, tenant)
	}
	return err
}

// Delete begins to delete a tenant, or finds that it was begun. access.ErrPending: a second operator has to confirm it.
func (d *Deleter) Delete(ctx context.Context, who identity.Caller, tenant identity.Scope, why string) (Deletion, error) {
	f := audit.Fact{At: d.now(), Who: who, Scope: tenant, What: audit.ScopeDeleting, Subject: tenant.String(), Why: why}
	err := d.deletable(who, tenant)
	if err == nil {
		if had, err := d.deletion(ctx, `tenant = $1 AND finished_at IS NULL`, tenant.String()); !errors.Is(err, ErrNotFound) {
			return had, err
		}
		err = d.Guard.Pass(ctx, who, access.Request{Kind: access.DeleteTenant, Scope: identity.Platform, Terms: d.terms(tenant)})
	}
	if err != nil {
		return Deletion{}, d.refused(ctx, f, err)
	}
	var b pgx.Batch
	b.Queue(`
		UPDATE scope
		SET    deleting_at = $2,
		       suspended_at = coalesce(suspended_at, $2)
		WHERE  path = $1 AND deleting_at IS NULL`, tenant.String(), f.At)
	b.Queue(`
		INSERT INTO deletion (scope, tenant, asked_at, asked_by, why)
		SELECT id, path, $2, $3, $4
		FROM   scope
		WHERE  path = $1`, tenant.String(), f.At, who.Actor, why)
	b.Queue(audit.Insert, audit.Columns(f)...)
	b.Queue(`SELECT pg_notify($1, '')`, Channel)
	err = d.db.SendBatch(ctx, &b).Close()
	if postgres.Violated(err) != "deletion_once" && err != nil {
		return Deletion{}, fmt.Errorf("deleting %s: %w", tenant, err)
	}
	if err := d.Reload(ctx); err != nil {
		return Deletion{}, err
	}
	return d.deletion(ctx, `tenant = $1 AND finished_at IS NULL`, tenant.String())
}

// terms name a tenant that is there now: not the next of its name, whenever a confirmation is used.
func (d *Deleter) terms(tenant identity.Scope) string {
	v, _ := d.Scope(tenant) // deletable found it
	return fmt.Sprintf("delete tenant %s, made %s", tenant, v.CreatedAt.Format(time.RFC3339))
}

// refused records a refusal and returns its error; other errors pass through.
func (r *Registry) refused(ctx context.Context, f audit.Fact, err error) error {
	rule, ok := errors.AsType[*policy.Refusal](err)
	if !ok {
		return err
	}
	f.Refused, f.Why = true, rule.Rule
	if _, ferr := r.db.Exec(context.WithoutCancel(ctx), audit.InsertRefusals, audit.RefusalColumns(f)...); ferr != nil {
		return fmt.Errorf("recording a refusal (%s): %w", rule.Rule, ferr)
	}
	return err
}

// Deletion returns one, for who may read the platform's scopes.
func (d *Deleter) Deletion(ctx context.Context, who identity.Caller, id int64) (Deletion, error) {
	if err := access.Check(who, access.ReadScopes, identity.Platform); err != nil {
		return Deletion{}, err
	}
	return d.deletion(ctx, `id = $1`, id)
}

func (d *Deleter) deletion(ctx context.Context, where string, arg any) (Deletion, error) {
	rows, err := d.db.Query(ctx, `
		SELECT id, scope, tenant, asked_at, asked_by, why, scopes, certificates, accounts, keys, roles, methods, targets, finished_at
		FROM   deletion
		WHERE  `+where, arg)
	if err != nil {
		return Deletion{}, fmt.Errorf("reading a deletion: %w", err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (Deletion, error) {
		var v Deletion
		var scope int
		var tenant string
		var finished *time.Time
		err := row.Scan(&v.ID, &scope, &tenant, &v.AskedAt, &v.AskedBy, &v.Why, &v.Scopes, &v.Certificates, &v.Accounts, &v.Keys, &v.Roles, &v.Methods, &v.Targets, &finished)
		if err != nil {
			return v, err
		}
		if v.Tenant, err = identity.ParseScope(tenant); err != nil {
			return v, err
		}
		if finished != nil {
			v.FinishedAt = finished.UTC()
			v.Gone, err = identity.ParseScope(gone(scope))
		}
		return v, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Deletion{}, fmt.Errorf("reading a deletion: %w", err)
	}
	return v, nil
}

func gone(scope int) string { return fmt.Sprintf("%s%d", gonePrefix, scope) }
