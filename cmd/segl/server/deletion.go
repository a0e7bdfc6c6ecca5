package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/tenancy"
)

// openDeletions makes what deletes tenants.
func (s *Server) openDeletions() {
	s.scopes.Guarded(s.access.Guard)
	s.deletions = &tenancy.Deleter{Registry: s.scopes, Guard: s.access.Guard, Ender: ender{s.desk, byte(s.cfg.Site)}} //nolint:gosec // checked
	s.duties = append(s.duties, duty.Duty{
		Name: "deletions", Every: 5 * time.Second, //nolint:mnd // a poll of an index that is nearly always empty
		Once: func(ctx context.Context, _ int64) error { return s.deletions.RunOnce(ctx) },
	})
}

// An ender revokes a tenant's certificates by an incident of everything.
type ender struct {
	desk *incident.Desk
	site byte
}

var deleter = identity.System("deletions")

func (e ender) ask(tenant identity.Scope) incident.Ask {
	return incident.Ask{
		Choice: incident.Choice{Scope: tenant}, Why: "its tenant is deleted", Reason: cert.CessationOfOperation, Everything: true,
	}
}

// Count implements tenancy.Ender.
func (e ender) Count(ctx context.Context, tenant identity.Scope) (int, error) {
	t, err := e.desk.Preview(ctx, deleter, e.ask(tenant))
	if errors.Is(err, incident.ErrNothing) {
		return 0, nil
	}
	return t.Chosen - t.Revoked - t.Expired, err
}

// End implements tenancy.Ender.
func (e ender) End(ctx context.Context, id int64, tenant identity.Scope) (int, bool, error) {
	ask := e.ask(tenant)
	ask.ID = incident.Origin(e.site, deleter, fmt.Sprintf("deletion %d", id))
	had, err := e.desk.Book.Incident(ctx, ask.ID)
	if errors.Is(err, incident.ErrNotFound) {
		had, err = e.desk.Create(ctx, deleter, ask)
	}
	if errors.Is(err, incident.ErrNothing) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	return had.Revoked, !had.Finished.IsZero(), nil
}

// walk shows a judge the valid certificates of a scope.
func (s *Server) walk(ctx context.Context, at identity.Scope, judge func(identity.Scope, []cert.Name) error) (tenancy.Impact, error) {
	v, err := s.ca.Impact(ctx, ca.Query{Scope: at}, func(c ca.Certificate) (time.Duration, error) {
		return math.MaxInt64, judge(c.Scope, c.Names)
	})
	out := tenancy.Impact{Live: v.Live, Refused: v.Refused, Complete: v.All}
	for _, c := range v.First {
		out.First = append(out.First, tenancy.Affected{Serial: c.Serial, Scope: c.Scope, Names: c.Names, NotAfter: c.NotAfter, Rule: c.Rule, Remedy: c.Remedy})
	}
	return out, err
}
