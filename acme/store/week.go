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
	week, known := s.known(parent, id)
	if known || !s.named(id) {
		return week
	}
	name := id.Partition(parent)
	if at, looked := s.weeks.Load(name); looked && s.nonces.now().Sub(at.(time.Time)) < missingFor {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var there bool
	err := s.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there)
	switch {
	case err != nil:
		return ""
	case !there:
		s.weeks.Store(name, s.nonces.now())
		return ""
	}
	s.weeks.Store(name, time.Time{})
	return name[len(parent):]
}

// missingFor is how long a partition is believed to be missing: what a stranger makes up is not looked for each time. There
// are no more of them to remember than sites and named weeks.
const missingFor = 10 * time.Second

// named reports whether statements name the partitions of id.
func (s *Store) named(id uid.UID) bool {
	age := s.nonces.now().Sub(id.Time())
	return age <= namedWeeks && age >= -clockSpread
}

// known is week where it asks nobody, and false where it would have to.
func (s *Store) known(parent string, id uid.UID) (string, bool) {
	if id.IsZero() || !s.named(id) {
		return "", false
	}
	name := id.Partition(parent)
	if missing, looked := s.weeks.Load(name); !looked || !missing.(time.Time).IsZero() {
		return "", false
	}
	return name[len(parent):], true
}
