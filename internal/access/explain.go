package access

import "codeberg.org/dataverket/segl/internal/identity"

// A Decision is what was decided, by which rule, and what would decide otherwise.
type Decision struct {
	Allowed bool
	Rule    string
	Remedy  string   // of a refusal
	Roles   []string // that hold there, each with where it was given
}

// Explain decides as Check does, and says why.
func Explain(who identity.Caller, what Action, at identity.Scope) Decision {
	var d Decision
	rule, ok := decide(who, what, at)
	if d.Allowed = ok; ok {
		d.Rule = rule.Rule
		if rule.Order > 0 {
			d.Rule = rule.Role + " at " + rule.At.String() + ", " + rule.Rule
		}
	} else {
		r := refusal(who, what, at)
		d.Rule, d.Remedy = r.Rule, r.Remedy
	}
	for g := range who.Grants.All() {
		if covers(g.At, at) {
			d.Roles = append(d.Roles, g.Role+" at "+g.At.String()+", "+g.Rule)
		}
	}
	return d
}

// Would names the roles that would allow what at at.
func Would(what Action) string { return granting(what) }
