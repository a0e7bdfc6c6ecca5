package store

import (
	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
)

// On returns what is replayed as tx sees it: what tx has tampered with goes when it is rolled back.
func (s *Store) On(tx pgx.Tx) seal.Snapshot { return snapshotOf(tx) }
