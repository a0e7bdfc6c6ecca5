package store

import (
	"time"

	"codeberg.org/dataverket/segl/internal/limit"
)

// Bounds of leases.
const (
	leaseTerm  = 10 * time.Second
	leaseMost  = 512 // uses
	leasePart  = 20  // of a burst: no replica holds more than one part of so many
	refusedFor = time.Second
	// lookedFor is how long a look that found nothing counted is believed, where the burst is so large that what is counted
	// meanwhile is a small part of it.
	lookedFor = 3 * time.Second
)

// A key is whose uses are counted together.
type key struct {
	limit   limit.Name
	subject string
}

// A lease is what this replica took of a bucket and has not spent.
type lease struct {
	tokens  int
	until   time.Time
	size    int       // of the last taking
	refused time.Time // until when the database need not be asked: its answer would be no
	looked  time.Time // until when it need not be looked: nothing is counted
}

// grow returns how much to take now: twice as much as last time if that was spent within its term, else one.
func (l *lease) grow(now time.Time, r limit.Rate) int {
	if now.Before(l.until) {
		l.size = min(2*l.size, leaseMost, r.Count/leasePart)
	} else {
		l.size = 1
	}
	l.size = max(1, l.size)
	return l.size
}

// keep adds what was granted. A new term begins with each taking; what is older is lost with it, in time.
func (l *lease) keep(n int, now time.Time) {
	if !now.Before(l.until) {
		l.tokens = 0
		l.until = now.Add(leaseTerm)
	}
	l.tokens += n
}

// leases are two generations: what was not asked for during a whole term is forgotten with its generation, so that they take
// no more room than two terms' subjects.
type leases struct {
	young, old map[key]*lease
	born       time.Time
}

func newLeases() leases { return leases{young: make(map[key]*lease), old: make(map[key]*lease)} }

func (s *leases) of(k key, now time.Time) *lease {
	if now.Sub(s.born).Abs() >= leaseTerm {
		s.young, s.old, s.born = make(map[key]*lease), s.young, now
	}
	if l, ok := s.young[k]; ok {
		return l
	}
	l, ok := s.old[k]
	if !ok {
		l = &lease{}
	}
	s.young[k] = l
	return l
}
