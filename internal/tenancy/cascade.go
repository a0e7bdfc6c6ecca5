package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// RunOnce goes on with every deletion that is not finished. It is a duty's work.
func (d *Deleter) RunOnce(ctx context.Context) error {
	rows, err := d.db.Query(ctx, `
		SELECT d.id, d.scope, d.tenant
		FROM   scope s
		JOIN   deletion d ON d.scope = s.id
		WHERE  s.deleting_at IS NOT NULL AND s.deleted_at IS NULL
		ORDER  BY d.id`)
	if err != nil {
		return fmt.Errorf("looking for tenants to delete: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[dying])
	if err != nil {
		return fmt.Errorf("looking for tenants to delete: %w", err)
	}
	var errs []error
	for _, v := range due {
		if err := d.goOn(ctx, v); err != nil {
			errs = append(errs, fmt.Errorf("deleting %s: %w", v.Tenant, err))
		}
	}
	return errors.Join(errs...)
}

// A dying tenant is one that is being deleted.
type dying struct {
	ID     int64
	Scope  int
	Tenant string
}

// goOn revokes what is valid, ends what could make more, and sets the name free. Nothing is issued there meanwhile: the tenant is
// suspended, and the statement that records an intent asks that.
func (d *Deleter) goOn(ctx context.Context, v dying) error {
	tenant, err := identity.ParseScope(v.Tenant)
	if err != nil {
		return err
	}
	// 1. Certificates. From the first call on all are revoked, though not every row says so yet.
	revoked, done, err := d.Ender.End(ctx, v.ID, tenant)
	if err != nil || !done {
		return err
	}
	// 2. What could make others, each counted in the row of the deletion.
	for _, e := range endings {
		if err := d.end(ctx, v, e); err != nil {
			return fmt.Errorf("ending its %s: %w", e.column, err)
		}
	}
	// 3. The name.
	if err := postgres.Tx(ctx, d.db, func(tx pgx.Tx) error { return d.free(ctx, tx, v, revoked) }); err != nil {
		return fmt.Errorf("setting its name free: %w", err)
	}
	return d.Reload(ctx)
}

// An ending is one kind of thing that a tenant has, and what ends it.
type ending struct{ column, table, set, live, whose string }

// What is a tenant's ($2): what is in one of its scopes; and elsewhere the roles of its identities, which whoever gets its name
// would make again.
const (
	inside  = `t.scope = ANY (ARRAY(SELECT id FROM scope WHERE path = $2 OR starts_with(path, $2 || '/')))`
	ofTheir = `split_part(t.identity, '/', 4) = 'tenant' AND split_part(t.identity, '/', 5) = $2`
)

var endings = []ending{
	{"accounts", "acme_account", "deactivated_at", "deactivated_at IS NULL", inside},
	{"keys", "acme_binding", "revoked_at", "revoked_at IS NULL", inside},
	{"roles", "role_binding", "ended_at", "ended_at IS NULL", inside},
	{"roles", "role_binding", "ended_at", "ended_at IS NULL", ofTheir},
	{"methods", "enrolment_method", "ended_at", "ended_at IS NULL", inside},
	{"targets", "credential_binding", "ended_at", "ended_at IS NULL", inside},
	{"targets", "credential_target", "ended_at", "ended_at IS NULL", inside},
}

// most bounds how much one statement ends.
const most = 5000

func (d *Deleter) end(ctx context.Context, v dying, e ending) error {
	for {
		tag, err := d.db.Exec(ctx, `
			WITH mine AS (
				SELECT t.id
				FROM   `+e.table+` t
				WHERE  `+e.whose+` AND t.`+e.live+`
				LIMIT  $4
			), ended AS (
				UPDATE `+e.table+` t
				SET    `+e.set+` = greatest($3, now())
				FROM   mine m
				WHERE  t.id = m.id AND t.`+e.live+`
				RETURNING t.id
			)
			UPDATE deletion
			SET    `+e.column+` = `+e.column+` + (SELECT count(*) FROM ended)
			WHERE  id = $1 AND EXISTS (SELECT FROM ended)`, v.ID, v.Tenant, d.now(), most)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
	}
}

// free gives the rows of a tenant other names, and says in a fact what was ended: the proof that it happened.
func (d *Deleter) free(ctx context.Context, tx pgx.Tx, v dying, revoked int) error {
	now, name := d.now(), gone(v.Scope)
	if _, err := tx.Exec(ctx, `SET CONSTRAINTS ALL DEFERRED`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM limit_override
		WHERE  scope = ANY (ARRAY(SELECT id FROM scope WHERE path = $1 OR starts_with(path, $1 || '/')))`, v.Tenant); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		UPDATE scope
		SET    born = path,
		       path = $2 || substring(path FROM length($1) + 1),
		       parent = $2 || substring(parent FROM length($1) + 1),
		       tenant = $2,
		       deleting_at = coalesce(deleting_at, $3),
		       suspended_at = coalesce(suspended_at, $3),
		       deleted_at = $3
		WHERE  (path = $1 OR starts_with(path, $1 || '/')) AND deleted_at IS NULL`, v.Tenant, name, now)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return d.prove(ctx, tx, v, name, int(tag.RowsAffected()), revoked, now)
}

func (d *Deleter) prove(ctx context.Context, tx pgx.Tx, v dying, name string, scopes, revoked int, now time.Time) error {
	var what string
	err := tx.QueryRow(ctx, `
		UPDATE deletion
		SET    finished_at = $2, scopes = $3, certificates = $4
		WHERE  id = $1
		RETURNING format('deletion %s: %s certificates revoked, %s accounts, %s external account keys, %s roles, %s enrolment methods, %s targets and bindings of credentials ended, in %s scopes',
		       id, certificates, accounts, keys, roles, methods, targets, scopes)`, v.ID, now, scopes, revoked).Scan(&what)
	if err != nil {
		return err
	}
	at, err := identity.ParseScope(name)
	if err != nil {
		return err
	}
	f := audit.Fact{At: now, Who: identity.System("deletions"), Scope: at, What: audit.ScopeDeleted, Subject: v.Tenant, Why: what}
	if _, err := tx.Exec(ctx, audit.Insert, audit.Columns(f)...); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT pg_notify($1, '')`, Channel)
	return err
}
