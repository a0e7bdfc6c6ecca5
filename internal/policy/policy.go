// Package policy decides which names a scope may bear, for every door alike.
//
// Rights are declared per scope (allowed DNS names, IP ranges, SPIFFE paths) and compiled once. A name must be allowed by
// every scope of the chain that declares rights of that kind, from the tenant down: a child narrows and never widens. A
// chain that declares none of a kind allows none of it. SPIFFE IDs are, besides, structural: an identity outside the scope
// is refused whatever the rights say. Matching is smallstep/certificates/policy's, whose "*." stands for exactly one
// label, as in a certificate. Compiled rights are immutable and safe for concurrent use.
package policy

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/smallstep/certificates/policy"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A Refusal says that a rule forbids something: what was asked, which rule decided, and what would be taken. It is
// the one error type that every door shows whole.
type Refusal struct {
	What   string // what was asked, as in "dns:evil.test"
	Rule   string // the rule that decided, as in "name rights of demo/shop/dev"
	Remedy string // what to do about it
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s is refused by %s: %s", r.What, r.Rule, r.Remedy)
}

// Suspended refuses what would begin anything in a scope that is suspended, by itself or with one above it.
func Suspended(scope string) *Refusal {
	return &Refusal{What: "issuing in " + scope, Rule: "its suspension", Remedy: "what was issued stays valid and has its status; ask an operator to resume it"}
}

// Rights are what one scope declares. A nil list declares nothing of its kind and leaves the decision to the parents; an
// empty one allows nothing.
type Rights struct {
	DNS    []string `json:"dns"`    // "shop.test" itself, "*.shop.test" one label below it and the wildcard name
	IP     []string `json:"ip"`     // CIDR ranges, or addresses
	SPIFFE []string `json:"spiffe"` // workload names in the scope; "*" any
}

// Compiled are the rights of one scope, ready to decide.
type Compiled struct {
	scope  identity.Scope
	rights Rights
	dns    *policy.NamePolicyEngine // nil when the scope declares no DNS rights or allows none
	ip     *policy.NamePolicyEngine
}

// Compile checks and compiles the rights that scope declares.
func Compile(scope identity.Scope, r Rights) (*Compiled, error) {
	c := &Compiled{scope: scope, rights: r}
	var err error
	if len(r.DNS) > 0 {
		c.dns, err = policy.New(policy.WithPermittedDNSDomains(r.DNS...), policy.WithAllowLiteralWildcardNames())
		if err != nil {
			return nil, fmt.Errorf("dns rights of %s: %w", scope, err)
		}
	}
	if len(r.IP) > 0 {
		c.ip, err = policy.New(policy.WithPermittedIPsOrCIDRs(r.IP...))
		if err != nil {
			return nil, fmt.Errorf("ip rights of %s: %w", scope, err)
		}
	}
	for _, w := range r.SPIFFE {
		if w == "*" {
			continue
		}
		if err := identity.CheckWorkload(w); err != nil {
			return nil, fmt.Errorf("spiffe rights of %s: %w", scope, err)
		}
	}
	return c, nil
}

// A Chain is the rights of a scope and all above it, the scope's own last.
type Chain []*Compiled

// Scope returns the scope that the chain ends in.
func (c Chain) Scope() identity.Scope {
	if len(c) == 0 {
		return identity.Scope{}
	}
	return c[len(c)-1].scope
}

// Allow returns nil if every name may be borne, else the *Refusal of the first that may not.
func (c Chain) Allow(names ...cert.Name) error {
	for _, n := range names {
		if err := c.allow(n); err != nil {
			return err
		}
	}
	return nil
}

func (c Chain) allow(n cert.Name) error {
	if n.Kind() == cert.URI {
		id, err := identity.ParseID(n.Value())
		if err != nil {
			return &Refusal{n.String(), "rule uri-is-spiffe-id", err.Error()}
		}
		if id.Scope() != c.Scope() {
			return &Refusal{n.String(), fmt.Sprintf("the scope %s", c.Scope()), "a SPIFFE ID is only issued in the scope that its path names"}
		}
	}
	declared := false
	for _, rule := range c {
		says, ok := rule.decide(n)
		if says && !ok {
			return &Refusal{n.String(), fmt.Sprintf("the name rights of %s", rule.scope), rule.remedy(n)}
		}
		declared = declared || says
	}
	if !declared {
		return &Refusal{n.String(), fmt.Sprintf("the name rights of %s", c.Scope()), fmt.Sprintf("it has no %s rights; an operator can add some", n.Kind())}
	}
	return nil
}

// decide reports whether the scope declares rights of n's kind, and whether they allow n.
func (c *Compiled) decide(n cert.Name) (says, ok bool) {
	switch n.Kind() {
	case cert.DNS:
		return c.rights.DNS != nil, c.dns != nil && c.dns.IsDNSAllowed(n.Value()) == nil
	case cert.IP:
		return c.rights.IP != nil, c.ip != nil && c.ip.IsIPAllowed(n.Addr().AsSlice()) == nil
	case cert.URI:
		u, err := url.Parse(n.Value())
		return c.rights.SPIFFE != nil, err == nil && c.allowsWorkload(u.Path[strings.LastIndexByte(u.Path, '/')+1:])
	case cert.Device:
		return c.rights.SPIFFE != nil, c.allowsWorkload(cert.DeviceWorkload(n))
	}
	return true, false
}

func (c *Compiled) allowsWorkload(name string) bool {
	for _, w := range c.rights.SPIFFE {
		if w == "*" || w == name {
			return true
		}
	}
	return false
}

func (c *Compiled) remedy(n cert.Name) string {
	var list []string
	switch n.Kind() {
	case cert.DNS:
		list = c.rights.DNS
	case cert.IP:
		list = c.rights.IP
	case cert.URI, cert.Device:
		list = c.rights.SPIFFE
	}
	if len(list) == 0 {
		return fmt.Sprintf("no %s name is allowed there", n.Kind())
	}
	const most = 8
	more := ""
	if len(list) > most {
		list, more = list[:most], ", …"
	}
	return "allowed there: " + strings.Join(list, ", ") + more
}
