package web_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/internal/web/webtest"
)

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// A ca signs what the tests need.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *ca {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &ca{c, key, pool}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func (a *ca) issue(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: cert.NewSerial(1, now).Int(), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func named(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(id)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	holderID   = "spiffe://test/tenant/demo/project/shop/environment/dev/api"
	operatorID = "spiffe://test/platform/ada"
)

var (
	errTaken   = errors.New("the name is taken")
	errRevoked = errors.New("the certificate has been revoked")
	errSecret  = errors.New("dial tcp 10.0.0.1: password=hunter2")
)

// busy is an error that says when to come back.
type busy struct{}

func (busy) Error() string             { return "the signer's queue is full" }
func (busy) RetryAfter() time.Duration { return 1500 * time.Millisecond }

type note struct {
	Scope identity.Scope     `json:"-" path:"tenant,project"`
	Key   web.IdempotencyKey `json:"-" header:"Idempotency-Key"`
	Text  string             `json:"text" required:"true"`
	Count int                `json:"count"`
	When  web.Time           `json:"when"`
}

type noted struct {
	Scope   identity.Scope `json:"scope"`
	Actor   string         `json:"actor"`
	Key     string         `json:"key,omitempty"`
	Text    string         `json:"text"`
	Created web.Time       `json:"created"`
}

func (n noted) Header(h http.Header) { h.Set("Location", "/v1/notes/"+n.Text) }

type list struct {
	web.Page
}

type listed struct {
	Size int        `json:"size"`
	At   string     `json:"at"`
	Next web.Cursor `json:"next_page_token"`
}

type one struct {
	Serial string `json:"-" path:"serial"`
}

func makeNote(_ context.Context, who identity.Caller, in note) (noted, error) {
	switch in.Text {
	case "taken":
		return noted{}, fmt.Errorf("writing note: %w", errTaken)
	case "secret":
		return noted{}, errSecret
	case "refused":
		return noted{}, &policy.Refusal{What: "dns:evil.test", Rule: "the name rights of demo", Remedy: "allowed there: *.demo.test"}
	case "busy":
		return noted{}, busy{}
	case "panic":
		panic("a fault of ours: hunter2")
	}
	return noted{in.Scope, who.Actor, string(in.Key), in.Text, web.Time{Time: now.Add(time.Millisecond)}}, nil
}

func door() web.Door {
	echoOne := func(verb string) web.Handler {
		return web.JSON(func(_ context.Context, _ identity.Caller, in one) (map[string]string, error) {
			return map[string]string{"serial": in.Serial, "verb": verb}, nil
		})
	}
	return web.Door{
		Table: web.Table{
			{Err: errTaken, Status: 409, Name: "name-taken", Title: "The name is taken", Remedy: "choose another"},
			{Err: errRevoked, Status: 403, Name: "caller-revoked", Title: "The caller's certificate is revoked"},
			{Err: busy{}, Status: 503, Name: "busy", Title: "Too much to do just now"},
		},
		Routes: []web.Route{
			{Method: "POST", Path: "/v1/tenants/{tenant}/notes", Status: 201, Handler: web.JSON(makeNote)},
			{Method: "POST", Path: "/v1/tenants/{tenant}/projects/{project}/notes", Status: 201, Handler: web.JSON(makeNote)},
			{Method: "GET", Path: "/v1/notes", Handler: web.JSON(func(_ context.Context, _ identity.Caller, in list) (listed, error) {
				return listed{in.Size, string(in.Token.At()), web.CursorAt([]byte("here"))}, nil
			})},
			{Method: "POST", Path: "/v1/notes:batch", Handler: echoOne("batch")},
			{Method: "GET", Path: "/v1/notes/{serial}", Handler: echoOne("")},
			{Method: "POST", Path: "/v1/notes/{serial}:revoke", Handler: echoOne("revoke")},
			{Method: "DELETE", Path: "/v1/notes/{serial}", Access: web.Operator, Handler: web.JSON(
				func(context.Context, identity.Caller, one) (web.Nothing, error) { return web.Nothing{}, nil })},
			{Method: "GET", Path: "/open/{rest...}", Access: web.Anyone, Handler: web.Raw(
				func(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
					_, err := fmt.Fprintf(w, "%s %q %v", r.PathValue("rest"), who.Actor, who.Remote)
					return err
				})},
			{Method: "POST", Path: "/raw", Access: web.Anyone, MaxBody: 8, Handler: web.Raw(
				func(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
					b, err := web.ReadBody(w, r, "application/ocsp-request")
					if err != nil {
						return err
					}
					_, err = w.Write(b)
					return err
				})},
		},
	}
}

// A rig is one server on a real listener.
type rig struct {
	ca      *ca
	base    string
	server  *web.Server
	log     *bytes.Buffer
	metrics *prometheus.Registry
	certs   map[string]tls.Certificate
	revoked map[string]bool
}

func newRig(t testing.TB, change func(*web.Config), more ...web.Door) *rig {
	t.Helper()
	r := &rig{ca: newCA(t), log: &bytes.Buffer{}, metrics: prometheus.NewRegistry(), certs: map[string]tls.Certificate{}, revoked: map[string]bool{}}
	host := r.ca.issue(t, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	cfg := web.Config{
		Name: "service", Log: slog.New(slog.NewJSONHandler(&locked{w: r.log}, nil)), Metrics: web.NewMetrics(r.metrics), Now: clock,
		TLS: &web.TLS{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &host, nil }},
		Clients: &web.Clients{
			Roots: func() *x509.CertPool { return r.ca.pool }, Domain: "test",
			Name: func(who identity.Caller) identity.Caller {
				who.Operator = who.ID.String() == operatorID
				return who
			},
			Admit: func(_ context.Context, who identity.Caller) error {
				if r.revoked[who.Actor] {
					return errRevoked
				}
				return nil
			},
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := web.NewServer(cfg, append(more, door())...)
	must(t, err)
	r.server = s
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(t, err)
	r.base = "https://localhost:" + port
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// as returns a client that shows the certificate called name.
func (r *rig) as(t testing.TB, name string) *http.Client {
	t.Helper()
	cfg := &tls.Config{RootCAs: r.ca.pool, Time: clock, MinVersion: tls.VersionTLS12}
	if c, ok := r.certs[name]; ok {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	} else if name != "nobody" {
		t.Fatalf("no certificate is called %q", name)
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: name == "holder over h2"}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func populated(t testing.TB, change func(*web.Config), more ...web.Door) *rig {
	t.Helper()
	r := newRig(t, change, more...)
	stranger := newCA(t)
	r.certs["holder"] = r.ca.issue(t, named(holderID))
	r.certs["holder over h2"] = r.certs["holder"]
	r.certs["operator"] = r.ca.issue(t, named(operatorID))
	r.certs["revoked"] = r.ca.issue(t, named("spiffe://test/tenant/demo/revoked"))
	r.revoked["spiffe://test/tenant/demo/revoked"] = true
	r.certs["expired"] = r.ca.issue(t, func(c *x509.Certificate) { named(holderID)(c); c.NotAfter = now.Add(-time.Second) })
	r.certs["not yet valid"] = r.ca.issue(t, func(c *x509.Certificate) { named(holderID)(c); c.NotBefore = now.Add(time.Minute) })
	r.certs["stranger"] = stranger.issue(t, named(holderID))
	r.certs["server certificate"] = r.ca.issue(t, func(c *x509.Certificate) {
		named(holderID)(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	r.certs["other domain"] = r.ca.issue(t, named("spiffe://other/tenant/demo/api"))
	r.certs["two identities"] = r.ca.issue(t, func(c *x509.Certificate) {
		named(holderID)(c)
		c.URIs = append(c.URIs, c.URIs[0])
	})
	r.certs["no identity"] = r.ca.issue(t, func(*x509.Certificate) {})
	r.certs["small serial"] = r.ca.issue(t, func(c *x509.Certificate) { named(holderID)(c); c.SerialNumber = big.NewInt(7) })
	return r
}

func TestTranscripts(t *testing.T) {
	for _, file := range []string{"testdata/refusals.txt", "testdata/answers.txt", "testdata/callers.txt"} {
		r := populated(t, nil)
		clients := map[string]*http.Client{}
		webtest.Play(t, file, nil, func(t *testing.T, name string) (*http.Client, string) {
			if clients[name] == nil {
				clients[name] = r.as(t, name)
			}
			return clients[name], r.base
		})
		if strings.Contains(file, "refusals") {
			checkLog(t, r.log.String())
		}
	}
}

// What a 500 hides from the client is in the log, in one line, with its request; no query, no body is.
func checkLog(t *testing.T, log string) {
	t.Helper()
	for _, want := range []string{"password=hunter2", "a fault of ours", `"problem":"internal"`, `"route":"/v1/tenants/{tenant}/notes"`, `"route":"none"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	for _, leak := range []string{"texxt", "page_sise", "demo/notes"} {
		if strings.Contains(log, leak) {
			t.Errorf("the log has %q", leak)
		}
	}
}
