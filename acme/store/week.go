package store

import (
	"context"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// namedWeeks is how old an identifier may be whose partitions statements name. Partitions are dropped when they are older.
const namedWeeks = 4 * uid.EpochLength

// week returns what the names of the partitions that hold id end with, after their parents': a statement that names them costs
// the same for ever, and less than one on the parent, which locks and prepares every week's. It is empty, and so leads to the
// parent, where the partitions are not known to be there: for an identifier that is old, or that a stranger made up.
func (s *Store) week(ctx context.Context, parent string, id uid.UID) string {
	age := s.nonces.now().Sub(id.Time())
	if age > namedWeeks || age < -clockSpread {
		return ""
	}
	name := id.Partition(parent)
	if _, known := s.weeks.Load(name); known {
		return name[len(parent):]
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var there bool
	err := s.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there)
	if err != nil || !there {
		return ""
	}
	s.weeks.Store(name, true)
	return name[len(parent):]
}
