package store

import "codeberg.org/dataverket/segl/internal/uid"

// LookedFor reports whether the database was asked for the partition of parent that holds id.
func (s *Store) LookedFor(parent string, id uid.UID) bool {
	_, looked := s.weeks.Load(id.Partition(parent))
	return looked
}
