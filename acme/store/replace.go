package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Replace implements acme.Replacements. The primary key decides between orders that come at once.
func (s *Store) Replace(ctx context.Context, serial cert.Serial, order, was uid.UID) (uid.UID, error) {
	var b pgx.Batch
	b.Queue(`
		INSERT INTO acme_replacement AS r (serial, order_id)
		VALUES ($1, $2)
		ON     CONFLICT (serial) DO UPDATE
		SET    order_id = CASE r.order_id WHEN $3 THEN excluded.order_id ELSE r.order_id END
		RETURNING r.order_id`, serial.Bytes(), order.Bytes(), was.Bytes())
	results := s.db.SendBatch(ctx, &b)
	var has []byte
	err := results.QueryRow().Scan(&has)
	if err = errors.Join(err, results.Close()); err != nil {
		return uid.UID{}, err
	}
	all, err := ids(uid.Order, has)
	if err != nil {
		return uid.UID{}, err
	}
	return all[0], nil
}

// replaces spells what an order replaces, or nothing.
func replaces(o acme.Order) string {
	if o.Replaces.IsZero() {
		return ""
	}
	return o.Replaces.String()
}
