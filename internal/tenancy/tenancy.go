// Package tenancy keeps the scopes and what each may bear: platform, tenants, projects, environments and their name
// rights. Who may act in them is internal/access's.
//
// Rows are in Postgres; what they say is held compiled in memory, as a whole, and replaced as a whole: on a notice from
// whichever replica changed something, and every few seconds in case a notice is missed. Reading a scope's rights costs
// no query. A change is durable, with its fact, before the method that made it returns, and this replica has it at once.
// An environment exists only under a project and a project only under a tenant, by constraint.
//
// A Registry is safe for concurrent use.
package tenancy

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

// Errors that callers decide upon.
var (
	ErrNotFound = errors.New("no such scope")
	ErrExists   = errors.New("the scope exists")
	ErrNoParent = errors.New("its parent does not exist: create that first")
)

// Channel is the Postgres channel on which a change is noticed. It is a hint.
const Channel = "segl_scopes"

// A Scope is one scope as it is stored.
type Scope struct {
	Scope     identity.Scope
	Rights    policy.Rights
	CreatedAt time.Time
	// SuspendedAt is since when nothing is issued in it and below it, or zero.
	SuspendedAt time.Time
	// DeletingAt is since when it, or the tenant that it is of, is being deleted, and DeletedAt since when it is; zero: not.
	DeletingAt, DeletedAt time.Time
}

// A State is where a scope is in its life: active, suspended (by itself or with one above it), deleting, or deleted.
type State string

// The states.
const (
	Active    State = "active"
	Suspended State = "suspended"
	Deleting  State = "deleting"
	Deleted   State = "deleted"
)

// State computes where a scope is.
func (r *Registry) State(s identity.Scope) State {
	all := r.all.Load()
	top := s
	for up, ok := top.Parent(); ok; up, ok = top.Parent() {
		top = up
	}
	_, suspended := all.suspended[s]
	switch {
	case !all.scopes[top].DeletedAt.IsZero():
		return Deleted
	case !all.scopes[top].DeletingAt.IsZero():
		return Deleting
	case suspended:
		return Suspended
	}
	return Active
}

// Living reports whether s is there and was at the time at: what is older than the scope of a name is another's.
func (r *Registry) Living(s identity.Scope, at time.Time) bool {
	v, ok := r.all.Load().scopes[s]
	return ok && v.DeletedAt.IsZero() && !at.Before(v.CreatedAt.Add(-time.Minute))
}

// A Registry holds all scopes.
type Registry struct {
	db    *postgres.DB
	now   func() time.Time
	all   atomic.Pointer[snapshot]
	guard access.Guard // before the platform's rights are widened; nil: nobody has to agree

	mu     sync.Mutex // guards below
	begun  uint64     // counts readings
	newest uint64     // the reading that all is of
}

// A snapshot is everything at one moment. It is never changed.
type snapshot struct {
	scopes    map[identity.Scope]Scope
	order     []identity.Scope
	ids       map[identity.Scope]int32   // what rows call them
	under     map[identity.Scope][]int32 // themselves and those below them
	chains    map[identity.Scope]policy.Chain
	suspended map[identity.Scope]identity.Scope // to the highest that is suspended, itself or one above it
}

// Open reads everything.
func Open(ctx context.Context, db *postgres.DB, now func() time.Time) (*Registry, error) {
	r := &Registry{db: db, now: now}
	return r, r.Reload(ctx)
}

// Reload reads everything again. Of several at once the one that began last is kept: what one of them has seen is not
// forgotten for another that looked before.
func (r *Registry) Reload(ctx context.Context) error {
	r.mu.Lock()
	r.begun++
	reading := r.begun
	r.mu.Unlock()
	next, err := r.read(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if reading > r.newest {
		r.newest = reading
		r.all.Store(next)
	}
	return nil
}

func (r *Registry) read(ctx context.Context) (*snapshot, error) {
	next := &snapshot{scopes: map[identity.Scope]Scope{}, ids: map[identity.Scope]int32{}, under: map[identity.Scope][]int32{}, chains: map[identity.Scope]policy.Chain{}, suspended: map[identity.Scope]identity.Scope{}}
	rows, err := r.db.Query(ctx, `
		SELECT id, path, dns, ip, spiffe, created_at, suspended_at, deleting_at, deleted_at
		FROM   scope
		ORDER  BY path`)
	if err != nil {
		return nil, fmt.Errorf("reading scopes: %w", err)
	}
	type row struct {
		ID              int32
		Path            string
		DNS, IP, SPIFFE []string
		CreatedAt       time.Time
		SuspendedAt     *time.Time
		DeletingAt      *time.Time
		DeletedAt       *time.Time
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, fmt.Errorf("reading scopes: %w", err)
	}
	for _, v := range list { // a parent sorts before its children
		s, err := identity.ParseScope(v.Path)
		if err != nil {
			return nil, fmt.Errorf("reading scopes: %w", err)
		}
		rights := policy.Rights{DNS: v.DNS, IP: v.IP, SPIFFE: v.SPIFFE}
		compiled, err := policy.Compile(s, rights)
		if err != nil {
			return nil, fmt.Errorf("reading scopes: %w", err)
		}
		var above policy.Chain
		if parent, ok := s.Parent(); ok {
			above = next.chains[parent]
		}
		next.chains[s] = append(above[:len(above):len(above)], compiled)
		stored := Scope{Scope: s, Rights: rights, CreatedAt: v.CreatedAt.UTC(), DeletingAt: orZero(v.DeletingAt), DeletedAt: orZero(v.DeletedAt)}
		next.scopes[s], next.ids[s] = next.stored(stored, v.SuspendedAt), v.ID
		if v.DeletedAt == nil {
			next.order = append(next.order, s)
		}
		for up, ok := s, true; ok; up, ok = up.Parent() {
			next.under[up] = append(next.under[up], v.ID)
		}
	}
	return next, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Chain returns the compiled rights of s and everything above it; ErrNotFound; or a *policy.Refusal where it, or one above
// it, is suspended: whoever asks is about to begin something there.
func (r *Registry) Chain(_ context.Context, s identity.Scope) (policy.Chain, error) {
	all := r.all.Load()
	c, ok := all.chains[s]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, s)
	}
	if by, ok := all.suspended[s]; ok {
		return nil, policy.Suspended(by.String())
	}
	return c, nil
}

// Scope returns one scope, or ErrNotFound.
func (r *Registry) Scope(s identity.Scope) (Scope, error) {
	v, ok := r.all.Load().scopes[s]
	if !ok {
		return Scope{}, fmt.Errorf("%w: %s", ErrNotFound, s)
	}
	return v, nil
}

// Children returns the scopes directly below s, by name; the tenants for the zero Scope.
func (r *Registry) Children(s identity.Scope) []Scope {
	var out []Scope
	all := r.all.Load()
	for _, c := range all.order {
		parent, ok := c.Parent()
		if parent == s && !c.IsPlatform() && (ok || s.IsZero()) {
			out = append(out, all.scopes[c])
		}
	}
	return out
}

// Create makes a scope with the given rights. ErrExists, ErrNoParent.
func (r *Registry) Create(ctx context.Context, who identity.Caller, s identity.Scope, rights policy.Rights) (Scope, error) {
	now := r.now()
	f := audit.Fact{At: now, Who: who, Scope: s, What: audit.ScopeCreated, Subject: s.String(), Why: describe(rights)}
	if err := r.creatable(ctx, who, s, rights); err != nil {
		f.Why = ""
		return Scope{}, r.refused(ctx, f, err)
	}
	var parent *string
	if p, ok := s.Parent(); ok {
		path := p.String()
		parent = &path
	}
	err := r.change(ctx, f, `
		INSERT INTO scope (path, parent, tenant, project, environment, dns, ip, spiffe, created_at)
		VALUES ($1, $2, nullif($3, ''), nullif($4, ''), nullif($5, ''), $6, $7, $8, $9)`,
		s.String(), parent, s.Tenant(), s.Project(), s.Environment(), rights.DNS, rights.IP, rights.SPIFFE, now)
	switch postgres.Violated(err) {
	case "scope_path_once":
		return Scope{}, fmt.Errorf("%w: %s", ErrExists, s)
	case "scope_parent_exists":
		return Scope{}, fmt.Errorf("creating %s: %w", s, ErrNoParent)
	}
	if err != nil {
		return Scope{}, fmt.Errorf("creating scope %s: %w", s, err)
	}
	return r.Scope(s)
}

// SetRights replaces the rights of a scope. ErrNotFound.
func (r *Registry) SetRights(ctx context.Context, who identity.Caller, s identity.Scope, rights policy.Rights) (Scope, error) {
	f := audit.Fact{At: r.now(), Who: who, Scope: s, What: audit.ScopeChanged, Subject: s.String(), Why: describe(rights)}
	if err := r.changeable(who, s, rights); err != nil {
		f.Why = ""
		return Scope{}, r.refused(ctx, f, err)
	}
	if err := r.widening(ctx, who, s, rights); err != nil {
		return Scope{}, err
	}
	err := r.change(ctx, f, `
		UPDATE scope
		SET    dns = $2, ip = $3, spiffe = $4
		WHERE  path = $1`,
		s.String(), rights.DNS, rights.IP, rights.SPIFFE)
	if err != nil {
		return Scope{}, fmt.Errorf("changing the rights of %s: %w", s, err)
	}
	return r.Scope(s)
}

// change runs a statement, notes its fact and gives notice in one transaction, then reads everything again. The fact comes
// after the statement so that it finds a scope just made.
func (r *Registry) change(ctx context.Context, f audit.Fact, sql string, args ...any) error {
	var b pgx.Batch
	b.Queue(sql, args...)
	b.Queue(audit.Insert, audit.Columns(f)...)
	b.Queue(`SELECT pg_notify($1, '')`, Channel)
	results := r.db.SendBatch(ctx, &b)
	var errs error
	for range b.Len() {
		_, err := results.Exec()
		errs = errors.Join(errs, err)
	}
	if err := errors.Join(errs, results.Close()); err != nil {
		return err
	}
	return r.Reload(ctx)
}

func describe(r policy.Rights) string {
	return fmt.Sprintf("dns %q ip %q spiffe %q", r.DNS, r.IP, r.SPIFFE)
}
