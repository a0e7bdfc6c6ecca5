package web

import (
	"context"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// gate refuses callers whom an operators' route does not admit. A route says by Asks what its callers must be allowed to do:
// in the scope that its path names, or in the platform where it names none, unless it is Anywhere. One that says nothing
// admits who may do everything. The domain decides again, about what is really asked; this is the wall that stands
// when a handler forgets.
func (c *call) gate(m *mounted) error {
	if m.Access != Operator || c.who.Operator {
		return nil
	}
	if m.Asks == 0 {
		return &Fault{
			Status: http.StatusForbidden, Name: "operator-required", Title: "Only operators may do this",
			Detail: c.who.Actor + " is no operator", Rule: "access of this route", Remedy: "use an operator's certificate",
		}
	}
	if m.Anywhere {
		if access.MayAnywhere(c.who, m.Asks) {
			return nil
		}
		return c.turnAway(identity.Scope{}, access.Check(c.who, m.Asks, identity.Platform))
	}
	at, err := c.place(m)
	if err != nil {
		return notFound()
	}
	return c.turnAway(at, access.Check(c.who, m.Asks, at))
}

// place is the scope that the path names.
func (c *call) place(m *mounted) (identity.Scope, error) {
	var parts []string
	for _, name := range []string{"tenant", "project", "environment"} {
		for i, p := range m.params {
			if p == name && i < len(c.params) {
				parts = append(parts, c.params[i])
			}
		}
	}
	if len(parts) == 0 {
		return identity.Platform, nil
	}
	return identity.ParseScope(strings.Join(parts, "/"))
}

// turnAway has a refusal written down, and returns it.
func (c *call) turnAway(at identity.Scope, err error) error {
	refusal, ok := err.(*policy.Refusal) //nolint:errorlint // access.Check returns it bare
	if !ok {
		return err
	}
	if tell := c.server.clients.Refused; tell != nil {
		if ferr := tell(context.WithoutCancel(c.r.Context()), c.who, at, refusal); ferr != nil {
			return ferr
		}
	}
	return err
}
