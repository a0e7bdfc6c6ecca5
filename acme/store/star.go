package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

const selectStar = `
	SELECT r.order_id, r.account, s.path, r.profile, r.names, r.key, r.start_at, r.end_at, r.lifetime, r.adjust, r.allow_get, r.term, r.next_at,
	       r.canceled_at, r.problem
	FROM   acme_star r
	JOIN   acme_account a ON a.id = r.account
	JOIN   scope s ON s.id = a.scope`

func toStar(row pgx.CollectableRow) (acme.Star, error) {
	var st acme.Star
	var order, account, problem []byte
	var scope string
	var names []string
	var next, canceled *time.Time
	err := row.Scan(&order, &account, &scope, &st.Profile, &names, &st.SPKI, &st.Start, &st.End, &st.Lifetime, &st.Adjust, &st.AllowGet, &st.Term, &next, &canceled, &problem)
	if err != nil {
		return acme.Star{}, err
	}
	if st.Order, err = uid.FromBytes(order); err != nil {
		return acme.Star{}, err
	}
	if st.Account, err = uid.FromBytes(account); err != nil {
		return acme.Star{}, err
	}
	if st.Scope, err = identity.ParseScope(scope); err != nil {
		return acme.Star{}, err
	}
	for _, text := range names {
		n, err := cert.ParseName(text)
		if err != nil {
			return acme.Star{}, err
		}
		st.Names = append(st.Names, n)
	}
	st.Start, st.End, st.Next, st.Canceled = st.Start.UTC(), st.End.UTC(), orZero(next), orZero(canceled)
	st.Problem, err = readProblem(problem)
	return st, err
}

// BeginStar implements acme.Stars.
func (s *Store) BeginStar(ctx context.Context, st acme.Star) (acme.Star, error) {
	names := make([]string, len(st.Names))
	for i, n := range st.Names {
		names[i] = n.String()
	}
	_, err := s.db.Exec(ctx, `
		INSERT INTO acme_star (order_id, account, profile, names, key, start_at, end_at, lifetime, adjust, allow_get, term, next_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON     CONFLICT ON CONSTRAINT acme_star_pk DO NOTHING`,
		st.Order.Bytes(), st.Account.Bytes(), st.Profile, names, st.SPKI, st.Start, st.End, st.Lifetime, st.Adjust, st.AllowGet, st.Term, orNull(st.Next))
	if err != nil {
		return acme.Star{}, err
	}
	return s.Star(ctx, st.Order)
}

// Star implements acme.Stars.
func (s *Store) Star(ctx context.Context, order uid.UID) (acme.Star, error) {
	rows, err := s.db.Query(ctx, selectStar+`
		WHERE  r.order_id = $1`, order.Bytes())
	if err != nil {
		return acme.Star{}, err
	}
	st, err := pgx.CollectExactlyOneRow(rows, toStar)
	return st, missing(err)
}

// DueStars implements acme.Stars.
func (s *Store) DueStars(ctx context.Context, before time.Time, limit int) ([]acme.Star, error) {
	rows, err := s.db.Query(ctx, selectStar+`
		JOIN   (
		           SELECT d.order_id, row_number() OVER (PARTITION BY u.scope ORDER BY d.next_at) AS turn
		           FROM   acme_star d
		           JOIN   acme_account u ON u.id = d.account
		           WHERE  d.next_at < $1
		       ) t ON t.order_id = r.order_id
		ORDER  BY t.turn, r.next_at
		LIMIT  $2`, before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, toStar)
}

// AdvanceStar implements acme.Stars.
func (s *Store) AdvanceStar(ctx context.Context, st acme.Star, term int, next time.Time) error {
	_, err := s.db.Exec(ctx, `
		UPDATE acme_star
		SET    term = $3, next_at = $4
		WHERE  order_id = $1 AND term = $2 AND next_at IS NOT NULL`,
		st.Order.Bytes(), st.Term, term, orNull(next))
	return err
}

// CancelStar implements acme.Stars.
func (s *Store) CancelStar(ctx context.Context, order uid.UID, at time.Time, f audit.Fact) (bool, error) {
	err := s.noted(ctx, f, `
		UPDATE acme_star
		SET    canceled_at = $2, next_at = NULL
		WHERE  order_id = $1 AND canceled_at IS NULL`, order.Bytes(), at)
	if errors.Is(err, acme.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// StopStar implements acme.Stars.
func (s *Store) StopStar(ctx context.Context, order uid.UID, p *acme.Problem) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `
		UPDATE acme_star
		SET    problem = $2, next_at = NULL
		WHERE  order_id = $1 AND next_at IS NOT NULL`, order.Bytes(), raw)
	return err
}

// SweepStars implements acme.Stars.
func (s *Store) SweepStars(ctx context.Context, before time.Time) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM acme_star
		WHERE  end_at < $1 OR canceled_at < $1`, before)
	return err
}

// renewal spells how an order renews itself, or nothing.
func renewal(o acme.Order) string {
	if o.AutoRenewal == nil {
		return ""
	}
	b, err := json.Marshal(o.AutoRenewal)
	if err != nil {
		panic("store: internal error: " + err.Error()) // its dates were parsed
	}
	return string(b)
}
