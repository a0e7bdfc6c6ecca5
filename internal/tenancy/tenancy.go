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
}

// A Registry holds all scopes.
type Registry struct {
	db  *postgres.DB
	now func() time.Time
	all atomic.Pointer[snapshot]

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
		SELECT id, path, dns, ip, spiffe, created_at, suspended_at
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
		next.scopes[s] = next.stored(Scope{Scope: s, Rights: rights, CreatedAt: v.CreatedAt.UTC()}, v.SuspendedAt)
		next.order, next.ids[s] = append(next.order, s), v.ID
		for up, ok := s, true; ok; up, ok = up.Parent() {
			next.under[up] = append(next.under[up], v.ID)
		}
	}
	return next, nil
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
	if _, err := policy.Compile(s, rights); err != nil {
		return Scope{}, &policy.Refusal{What: "the rights of " + s.String(), Rule: "the form of name rights", Remedy: err.Error()}
	}
	var parent *string
	if p, ok := s.Parent(); ok {
		path := p.String()
		parent = &path
	}
	now := r.now()
	err := r.change(ctx, audit.Fact{At: now, Who: who, Scope: s, What: audit.ScopeCreated, Subject: s.String(), Why: describe(rights)}, `
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
	if _, err := policy.Compile(s, rights); err != nil {
		return Scope{}, &policy.Refusal{What: "the rights of " + s.String(), Rule: "the form of name rights", Remedy: err.Error()}
	}
	if _, err := r.Scope(s); err != nil {
		return Scope{}, err
	}
	err := r.change(ctx, audit.Fact{At: r.now(), Who: who, Scope: s, What: audit.ScopeChanged, Subject: s.String(), Why: describe(rights)}, `
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
