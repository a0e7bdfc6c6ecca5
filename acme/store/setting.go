package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Settings implements acme.Settings.
func (s *Store) Settings(ctx context.Context, scopes ...identity.Scope) (map[identity.Scope]acme.Setting, error) {
	paths := make([]string, len(scopes))
	for i, at := range scopes {
		paths[i] = at.String()
	}
	rows, err := s.db.Query(ctx, `
		SELECT s.path, v.binding_required, v.profiles
		FROM   scope s
		JOIN   acme_setting v ON v.scope = s.id
		WHERE  s.path = ANY ($1::text[])`, paths)
	if err != nil {
		return nil, err
	}
	out := make(map[identity.Scope]acme.Setting)
	var path string
	var v acme.Setting
	_, err = pgx.ForEachRow(rows, []any{&path, &v.BindingRequired, &v.Profiles}, func() error {
		at, err := identity.ParseScope(path)
		out[at] = v
		v = acme.Setting{}
		return err
	})
	return out, err
}

// Set implements acme.Settings.
func (s *Store) Set(ctx context.Context, scope identity.Scope, v acme.Setting, f audit.Fact) error {
	return s.noted(ctx, f, `
		INSERT INTO acme_setting AS v (scope, binding_required, profiles, changed_at)
		SELECT s.id, $2, $3, $4
		FROM   scope s
		WHERE  s.path = $1
		ON     CONFLICT ON CONSTRAINT acme_setting_pk DO UPDATE
		SET    binding_required = excluded.binding_required,
		       profiles = excluded.profiles,
		       changed_at = excluded.changed_at`, scope.String(), v.BindingRequired, v.Profiles, f.At)
}

// noted runs a statement that changes one row, and records f with it; ErrNotFound where it changes none.
func (s *Store) noted(ctx context.Context, f audit.Fact, statement string, args ...any) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, statement, args...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return acme.ErrNotFound
		}
		_, err = tx.Exec(ctx, audit.Insert, audit.Columns(f)...)
		return err
	})
}
