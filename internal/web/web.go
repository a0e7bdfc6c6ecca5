// Package web is how everything here speaks HTTP: the one place that knows the router, so that changing it changes one
// package.
//
// A door (ca/api, acme/api) is a list of routes, each a method, a path template, who may use it, and a handler; with a
// table from its domain's sentinels to problems (RFC 9457). A handler made by JSON decodes strictly, is handed the caller,
// calls one function and encodes; one made by Events sends server-sent events until it ends; one made by Raw reads and
// writes itself. A Server serves doors on one listener under
// bounds: time, sizes, connections; a panic is a 500. What a table does not name is a 500 too, which says nothing outside
// and everything in the log.
//
// A caller is only ever made from a client certificate that chains to the trust anchors at this moment, or from an access
// token that a Verifier found good at this moment; never from both, unless the token is bound to the certificate. The handshake
// proves possession, this package verifies the chain when a connection first needs a name (caller.go says why there).
// Forwarded headers mean nothing: a request comes from its direct peer (RFC 7239 §8.1).
//
// The package decides nothing about certificates or scopes: the domains do. A Server is safe for concurrent use.
package web

import (
	"context"
	"net/http"
	"reflect"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
)

// An Access says whom a route admits.
type Access uint8

// The accesses. The zero Access is the careful one.
const (
	// Holder admits whoever shows a valid client certificate of ours. What the holder may do, the domain decides.
	Holder Access = iota
	// Operator admits operators, and others with the role that the route's Asks needs.
	Operator
	// Anyone admits everybody; a caller who shows a valid certificate is named nevertheless.
	Anyone
	// Bearer admits whoever shows any valid certificate of ours, also one that is not for clients, as a server's: it proves
	// possession of that certificate and nothing else. Who has no identity is named by the serial and has no scope.
	Bearer
)

// A Route is one operation. It is what a Server mounts and what a description of the API is made from.
type Route struct {
	Method string
	// Path is a template such as /v1/tenants/{tenant}/certificates/{serial}:revoke. A parameter is a whole segment, which
	// in the last segment a verb may follow after a colon; {rest...} at the end takes all that is left.
	Path    string
	ID      string // operationId of the description
	Summary string // one line
	Access  Access
	// Asks is what who comes to an operators' route must be allowed to do; zero: everything.
	Asks access.Action
	// Anywhere says that Asks is about a thing whose scope only the domain knows: who may do it somewhere is admitted.
	Anywhere bool
	Status   int   // of success; 0 is 200, or 204 where the handler answers Nothing
	MaxBody  int64 // octets; 0 is the server's bound
	Handler  Handler
}

// A Door is the routes of one API, with the problems its errors become.
type Door struct {
	Routes []Route
	Table  Table
}

// A Handler serves one route. JSON and Raw make one.
type Handler struct {
	in, out reflect.Type
	media   string // of an answer that is no JSON and no Raw handler's
	params  []Param
	serve   func(*call) error
}

// In returns the type that a JSON handler decodes, else nil.
func (h Handler) In() reflect.Type { return h.in }

// Out returns the type that a JSON handler encodes, else nil.
func (h Handler) Out() reflect.Type { return h.out }

// Media returns the media type of what an Events handler sends, else nothing.
func (h Handler) Media() string { return h.media }

// A Param is a parameter of a route, for a description of the API.
type Param struct {
	Name  string
	In    string              // path, query or header
	Field reflect.StructField // that it fills, with its tags; zero where a Raw handler reads it itself
}

// Params returns the parameters of r: those of its path in order, then those its handler binds.
func (r Route) Params() []Param {
	var out []Param
	for _, name := range parseTemplate(r.Path).params {
		p := Param{Name: name, In: "path"}
		for _, bound := range r.Handler.params {
			if bound.In == "path" && bound.Name == name {
				p = bound
			}
		}
		out = append(out, p)
	}
	for _, bound := range r.Handler.params {
		if bound.In != "path" {
			out = append(out, bound)
		}
	}
	return out
}

// Nothing is the answer of a JSON handler that has none: 204 and no body.
type Nothing struct{}

// JSON returns the handler that decodes a Req, calls fn and encodes what it returns.
//
// Fields of Req tagged path, query or header come from there (and must be tagged json:"-" too); the others are members of
// the body, a JSON object (RFC 8259) of type application/json. Unknown members and query parameters are refused by name;
// members tagged required:"true" must be there. JSON panics where Req cannot be bound: that is a fault of the program.
// If Resp has a method Header(http.Header), it may add header fields such as Location; if it has a method Cause() error, the
// log gets what that returns: for answers that say of a part that it failed.
func JSON[Req, Resp any](fn func(ctx context.Context, who identity.Caller, in Req) (Resp, error)) Handler {
	plan := newPlan(reflect.TypeFor[Req]())
	return Handler{in: reflect.TypeFor[Req](), out: reflect.TypeFor[Resp](), params: plan.params, serve: func(c *call) error {
		var in Req
		if err := plan.bind(c, reflect.ValueOf(&in).Elem()); err != nil {
			return err
		}
		out, err := fn(c.r.Context(), c.who, in)
		if err != nil {
			return err
		}
		return c.answer(out)
	}}
}

// Raw returns the handler that calls fn, for doors whose wire form is not JSON over a struct. Path parameters are in
// r.PathValue. An error becomes a problem unless fn has begun its answer.
func Raw(fn func(w http.ResponseWriter, r *http.Request, who identity.Caller) error) Handler {
	return Handler{serve: func(c *call) error {
		for i, name := range c.route.params {
			c.r.SetPathValue(name, c.params[i])
		}
		return fn(c, c.r, c.who)
	}}
}

// Plain returns the handler that calls h, such as one of the standard library's.
func Plain(h http.Handler) Handler {
	return Handler{serve: func(c *call) error { h.ServeHTTP(c, c.r); return nil }}
}
