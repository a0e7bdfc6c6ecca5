package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// AuthoritiesChannel is the Postgres channel on which a change of an authority is noticed. It is a hint.
const AuthoritiesChannel = "segl_authorities"

// moment is a time as it is stored: NULL for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func instant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func authority(r pgx.CollectableRow) (a ca.AuthorityRow, err error) {
	var activated, retiring, retired *time.Time
	var scope string
	err = r.Scan(&a.ID, &a.Name, &a.Purpose, &a.Site, &a.Parent, &a.Certificate, &a.Key, &a.CreatedAt, &activated, &retiring, &retired, &scope)
	if err == nil {
		a.Scope, err = identity.ParseScope(scope)
	}
	a.ActivatedAt, a.RetiringAt, a.RetiredAt = instant(activated), instant(retiring), instant(retired)
	return a, err
}

// Activate implements ca.Ledger. An index lets one authority be active for a purpose, so of two activations at once one
// finds the other done.
func (l *Ledger) Activate(ctx context.Context, v ca.Activation) error {
	err := postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		var former *int
		err := tx.QueryRow(ctx, `
			UPDATE authority a
			SET    retiring_at = $2
			FROM   authority p
			WHERE  p.name = $1 AND p.activated_at IS NULL AND p.retired_at IS NULL
			AND    a.site = p.site AND a.purpose = p.purpose AND a.scope IS NOT DISTINCT FROM p.scope
			AND    a.activated_at IS NOT NULL AND a.retiring_at IS NULL
			RETURNING a.id`, v.Name, v.At).Scan(&former)
		if err != nil && missing(err) != ca.ErrNotFound { //nolint:errorlint // what missing itself returns
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE authority
			SET    activated_at = $2
			WHERE  name = $1 AND activated_at IS NULL AND retired_at IS NULL`, v.Name, v.At)
		if err == nil && tag.RowsAffected() != 1 {
			err = ca.ErrConflict
		}
		if err != nil {
			return err
		}
		if former != nil {
			if err := l.open(ctx, tx, retiring(v), choice{authority: former, upto: v.Upto.Bytes()}); err != nil {
				return err
			}
		}
		return note(ctx, tx, v.Fact, AuthoritiesChannel)
	})
	if postgres.Violated(err) == "authority_active_once" {
		return ca.ErrConflict
	}
	return err
}

// retiring is the incident that an activation makes of what the former authority signed.
func retiring(v ca.Activation) incident.Incident {
	return incident.Incident{
		ID: v.Incident, Cause: incident.Retirement, Why: v.Name + " signs in its place", At: v.At, Actor: v.Fact.Who.Actor, Spread: v.Spread, Ends: v.Ends,
	}
}

// note writes a fact and gives notice in tx.
func note(ctx context.Context, tx pgx.Tx, f audit.Fact, channel string) error {
	if _, err := tx.Exec(ctx, audit.Insert, audit.Columns(f)...); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, channel)
	return err
}

// Retire implements ca.Ledger.
func (l *Ledger) Retire(ctx context.Context, v ca.Retirement) error {
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE authority
			SET    retired_at = $2
			WHERE  name = $1 AND retired_at IS NULL
			AND    (activated_at IS NULL OR retiring_at IS NOT NULL)`, v.Name, v.At)
		if err == nil && tag.RowsAffected() != 1 {
			err = ca.ErrConflict
		}
		if err != nil {
			return err
		}
		return note(ctx, tx, v.Fact, AuthoritiesChannel)
	})
}

// Alive implements ca.Ledger. The service's own OCSP responders do not count: who answers for an authority that retires needs
// one for as long as it does. It looks at the youngest epochs first, where what is alive is likely to be.
func (l *Ledger) Alive(ctx context.Context, authority int, now time.Time) (bool, error) {
	leaves, err := l.leavesOf(ctx, "intent")
	for i := len(leaves) - 1; i >= 0 && err == nil; i-- {
		v, alive := leaves[i], false
		err = l.db.QueryRow(ctx, `
			SELECT EXISTS (
				SELECT
				FROM   `+v.of("intent")+` i
				JOIN   `+v.of("outcome")+` o ON o.serial = i.serial AND o.signature IS NOT NULL
				WHERE  i.authority = $1 AND i.not_after >= $2 AND i.profile <> 'ocsp-responder'
				AND    NOT EXISTS (SELECT FROM `+v.of("revocation")+` WHERE serial = i.serial OFFSET 0)
			)`, authority, now).Scan(&alive)
		if alive {
			return true, nil
		}
		if missingTable(err) { // the epoch has left meanwhile, and all that it held had expired
			err = nil
		}
	}
	return false, err
}
