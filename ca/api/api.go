// Package api is the certificate authority's HTTP door: REST on the service and operator listeners, and on the public one
// what relying parties fetch.
//
// A handler decodes, calls one method of ca and encodes; whether the caller may is decided there, or for reading in
// [door.find]. What a caller may not see is not there: 404, never 403, so that nobody learns of another tenant's
// certificates by asking. The same routes mount the handlers and make the description at /openapi.json. Every refusal
// is a problem (RFC 9457); the table below is all that the domain can say.
//
// A door keeps no state and is safe for concurrent use.
package api

import (
	"fmt"
	"net/http"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Config is what the doors are made of.
type Config struct {
	CA  *ca.CA
	URL string // base URL of the listener, no trailing slash: addresses that we hand out come from it, never from Host
	// Below are the problems of what the CA stands on: which errors mean that the database is away, that a scope is
	// missing.
	Below web.Table
	Facts Facts // nil: the door has no facts
	Feed  Feed  // nil: the door has no feed
	// Of the operator's door.
	Serials Serials
	Desk    *incident.Desk
}

type door struct {
	Config
}

func (d *door) table() web.Table {
	return append(web.Table{
		{Err: ca.ErrTokenUsed, Status: http.StatusConflict, Name: "token-used", Title: "The enrolment token was used before", Remedy: "ask for a new token"},
		{Err: ca.ErrConflict, Status: http.StatusConflict, Name: "already-done", Title: "This was done already, with something else", Remedy: "repeat the same request, or use another Idempotency-Key"},
		{Err: ca.ErrInProgress, Status: http.StatusConflict, Name: "in-progress", Title: "The same request is being served", Remedy: "ask again shortly", After: 1},
		{Err: ca.ErrCallerRevoked, Status: http.StatusForbidden, Name: "caller-revoked", Title: "The caller's certificate is revoked", Remedy: "enrol again"},
		{Err: ca.ErrKeyBlocked, Status: http.StatusForbidden, Name: "key-blocked", Title: "The key is never certified again", Remedy: "make a new key"},
		{Err: ca.ErrSuspended, Status: http.StatusForbidden, Name: "refused", Title: "The scope is suspended", Remedy: "ask an operator to resume it"},
		{Err: ca.ErrAlreadyRevoked, Status: http.StatusConflict, Name: "already-revoked", Title: "The certificate is revoked already", Remedy: "the first revocation stands"},
		{Err: ca.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such thing, or not for this caller"},
		{Err: ca.ErrSettled, Status: http.StatusServiceUnavailable, Name: "abandoned", Title: "The certificate took too long to make and was given up", Remedy: "ask again", After: 1},
		{Err: ca.ErrFenced, Status: http.StatusServiceUnavailable, Name: "fenced", Title: "Nothing is issued: the ledger may have forgotten something", Remedy: "operators: see segl doctor and docs/recovery.md; status and revocation go on", After: 60},
		{Err: ca.ErrUnavailable, Status: http.StatusServiceUnavailable, Name: "unavailable", Title: "Not possible just now", Remedy: "ask again; with the same Idempotency-Key nothing is done twice", After: 2},
		{Err: cert.ErrBadKey, Status: http.StatusBadRequest, Name: "bad-key", Title: "The key may not be certified"},
		{Err: cert.ErrBadRequest, Status: http.StatusBadRequest, Name: "bad-csr", Title: "The certificate request cannot be taken"},
	}, append(incidentTable(), d.Below...)...)
}

// Service returns the door of the service listener: what tenants do in their own scopes.
func Service(c Config) web.Door {
	d := &door{c}
	return web.Door{Table: d.table(), Routes: append(d.scoped(web.Holder, depths), d.across(web.Holder)...)}
}

// Operator returns the door of the operator listener: the same over all scopes, the platform's own among them.
func Operator(c Config) web.Door {
	d := &door{c}
	routes := d.scoped(web.Operator, append([]depth{platform}, depths...))
	routes = append(routes, d.across(web.Operator)...)
	routes = append(routes, d.factRoutes(web.Operator, "/v1", "", web.JSON(d.allFacts), web.JSON(d.allRefusals), web.Events(d.followAll))...)
	routes = append(append(routes, d.incidents()...), d.authorities()...)
	for _, at := range append([]depth{platform}, depths...) {
		routes = append(routes, d.methodRoutes(at)...)
	}
	return web.Door{Table: d.table(), Routes: append(routes,
		web.Route{
			Method: http.MethodGet, Path: "/v1/certificates", ID: "listCertificates", Access: web.Operator,
			Summary: "Certificates of every scope, in order of expiry", Handler: web.JSON(d.listAll),
		},
		web.Route{
			Method: http.MethodGet, Path: "/v1/serials", ID: "listSerials", Access: web.Operator,
			Summary: "Every serial the ledger knows, in the order of their making, abandoned ones included", Handler: web.JSON(d.serials),
		})}
}

// A depth is how far down a scope is, and where its resources are.
type depth struct{ name, path string }

var (
	platform = depth{"Platform", "/v1/platform"}
	depths   = []depth{
		{"Tenant", "/v1/tenants/{tenant}"},
		{"Project", "/v1/tenants/{tenant}/projects/{project}"},
		{"Environment", "/v1/tenants/{tenant}/projects/{project}/environments/{environment}"},
	}
)

// maxBatch is the most requests a batch holds, and batchBody the octets that takes.
const (
	maxBatch  = 100
	batchBody = 1 << 20
)

// scoped returns the routes that each scope has.
func (d *door) scoped(who web.Access, in []depth) []web.Route {
	var out []web.Route
	for _, at := range in {
		out = append(
			out,
			web.Route{
				Method: http.MethodPost, Path: at.path + "/certificates", ID: "issueIn" + at.name, Access: who, Status: http.StatusCreated,
				Summary: "Issue a certificate from a certificate request", Handler: web.JSON(d.issue),
			},
			web.Route{
				Method: http.MethodPost, Path: at.path + "/certificates:batch", ID: "issueBatchIn" + at.name, Access: who, MaxBody: batchBody,
				Summary: fmt.Sprintf("Issue up to %d certificates; each succeeds or fails by itself", maxBatch), Handler: web.JSON(d.batch),
			},
			web.Route{
				Method: http.MethodGet, Path: at.path + "/certificates", ID: "listIn" + at.name, Access: who,
				Summary: "Certificates of the scope and below, in order of expiry", Handler: web.JSON(d.list),
			},
			web.Route{
				Method: http.MethodGet, Path: at.path + "/certificates/{serial}", ID: "showIn" + at.name, Access: who,
				Summary: "One certificate", Handler: web.JSON(d.show),
			},
			web.Route{
				Method: http.MethodPost, Path: at.path + "/certificates/{serial}:revoke", ID: "revokeIn" + at.name, Access: who,
				Summary: "Revoke a certificate, for ever", Handler: web.JSON(d.revoke),
			},
			web.Route{
				Method: http.MethodPost, Path: at.path + "/enrollment-tokens", ID: "inviteIn" + at.name, Access: who, Status: http.StatusCreated,
				Summary: "Make a one-time token with which a workload gets its first certificate", Handler: web.JSON(d.invite),
			},
		)
		out = append(out, d.profileRoutes(who, at)...)
		out = append(out, d.factRoutes(who, at.path, "In"+at.name, web.JSON(d.facts), web.JSON(d.refusals), web.Events(d.follow))...)
	}
	return out
}

// across returns the routes that need no scope: the certificate or the token says which.
func (d *door) across(who web.Access) []web.Route {
	routes := []web.Route{
		{
			Method: http.MethodGet, Path: "/v1/roots", ID: "showRoots", Access: web.Anyone,
			Summary: "The roots, as they are to be trusted, over TLS that they vouch for", Handler: web.JSON(d.roots),
		},
		{
			Method: http.MethodPost, Path: "/v1/certificates:enroll", ID: "enroll", Access: web.Anyone, Status: http.StatusCreated,
			Summary: "Trade a one-time token for a workload's first certificate", Handler: web.JSON(d.enrol),
		},
		{
			Method: http.MethodPost, Path: "/v1/certificates:renew", ID: "renew", Access: web.Bearer, Status: http.StatusCreated,
			Summary: "Renew the certificate that the connection was made with", Handler: web.JSON(d.renew),
		},
		{
			Method: http.MethodGet, Path: "/v1/certificates/{serial}", ID: "show", Access: who,
			Summary: "One certificate, wherever it is", Handler: web.JSON(d.showAnywhere),
		},
		{
			Method: http.MethodPost, Path: "/v1/certificates/{serial}:revoke", ID: "revoke", Access: who,
			Summary: "Revoke a certificate, wherever it is, for ever", Handler: web.JSON(d.revokeAnywhere),
		},
	}
	if d.Facts != nil {
		routes = append(routes, web.Route{
			Method: http.MethodGet, Path: "/v1/refusals/{reference}", ID: "explainRefusal", Access: who,
			Summary: "Why a request was refused", Handler: web.JSON(d.explain),
		})
	}
	return routes
}

// A place is the scope a request is about, from its path. A path without one is the platform's.
type place struct {
	Scope identity.Scope `default:"platform" json:"-" path:"tenant,project,environment"`
}
