package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Orders implements acme.Store. A page is read order by order, as each is by itself: a client lists seldom.
func (s *Store) Orders(ctx context.Context, account, below uid.UID, limit int) ([]acme.Order, error) {
	top := below.Bytes()
	if below.IsZero() {
		top = []byte{byte(uid.Order) + 1}
	}
	rows, err := s.db.Query(ctx, `
		SELECT id
		FROM   acme_order
		WHERE  account = $1
		AND    substring(id FROM 1 FOR 6) <= substring($2::bytea FROM 1 FOR 6)
		AND    id < $2
		ORDER  BY substring(id FROM 1 FOR 6) DESC, id DESC
		LIMIT  $3`, account.Bytes(), top, limit)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	list, err := ids(uid.Order, found...)
	if err != nil {
		return nil, err
	}
	return s.read(ctx, list)
}
