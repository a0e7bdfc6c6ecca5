package api

import (
	"context"
	"strings"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// ExplainSelfRequest asks whether the caller may do something.
type ExplainSelfRequest struct {
	Action string         `json:"action" required:"true" description:"A word such as certificate.issue."`
	Scope  identity.Scope `json:"scope" required:"true"`
}

// ExplainRequest asks whether somebody may do something.
type ExplainRequest struct {
	ExplainSelfRequest
	Identity string `json:"identity,omitempty" description:"Whose SPIFFE ID it is about; the caller, if absent."`
	Issuer   string `json:"issuer,omitempty" description:"With claim and value: whoever that issuer says this of."`
	Claim    string `json:"claim,omitempty"`
	Value    string `json:"value,omitempty"`
}

// Judgement is a decision and why it is so.
type Judgement struct {
	Who     string   `json:"who" required:"true"`
	Action  string   `json:"action" required:"true"`
	Scope   string   `json:"scope" required:"true"`
	Allowed bool     `json:"allowed" required:"true"`
	Rule    string   `json:"rule" required:"true" description:"Which rule decided."`
	Remedy  string   `json:"remedy,omitempty" description:"What would decide otherwise, to whoever may know."`
	Roles   []string `json:"roles" required:"true" description:"The roles that hold there, and where each was given."`
}

func (d *door) explainSelf(_ context.Context, who identity.Caller, in ExplainSelfRequest) (Judgement, error) {
	return decided(who, in)
}

// explain about somebody else is for who may read roles there.
func (d *door) explain(_ context.Context, who identity.Caller, in ExplainRequest) (Judgement, error) {
	if in.Identity+in.Issuer+in.Claim+in.Value == "" {
		return decided(who, in.ExplainSelfRequest)
	}
	if err := access.Check(who, access.ReadRoles, in.Scope); err != nil {
		return Judgement{}, err
	}
	about, err := somebody(in)
	if err != nil {
		return Judgement{}, &policy.Refusal{What: "an explanation", Rule: "whom it is about", Remedy: err.Error()}
	}
	out, err := decided(d.Keeper.Name(about), in.ExplainSelfRequest)
	if err == nil && !out.Allowed { // the one who asks may know, whatever the other may
		a, _ := access.ParseAction(in.Action)
		out.Remedy = "the role " + access.Would(a) + " at " + in.Scope.String() + " or above would grant it"
	}
	return out, err
}

func somebody(in ExplainRequest) (identity.Caller, error) {
	if in.Identity != "" {
		id, err := identity.ParseID(in.Identity)
		return identity.Caller{Actor: in.Identity, ID: id, Scope: id.Scope()}, err
	}
	s, err := access.NewClaim(in.Issuer, in.Claim, in.Value)
	return identity.Caller{Actor: s.String(), Issuer: in.Issuer, Claims: identity.NewClaims(map[string][]string{in.Claim: {in.Value}})}, err
}

func decided(who identity.Caller, in ExplainSelfRequest) (Judgement, error) {
	a, ok := access.ParseAction(in.Action)
	if !ok {
		var words []string
		for _, a := range access.Actions() {
			words = append(words, a.String())
		}
		return Judgement{}, &policy.Refusal{What: "an explanation", Rule: "the list of actions", Remedy: "choose one of " + strings.Join(words, ", ")}
	}
	d := access.Explain(who, a, in.Scope)
	out := Judgement{Who: who.Actor, Action: in.Action, Scope: in.Scope.String(), Allowed: d.Allowed, Rule: d.Rule, Remedy: d.Remedy, Roles: d.Roles}
	if out.Roles == nil {
		out.Roles = []string{}
	}
	return out, nil
}
