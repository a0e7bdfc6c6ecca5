package web

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// methods are those we know. RFC 9110 §9.1: one that is "unrecognized or not implemented" is answered 501.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// A mounted route is a Route with what serving it needs.
type mounted struct {
	Route
	template
	table Table
	seen  *observers
}

// A place is one shape of path: the routes that only verb or method tells apart.
type place struct {
	template
	verbs map[string]map[string]*mounted // verb → method → route
}

func newRouter(s *Server, doors []Door) *echo.Echo {
	places := make(map[string]*place)
	for _, d := range doors {
		for _, r := range d.Routes {
			t := parseTemplate(r.Path)
			p := places[t.shape]
			if p == nil {
				p = &place{template: t, verbs: make(map[string]map[string]*mounted)}
				places[t.shape] = p
			}
			p.add(&mounted{Route: r, template: t, table: d.Table, seen: s.metrics.observers(s.name, r)})
		}
	}
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = func(_ error, c echo.Context) { c.Response().Writer.(*call).fail(notFound()) }
	for _, shape := range slices.Sorted(maps.Keys(places)) {
		for _, m := range methods {
			e.Add(m, places[shape].path, places[shape].serve)
		}
	}
	return e
}

func (p *place) add(m *mounted) {
	if !slices.Equal(p.params, m.params) {
		panic(fmt.Sprintf("web: internal error: path %q names its parameters otherwise than %q", m.Path, p.path))
	}
	byMethod := p.verbs[m.verb]
	if byMethod == nil {
		byMethod = make(map[string]*mounted)
		p.verbs[m.verb] = byMethod
	}
	if byMethod[m.Method] != nil {
		panic(fmt.Sprintf("web: internal error: %s %s is mounted twice", m.Method, m.Path))
	}
	byMethod[m.Method] = m
}

// serve is the only handler the router knows.
func (p *place) serve(ec echo.Context) error {
	c := ec.Response().Writer.(*call)
	verb, ok := p.values(c, ec.ParamValues())
	byMethod := p.verbs[verb]
	if !ok || byMethod == nil {
		c.fail(notFound())
		return nil
	}
	m := byMethod[c.r.Method]
	if m == nil && c.r.Method == http.MethodHead { // RFC 9110 §9.3.2: HEAD is GET without the content
		m = byMethod[http.MethodGet]
	}
	if m == nil {
		p.refuseMethod(c, byMethod)
		return nil
	}
	c.serve(m)
	return nil
}

// values takes the parameters out of the path. The router hands them escaped, and lets the last one run over slashes; a
// named parameter here is one segment, not empty, whatever its spelling.
func (p *place) values(c *call, raw []string) (verb string, ok bool) {
	c.params = append(c.few[:0], raw...)
	if len(c.params) != len(p.params) {
		return "", false
	}
	for i, v := range c.params {
		if c.r.URL.RawPath != "" && strings.Contains(v, "%") {
			u, err := url.PathUnescape(v)
			if err != nil {
				return "", false
			}
			v = u
		}
		last := i == len(c.params)-1
		if last && (len(p.verbs) > 1 || p.verbs[""] == nil) {
			v, verb, _ = strings.Cut(v, ":")
		}
		if whole := !last || !p.rest; whole && (v == "" || strings.Contains(v, "/")) {
			return "", false
		}
		c.params[i] = v
	}
	return verb, true
}

func (p *place) refuseMethod(c *call, byMethod map[string]*mounted) {
	allow := slices.Sorted(maps.Keys(byMethod))
	if byMethod[http.MethodGet] != nil && byMethod[http.MethodHead] == nil {
		allow = append(allow, http.MethodHead)
	}
	allow = append(allow, http.MethodOptions)
	c.Header().Set("Allow", strings.Join(allow, ", ")) // RFC 9110 §15.5.6: a 405 MUST carry Allow
	if c.r.Method == http.MethodOptions {
		c.WriteHeader(http.StatusNoContent)
		return
	}
	c.fail(&Fault{
		Status: http.StatusMethodNotAllowed, Name: "method-not-allowed", Title: "The resource does not take this method",
		Detail: fmt.Sprintf("%s is not among %s", c.r.Method, strings.Join(allow, ", ")),
	})
}

func notFound() error {
	return &Fault{
		Status: http.StatusNotFound, Name: "no-such-resource", Title: "There is nothing at this address",
		Detail: "no route of this listener has this path",
	}
}
