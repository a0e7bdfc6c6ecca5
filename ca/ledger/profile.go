package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// AddProfile implements ca.Ledger. The revision is the primary key: of two changes at once one finds the other there.
func (l *Ledger) AddProfile(ctx context.Context, r ca.ProfileRow, f audit.Fact) error {
	err := postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO profile (revision, scope, name, spec, made_at, actor)
			SELECT $1, s.id, $3, $4, $5, $6
			FROM   (SELECT) AS always
			LEFT   JOIN scope s ON s.path = $2
			WHERE  s.id IS NOT NULL OR $2 = 'platform'`,
			r.Revision, r.Scope.String(), r.Name, r.Spec, r.At, audit.Clip(r.Actor))
		if err == nil && tag.RowsAffected() != 1 {
			err = ca.ErrNotFound
		}
		if err != nil {
			return err
		}
		return note(ctx, tx, f, AuthoritiesChannel)
	})
	if postgres.Violated(err) == "profile_pk" {
		return ca.ErrConflict
	}
	return explained(err)
}

// Profiles implements ca.Ledger.
func (l *Ledger) Profiles(ctx context.Context) ([]ca.ProfileRow, error) {
	// What is read here is held in memory for everybody, so it is all there is, whoever caused it to be read again.
	rows, err := l.db.Query(postgres.AsOwner(ctx), `
		SELECT p.revision, coalesce(s.path, 'platform'), p.name, p.spec, p.made_at, p.actor
		FROM   profile p
		LEFT   JOIN scope s ON s.id = p.scope
		ORDER  BY p.revision`)
	if err != nil {
		return nil, explained(err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p ca.ProfileRow, err error) {
		var scope string
		if err = row.Scan(&p.Revision, &scope, &p.Name, &p.Spec, &p.At, &p.Actor); err != nil {
			return p, err
		}
		if p.Scope, err = identity.ParseScope(scope); err != nil {
			return p, fmt.Errorf("reading revision %d of the profiles: %w", p.Revision, err)
		}
		return p, nil
	})
}
