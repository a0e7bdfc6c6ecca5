package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// A walk is a running segl with something of everything in each scope.
type walk struct {
	*e2e.Segl
	t        *testing.T
	admin    *http.Client
	stranger *http.Client // who is refused everything
	csr      string
	mu       sync.Mutex
	made     int
	seed     *walker           // whose things nobody names, so that only a leak shows their serials
	bait     *walker           // whose things are named in the wrong place, and are told of there
	serials  map[string]string // what is whose, by serial
}

// do asks and wants success, for what the walk stands on.
func (w *walk) do(method, path string, body any) map[string]any {
	w.t.Helper()
	a, err := e2e.Ask(w.t.Context(), w.admin, method, w.Env["SEGL_OPERATOR_URL"]+path, body)
	var said map[string]any
	if err == nil && len(a.Body) > 0 {
		err = json.Unmarshal(a.Body, &said)
	}
	if err != nil || a.Status >= http.StatusMultipleChoices {
		w.t.Errorf("%s %s: %d %s %v", method, path, a.Status, a.Body, err)
		return map[string]any{}
	}
	return said
}

// name is a fresh one, which shows whose it is.
func (w *walk) name(scope string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	return fmt.Sprintf("%s-%d", birds[sideOf(scope)], w.made)
}

// thing returns what a path or a query names, of a scope. What is ended in the course of the walk is made again.
func (w *walk) thing(who *walker, kind, scope string) string {
	key := kind + " " + scope
	if kind == "reference" {
		who = w.seed
	}
	if v := who.things[key]; v != "" {
		return v
	}
	name := w.name(scope)
	if who == w.bait {
		name = "magpie" + name[strings.IndexByte(name, '-'):]
	}
	switch kind {
	case "serial":
		name = fmt.Sprint(w.do(http.MethodPost, pathOf(scope)+"/certificates", map[string]any{"csr": w.csr, "profile": "workload", "workload": name})["serial"])
		if who == w.seed {
			w.serials[name] = sideOf(scope)
		}
	case "binding":
		w.do(http.MethodPost, pathOf(scope)+"/bindings", map[string]any{"name": name, "for": "spiffe://segl.test/" + spiffeOf(scope) + "*", "life": "1h", "audiences": []string{"https://api.test"}})
	case "method":
		w.do(http.MethodPost, pathOf(scope)+"/enrollment-methods", methodBody(name))
	case "key":
		name = fmt.Sprint(w.do(http.MethodPost, pathOf(scope)+"/acme/external-account-keys", map[string]any{"label": name})["id"])
	case "role":
		name = fmt.Sprint(w.do(http.MethodPost, "/v1/bindings", grantBody(scope, name))["id"])
	case "incident":
		name = fmt.Sprint(w.do(http.MethodPost, "/v1/incidents", incidentBody(scope))["id"])
	case "profile":
		name = "workload"
	case "limit":
		name = "acme-orders-per-scope"
		w.do(http.MethodPut, "/v1/limits/"+name, map[string]any{"scope": scope, "rate": "10000000/1h"})
	case "lease":
		name = "60" + strings.Repeat("0", 34)
	case "reference":
		name = w.refusal(scope)
	case "authority", "target":
		name = "none"
	default:
		name = "1"
	}
	who.things[key] = name
	return name
}

// spiffeOf is the path of identities in a scope.
func spiffeOf(scope string) string {
	if scope == "platform" {
		return "platform/"
	}
	out, words := "", []string{"tenant", "project", "environment"}
	for i, name := range strings.Split(scope, "/") {
		out += words[i] + "/" + name + "/"
	}
	return out
}

func methodBody(name string) map[string]any {
	return map[string]any{"name": name, "kind": "oidc", "issuer": "https://login.test", "subject": "repo:" + name}
}

func grantBody(scope, name string) map[string]any {
	return map[string]any{"role": "reader", "scope": scope, "identity": "spiffe://segl.test/" + spiffeOf(scope) + name}
}

func incidentBody(scope string) map[string]any {
	return map[string]any{"choice": map[string]any{"scope": scope, "name": "dns:nothing.demo.test"}, "why": "the walk", "spread": "1h"}
}

// kinds are what parameters of paths name.
func kindOf(r walkRoute, param string) string {
	switch {
	case param == "id" && strings.Contains(r.path, "external-account-keys"):
		return "key"
	case param == "id" && strings.HasPrefix(r.path, "/v1/bindings"):
		return "role"
	case param == "id":
		return "number"
	}
	return param
}

// scoped are the routes that name no scope in their path and are about one.
var scoped = []string{
	"POST /v1/access:explain", "GET /v1/bindings", "POST /v1/bindings", "POST /v1/bindings/{id}:end", "GET /v1/certificates/{serial}",
	"GET /v1/certificates/{serial}/proof", "POST /v1/certificates/{serial}:revoke", "POST /v1/certificates:revoke", "POST /v1/certificates:enroll", "GET /v1/facts",
	"GET /v1/facts:follow", "GET /v1/refusals", "GET /v1/refusals/{reference}", "POST /v1/incidents", "POST /v1/incidents:preview",
	"GET /v1/incidents/{incident}", "GET /v1/incidents/{incident}/certificates", "POST /v1/incidents/{incident}:cancel",
	"GET /v1/limits", "PUT /v1/limits/{limit}", "DELETE /v1/limits/{limit}",
}

// queried are those that take it as a parameter.
var queried = []string{"GET /v1/bindings", "GET /v1/facts", "GET /v1/facts:follow", "GET /v1/refusals", "GET /v1/limits", "DELETE /v1/limits/{limit}"}

// body is what a route is sent about a scope, good enough to be done where it may.
func (w *walk) body(r walkRoute, who *walker, scope string) any {
	name := w.name(scope)
	order := map[string]any{"csr": w.csr, "profile": "workload", "workload": name}
	rights := map[string]any{"dns": []string{"*.demo.test"}, "spiffe": []string{"*"}}
	if r.depth < 0 {
		return w.bodyAnywhere(r, scope, name)
	}
	if strings.Contains(r.rest, "/profiles/") && r.depth == 0 && r.method != http.MethodGet { // all of it; below, only what a scope decides
		return map[string]any{"purpose": "workloads", "usage": []string{"client"}, "identity": "required", "summary": name}
	}
	switch what := r.method + " " + r.rest; what {
	case "POST /certificates":
		return order
	case "POST /certificates:batch":
		return map[string]any{"requests": []any{order}}
	case "POST /certificates/{serial}:revoke":
		return map[string]any{"reason": "superseded"}
	case "POST /enrollment-tokens":
		return map[string]any{"workload": name}
	case "POST /enrollment-methods":
		return methodBody(name)
	case "POST /acme/external-account-keys":
		return map[string]any{"label": name}
	case "PUT /acme/settings":
		return map[string]any{"profiles": []string{"server"}}
	case "POST /bindings":
		return map[string]any{"name": name, "for": "spiffe://segl.test/" + spiffeOf(scope) + name, "life": "1h", "audiences": []string{"https://api.test"}}
	case "POST /targets":
		return map[string]any{"name": name, "kind": "redis", "address": "nowhere"} // refused for its form, after it was decided that who may
	case "PUT /profiles/{profile}", "POST /profiles/{profile}:preview":
		return map[string]any{"summary": name}
	case "PUT /rights", "POST /rights:preview":
		return rights
	case "POST /projects", "POST /environments":
		return map[string]any{"name": name}
	case "POST :suspend", "POST :resume", "POST :delete", "POST :previewDeletion":
		return map[string]any{"why": "the walk"}
	}
	return nil
}

func (w *walk) bodyAnywhere(r walkRoute, scope, name string) any {
	switch r.row() {
	case "POST /v1/access:explain":
		body := map[string]any{"action": "certificate.read", "scope": scope}
		if r.listener == "operator" {
			body["identity"] = "spiffe://segl.test/" + spiffeOf(scope) + "somebody"
		}
		return body
	case "POST /v1/bindings":
		return grantBody(scope, name)
	case "POST /v1/bindings/{id}:end":
		return map[string]any{"why": "the walk"}
	case "POST /v1/certificates/{serial}:revoke", "POST /v1/authorities/{authority}:revoke":
		return map[string]any{"reason": "superseded"}
	case "POST /v1/certificates:revoke":
		body := incidentBody(scope)
		delete(body, "spread")
		body["reason"] = "superseded"
		return body
	case "POST /v1/certificates:renew":
		return map[string]any{"csr": w.csr}
	case "POST /v1/certificates:enroll":
		token := w.do(http.MethodPost, pathOf(scope)+"/enrollment-tokens", map[string]any{"workload": name})["token"]
		return map[string]any{"csr": w.csr, "token": token}
	case "POST /v1/incidents", "POST /v1/incidents:preview":
		return incidentBody(scope)
	case "POST /v1/leases":
		return map[string]any{"binding": "none"}
	case "POST /v1/leases/{lease}:renew", "POST /v1/authorities/{authority}:activate":
		return map[string]any{}
	case "PUT /v1/limits/{limit}":
		return map[string]any{"scope": scope, "rate": "10000000/1h"}
	case "POST /v1/limits/{limit}:forget":
		return map[string]any{"subject": "none"}
	case "POST /v1/tenants":
		return map[string]any{"name": name}
	case "POST /v1/authorities", "POST /v1/authorities:request":
		return map[string]any{"purpose": "none"}
	case "POST /v1/authorities:import":
		return map[string]any{"purpose": "none", "name": name, "certificate": "none"}
	case "POST /v1/authorities:import-cross":
		return map[string]any{"certificate": "none"}
	case "POST /v1/authorities/{authority}:import-list":
		return map[string]any{"list": "none"}
	}
	return nil
}

// refusal makes one in a scope and returns its reference.
func (w *walk) refusal(scope string) string {
	id := w.name(scope) + "-refused"
	a, err := e2e.Ask(w.t.Context(), w.stranger, http.MethodPost, w.Env["SEGL_OPERATOR_URL"]+pathOf(scope)+"/enrollment-methods", methodBody("refused"), "X-Request-Id", id)
	if err != nil || a.Status != http.StatusForbidden {
		w.t.Errorf("a refusal in %s: %d %s %v", scope, a.Status, a.Body, err)
	}
	return id
}

// workload returns a client that is a workload of a scope.
func (w *walk) workload(scope, name string) *http.Client {
	w.t.Helper()
	key := e2e.NewKey(w.t)
	csr, err := e2e.Order{}.Request(key)
	if err != nil {
		w.t.Error(err)
	}
	a, err := e2e.Ask(w.t.Context(), w.admin, http.MethodPost, w.Env["SEGL_OPERATOR_URL"]+pathOf(scope)+"/certificates", map[string]any{"csr": csr, "profile": "workload", "workload": name})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := a.Certificate()
	if err != nil {
		w.t.Fatal(err)
	}
	pair := w.Keep(w.t, c, key)
	return w.Client(w.t, pair.CertFile, pair.KeyFile)
}

// prepare makes the scopes of both tenants, something in each, and those who walk.
func prepareWalk(t *testing.T) (*walk, []*walker) {
	w := &walk{Segl: e2e.Start(t), t: t, serials: map[string]string{}}
	w.admin = w.Operator(t)
	var err error
	if w.csr, err = (e2e.Order{}).Request(e2e.NewKey(t)); err != nil {
		t.Fatal(err)
	}
	rights := map[string]any{"dns": []string{"*.demo.test"}, "spiffe": []string{"*"}}
	create := func(many, name string) {
		w.do(http.MethodPost, many, map[string]any{"name": name, "dns": rights["dns"], "spiffe": rights["spiffe"]})
	}
	w.do(http.MethodPut, pathOf("demo/shop")+"/rights", rights)
	create(pathOf("demo")+"/projects", "ci")
	create("/v1/tenants", "rival")
	create(pathOf("rival")+"/projects", "vault")
	create(pathOf("rival/vault")+"/environments", "night")
	w.stranger = w.workload("platform", "refused")
	none := []string{"demo", "rival", "platform"}
	list := []*walker{
		{name: "nobody", client: w.Client(t, "", ""), blind: none},
		{name: "workload", client: w.workload("demo/shop", "walker"), blind: none[1:]},
		{name: "foreign", client: w.workload("rival", "walker"), blind: []string{"demo", "platform"}},
		{name: "parent", client: w.workload("demo", "walker"), blind: none[1:]},
		{name: "child", client: w.workload("demo/shop/dev", "walker"), blind: none[1:]},
		{name: "platform", client: w.workload("platform", "walker"), blind: none},
	}
	for _, role := range []string{"reader", "issuer", "revoker", "auditor", "admin"} {
		who := &walker{name: role, client: w.workload("demo/ci", role), blind: none[1:]}
		w.Run(t, "segl", "access", "grant", role, "--scope", "demo/shop", "--identity", "spiffe://segl.test/tenant/demo/project/ci/"+role)
		e2e.Eventually(t, 20*time.Second, func() error {
			a, err := e2e.Ask(t.Context(), who.client, http.MethodPost, w.Env["SEGL_URL"]+"/v1/access:explain", map[string]any{"action": "scope.read", "scope": "demo/shop"})
			if err == nil && !bytes.Contains(a.Body, []byte(`"allowed":true`)) {
				err = fmt.Errorf("%d %s", a.Status, a.Body)
			}
			return err
		})
		list = append(list, who)
	}
	list = append(list, &walker{name: "operator", client: w.Operator(t)})
	for _, who := range list {
		who.things = map[string]string{}
	}
	w.until("/ledger/tile/entries/000.p/1") // the first tree is there
	w.bait = &walker{things: map[string]string{}}
	for _, scope := range shapes["foreign"] {
		for _, kind := range []string{"serial", "binding", "method", "key"} {
			w.thing(w.bait, kind, scope)
		}
	}
	w.seed = &walker{things: map[string]string{}}
	for _, by := range shapes { // so that every list has something in it
		for _, scope := range by {
			for _, kind := range []string{"serial", "binding", "method", "key", "role", "incident"} {
				w.thing(w.seed, kind, scope)
			}
			w.until("/v1/refusals/" + w.thing(w.seed, "reference", scope))
		}
	}
	return w, list
}

// until waits for what an operator can read once it is sealed, or finished.
func (w *walk) until(path string) {
	w.t.Helper()
	e2e.Eventually(w.t, 20*time.Second, func() error {
		a, err := e2e.Ask(w.t.Context(), w.admin, http.MethodGet, w.Env["SEGL_OPERATOR_URL"]+path, nil)
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return err
	})
}

// described are the routes of both listeners, by their own account.
func (w *walk) described() []walkRoute {
	var out []walkRoute
	for listener, url := range map[string]string{"service": w.Env["SEGL_URL"], "operator": w.Env["SEGL_OPERATOR_URL"]} {
		a, err := e2e.Ask(w.t.Context(), w.admin, http.MethodGet, url+"/openapi.json", nil)
		var doc struct {
			Paths map[string]map[string]any
		}
		if err == nil {
			err = json.Unmarshal(a.Body, &doc)
		}
		if err != nil || len(doc.Paths) == 0 {
			w.t.Fatalf("the description of the %s listener: %d %v", listener, a.Status, err)
		}
		for path, by := range doc.Paths {
			for method := range by {
				out = append(out, parseRoute(listener, method, path))
			}
		}
	}
	slices.SortFunc(out, func(a, b walkRoute) int {
		return strings.Compare(a.path+a.method+a.listener, b.path+b.method+b.listener)
	})
	return out
}
