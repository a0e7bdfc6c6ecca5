package identity

import (
	"iter"
	"maps"
	"slices"
)

// A Grant is a role that somebody has at a scope and below it. What roles there are and what they allow is
// internal/access's; here they travel with a caller.
type Grant struct {
	Role  string
	At    Scope
	Rule  string // which binding says so, for people
	Mask  uint64 // what the role allows, as internal/access counts it
	Order int64  // the binding's number
}

// Grants are what somebody was granted. They never change; nil is nothing.
type Grants struct{ list []Grant }

// NewGrants returns those of list, or nil where there are none.
func NewGrants(list ...Grant) *Grants {
	if len(list) == 0 {
		return nil
	}
	return &Grants{slices.Clone(list)}
}

// All ranges over them.
func (g *Grants) All() iter.Seq[Grant] {
	return func(yield func(Grant) bool) {
		for i := range g.Len() {
			if !yield(g.list[i]) {
				return
			}
		}
	}
}

// Len counts them.
func (g *Grants) Len() int {
	if g == nil {
		return 0
	}
	return len(g.list)
}

// At returns one of them.
func (g *Grants) At(i int) Grant { return g.list[i] }

// Claims are what an issuer says of somebody: for each name, its values. They never change; nil is nothing.
type Claims struct{ values map[string][]string }

// NewClaims copies values.
func NewClaims(values map[string][]string) *Claims {
	c := &Claims{make(map[string][]string, len(values))}
	for name, list := range maps.All(values) {
		c.values[name] = slices.Clone(list)
	}
	return c
}

// Values returns those of one claim. They are not to be changed.
func (c *Claims) Values(name string) []string {
	if c == nil {
		return nil
	}
	return c.values[name]
}
