// Package api is the HTTP door to targets, bindings and leases.
//
// A handler decodes, calls one method of an Office and encodes; who may is decided there. A lease is asked for with the
// certificate that it hangs on, and its password is in that one answer. The door keeps no state and is safe for concurrent use.
package api

import (
	"fmt"
	"net/http"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/web"
)

type door struct{ office *credentials.Office }

func table(below web.Table) web.Table {
	row := func(err error, status int, name, title, remedy string) web.Row {
		return web.Row{Err: err, Status: status, Name: name, Title: title, Remedy: remedy}
	}
	return append(web.Table{
		row(credentials.ErrExists, http.StatusConflict, "name-taken", "The name is taken in that scope", "choose another name, or end what has it"),
		row(credentials.ErrMixed, http.StatusForbidden, "foreign-target", "The binding and the target belong to different tenants", "make a target of the binding's own tenant"),
		row(credentials.ErrOthers, http.StatusConflict, "target-taken", "The server is a target of another scope", "use that scope's target, or have it ended there first"),
		row(credentials.ErrTooMany, http.StatusTooManyRequests, "too-many-leases", "As many leases as the binding allows are in use", "release one, or use those there are"),
		row(credentials.ErrSuspended, http.StatusForbidden, "refused", "The scope is suspended", "ask an operator to resume it"),
		row(credentials.ErrEnded, http.StatusConflict, "ended", "It has ended", "ask for a new lease"),
		row(credentials.ErrGroup, http.StatusConflict, "target-refused", "The target may not give that", "at the target, let segl_owner hand out the group: see docs/databases.md"),
		row(credentials.ErrTooPowerful, http.StatusConflict, "target-too-powerful", "The login at the target may do more than it needs", "use the role that deploy/targets makes, and nothing more"),
		row(credentials.ErrUnprepared, http.StatusConflict, "target-unprepared", "The target is not prepared", "run the file of its kind in deploy/targets there"),
		{Err: credentials.ErrClock, Status: http.StatusServiceUnavailable, Name: "target-clock", Title: "The target's clock is wrong", Remedy: "set the clocks; nothing was made", After: 30},
		{Err: credentials.ErrUnreachable, Status: http.StatusServiceUnavailable, Name: "target-unreachable", Title: "The target does not answer", Remedy: "ask again; nothing was made", After: 2},
		row(credentials.ErrNotFound, http.StatusNotFound, "not-found", "There is no such thing, or not for this caller", ""),
	}, below...)
}

// Service returns the door of the service listener. below are the problems of what leases stand on.
func Service(o *credentials.Office, below web.Table) web.Door {
	d := &door{o}
	return web.Door{Table: table(below), Routes: append(d.own(web.Holder), d.lists(web.Holder, depths)...)}
}

// Operator returns the door of the operator listener: the same, and what changes targets and bindings.
func Operator(o *credentials.Office, below web.Table) web.Door {
	d := &door{o}
	all := append([]depth{{"Platform", "/v1/platform"}}, depths...)
	routes := append(d.own(web.Operator), d.lists(web.Operator, all)...)
	return web.Door{Table: table(below), Routes: append(routes, d.changes(all)...)}
}

// A depth is how far down a scope is, and where its resources are.
type depth struct{ name, path string }

var depths = []depth{
	{"Tenant", "/v1/tenants/{tenant}"},
	{"Project", "/v1/tenants/{tenant}/projects/{project}"},
	{"Environment", "/v1/tenants/{tenant}/projects/{project}/environments/{environment}"},
}

// own are the routes of one lease. The domain knows whose it is.
func (d *door) own(who web.Access) []web.Route {
	route := func(method, path, id, summary string, asks access.Action, h web.Handler) web.Route {
		return web.Route{Method: method, Path: path, ID: id, Access: who, Asks: asks, Anywhere: who == web.Operator, Summary: summary, Handler: h}
	}
	routes := []web.Route{
		route(http.MethodGet, "/v1/leases/{lease}", "showLease", "One lease, with what was done for it at its target", access.ReadCredentials, web.JSON(d.show)),
		route(http.MethodDelete, "/v1/leases/{lease}", "endLease", "End a lease, its sessions too", access.RevokeCredentials, web.JSON(d.end)),
	}
	if who == web.Operator {
		return routes
	}
	make := route(http.MethodPost, "/v1/leases", "makeLease", "Make a login, by a binding, for who shows a certificate", 0, web.JSON(d.make))
	make.Status = http.StatusCreated
	return append(routes, make, route(http.MethodPost, "/v1/leases/{lease}:renew", "renewLease", "Let a lease last longer, with the certificate shown", 0, web.JSON(d.renew)))
}

func (d *door) lists(who web.Access, in []depth) []web.Route {
	var out []web.Route
	for _, at := range in {
		for _, l := range []struct {
			path, what string
			h          web.Handler
		}{
			{"/leases", "Leases", web.JSON(d.leases)},
			{"/targets", "Targets", web.JSON(d.targets)},
			{"/bindings", "Bindings", web.JSON(d.bindings)},
		} {
			out = append(out, web.Route{
				Method: http.MethodGet, Path: at.path + l.path, ID: "list" + l.what + "In" + at.name, Access: who, Asks: access.ReadCredentials,
				Summary: l.what + " of the scope and below", Handler: l.h,
			})
		}
	}
	return out
}

func (d *door) changes(in []depth) []web.Route {
	var out []web.Route
	for _, at := range in {
		route := func(method, path, id, summary string, h web.Handler) {
			r := web.Route{Method: method, Path: at.path + path, ID: id + "In" + at.name, Access: web.Operator, Asks: access.ChangeCredentials, Summary: fmt.Sprintf(summary, at.name), Handler: h}
			if method == http.MethodPost {
				r.Status = http.StatusCreated
			}
			out = append(out, r)
		}
		route(http.MethodPost, "/targets", "addTarget", "Name a server at which logins are made: %s", web.JSON(d.addTarget))
		route(http.MethodDelete, "/targets/{target}", "endTarget", "End a target and everything made there: %s", web.JSON(d.endTarget))
		route(http.MethodPost, "/bindings", "addBinding", "Say whose identity gets what: %s", web.JSON(d.addBinding))
		route(http.MethodDelete, "/bindings/{binding}", "endBinding", "End a binding and everything derived by it: %s", web.JSON(d.endBinding))
	}
	return out
}
