// Package store keeps who may do what: the bindings of roles, and what waits for a second operator.
//
// Bindings are in Postgres; what they say is held compiled in memory, as a whole, and replaced as a whole: on a notice from
// whichever replica changed something, and every few seconds in case a notice is missed. Naming a caller costs no query. A
// change is durable, with its fact, before the method that made it returns, and this replica has it at once. A confirmation
// is used by one statement, so it is good for one act, whichever replicas are asked at once.
//
// A Registry is safe for concurrent use.
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Channel is the Postgres channel on which a change is noticed. It is a hint, and that of scopes too.
const Channel = "segl_scopes"

// A Registry holds all bindings.
type Registry struct {
	db    *postgres.DB
	now   func() time.Time
	rule  access.Rule
	table atomic.Pointer[access.Table]

	mu     sync.Mutex // guards below
	begun  uint64     // counts readings
	newest uint64     // the reading that table is of
}

// Open reads everything. rule says what two have to agree on.
func Open(ctx context.Context, db *postgres.DB, rule access.Rule, now func() time.Time) (*Registry, error) {
	if err := rule.Check(); err != nil {
		return nil, fmt.Errorf("what two have to agree on: %w", err)
	}
	r := &Registry{db: db, now: now, rule: rule}
	return r, r.Reload(ctx)
}

// Reload reads everything again. Of several at once the one that began last is kept.
func (r *Registry) Reload(ctx context.Context) error {
	r.mu.Lock()
	r.begun++
	reading := r.begun
	r.mu.Unlock()
	next, err := r.read(ctx)
	if err != nil {
		return fmt.Errorf("reading who may do what: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if reading > r.newest {
		r.newest = reading
		r.table.Store(next)
	}
	return nil
}

func (r *Registry) read(ctx context.Context) (*access.Table, error) {
	rows, err := r.db.Query(ctx, `
		SELECT b.id, b.role, s.path, coalesce(b.identity, '') AS identity, coalesce(b.issuer, '') AS issuer, coalesce(b.claim, '') AS claim,
		       coalesce(b.value, '') AS value, b.made_at, b.made_by
		FROM   role_binding b
		JOIN   scope s ON s.id = b.scope
		WHERE  b.ended_at IS NULL
		ORDER  BY b.id`)
	if err != nil {
		return nil, err
	}
	type row struct {
		ID                             int64
		Role, Path                     string
		Identity, Issuer, Claim, Value string
		MadeAt                         time.Time
		MadeBy                         string
	}
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, err
	}
	list := make([]access.Binding, 0, len(stored))
	for _, v := range stored {
		at, err := identity.ParseScope(v.Path)
		if err != nil {
			return nil, err
		}
		list = append(list, access.Binding{
			ID: v.ID, Role: access.Role(v.Role), Scope: at, MadeAt: v.MadeAt.UTC(), MadeBy: v.MadeBy,
			Subject: access.Subject{Identity: v.Identity, Issuer: v.Issuer, Claim: v.Claim, Value: v.Value},
		})
	}
	return access.Compile(list)
}

// Name returns who with what it is granted now.
func (r *Registry) Name(who identity.Caller) identity.Caller { return r.table.Load().Name(who) }

// NameTenant is Name on the tenants' side, where roles of the platform count for nothing.
func (r *Registry) NameTenant(who identity.Caller) identity.Caller {
	return r.table.Load().NameTenant(who)
}

// Bindings returns those that hold at scope or below it, which who may see, by number.
func (r *Registry) Bindings(who identity.Caller, at identity.Scope) ([]access.Binding, error) {
	if err := access.Check(who, access.ReadRoles, at); err != nil {
		return nil, err
	}
	var out []access.Binding
	for _, b := range r.table.Load().Bindings() {
		if at.IsPlatform() || at.Contains(b.Scope) {
			out = append(out, b)
		}
	}
	return out, nil
}

// Grant records a binding. ErrExists: the same is there. ErrPending: a second operator has to confirm it.
func (r *Registry) Grant(ctx context.Context, who identity.Caller, b access.Binding) (access.Binding, error) {
	f := audit.Fact{At: r.now(), Who: who, Scope: b.Scope, What: audit.RoleGranted, Subject: b.String()}
	if err := r.grantable(ctx, who, b); err != nil {
		return access.Binding{}, r.refused(ctx, f, err)
	}
	s := b.Subject
	b.MadeAt, b.MadeBy = f.At.UTC().Truncate(time.Microsecond), who.Actor
	err := r.db.QueryRow(ctx, `
		WITH made AS (
			INSERT INTO role_binding (role, scope, identity, issuer, claim, value, made_at, made_by)
			SELECT $10, s.id, nullif($12, ''), nullif($13, ''), nullif($14, ''), nullif($15, ''), $16, $17
			FROM   scope s
			WHERE  s.path = $11
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT id
		FROM   made
		WHERE  pg_notify('`+Channel+`', '') IS NOT NULL`,
		append(audit.Columns(f), string(b.Role), b.Scope.String(), s.Identity, s.Issuer, s.Claim, s.Value, b.MadeAt, b.MadeBy)...).Scan(&b.ID)
	switch {
	case postgres.Violated(err) == "role_binding_once":
		return access.Binding{}, fmt.Errorf("%w: %s", access.ErrExists, b)
	case errors.Is(err, pgx.ErrNoRows):
		return access.Binding{}, fmt.Errorf("granting %s: %w", b, access.ErrNotFound)
	case err != nil:
		return access.Binding{}, fmt.Errorf("granting %s: %w", b, err)
	}
	return b, r.Reload(ctx)
}

func (r *Registry) grantable(ctx context.Context, who identity.Caller, b access.Binding) error {
	if err := access.Check(who, access.Grant, b.Scope); err != nil {
		return err
	}
	if err := b.Check(); err != nil {
		return err
	}
	if !b.Scope.IsPlatform() {
		return nil
	}
	return r.Guard(ctx, who, access.Request{Kind: access.WidenPlatform, Scope: b.Scope, Terms: "grant " + b.String()})
}

// End takes a binding away. ErrNotFound: it is not there, or not for who. The last admin of the platform stays.
func (r *Registry) End(ctx context.Context, who identity.Caller, id int64, why string) (access.Binding, error) {
	b, last := r.find(id)
	if b.ID == 0 || !access.May(who, access.Grant, b.Scope) && !access.May(who, access.ReadRoles, b.Scope) {
		return access.Binding{}, fmt.Errorf("binding %d: %w", id, access.ErrNotFound)
	}
	f := audit.Fact{At: r.now(), Who: who, Scope: b.Scope, What: audit.RoleEnded, Subject: b.String(), Why: why}
	err := access.Check(who, access.Grant, b.Scope)
	if err == nil && last {
		err = theLast(b)
	}
	if err != nil {
		return access.Binding{}, r.refused(ctx, f, err)
	}
	// What this replica knows may be old, and two may be taken away at once: the rows of all admins are locked, and counted then.
	var n int
	err = r.db.QueryRow(ctx, `
		WITH admins AS MATERIALIZED (
			SELECT b.id
			FROM   role_binding b
			WHERE  b.role = 'admin' AND b.scope = (SELECT id FROM scope WHERE path = 'platform') AND b.ended_at IS NULL
			ORDER  BY b.id
			FOR    UPDATE
		), ended AS (
			UPDATE role_binding
			SET    ended_at = $11
			WHERE  id = $10 AND ended_at IS NULL
			AND    (id NOT IN (SELECT id FROM admins) OR EXISTS (SELECT FROM admins WHERE id <> $10))
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM ended)
		)
		SELECT count(pg_notify('`+Channel+`', '')::text)
		FROM   ended`, append(audit.Columns(f), id, f.At)...).Scan(&n)
	if err != nil {
		return access.Binding{}, fmt.Errorf("ending binding %d: %w", id, err)
	}
	if err := r.Reload(ctx); err != nil {
		return access.Binding{}, err
	}
	if n == 0 {
		if b, last := r.find(id); last {
			return access.Binding{}, r.refused(ctx, f, theLast(b))
		}
		return access.Binding{}, fmt.Errorf("binding %d: %w", id, access.ErrNotFound)
	}
	return b, nil
}

func theLast(b access.Binding) error {
	return &policy.Refusal{What: "taking away " + b.String(), Rule: "the platform has an admin", Remedy: "make another first"}
}

// find returns a binding, and whether no other makes anybody an admin of the platform.
func (r *Registry) find(id int64) (found access.Binding, last bool) {
	others := 0
	for _, b := range r.table.Load().Bindings() {
		switch {
		case b.ID == id:
			found = b
		case b.Role == access.Admin && b.Scope.IsPlatform():
			others++
		}
	}
	return found, others == 0 && found.Role == access.Admin && found.Scope.IsPlatform()
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
