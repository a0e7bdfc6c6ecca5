package api_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A site is a CA with its database, the world around it, and the replicas that serve ACME from it.
type site struct {
	*pkitest.House
	dns       *dnstest.Server
	http, tls net.Listener // where validation connects; a test serves them
	roots     *x509.CertPool
	replicas  []*replica
}

// A replica is one ACME server on a real listener.
type replica struct {
	site   *site
	server *acme.Server
	store  *store.Store
	base   string
	client *http.Client
}

// options of a site.
type options struct {
	validator acme.Validator // nil: the real one
	issuer    func(acme.Issuer) acme.Issuer
	config    func(*acme.Config)
	idle      bool                      // validate nothing
	rates     map[limit.Name]limit.Rate // in place of the usual; nil: nothing is counted
}

func newSite(t testing.TB, o options) (*site, *replica) {
	t.Helper()
	s := &site{House: pkitest.New(t), dns: dnstest.New(t), roots: x509.NewCertPool()}
	for _, c := range s.Roots() {
		s.roots.AddCert(c)
	}
	for _, l := range []*net.Listener{&s.http, &s.tls} {
		var err error
		*l, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		t.Cleanup(func() { (*l).Close() }) //nolint:errcheck // a server may have closed it
	}
	s.dns.Add(t, "demo.test. 0 IN A 127.0.0.1", "a.demo.test. 0 IN A 127.0.0.1", "b.demo.test. 0 IN A 127.0.0.1")
	return s, s.replica(t, o)
}

func port(t testing.TB, l net.Listener) uint16 {
	t.Helper()
	a, err := netip.ParseAddrPort(l.Addr().String())
	must(t, err)
	return a.Port()
}

func (s *site) replica(t testing.TB, o options) *replica {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &replica{site: s, base: "https://" + ln.Addr().String(), store: store.New(s.DB, s.Now)}
	if o.validator == nil {
		o.validator, err = validate.New(validate.Config{
			Resolver: s.dns.Addr, HTTPPort: port(t, s.http), TLSPort: port(t, s.tls), Egress: validate.Egress{Loopback: true},
		})
		must(t, err)
	}
	cfg := acme.Config{
		Site: 1, Store: r.store, Issuer: s.CA, Scopes: s.Scopes, NoScope: tenancy.ErrNotFound, Validator: o.validator, Now: s.Now,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	cfg.Sealer = s.Keyring.(acme.Sealer)
	if o.rates != nil {
		cfg.Limits = s.counter(t, o.rates)
	}
	if o.issuer != nil {
		cfg.Issuer = o.issuer(s.CA)
	}
	if o.config != nil {
		o.config(&cfg)
	}
	r.server, err = acme.New(cfg)
	must(t, err)
	r.serve(t, ln, api.Door(api.Config{Server: r.server, Base: r.base}), o.idle)
	s.replicas = append(s.replicas, r)
	return r
}

// serve runs the door and the workers until the test ends.
func (r *replica) serve(t testing.TB, ln net.Listener, d web.Door, idle bool) {
	t.Helper()
	key := pkitest.Key(t)
	c, err := r.site.Issue(t.Context(), identity.System("test"), ca.Request{
		Scope: pkitest.Scope("platform"), Profile: "server", CSR: pkitest.CSR(t, key, "ip:127.0.0.1"),
	})
	must(t, err)
	leaf := tls.Certificate{Certificate: append([][]byte{c.DER}, c.Chain...), PrivateKey: key}
	s, err := web.NewServer(web.Config{
		Name: "service", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})), Metrics: web.NewMetrics(prometheus.NewRegistry()), Now: r.site.Now,
		TLS: &web.TLS{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &leaf, nil }},
	}, d)
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	if !idle {
		all.Go(func() { r.server.Run(ctx) })
	}
	r.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.site.roots}, MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		end, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := s.Shutdown(end); err != nil {
			t.Error(err)
		}
		cancel()
		all.Wait()
		r.store.Close()
	})
}

func (r *replica) directory() string { return r.base + "/acme/demo/shop/dev/directory" }

// at returns a URL of the demo environment.
func (r *replica) at(path string) string { return r.base + "/acme/-/demo.shop.dev/" + path }

// A reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
	return v
}

func (r *replica) do(t testing.TB, method, url, contentType string, body []byte) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(string(body)))
	must(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := r.client.Do(req)
	must(t, err)
	defer res.Body.Close() //nolint:errcheck // read whole
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return reply{res.StatusCode, res.Header, b}
}

// An account at a replica, that signs what it is told to.
type account struct {
	*replica
	key   crypto.Signer
	kid   string
	nonce string
}

// freshNonce takes a nonce from newNonce.
func (r *replica) freshNonce(t testing.TB) string {
	t.Helper()
	res := r.do(t, "HEAD", r.at("new-nonce"), "", nil)
	if res.status != http.StatusOK || res.header.Get("Replay-Nonce") == "" {
		t.Fatalf("new-nonce: %d %v", res.status, res.header)
	}
	return res.header.Get("Replay-Nonce")
}

// register makes an account.
func (r *replica) register(t testing.TB) *account {
	t.Helper()
	a := &account{replica: r, key: jwstest.NewKey(t)}
	res := a.post(t, r.at("new-account"), `{"contact":["mailto:a@demo.test"],"termsOfServiceAgreed":true}`)
	if res.status != http.StatusCreated {
		t.Fatalf("new-account: %d %s", res.status, res.body)
	}
	a.kid = res.header.Get("Location")
	return a
}

// header is a good protected header for url: with the account's kid, or with its key before it has one.
func (a *account) header(t testing.TB, url string) jwstest.Header {
	t.Helper()
	if a.nonce == "" {
		a.nonce = a.freshNonce(t)
	}
	h := jwstest.Header{"alg": jwstest.Algorithm(a.key), "nonce": a.nonce, "url": url}
	a.nonce = ""
	if a.kid != "" {
		h["kid"] = a.kid
	} else {
		h["jwk"] = jwstest.JWK(t, a.key)
	}
	return h
}

// send posts a body as ACME and keeps the nonce that comes back.
func (a *account) send(t testing.TB, url string, body []byte) reply {
	t.Helper()
	res := a.do(t, "POST", url, "application/jose+json", body)
	a.nonce = res.header.Get("Replay-Nonce")
	return res
}

func (a *account) post(t testing.TB, url, payload string) reply {
	t.Helper()
	return a.send(t, url, jwstest.Sign(t, a.key, a.header(t, url), payload))
}

// order makes an order for identifiers such as "dns:a.demo.test" and returns its URL and object.
func (a *account) order(t testing.TB, names ...string) (string, map[string]any) {
	t.Helper()
	res := a.post(t, a.at("new-order"), orderFor(names...))
	if res.status != http.StatusCreated {
		t.Fatalf("new-order: %d %s", res.status, res.body)
	}
	return res.header.Get("Location"), res.json(t)
}

func orderFor(names ...string) string {
	var ids []string
	for _, n := range names {
		kind, v, _ := strings.Cut(n, ":")
		ids = append(ids, fmt.Sprintf(`{"type":%q,"value":%q}`, kind, v))
	}
	return `{"identifiers":[` + strings.Join(ids, ",") + `]}`
}

// authorizations returns the authorization URLs of an order.
func authorizations(order map[string]any) []string {
	var out []string
	for _, u := range order["authorizations"].([]any) {
		out = append(out, u.(string))
	}
	return out
}

// challengeOf returns the challenge of type method in an authorization.
func challengeOf(t testing.TB, authz map[string]any, method string) map[string]any {
	t.Helper()
	for _, c := range authz["challenges"].([]any) {
		if c := c.(map[string]any); c["type"] == method {
			return c
		}
	}
	t.Fatalf("no %s challenge in %v", method, authz)
	return nil
}

// prove answers the challenges of every authorization of an order.
func (a *account) prove(t testing.TB, order map[string]any, method string) {
	t.Helper()
	for _, u := range authorizations(order) {
		c := challengeOf(t, a.post(t, u, "").json(t), method)
		if res := a.post(t, c["url"].(string), "{}"); res.status != http.StatusOK {
			t.Fatalf("challenge: %d %s", res.status, res.body)
		}
	}
}

// wait polls url until its status is none of the passing ones.
func (a *account) wait(t testing.TB, url string) map[string]any {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		v := a.post(t, url, "").json(t)
		if s := v["status"]; s != "pending" && s != "processing" {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still %v", url, v)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond): // a poll of another process: nothing tells us
		}
	}
}

// finalize asks for an order's certificate with a fresh key.
func (a *account) finalize(t testing.TB, order map[string]any, names ...string) (reply, *ecdsa.PrivateKey) {
	t.Helper()
	key := pkitest.Key(t)
	return a.post(t, order["finalize"].(string), csrFor(t, key, names...)), key
}

func csrFor(t testing.TB, key any, names ...string) string {
	t.Helper()
	return `{"csr":"` + jwstest.B64(pkitest.CSRBytes(t, key, names...)) + `"}`
}

// yes is a validator that finds every challenge answered.
type yes struct{}

func (yes) Validate(context.Context, acme.Check) (acme.Evidence, *acme.Problem) {
	return acme.Evidence{Remote: netip.MustParseAddrPort("192.0.2.1:80")}, nil
}

// no finds none answered.
type no struct{}

func (no) Validate(context.Context, acme.Check) (acme.Evidence, *acme.Problem) {
	return acme.Evidence{}, acme.NewProblem(acme.IncorrectResponse, "not what was asked for")
}

// refusals counts them.
var refusals atomic.Int64

// refused wants a problem document of type kind with that status.
func refused(t testing.TB, what string, res reply, status int, kind string) {
	t.Helper()
	refusals.Add(1)
	var p struct {
		Type, Detail string
		Status       int
	}
	if err := json.Unmarshal(res.body, &p); err != nil {
		t.Errorf("%s: %d with body %q: %v", what, res.status, res.body, err)
		return
	}
	if res.status != status || p.Status != status || p.Type != "urn:ietf:params:acme:error:"+kind {
		t.Errorf("%s: %d %s, want %d %s", what, res.status, res.body, status, kind)
	}
	if res.header.Get("Content-Type") != "application/problem+json" || p.Detail == "" {
		t.Errorf("%s: %v with detail %q", what, res.header, p.Detail)
	}
}

// a0 is no account.
var a0 uid.UID

// uidOf reads the identifier a URL ends with.
func uidOf(t testing.TB, url string) uid.UID {
	t.Helper()
	u, err := uid.Parse(url[strings.LastIndexByte(url, '/')+1:])
	must(t, err)
	return u
}
