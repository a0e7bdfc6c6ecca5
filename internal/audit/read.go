package audit

import (
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A Position is where a fact stands in the order of facts: by transaction, then within it. The zero Position is before all.
type Position struct {
	Transaction uint64
	ID          int64
}

// String returns what ParsePosition reads.
func (p Position) String() string { return fmt.Sprintf("%d.%d", p.Transaction, p.ID) }

// ParsePosition reads a position.
func ParsePosition(s string) (Position, error) {
	var p Position
	n, err := fmt.Sscanf(s, "%d.%d", &p.Transaction, &p.ID)
	if err != nil || n != 2 || p.String() != s {
		return Position{}, fmt.Errorf("position %.40q: want two numbers with a dot between them", s)
	}
	return p, nil
}

// A Query selects facts. Zero fields select everything.
type Query struct {
	Scope   identity.Scope // and everything below it; the zero Scope is everywhere
	What    string
	Actor   string
	Serial  cert.Serial
	Refused bool   // only what was refused
	Request string // only what this request was refused
	Since   time.Time
	Until   time.Time // before it; zero means any
	Newest  bool      // the newest first
	After   Position  // where to go on, in that order; the zero Position is its beginning
	Limit   int
}

// An Entry is a fact as it was read, with where it stands.
type Entry struct {
	Fact
	Position Position
}

// A Page is a part of the facts that a Query selects. A page looks at a bounded number of facts, so where a query selects
// few of them it may be short, or empty, with More to come.
type Page struct {
	Entries []Entry
	Next    Position // to go on from, whether or not there is More
	More    bool     // there may be more right now
}

// Matches reports whether q selects e, as far as one fact tells: for whoever reads facts once for many.
func (q Query) Matches(e Entry) bool {
	switch {
	case !q.Scope.IsZero() && !q.Scope.Contains(e.Scope),
		q.What != "" && q.What != e.What,
		q.Actor != "" && q.Actor != e.Who.Actor,
		!q.Serial.IsZero() && q.Serial != e.Serial,
		q.Refused && !e.Refused,
		q.Request != "" && q.Request != e.Who.Request,
		e.At.Before(q.Since),
		!q.Until.IsZero() && !e.At.Before(q.Until):
		return false
	}
	return true
}

// Before reports whether p stands before other.
func (p Position) Before(other Position) bool {
	if p.Transaction != other.Transaction {
		return p.Transaction < other.Transaction
	}
	return p.ID < other.ID
}

// IsZero reports whether p is before all facts.
func (p Position) IsZero() bool { return p == Position{} }
