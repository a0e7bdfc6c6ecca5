package api

import (
	"context"
	"errors"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

var errOrder = errors.New("want oldest or newest")

// Past narrows a list of refusals.
type Past struct {
	What   string   `json:"-" query:"what" description:"Only refusals of this kind, as in certificate.issue."`
	Actor  string   `json:"-" query:"actor" description:"Only what this one was refused."`
	Serial string   `json:"-" query:"serial" description:"Only those about this certificate."`
	Since  web.Time `json:"-" query:"since" description:"Only those of then or later."`
	Until  web.Time `json:"-" query:"until" description:"Only those before then."`
	web.Page
}

// RefusalsRequest asks what was refused in a scope.
type RefusalsRequest struct {
	place
	Past
}

// AllRefusalsRequest asks what was refused anywhere.
type AllRefusalsRequest struct {
	Scope string `json:"-" query:"scope" description:"Only those of this scope and below."`
	Past
}

func (d *door) refusals(ctx context.Context, who identity.Caller, in RefusalsRequest) (FactList, error) {
	if !access.May(who, access.ReadFacts, in.Scope) {
		return FactList{}, ca.ErrNotFound
	}
	return d.listFacts(ctx, in.Scope, in.choice(), in.span())
}

func (d *door) allRefusals(ctx context.Context, _ identity.Caller, in AllRefusalsRequest) (FactList, error) {
	scope, err := within(in.Scope)
	if err != nil {
		return FactList{}, err
	}
	return d.listFacts(ctx, scope, in.choice(), in.span())
}

func (p Past) choice() Choice {
	return Choice{What: p.What, Actor: p.Actor, Serial: p.Serial, Since: p.Since, Refused: true}
}

func (p Past) span() Span { return Span{Until: p.Until, Order: "newest", Page: p.Page} }

// ExplainRequest asks why somebody was refused.
type ExplainRequest struct {
	Reference string `json:"-" path:"reference" pattern:"^[A-Za-z0-9._-]{1,64}$" description:"The last part of the instance in a problem, or the id of a refusal."`
}

// Explanation is what one request was refused.
type Explanation struct {
	Refusals []Fact `json:"refusals" required:"true"`
}

// mostRefused is how many refusals of one request are told: a batch may have as many.
const mostRefused = maxBatch

// explain returns what a request was refused, to whoever was refused it, to its scope and to operators.
func (d *door) explain(ctx context.Context, who identity.Caller, in ExplainRequest) (Explanation, error) {
	page, err := d.Facts.Read(ctx, audit.Query{Request: in.Reference, Refused: true, Newest: true, Limit: mostRefused})
	if err != nil {
		return Explanation{}, err
	}
	if at, err := audit.ParsePosition(in.Reference); err == nil {
		one, err := d.Facts.Read(ctx, audit.Query{Refused: true, After: audit.Position{Transaction: at.Transaction, ID: at.ID - 1}, Limit: 1})
		if err != nil {
			return Explanation{}, err
		}
		if len(one.Entries) > 0 && one.Entries[0].Position == at {
			page.Entries = append(page.Entries, one.Entries[0])
		}
	}
	out := Explanation{Refusals: []Fact{}}
	for _, e := range page.Entries {
		at := e.Scope
		if at.IsZero() {
			at = identity.Platform
		}
		if who.Actor == e.Who.Actor && who.Actor != "" || access.May(who, access.ReadFacts, at) {
			out.Refusals = append(out.Refusals, factOf(e))
		}
	}
	if len(out.Refusals) == 0 {
		return Explanation{}, ca.ErrNotFound
	}
	return out, nil
}
