// Package access decides who may do what, for every door alike.
//
// A [Role] is a set of [Action]s. A [Binding] gives a role to a subject, an identity or a claim that an issuer makes, at a
// scope, and it holds there and everywhere below; at the platform it holds everywhere. Bindings are compiled into a [Table],
// which says what a caller was granted when it is named; [Check] then decides about that caller and nothing else. Besides
// bindings there are four rules, and no others:
//
//   - our own duties may do everything;
//   - the certificate of a tenant's workload lets it read, issue, invite and revoke in its own scope and below;
//   - who proved something else (an ACME account, an enrolment token) may have certificates issued and ended in that scope of a
//     tenant alone, as far as the domain that took the proof asks for it;
//   - the holder of a certificate may see, renew and end that one. Domains decide this: it is about a thing, not a scope.
//
// Nobody, a caller who is not named, may do nothing; so may an action or a role that is not there. Nothing here does I/O;
// values are immutable and safe for concurrent use. A decision that allows costs no allocation.
package access

import (
	"fmt"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// Check returns nil where who may do what at scope at, and otherwise a *policy.Refusal that says who asked for what, which
// rule decided and, to those who may read scopes there, what would grant it.
func Check(who identity.Caller, what Action, at identity.Scope) error {
	if r := Judge(who, what, at); r != nil {
		return r
	}
	return nil
}

// Judge is Check for who handles refusals as such.
func Judge(who identity.Caller, what Action, at identity.Scope) *policy.Refusal {
	if May(who, what, at) {
		return nil
	}
	return refusal(who, what, at)
}

// Above is the scope that decides about s itself: its rights, its bounds, whether it is there. A tenant's are the platform's to
// decide, or a tenant's admin could widen what the tenant may.
func Above(s identity.Scope) identity.Scope {
	if up, ok := s.Parent(); ok {
		return up
	}
	if s.IsZero() {
		return s
	}
	return identity.Platform
}

// May reports whether who may do what at scope at. The zero scope is nowhere, and nobody may do anything there.
func May(who identity.Caller, what Action, at identity.Scope) bool {
	_, ok := decide(who, what, at)
	return ok
}

// MayAnywhere reports whether who may do what in some scope. It admits to a question, never to its answer.
func MayAnywhere(who identity.Caller, what Action) bool {
	if who.Operator || lives.has(what) && tenants(home(who)) || proved.has(what) && tenants(who.Proved) {
		return what > 0 && what < actions
	}
	for i := range who.Grants.Len() {
		if set(who.Grants.At(i).Mask).has(what) {
			return true
		}
	}
	return false
}

// Scopes returns the highest scopes in which who may do what, which may contain one another; everywhere says that there is no bound.
func Scopes(who identity.Caller, what Action) (at []identity.Scope, everywhere bool) {
	if May(who, what, identity.Platform) {
		return nil, true
	}
	if lives.has(what) && tenants(home(who)) {
		at = append(at, home(who))
	}
	if proved.has(what) && tenants(who.Proved) {
		at = append(at, who.Proved)
	}
	for g := range who.Grants.All() {
		if set(g.Mask).has(what) {
			at = append(at, g.At)
		}
	}
	return at, false
}

// tenants reports whether s is a tenant's: the platform's workloads are not one another's issuers, or one of them could make
// itself an admin.
func tenants(s identity.Scope) bool { return !s.IsZero() && !s.IsPlatform() }

// home is the scope of who's certificate. A caller that is said to belong elsewhere than its identity has none.
func home(who identity.Caller) identity.Scope {
	if who.ID.Scope() != who.Scope {
		return identity.Scope{}
	}
	return who.Scope
}

// decide finds the rule that allows.
func decide(who identity.Caller, what Action, at identity.Scope) (rule identity.Grant, ok bool) {
	if at.IsZero() || what == 0 || what >= actions {
		return identity.Grant{}, false
	}
	if who.Operator {
		return identity.Grant{Role: string(Admin), At: identity.Platform, Rule: "admin of the platform"}, true
	}
	if lives.has(what) && tenants(home(who)) && home(who).Contains(at) {
		return identity.Grant{Role: "workload", At: home(who), Rule: "a workload's certificate in its own scope"}, true
	}
	if proved.has(what) && who.Proved == at && tenants(at) {
		return identity.Grant{Role: "proof", At: at, Rule: "what was proved for that scope"}, true
	}
	for i := range who.Grants.Len() {
		if g := who.Grants.At(i); set(g.Mask).has(what) && covers(g.At, at) {
			return g, true
		}
	}
	return identity.Grant{}, false
}

// covers reports whether a grant at outer holds in s: roles are inherited downwards, from the platform to everything.
func covers(outer, s identity.Scope) bool {
	return outer.IsPlatform() && !s.IsZero() || outer.Contains(s)
}

// refusal says why who may not. What would grant it is told to whoever may see the scope; to others, whom to ask.
func refusal(who identity.Caller, what Action, at identity.Scope) *policy.Refusal {
	r := &policy.Refusal{What: fmt.Sprintf("%s in %s, asked by %s", what, place(at), name(who)), Rule: decisive(who, what, at)}
	if r.Remedy = "ask an admin of that scope, and give the reference of this answer"; May(who, ReadScopes, at) {
		r.Remedy = fmt.Sprintf("the role %s at %s or above would grant it", granting(what), at)
	}
	return r
}

func place(at identity.Scope) string {
	if at.IsZero() {
		return "no scope"
	}
	return at.String()
}

func name(who identity.Caller) string {
	if who.Actor == "" {
		return "nobody"
	}
	if who.Act != "" {
		return who.Actor + ", for whom " + who.Act + " acts"
	}
	return who.Actor
}

// decisive names the rule that decided against who: the nearest that is about the scope, or that nothing is.
func decisive(who identity.Caller, what Action, at identity.Scope) string {
	for g := range who.Grants.All() {
		if covers(g.At, at) {
			return fmt.Sprintf("the role %s at %s (%s), which does not include %s", g.Role, g.At, g.Rule, what)
		}
	}
	if id := home(who); tenants(id) && id.Contains(at) {
		return fmt.Sprintf("a workload's certificate in its own scope, which does not include %s", what)
	}
	return "roles: nothing grants this caller anything there"
}
