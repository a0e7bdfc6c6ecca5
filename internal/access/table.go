package access

import (
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Binding gives a role to a subject at a scope.
type Binding struct {
	ID      int64 // 0 until it is recorded
	Subject Subject
	Role    Role
	Scope   identity.Scope
	MadeAt  time.Time
	MadeBy  string
}

// Check refuses a binding that says nothing, or that would let a tenant's workload into the platform.
func (b Binding) Check() error {
	what := fmt.Sprintf("the role %.40s at %s for %.200s", b.Role, place(b.Scope), b.Subject)
	switch {
	case b.Role.allows() == 0 || b.Subject.check() != nil || b.Scope.IsZero():
		return &policy.Refusal{What: what, Rule: "the form of bindings", Remedy: "give a role, a scope, and an identity or a claim with its issuer"}
	case b.Scope.IsPlatform() && !b.Subject.ofThePlatform():
		return &policy.Refusal{
			What: what, Rule: "roles of the platform are for identities of the platform and for people",
			Remedy: "bind an identity below /platform/, or a claim, or choose a tenant's scope",
		}
	}
	return nil
}

// String names b in a refusal or a fact.
func (b Binding) String() string { return fmt.Sprintf("%s at %s for %s", b.Role, b.Scope, b.Subject) }

func (b Binding) grant() identity.Grant {
	return identity.Grant{Role: string(b.Role), At: b.Scope, Rule: fmt.Sprintf("binding %d", b.ID), Mask: uint64(b.Role.allows()), Order: b.ID}
}

// A Table is bindings compiled: who was granted what, found without a search.
type Table struct {
	list    []Binding
	exact   map[identity.ID]*identity.Grants // by SPIFFE ID
	direct  map[where][]identity.Grant       // workloads directly in a scope
	below   map[where][]identity.Grant       // workloads in a scope and below
	claims  map[Subject][]identity.Grant     // by claim
	claimed map[string][]string              // which claims of an issuer matter
}

// where is a scope of a trust domain.
type where struct {
	domain string
	at     identity.Scope
}

// Compile makes a table of bindings. It refuses what Check refuses: a table that is partly wrong is none.
func Compile(list []Binding) (*Table, error) {
	t := &Table{
		list: list, exact: map[identity.ID]*identity.Grants{}, direct: map[where][]identity.Grant{}, below: map[where][]identity.Grant{},
		claims: map[Subject][]identity.Grant{}, claimed: map[string][]string{},
	}
	exact := map[identity.ID][]identity.Grant{}
	for _, b := range list {
		if err := b.Check(); err != nil {
			return nil, fmt.Errorf("binding %d: %w", b.ID, err)
		}
		domain, at, below, many := b.Subject.pattern()
		switch {
		case b.Subject.Claim != "":
			if t.claims[b.Subject] == nil {
				t.claimed[b.Subject.Issuer] = once(t.claimed[b.Subject.Issuer], b.Subject.Claim)
			}
			t.claims[b.Subject] = append(t.claims[b.Subject], b.grant())
		case many && below:
			t.below[where{domain, at}] = append(t.below[where{domain, at}], b.grant())
		case many:
			t.direct[where{domain, at}] = append(t.direct[where{domain, at}], b.grant())
		default:
			id, err := identity.ParseID(b.Subject.Identity)
			if err != nil {
				return nil, fmt.Errorf("binding %d: %w", b.ID, err)
			}
			exact[id] = append(exact[id], b.grant())
		}
	}
	for id, grants := range exact {
		t.exact[id] = identity.NewGrants(grants...)
	}
	return t, nil
}

func once(list []string, s string) []string {
	for _, v := range list {
		if v == s {
			return list
		}
	}
	return append(list, s)
}

// Bindings returns all of them. The list is not to be changed.
func (t *Table) Bindings() []Binding { return t.list }

// Name returns who with what it was granted, in place of whatever it carried: at every request, so that a binding which
// ended no longer counts. A nil table grants nothing.
func (t *Table) Name(who identity.Caller) identity.Caller {
	who.Grants, who.Operator = nil, false
	if t == nil {
		return who
	}
	who.Grants = t.grants(who)
	for i := range who.Grants.Len() {
		if g := who.Grants.At(i); g.At.IsPlatform() && g.Role == string(Admin) {
			who.Operator = true
		}
	}
	return who
}

// NameTenant is Name where roles of the platform count for nothing: on the tenants' side an operator is nobody in particular.
func (t *Table) NameTenant(who identity.Caller) identity.Caller {
	who = t.Name(who)
	if who.Operator = false; who.Grants == nil {
		return who
	}
	var below []identity.Grant
	for g := range who.Grants.All() {
		if !g.At.IsPlatform() {
			below = append(below, g)
		}
	}
	if len(below) < who.Grants.Len() {
		who.Grants = identity.NewGrants(below...)
	}
	return who
}

// grants collects what who was granted. An identity that has bindings of its own alone, as most who have any, costs a look-up.
func (t *Table) grants(who identity.Caller) *identity.Grants {
	var own *identity.Grants
	var more []identity.Grant
	if !who.ID.IsZero() {
		own = t.exact[who.ID]
		more = t.patterns(who.ID, more)
	}
	for _, claim := range t.claimed[who.Issuer] {
		for _, v := range who.Claims.Values(claim) {
			more = append(more, t.claims[Subject{Issuer: who.Issuer, Claim: claim, Value: v}]...)
		}
	}
	if len(more) == 0 {
		return own
	}
	for g := range own.All() {
		more = append(more, g)
	}
	return identity.NewGrants(more...)
}

func (t *Table) patterns(id identity.ID, to []identity.Grant) []identity.Grant {
	if len(t.direct)+len(t.below) == 0 {
		return to
	}
	to = append(to, t.direct[where{id.Domain(), id.Scope()}]...)
	for at, ok := id.Scope(), true; ok; at, ok = at.Parent() {
		to = append(to, t.below[where{id.Domain(), at}]...)
	}
	return to
}
