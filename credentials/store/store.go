// Package store keeps targets, bindings, leases and receipts in Postgres.
//
// What has ended is computed where it is read, from the rows that a lease hangs on; only certificates are somebody else's to
// know. A fact stands in the transaction of what it records. A statement that changes leases names the state they must be in,
// so that whatever comes twice, or late, changes nothing. No transaction is open while a target is asked.
// A Store is safe for concurrent use.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Store implements credentials.Book.
type Store struct{ db *postgres.DB }

// New returns a Store on db.
func New(db *postgres.DB) *Store { return &Store{db} }

// violated turns the name of what refused a write into an error of the domain.
func violated(err error) error {
	switch postgres.Violated(err) {
	case "credential_target_name_once", "credential_binding_name_once":
		return credentials.ErrExists
	case "credential_binding_target_of_its_root":
		return credentials.ErrMixed
	}
	return err
}

// factsFirst are the arguments of audit.Insert, before those of the statement around it.
func factsFirst(f audit.Fact, args ...any) []any { return append(audit.Columns(f), args...) }

// AddTarget implements credentials.Book. Two that name one server at once wait for one another. It is the owner's work: whose
// target a server is already is no tenant's to see, and its to be told.
func (s *Store) AddTarget(ctx context.Context, t credentials.Target, f audit.Fact) (credentials.Target, error) {
	ctx = postgres.AsOwner(ctx)
	err := postgres.Tx(ctx, s.db, func(tx pgx.Tx) (err error) {
		if _, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "target "+t.Address); err != nil {
			return err
		}
		var others bool
		err = tx.QueryRow(ctx, `
			SELECT count(*) > 0
			FROM   credential_target t
			JOIN   scope ts ON ts.id = t.scope
			WHERE  t.address = $1 AND t.ended_at IS NULL AND NOT (ts.path = $2 OR starts_with(ts.path, $2 || '/'))`, t.Address, t.Scope.String()).Scan(&others)
		if err == nil && others {
			err = credentials.ErrOthers
		}
		if err == nil {
			t, err = s.addTarget(ctx, tx, t, f)
		}
		return err
	})
	return t, err
}

func (s *Store) addTarget(ctx context.Context, tx pgx.Tx, t credentials.Target, f audit.Fact) (credentials.Target, error) {
	err := tx.QueryRow(ctx, `
		WITH made AS (
			INSERT INTO credential_target (scope, root, name, kind, address, authority, manager, database, made_at)
			SELECT s.id, s.root, $11, $12, $13, $14, $15, $16, $17
			FROM   scope s
			WHERE  s.path = $10
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT id
		FROM   made`, factsFirst(f, t.Scope.String(), t.Name, t.Kind, t.Address, t.Authority, t.Manager, t.Database, t.MadeAt)...).Scan(&t.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fmt.Errorf("%w: scope %s", credentials.ErrNotFound, t.Scope)
	}
	return t, violated(err)
}

// AddBinding implements credentials.Book.
func (s *Store) AddBinding(ctx context.Context, b credentials.Binding, f audit.Fact) (credentials.Binding, error) {
	var target *int64
	var way *string
	if b.Logs() {
		word := string(b.Way)
		target, way = &b.Target.ID, &word
	}
	err := s.db.QueryRow(ctx, `
		WITH made AS (
			INSERT INTO credential_binding
			       (scope, root, name, subject, target, way, database, member_of, role, life, connections, leases, audiences, scopes, made_at)
			SELECT s.id, s.root, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23
			FROM   scope s
			WHERE  s.path = $10
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT id
		FROM   made`, factsFirst(f, b.Scope.String(), b.Name, b.For.String(), target, way, string(b.Database), string(b.Group), string(b.Role),
		int(b.Life/time.Second), b.Connections, b.Leases, orEmpty(b.Audiences), orEmpty(b.Scopes), b.MadeAt)...).Scan(&b.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return b, fmt.Errorf("%w: scope %s", credentials.ErrNotFound, b.Scope)
	}
	return b, violated(err)
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// EndTarget implements credentials.Book. Its bindings end with it: computed, from its row.
func (s *Store) EndTarget(ctx context.Context, at identity.Scope, name credentials.Label, now time.Time, f audit.Fact) error {
	return s.end(ctx, f, `
			UPDATE credential_target t
			SET    ended_at = $12
			FROM   scope s
			WHERE  s.path = $10 AND t.scope = s.id AND t.name = $11 AND t.ended_at IS NULL
			RETURNING t.id`, at.String(), name, now)
}

// EndBinding implements credentials.Book.
func (s *Store) EndBinding(ctx context.Context, at identity.Scope, name credentials.Label, now time.Time, f audit.Fact) error {
	return s.end(ctx, f, `
			UPDATE credential_binding b
			SET    ended_at = $12
			FROM   scope s
			WHERE  s.path = $10 AND b.scope = s.id AND b.name = $11 AND b.ended_at IS NULL
			RETURNING b.id`, at.String(), name, now)
}

// end runs an UPDATE that ends one row or none, with its fact.
func (s *Store) end(ctx context.Context, f audit.Fact, update string, args ...any) error {
	var n int
	err := s.db.QueryRow(ctx, `
		WITH ended AS (`+update+`
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM ended)
		)
		SELECT count(id)
		FROM   ended`, factsFirst(f, args...)...).Scan(&n)
	if err == nil && n == 0 {
		return credentials.ErrNotFound
	}
	return err
}

// targetColumns are read by target, bindingColumns (with a LEFT JOIN of its target) by binding.
const (
	targetColumns  = `t.id, ts.path, t.name, t.kind, t.address, t.authority, t.manager, t.database, t.made_at, t.ended_at`
	bindingColumns = `b.id, bs.path, b.name, b.subject, b.way, b.database, b.member_of, b.role, b.life, b.connections, b.leases, b.audiences, b.scopes, b.made_at, b.ended_at`
)

// A targetRow is a target as it is stored, or none.
type targetRow struct {
	id                                                      *int64
	path, name, kind, address, authority, manager, database *string
	madeAt, endedAt                                         *time.Time
}

func (r *targetRow) into() []any {
	return []any{&r.id, &r.path, &r.name, &r.kind, &r.address, &r.authority, &r.manager, &r.database, &r.madeAt, &r.endedAt}
}

func (r *targetRow) target() (t credentials.Target, err error) {
	if r.id == nil {
		return t, nil
	}
	t = credentials.Target{
		ID: *r.id, Name: credentials.Label(*r.name), Kind: credentials.Kind(*r.kind), Address: *r.address, Authority: *r.authority, Manager: *r.manager,
		Database: *r.database, MadeAt: r.madeAt.UTC(), EndedAt: orZero(r.endedAt),
	}
	t.Scope, err = identity.ParseScope(*r.path)
	return t, err
}

// A bindingRow is a binding as it is stored.
type bindingRow struct {
	b             credentials.Binding
	path, subject string
	way           *string
	life          int
	endedAt       *time.Time
}

func (r *bindingRow) into() []any {
	b := &r.b
	return []any{
		&b.ID, &r.path, &b.Name, &r.subject, &r.way, &b.Database, &b.Group, &b.Role, &r.life, &b.Connections, &b.Leases, &b.Audiences, &b.Scopes, &b.MadeAt, &r.endedAt,
	}
}

func (r *bindingRow) binding(t *targetRow) (credentials.Binding, error) {
	b := r.b
	var err, perr, terr error
	b.Scope, err = identity.ParseScope(r.path)
	b.For, perr = credentials.ParsePattern(r.subject)
	b.Target, terr = t.target()
	b.Life, b.MadeAt, b.EndedAt = time.Duration(r.life)*time.Second, b.MadeAt.UTC(), orZero(r.endedAt)
	if r.way != nil {
		b.Way = credentials.Way(*r.way)
	}
	return b, errors.Join(err, perr, terr)
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Targets implements credentials.Book.
func (s *Store) Targets(ctx context.Context, at identity.Scope) ([]credentials.Target, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+targetColumns+`
		FROM   credential_target t
		JOIN   scope ts ON ts.id = t.scope
		WHERE  t.ended_at IS NULL AND ($1 = '' OR ts.path = $1 OR starts_with(ts.path, $1 || '/'))
		ORDER  BY ts.path, t.name`, at.String())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanTarget)
}

func scanTarget(r pgx.CollectableRow) (credentials.Target, error) {
	var t targetRow
	if err := r.Scan(t.into()...); err != nil {
		return credentials.Target{}, err
	}
	return t.target()
}

// Target implements credentials.Book.
func (s *Store) Target(ctx context.Context, at identity.Scope, name credentials.Label) (credentials.Target, error) {
	var t targetRow
	err := s.db.QueryRow(ctx, `
		SELECT `+targetColumns+`
		FROM   credential_target t
		JOIN   scope ts ON ts.id = t.scope
		WHERE  ts.path = $1 AND t.name = $2 AND t.ended_at IS NULL`, at.String(), name).Scan(t.into()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return credentials.Target{}, credentials.ErrNotFound
	}
	if err != nil {
		return credentials.Target{}, err
	}
	return t.target()
}

// bindingsFrom is what bindings are read from: one whose target has ended has ended with it.
const bindingsFrom = `
		FROM   credential_binding b
		JOIN   scope bs ON bs.id = b.scope
		LEFT   JOIN credential_target t ON t.id = b.target
		LEFT   JOIN scope ts ON ts.id = t.scope
		WHERE  b.ended_at IS NULL AND t.ended_at IS NULL`

// Bindings implements credentials.Book.
func (s *Store) Bindings(ctx context.Context, at identity.Scope) ([]credentials.Binding, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+bindingColumns+`, `+targetColumns+bindingsFrom+`
		AND    ($1 = '' OR bs.path = $1 OR starts_with(bs.path, $1 || '/'))
		ORDER  BY bs.path, b.name`, at.String())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (credentials.Binding, error) {
		var b bindingRow
		var t targetRow
		if err := r.Scan(append(b.into(), t.into()...)...); err != nil {
			return credentials.Binding{}, err
		}
		return b.binding(&t)
	})
}

// Binding implements credentials.Book.
func (s *Store) Binding(ctx context.Context, at identity.Scope, name credentials.Label) (credentials.Binding, error) {
	var b bindingRow
	var t targetRow
	err := s.db.QueryRow(ctx, `
		SELECT `+bindingColumns+`, `+targetColumns+bindingsFrom+`
		AND    b.name = $2 AND (bs.path = $1 OR starts_with($1, bs.path || '/'))
		ORDER  BY length(bs.path) DESC
		LIMIT  1`, at.String(), name).Scan(append(b.into(), t.into()...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return credentials.Binding{}, credentials.ErrNotFound
	}
	if err != nil {
		return credentials.Binding{}, err
	}
	return b.binding(&t)
}

// Refuse implements credentials.Book.
func (s *Store) Refuse(ctx context.Context, f audit.Fact) error {
	_, err := s.db.Exec(ctx, audit.InsertRefusals, audit.RefusalColumns(f)...)
	return err
}
