package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/feed"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/tenancy"
	scopesapi "codeberg.org/dataverket/segl/internal/tenancy/api"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/internal/web/openapi"
	"codeberg.org/dataverket/segl/internal/web/webtest"
)

// A rig is a whole CA behind its two doors, on real listeners and a real database. Every answer is held against the
// description that the listener serves.
type rig struct {
	*pkitest.House
	service, operator, public string
	described                 map[string]validator.Validator // by base URL
	anchors                   *x509.CertPool
	clients                   map[string]*http.Client
	certs                     map[string]tls.Certificate
	standing                  *ca.Standing
	feed                      *feed.Hub
	t                         testing.TB
}

func below() web.Table {
	return web.Table{
		{Match: postgres.Unavailable, Status: 503, Name: "unavailable", Title: "Not possible just now"},
		{Err: tenancy.ErrNotFound, Status: 404, Name: "not-found", Title: "There is no such scope"},
	}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		House: pkitest.New(t), described: map[string]validator.Validator{}, anchors: x509.NewCertPool(),
		clients: map[string]*http.Client{}, certs: map[string]tls.Certificate{}, t: t,
	}
	for _, root := range r.Roots() {
		r.anchors.AddCert(root)
	}
	r.standing = ca.NewStanding(r.Ledger, r.Now)
	r.follow(t)
	host := r.issue(t, pkitest.Demo, "server", "dns:localhost", "ip:127.0.0.1")
	metrics := web.NewMetrics(prometheus.NewRegistry())
	r.service = r.serve(t, "service", host, metrics, func(url string) []web.Door {
		return []web.Door{api.Service(api.Config{CA: r.CA, URL: url, Below: below(), Facts: r.Ledger, Feed: r.feed})}
	})
	r.operator = r.serve(t, "operator", host, metrics, func(url string) []web.Door {
		return []web.Door{
			api.Operator(api.Config{CA: r.CA, URL: url, Below: below(), Facts: r.Ledger, Feed: r.feed, Serials: r.Ledger}),
			scopesapi.Operator(scopesapi.Config{Scopes: r.Scopes, Below: below()}),
		}
	})
	r.people(t)
	r.publish(t)
	return r
}

// follow hands out facts until the test ends.
func (r *rig) follow(t testing.TB) {
	t.Helper()
	r.feed = feed.New(feed.Config{Facts: r.Ledger, Every: 50 * time.Millisecond, PerCaller: 3})
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() { r.feed.Run(ctx) })
	t.Cleanup(func() { cancel(); reading.Wait() })
}

// publish serves what relying parties fetch, with everything so far in the lists.
func (r *rig) publish(t testing.TB) {
	t.Helper()
	var signers []crl.Authority
	var answerers []ocsp.Authority
	for _, a := range r.Authorities() {
		signers = append(signers, crl.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: r.PublicURL + "/crl/" + a.Name + "/"})
		answerers = append(answerers, ocsp.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate})
	}
	cfg := crl.Config{Shards: r.Ledger, Authorities: func() []crl.Authority { return signers }, Now: r.Now}
	_, err := duty.Once(t.Context(), r.DB, duty.Duty{Name: crl.Duty, Once: crl.New(cfg).RunOnce})
	must(t, err)
	responder := ocsp.New(ocsp.Config{Ledger: r.Ledger, Enroller: r.CA, Authorities: func() []ocsp.Authority { return answerers }, Now: r.Now})
	must(t, responder.RunOnce(t.Context()))
	lists := crl.NewServer(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r.public = "http://" + ln.Addr().String()
	s, err := web.NewServer(web.Config{
		Name: "public", Log: slog.New(slog.DiscardHandler), Metrics: web.NewMetrics(prometheus.NewRegistry()), Now: r.Now,
	}, api.Public(api.PublicConfig{CA: r.CA, Lists: lists, OCSP: responder, Bundle: func(ctx context.Context) (api.Bundle, error) { return lists.Bundle(ctx) }, Below: below()}))
	must(t, err)
	run(t, s, ln)
}

// people gives those who ask their certificates.
func (r *rig) people(t testing.TB) {
	t.Helper()
	op, err := identity.ParseID("spiffe://" + pkitest.Domain + "/platform/ada")
	must(t, err)
	_, err = r.Access.Grant(t.Context(), identity.System("test"), access.Binding{Role: access.Admin, Scope: identity.Platform, Subject: access.Subject{Identity: op.String()}})
	must(t, err)
	r.certs["operator"] = r.issue(t, identity.Platform, "client", "uri:"+op.String())
	for name, path := range map[string]string{
		"demo": "demo/shop/dev", "demo tenant": "demo", "other tenant": "other", "leaver": "demo/shop/dev", "platform workload": "platform",
	} {
		id, err := identity.NewID(pkitest.Domain, pkitest.Scope(path), strings.ReplaceAll(name, " ", "-"))
		must(t, err)
		r.certs[name] = r.issue(t, id.Scope(), "client", "uri:"+id.String())
	}
}

// issue makes a certificate as the platform does for itself.
func (r *rig) issue(t testing.TB, scope identity.Scope, profile string, names ...string) tls.Certificate {
	t.Helper()
	key := pkitest.Key(t)
	c, err := r.Issue(t.Context(), identity.System("test"), ca.Request{Scope: scope, Profile: profile, CSR: pkitest.CSR(t, key, names...)})
	must(t, err)
	leaf, err := x509.ParseCertificate(c.DER)
	must(t, err)
	return tls.Certificate{Certificate: append([][]byte{c.DER}, c.Chain...), PrivateKey: key, Leaf: leaf}
}

func (r *rig) serve(t testing.TB, name string, host tls.Certificate, metrics *web.Metrics, doors func(url string) []web.Door) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	url := "https://" + ln.Addr().String()
	all := doors(url)
	about := openapi.Info{Title: "Segl, " + name, Version: "1", Description: "Test.", URL: url}
	desc, err := openapi.Route(about, all...)
	must(t, err)
	s, err := web.NewServer(web.Config{
		Name: name, Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelError})), Metrics: metrics, Now: r.Now,
		TLS: &web.TLS{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &host, nil }},
		Clients: &web.Clients{
			Roots: func() *x509.CertPool { return r.anchors }, Domain: pkitest.Domain, Name: r.Access.Name, Admit: r.standing.Admit,
		},
	}, append(all, web.Door{Routes: []web.Route{desc}})...)
	must(t, err)
	run(t, s, ln)
	doc, err := openapi.Describe(about, append(all, web.Door{Routes: []web.Route{desc}})...)
	must(t, err)
	r.described[url] = describedBy(t, doc)
	return url
}

// run serves until the test ends.
func run(t testing.TB, s *web.Server, ln net.Listener) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-done); err != nil {
			t.Error(err)
		}
	})
}

// testLog puts what the log says of faults into the test's output.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// noTree makes the validator match paths by expression: its tree knows no {serial}:revoke beside {serial}.
type noTree struct{}

func (noTree) Lookup(string) (*v3.PathItem, string, bool) { return nil, "", false }

func describedBy(t testing.TB, doc []byte) validator.Validator {
	t.Helper()
	d, err := libopenapi.NewDocument(doc)
	must(t, err)
	v, errs := validator.NewValidator(d, config.WithPathTree(noTree{}))
	must(t, errors.Join(errs...))
	if ok, bad := v.ValidateDocument(); !ok {
		for _, e := range bad {
			t.Errorf("the description is not OpenAPI 3.1: %s", e.Error())
		}
	}
	return v
}

// as returns the client that shows the certificate called name.
func (r *rig) as(t testing.TB, name string) *http.Client {
	t.Helper()
	if c := r.clients[name]; c != nil {
		return c
	}
	cfg := &tls.Config{RootCAs: r.anchors, Time: r.Now, MinVersion: tls.VersionTLS13}
	if cert, ok := r.certs[name]; ok {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	} else if name != "nobody" {
		t.Fatalf("nobody is called %q", name)
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	r.t.Cleanup(tr.CloseIdleConnections)
	r.clients[name] = &http.Client{Transport: &watched{tr, r}}
	return r.clients[name]
}

// watched holds answers against the description.
type watched struct {
	http.RoundTripper
	r *rig
}

func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := w.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(got))
	v, ok := w.r.described[req.URL.Scheme+"://"+req.URL.Host]
	if !ok { // the public listener has RFCs in place of a description
		return resp, nil
	}
	if ok, bad := v.ValidateHttpResponse(req, resp); !ok && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
		for _, e := range bad {
			w.r.t.Errorf("%s %s: %d: the answer is not what is described: %s %s %v", req.Method, req.URL.Path, resp.StatusCode, e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
	if resp.StatusCode < http.StatusBadRequest {
		req.Body = io.NopCloser(bytes.NewReader(sent))
		if ok, bad := v.ValidateHttpRequest(req); !ok {
			for _, e := range bad {
				w.r.t.Errorf("%s %s: was taken, though not as described: %s %s %v", req.Method, req.URL.Path, e.Message, e.Reason, e.SchemaValidationErrors)
			}
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(got))
	return resp, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func csr(t testing.TB, key *ecdsa.PrivateKey, names ...string) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: pkitest.CSRBytes(t, key, names...)}))
}

// quoted is s inside a JSON string.
func quoted(t testing.TB, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	must(t, err)
	return strings.Trim(string(b), `"`)
}

// send asks and decodes the answer into out.
func (r *rig) send(t testing.TB, as, method, url string, in, out any, header ...string) int {
	t.Helper()
	body, err := json.Marshal(in)
	must(t, err)
	var reader io.Reader
	if in != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	must(t, err)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.as(t, as).Do(req)
	must(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	must(t, err)
	if err := json.Unmarshal(got, out); err != nil {
		t.Fatalf("%s %s: %d %s: %v", method, url, resp.StatusCode, got, err)
	}
	return resp.StatusCode
}

const demoCerts = "/v1/tenants/demo/projects/shop/environments/dev/certificates"

func transcripts(t *testing.T, r *rig) {
	key := pkitest.Key(t)
	var theirs, platforms api.Certificate
	r.send(t, "other tenant", "POST", r.service+"/v1/tenants/other/certificates", map[string]string{"csr": csr(t, pkitest.Key(t), "dns:a.other.test"), "profile": "server"}, &theirs)
	r.send(t, "operator", "POST", r.operator+"/v1/platform/certificates", map[string]string{"csr": csr(t, pkitest.Key(t), "dns:a.platform.test"), "profile": "server"}, &platforms)
	if theirs.Serial == "" || platforms.Serial == "" {
		t.Fatal("the certificates of others were not made")
	}
	var gone struct{}
	r.send(t, "leaver", "POST", r.service+"/v1/certificates/"+serialOf(r.certs["leaver"])+":revoke", map[string]string{"reason": "cessationOfOperation"}, &gone)
	r.standing.Drop(identitySerial(t, r, "leaver"))
	vars := map[string]string{
		"CSR_GOOD":        quoted(t, csr(t, key, "dns:a.demo.test")),
		"CSR_OUTSIDE":     quoted(t, csr(t, key, "dns:evil.test")),
		"CSR_UPPER":       quoted(t, csr(t, key, "dns:A.demo.test")),
		"CSR_WORKLOAD":    quoted(t, csr(t, key)),
		"CSR_FOREIGN_ID":  quoted(t, csr(t, key, "uri:spiffe://segl.test/tenant/other/web")),
		"CSR_TWO":         quoted(t, csr(t, key, "dns:a.demo.test")+csr(t, key, "dns:b.demo.test")),
		"SERIAL_THEIRS":   theirs.Serial,
		"SERIAL_PLATFORM": platforms.Serial,
		"SERIAL_LEAVER":   serialOf(r.certs["leaver"]),
		"SERIAL_NONE":     "100165000000000000000000000000000000",
		"EPOCH":           strconv.Itoa(int(identitySerial(t, r, "leaver").Epoch())),
		"SERVICE":         r.service,
		"OPERATOR":        r.operator,
	}
	for _, f := range []struct{ file, base string }{
		{"testdata/refusals.txt", r.service}, {"testdata/service.txt", r.service}, {"testdata/operator.txt", r.operator}, {"testdata/public.txt", r.public},
	} {
		webtest.Play(t, f.file, vars, func(t *testing.T, name string) (*http.Client, string) { return r.as(t, name), f.base })
	}
}

func serialOf(c tls.Certificate) string { return c.Leaf.SerialNumber.Text(16) }

func identitySerial(t testing.TB, r *rig, name string) cert.Serial {
	t.Helper()
	s, err := cert.SerialFromInt(r.certs[name].Leaf.SerialNumber)
	must(t, err)
	return s
}
