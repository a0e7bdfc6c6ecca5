// Package api is the operators' HTTP door to limits: which there are, how much each scope may have, and who has used how much.
//
// A handler decodes, calls one method of a Keeper and encodes; that operators alone change limits is decided there, and the
// routes admit nobody else. The door keeps no state and is safe for concurrent use.
package api

import (
	"context"
	"net/http"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// A Keeper counts, and knows how much is allowed.
type Keeper interface {
	// Standings returns every limit as it is in scope.
	Standings(ctx context.Context, scope identity.Scope) ([]limit.Standing, error)
	// Usage returns what is used most, the fullest first.
	Usage(ctx context.Context, q limit.Query) ([]limit.Usage, error)
	// Set gives scope a rate of its own, or with nil takes it away. limit.ErrUnknown, limit.ErrNotFound.
	Set(ctx context.Context, who identity.Caller, name limit.Name, scope identity.Scope, r *limit.Rate) error
	// Forget lets a subject begin anew. limit.ErrUnknown, limit.ErrNotFound.
	Forget(ctx context.Context, who identity.Caller, name limit.Name, subject string) error
}

type door struct{ limits Keeper }

// Operator returns the door of the operator listener. below are the problems of what limits stand on.
func Operator(limits Keeper, below web.Table) web.Door {
	d := &door{limits}
	table := web.Table{
		{Err: limit.ErrUnknown, Status: http.StatusNotFound, Name: "no-such-limit", Title: "There is no such limit", Remedy: "see GET /v1/limits"},
		{Err: limit.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such scope, or nothing of that kind is set or used"},
	}
	route := func(method, path, id, summary string, h web.Handler) web.Route {
		return web.Route{Method: method, Path: path, ID: id, Access: web.Operator, Summary: summary, Handler: h}
	}
	return web.Door{Table: append(table, below...), Routes: []web.Route{
		route(http.MethodGet, "/v1/limits", "listLimits", "Every limit, and how much of it a scope may have", web.JSON(d.list)),
		route(http.MethodGet, "/v1/limits/usage", "listLimitUsage", "Who has used most of what is limited", web.JSON(d.usage)),
		route(http.MethodPut, "/v1/limits/{limit}", "setLimit", "Give a scope, and those below it, a rate of its own", web.JSON(d.set)),
		route(http.MethodDelete, "/v1/limits/{limit}", "clearLimit", "Take a scope's own rate away", web.JSON(d.clear)),
		route(http.MethodPost, "/v1/limits/{limit}:forget", "forgetLimitUsage", "Let somebody who has used a limit up begin anew", web.JSON(d.forget)),
	}}
}

// ListRequest says for which scope.
type ListRequest struct {
	Scope identity.Scope `json:"-" query:"scope" description:"The scope whose limits are asked for; without one, those that hold where no scope has its own."`
}

// Limit is one limit as it is in a scope.
type Limit struct {
	Name  limit.Name `json:"name" required:"true"`
	Rate  limit.Rate `json:"rate" required:"true" description:"How much: 100/1h is 100 at once and 100 an hour; or unlimited."`
	Usual limit.Rate `json:"usual" required:"true" description:"The rate where no scope has its own."`
	From  string     `json:"from,omitempty" description:"The scope whose own rate this is."`
	About string     `json:"about" required:"true" description:"What is counted."`
}

// Limits are all there are: they are few, and come on one page.
type Limits struct {
	Limits []Limit `json:"limits" required:"true"`
}

func (d *door) list(ctx context.Context, _ identity.Caller, in ListRequest) (Limits, error) {
	all, err := d.limits.Standings(ctx, in.Scope)
	if err != nil {
		return Limits{}, err
	}
	out := Limits{Limits: make([]Limit, len(all))}
	for i, s := range all {
		out.Limits[i] = Limit{Name: s.Name, Rate: s.Now, Usual: s.Rate, From: s.From.String(), About: s.About}
		if s.From.IsZero() {
			out.Limits[i].From = ""
		}
	}
	return out, nil
}

// UsageRequest selects uses.
type UsageRequest struct {
	Limit   string `json:"-" query:"limit" description:"Only of this limit."`
	Subject string `json:"-" query:"subject" description:"Only of subjects that begin with this: an account, a scope, a scope and a name."`
	Percent int    `json:"-" query:"percent" minimum:"0" maximum:"100" default:"50" description:"Only from so many uses in a hundred on."`
	Size    int    `json:"-" query:"page_size" minimum:"1" maximum:"1000" default:"100" description:"How many to answer at most: the fullest."`
}

// Use is how much one subject has used of one limit.
type Use struct {
	Limit   limit.Name `json:"limit" required:"true"`
	Subject string     `json:"subject" required:"true"`
	Used    int        `json:"used" required:"true"`
	Of      int        `json:"of" required:"true"`
	Clear   web.Time   `json:"clear" required:"true" description:"When all is forgotten, if no more is used."`
}

// Usage is who used most, the fullest first.
type Usage struct {
	Usage []Use `json:"usage" required:"true"`
}

func (d *door) usage(ctx context.Context, _ identity.Caller, in UsageRequest) (Usage, error) {
	all, err := d.limits.Usage(ctx, limit.Query{Limit: limit.Name(in.Limit), Subject: in.Subject, Percent: in.Percent, Most: in.Size})
	if err != nil {
		return Usage{}, err
	}
	out := Usage{Usage: make([]Use, len(all))}
	for i, u := range all {
		out.Usage[i] = Use{Limit: u.Limit, Subject: u.Subject, Used: u.Used, Of: u.Burst, Clear: web.Time{Time: u.Clear}}
	}
	return out, nil
}

// SetRequest gives a scope a rate.
type SetRequest struct {
	Limit string `json:"-" path:"limit"`
	Scope string `json:"scope" required:"true" description:"The scope, as in demo/shop/dev; those below it that have no rate of their own follow it."`
	Rate  string `json:"rate" required:"true" description:"How much: 100/1h is 100 at once and 100 an hour; or unlimited."`
}

func (d *door) set(ctx context.Context, who identity.Caller, in SetRequest) (Limits, error) {
	scope, err := identity.ParseScope(in.Scope)
	if err != nil {
		return Limits{}, &policy.Refusal{What: "that scope", Rule: "the form of scopes", Remedy: err.Error()}
	}
	r, err := limit.ParseRate(in.Rate)
	if err != nil {
		return Limits{}, &policy.Refusal{What: "that rate", Rule: "the form of rates", Remedy: err.Error()}
	}
	if err := d.limits.Set(ctx, who, limit.Name(in.Limit), scope, &r); err != nil {
		return Limits{}, err
	}
	return d.list(ctx, who, ListRequest{Scope: scope})
}

// ClearRequest takes a scope's own rate away.
type ClearRequest struct {
	Limit string         `json:"-" path:"limit"`
	Scope identity.Scope `json:"-" query:"scope" description:"The scope."`
}

func (d *door) clear(ctx context.Context, who identity.Caller, in ClearRequest) (Limits, error) {
	if err := d.limits.Set(ctx, who, limit.Name(in.Limit), in.Scope, nil); err != nil {
		return Limits{}, err
	}
	return d.list(ctx, who, ListRequest{Scope: in.Scope})
}

// ForgetRequest lets a subject begin anew.
type ForgetRequest struct {
	Limit   string `json:"-" path:"limit"`
	Subject string `json:"subject" required:"true" description:"As usage shows it."`
}

func (d *door) forget(ctx context.Context, who identity.Caller, in ForgetRequest) (web.Nothing, error) {
	return web.Nothing{}, d.limits.Forget(ctx, who, limit.Name(in.Limit), in.Subject)
}
