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
	Scope  identity.Scope // and everything below it; the zero Scope is everywhere
	What   string
	Actor  string
	Serial cert.Serial
	Since  time.Time
	After  Position
	Limit  int
}

// An Entry is a fact as it was read, with where it stands.
type Entry struct {
	Fact
	Position Position
}
