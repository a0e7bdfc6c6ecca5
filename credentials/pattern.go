package credentials

import (
	"fmt"
	"strings"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Pattern is whom a binding is for: one SPIFFE ID, or a scope with * (any workload directly in it) or ** (any in it and
// below). The zero Pattern is nobody.
type Pattern struct {
	text  string
	first identity.ID // the identity, or one in the place of the star
	star  string
}

// ParsePattern reads one.
func ParsePattern(s string) (Pattern, error) {
	head, last := s, ""
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		head, last = s[:i], s[i+1:]
	}
	if last != "*" && last != "**" {
		id, err := identity.ParseID(s)
		if err != nil {
			return Pattern{}, err
		}
		return Pattern{text: s, first: id}, nil
	}
	id, err := identity.ParseID(head + "/any")
	if err != nil {
		return Pattern{}, fmt.Errorf("identities %.120q: want a SPIFFE ID, its last part * or ** for any workload there, or there and below", s)
	}
	return Pattern{s, id, last}, nil
}

// Matches reports whether id is one of those meant. Nobody is not.
func (p Pattern) Matches(id identity.ID) bool {
	switch {
	case id.IsZero() || p.first.IsZero() || id.Domain() != p.first.Domain():
		return false
	case p.star == "*":
		return id.Scope() == p.first.Scope()
	case p.star == "**":
		return p.first.Scope().Contains(id.Scope())
	}
	return id == p.first
}

// Within reports whether everybody that p means belongs to s or below it.
func (p Pattern) Within(s identity.Scope) bool { return s.Contains(p.first.Scope()) }

// String returns what ParsePattern reads.
func (p Pattern) String() string { return p.text }
