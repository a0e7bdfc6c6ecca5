package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Drop implements acme.Store. Dropping a partition keeps its parent's readers and writers waiting, so it does not wait itself
// for long: a week's partitions go once, in milliseconds, and a minute later is as good.
func (s *Store) Drop(ctx context.Context, last uid.Epoch) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '500ms'`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT drop_acme_epochs($1)`, int32(last))
		return err
	})
}
