package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// docs/access.md says of every route, every kind of caller and every kind of scope whether the one lets the other in, and this
// walk holds a running segl to it. Routes come from the descriptions that the listeners serve; one that the page does not name
// fails, and so does one that is named and not there. Scopes are seen from the project demo/shop; another tenant has the same
// shapes. A route that names no scope in its path is asked about a thing of each: its serial, its number, its scope in the body.

// shapes are the scopes of the walk, by the scope's kind and its depth: 0 the platform, then tenant, project, environment.
var shapes = map[string]map[int]string{
	"parent": {1: "demo"}, "own": {2: "demo/shop"}, "child": {3: "demo/shop/dev"},
	"foreign": {1: "rival", 2: "rival/vault", 3: "rival/vault/night"}, "platform": {0: "platform"},
}

// birds are words in the names of whatever is made in a tenant: where one shows to another, something leaks.
var birds = map[string]string{"demo": "heron", "rival": "kestrel", "platform": "osprey"}

// sideOf is the tenant that a scope is of.
func sideOf(scope string) string {
	side, _, _ := strings.Cut(scope, "/")
	return side
}

// pathOf is the address of a scope.
func pathOf(scope string) string {
	if scope == "platform" {
		return "/v1/platform"
	}
	out, words := "/v1", []string{"tenants", "projects", "environments"}
	for i, name := range strings.Split(scope, "/") {
		out += "/" + words[i] + "/" + name
	}
	return out
}

// A walkRoute is an operation of a description.
type walkRoute struct {
	listener, method, path string
	depth                  int    // of the scope in the path; -1: none
	rest                   string // of the path after the scope
}

// row is how the page names it.
func (r walkRoute) row() string {
	if r.depth >= 0 {
		return r.method + " {scope}" + r.rest
	}
	return r.method + " " + r.path
}

func parseRoute(listener, method, path string) walkRoute {
	r := walkRoute{listener: listener, method: strings.ToUpper(method), path: path, depth: -1, rest: path}
	for i, prefix := range []string{"/v1/platform", "/v1/tenants/{tenant}", "/v1/tenants/{tenant}/projects/{project}", "/v1/tenants/{tenant}/projects/{project}/environments/{environment}"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok && (rest == "" || strings.ContainsAny(rest[:1], "/:")) {
			r.depth, r.rest = i, rest
		}
	}
	return r
}

// A walker is one kind of caller.
type walker struct {
	name   string
	client *http.Client
	blind  []string // tenants whose things it must never see
	things map[string]string
}

// asks sends a route's request about a scope, naming a thing of the scope other, which is the same but where they are crossed.
func (w *walk) asks(r walkRoute, who, owner *walker, scope, other string) (e2e.Answer, []string, error) {
	path, keys := r.path, []string{}
	if r.depth >= 0 {
		path = pathOf(scope) + r.rest
	}
	for {
		before, rest, ok := strings.Cut(path, "{")
		param, after, _ := strings.Cut(rest, "}")
		if !ok {
			break
		}
		kind := kindOf(r, param)
		keys = append(keys, kind+" "+other)
		value := w.thing(owner, kind, other)
		if param == "rest" {
			value = "000.p/1"
		}
		path = before + value + after
	}
	if slices.Contains(queried, r.row()) {
		path += "?scope=" + scope
	}
	url := w.Env["SEGL_URL"]
	if r.listener == "operator" {
		url = w.Env["SEGL_OPERATOR_URL"]
	}
	if strings.HasSuffix(r.rest, ":follow") {
		a, err := w.begins(who, url+path)
		return a, keys, err
	}
	a, err := e2e.Ask(w.t.Context(), who.client, r.method, url+path, w.body(r, who, scope))
	return a, keys, err
}

// begins reads what a stream begins with: it has no end.
func (w *walk) begins(who *walker, url string) (e2e.Answer, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return e2e.Answer{}, err
	}
	res, err := who.client.Do(req)
	if err != nil {
		return e2e.Answer{}, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode == http.StatusOK {
		return e2e.Answer{Status: res.StatusCode, Header: res.Header}, nil
	}
	body, err := io.ReadAll(res.Body)
	return e2e.Answer{Status: res.StatusCode, Header: res.Header, Body: body}, err
}

// absent are routes whose thing is not there in the walk: there, who may is told so, and who may not is refused for that (403).
var absent = []string{
	"POST /v1/approvals/{id}:approve", "POST /v1/approvals/{id}:reject", "GET /v1/deletions/{id}", "GET /v1/authorities/{authority}",
	"POST /v1/authorities/{authority}:activate", "POST /v1/authorities/{authority}:import-list", "POST /v1/authorities/{authority}:retire",
	"POST /v1/authorities/{authority}:revoke", "DELETE {scope}/targets/{target}", "POST /v1/limits/{limit}:forget",
}

// late are rules that decide after it was decided that the caller may.
var late = []string{"the form of targets", "the list of purposes"}

// letIn reports whether an answer is to somebody who may.
func letIn(r walkRoute, a e2e.Answer) (bool, error) {
	var said struct {
		Rule  string
		Items []struct{ Problem *struct{ Status int } }
	}
	json.Unmarshal(a.Body, &said) //nolint:errcheck // what is no JSON has no rule
	switch {
	case a.Status == http.StatusServiceUnavailable && strings.HasSuffix(r.path, "/proof"): // it is not in a tree yet
		return true, nil
	case a.Status == http.StatusBadRequest && bytes.Contains(a.Body, []byte("bad-pem")):
		return true, nil
	case a.Status == http.StatusTooManyRequests || a.Status >= http.StatusInternalServerError || a.Status == http.StatusBadRequest:
		return false, fmt.Errorf("answer %d, which decides nothing: %s", a.Status, a.Body)
	case a.Status == http.StatusNotFound:
		return slices.Contains(absent, r.row()), nil
	case a.Status == http.StatusForbidden:
		return slices.Contains(late, said.Rule), nil
	case len(said.Items) == 1 && said.Items[0].Problem != nil:
		return said.Items[0].Problem.Status != http.StatusForbidden && said.Items[0].Problem.Status != http.StatusNotFound, nil
	}
	return a.Status != http.StatusUnauthorized, nil
}

// leaks names what an answer shows of those whom its reader must not see.
func (w *walk) leaks(r walkRoute, who *walker, a e2e.Answer) string {
	if a.Status >= http.StatusMultipleChoices || strings.HasSuffix(r.path, ":enroll") { // whoever has the token may see what it is worth
		return ""
	}
	for _, side := range who.blind {
		if bytes.Contains(a.Body, []byte(birds[side]+"-")) {
			return "a name of " + side
		}
	}
	for serial, side := range w.serials {
		if slices.Contains(who.blind, side) && bytes.Contains(a.Body, []byte(serial)) {
			return "a certificate of " + side
		}
	}
	return ""
}

// places are the kinds of scope that a route is asked about, each with one.
func (r walkRoute) places() map[string]string {
	out := map[string]string{}
	for kind, by := range shapes {
		scope, ok := by[r.depth]
		if r.depth < 0 && slices.Contains(scoped, r.row()) {
			scope, ok = by[slices.Max(slices.Collect(maps.Keys(by)))], true
		}
		if ok {
			out[kind] = scope
		}
	}
	if strings.HasSuffix(r.path, ":enroll") {
		delete(out, "platform") // of its tokens the service listener's wall lets nobody make use
	}
	if len(out) == 0 {
		out["all"] = "platform"
	}
	return out
}

// take walks a route as somebody, and notes where it lets in.
func (w *walk) take(r walkRoute, who *walker, seen func(r walkRoute, who, kind string, in bool)) {
	for kind, scope := range r.places() {
		a, keys, err := w.asks(r, who, who, scope, scope)
		in := false
		if err == nil {
			in, err = letIn(r, a)
		}
		if err != nil {
			w.t.Errorf("%s: %s %s, %s: %v", r.listener, r.row(), kind, who.name, err)
			continue
		}
		seen(r, who.name, kind, in)
		if what := w.leaks(r, who, a); what != "" {
			w.t.Errorf("%s: %s %s shows %s %s: %s", r.listener, r.row(), kind, who.name, what, a.Body)
		}
		if r.method != http.MethodGet && a.Status < http.StatusMultipleChoices {
			for _, k := range keys {
				delete(who.things, k)
			}
		}
		if strings.HasSuffix(r.rest, ":suspend") && a.Status < http.StatusMultipleChoices {
			w.do(http.MethodPost, pathOf(scope)+":resume", map[string]any{})
		}
		if r.depth > 0 && strings.Contains(r.rest, "{") && who.name != "operator" && sideOf(scope) == "demo" { // a thing of somebody else's, by a path of one's own
			w.crossed(r, who, scope)
		}
	}
}

func (w *walk) crossed(r walkRoute, who *walker, scope string) {
	if strings.Contains(r.rest, "{profile}") || strings.Contains(r.rest, "{target}") {
		return // of these every scope has some by the same name, or none
	}
	a, _, err := w.asks(r, who, w.bait, scope, shapes["foreign"][r.depth])
	if err != nil || a.Status < http.StatusBadRequest {
		w.t.Errorf("%s: %s of %s with a thing of another tenant's, %s: %d %s %v", r.listener, r.row(), scope, who.name, a.Status, a.Body, err)
	}
}

// pageTables reads the page: which row of the second table a route is in, and what that says of each caller.
func pageTables(t *testing.T) (rows map[string]string, says map[string]map[string][]string) {
	t.Helper()
	_, text, ok := strings.Cut(readFile(t, filepath.Join("..", "..", "docs", "access.md")), "\n## Who gets where\n")
	if !ok {
		t.Fatal("docs/access.md does not say who gets where")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	rows, says = map[string]string{}, map[string]map[string][]string{}
	var head []string
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case len(cells) < 3 || strings.HasPrefix(cells[0], "-"):
		case cells[0] == "What":
			head = cells
		case len(head) == 3 && len(cells) == 3:
			for listener := range strings.SplitSeq(cells[1], ", ") {
				for route := range strings.SplitSeq(cells[2], ", ") {
					key := listener + " " + strings.Trim(route, "`")
					if rows[key] != "" {
						t.Errorf("docs/access.md names %s twice", key)
					}
					rows[key] = cells[0]
				}
			}
		case len(cells) == len(head):
			says[cells[0]] = map[string][]string{}
			for i, cell := range cells[1:] {
				says[cells[0]][head[i+1]] = strings.Fields(cell)
			}
		default:
			t.Errorf("docs/access.md: a row of %d cells: %s", len(cells), line)
		}
	}
	return rows, says
}

// phase orders the walk: what stops a scope for a while, and then what ends it, comes when all else was asked.
func (r walkRoute) phase() int {
	switch {
	case strings.HasSuffix(r.rest, ":delete"):
		return 2
	case strings.HasSuffix(r.rest, ":suspend"), strings.HasSuffix(r.rest, ":resume"):
		return 1
	}
	return 0
}

func TestEveryRouteLetsInWhomThePageSays(t *testing.T) {
	rows, says := pageTables(t)
	w, walkers := prepareWalk(t)
	routes := w.described()
	there := map[string]bool{}
	for _, r := range routes {
		there[r.listener+" "+r.row()] = true
		if rows[r.listener+" "+r.row()] == "" {
			t.Errorf("docs/access.md does not say who gets to %s at the %s listener", r.row(), r.listener)
		}
	}
	for key, row := range rows {
		if !there[key] || says[row] == nil {
			t.Errorf("docs/access.md has %s as %q: no such route, or no such row", key, row)
		}
	}
	var asked atomic.Int64
	seen := func(r walkRoute, who, kind string, in bool) {
		asked.Add(1)
		row := rows[r.listener+" "+r.row()]
		cell, ok := says[row][who]
		if !ok {
			t.Errorf("docs/access.md has no column for %s in the row of %s", who, r.row())
		}
		if want := slices.Contains(cell, kind) || slices.Contains(cell, "all"); in != want {
			t.Errorf("%s: %s, about %s, asked by %s: let in %t, docs/access.md (%s) says %t", r.listener, r.row(), kind, who, in, row, want)
		}
	}
	began := time.Now()
	for phase := range 3 {
		var wg sync.WaitGroup
		for _, who := range walkers {
			walked := func() {
				for _, r := range routes {
					if r.phase() == phase {
						w.take(r, who, seen)
					}
				}
			}
			if phase > 0 {
				walked() // in turn: the operator, who may, is the last
				continue
			}
			wg.Go(walked)
		}
		wg.Wait()
	}
	t.Logf("%d requests in %s", asked.Load(), time.Since(began))
}
