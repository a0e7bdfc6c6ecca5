package remote_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/remote"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	refused   = acme.NewProblem(acme.Connection, "connection refused")
	forbidden = acme.NewProblem(acme.CAA, "forbidden")
)

func question() acme.Check {
	return acme.Check{
		Scope: must(identity.ParseScope("demo/shop")), Account: "https://ca.test/acct/1", Name: must(cert.ParseDNS("a.test")), Method: acme.HTTP01,
		Token: "t", KeyAuthorization: "t.k",
	}
}

// A place sees what a test tells it.
type place struct {
	name  string
	sees  *acme.Problem
	err   error
	waits bool // until nobody asks any more
}

func (p *place) Name() string { return p.name }

func (p *place) Validate(ctx context.Context, c acme.Check) (*acme.Problem, error) {
	if p.waits {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return p.sees, p.err
}

func (p *place) Permit(ctx context.Context, c acme.Check) (*acme.Problem, error) {
	return p.Validate(ctx, c)
}

// here is this site's own prover.
type here struct {
	sees  *acme.Problem
	asked []acme.Check
}

func (h *here) Validate(_ context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	h.asked = append(h.asked, c)
	return acme.Evidence{Remote: netip.MustParseAddrPort("192.0.2.1:80")}, h.sees
}

func (h *here) Permit(_ context.Context, c acme.Check) *acme.Problem {
	h.asked = append(h.asked, c)
	return h.sees
}

func TestAQuorumDecides(t *testing.T) {
	yes, no, down := func() *place { return &place{} }, func() *place { return &place{sees: refused} }, func() *place { return &place{err: errors.New("down")} }
	for what, c := range map[string]struct {
		need  int
		there []*place
		want  acme.ErrorType // none: it counts
	}{
		"all agree":                        {2, []*place{yes(), yes(), yes()}, ""},
		"two of three agree":               {2, []*place{yes(), no(), yes()}, ""},
		"two of three agree, one is down":  {2, []*place{yes(), down(), yes()}, ""},
		"one of three agrees":              {2, []*place{yes(), no(), no()}, acme.Connection},
		"one agrees, one not, one is down": {2, []*place{yes(), no(), down()}, acme.Connection},
		"one agrees, two are down":         {2, []*place{yes(), down(), down()}, acme.ServerInternal},
		"all are down":                     {1, []*place{down(), down()}, acme.ServerInternal},
		"all must, one does not":           {3, []*place{yes(), yes(), no()}, acme.Connection},
		"nobody agrees":                    {1, []*place{no(), no()}, acme.Connection},
	} {
		t.Run(what, func(t *testing.T) {
			q := &remote.Quorum{Here: &here{}, Need: c.need}
			for i, p := range c.there {
				p.name = string(rune('a' + i))
				q.There = append(q.There, p)
			}
			seen, p := q.Validate(t.Context(), question())
			decided(t, p, c.want)
			if p == nil && (seen.Remote.String() != "192.0.2.1:80" || len(seen.Agreed) < c.need || !strings.Contains(seen.String(), "192.0.2.1:80 and ")) {
				t.Errorf("evidence %+v", seen)
			}
			decided(t, q.Permit(t.Context(), question()), c.want)
		})
	}
}

func decided(t *testing.T, p *acme.Problem, want acme.ErrorType) {
	t.Helper()
	if (p == nil) != (want == "") || p != nil && p.Type != want {
		t.Errorf("%v, want %q", p, want)
	}
}

func TestWhatThisSiteDoesNotSeeIsNotProved(t *testing.T) {
	q := &remote.Quorum{Here: &here{sees: refused}, There: []remote.Elsewhere{&place{}, &place{}}, Need: 1}
	if _, p := q.Validate(t.Context(), question()); p != refused {
		t.Errorf("%v", p)
	}
}

func TestAQuorumThatIsMetWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &remote.Quorum{Here: &here{}, There: []remote.Elsewhere{&place{}, &place{waits: true}}, Need: 1}
		began := time.Now()
		if _, p := q.Validate(t.Context(), question()); p != nil || time.Since(began) != 0 {
			t.Errorf("%v after %s", p, time.Since(began))
		}
		q.Need = 2
		_, p := q.Validate(t.Context(), question())
		decided(t, p, acme.ServerInternal)
		if d := time.Since(began); d > 25*time.Second {
			t.Errorf("decided after %s", d)
		}
	})
}

func TestAQuorumThatCannotBeMetIsRefused(t *testing.T) {
	for _, need := range []int{-1, 0, 3} {
		q := &remote.Quorum{Here: &here{}, There: []remote.Elsewhere{&place{}, &place{}}, Need: need}
		if err := q.Check(); err == nil {
			t.Errorf("a quorum of %d of 2 is taken", need)
		}
	}
}

func TestEveryAnswerIsObserved(t *testing.T) {
	got := map[string]remote.Outcome{}
	q := &remote.Quorum{
		Here: &here{}, There: []remote.Elsewhere{&place{name: "a"}, &place{name: "b", sees: refused}, &place{name: "c", err: errors.New("x")}}, Need: 3,
		Observe: func(name string, o remote.Outcome) { got[name] = o },
	}
	q.Need = 1
	q.There = q.There[1:]
	q.Validate(t.Context(), question())
	if len(got) != 2 || got["b"] != remote.Disagreed || got["c"] != remote.Silent {
		t.Errorf("observed %v", got)
	}
}

// A house issues certificates for both ends.
type house struct {
	dir  string
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newHouse(t *testing.T) *house {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	h := &house{dir: t.TempDir(), key: key}
	h.root = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))))
	h.write(t, "roots.pem", "CERTIFICATE", h.root.Raw)
	return h
}

func (h *house) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// peer returns one end that is called id and expects the others.
func (h *house) peer(t *testing.T, id string, change func(*x509.Certificate), others ...string) remote.Peer {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{must(url.Parse(id))},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	name := strings.ReplaceAll(id, "/", "_")
	p := remote.Peer{
		Certificate: h.write(t, name+".crt", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, tmpl, h.root, key.Public(), h.key))),
		Key:         h.write(t, name+".key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))), Roots: filepath.Join(h.dir, "roots.pem"), Now: time.Now,
	}
	for _, o := range others {
		p.Others = append(p.Others, must(identity.ParseID(o)))
	}
	return p
}

const (
	siteID  = "spiffe://segl.test/platform/site"
	thereID = "spiffe://segl.test/platform/validator"
)

// serve answers as a perspective until the test ends.
func serve(t *testing.T, cfg *tls.Config, h http.Handler) string {
	t.Helper()
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	srv := &http.Server{Handler: h, TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.ServeTLS(ln, "", "") //nolint:errcheck // ends with the test
	}()
	t.Cleanup(func() {
		srv.Close() //nolint:errcheck // same
		<-ended
	})
	return "https://" + ln.Addr().String()
}

func perspective(t *testing.T, site, there remote.Peer, h http.Handler) *remote.Perspective {
	t.Helper()
	p := must(remote.NewPerspective("there", serve(t, must(there.Server()), h), must(site.Client())))
	t.Cleanup(p.Close)
	return p
}

func TestAPerspectiveIsAskedEverythingAndSaysWhatItFound(t *testing.T) {
	h := newHouse(t)
	site, there := h.peer(t, siteID, nil, thereID), h.peer(t, thereID, nil, siteID)
	for what, c := range map[string]struct{ sees *acme.Problem }{"proved": {}, "not proved": {refused}, "forbidden": {forbidden}} {
		t.Run(what, func(t *testing.T) {
			seer := &here{sees: c.sees}
			p := perspective(t, site, there, remote.Handler(seer))
			for _, ask := range []func(context.Context, acme.Check) (*acme.Problem, error){p.Validate, p.Permit} {
				got, err := ask(t.Context(), question())
				if err != nil || (got == nil) != (c.sees == nil) || got != nil && (got.Type != c.sees.Type || got.Detail != c.sees.Detail) {
					t.Errorf("found %v, %v", got, err)
				}
			}
			if len(seer.asked) != 2 || seer.asked[0].Name != question().Name || seer.asked[0].Scope != question().Scope ||
				seer.asked[0].Account != question().Account || seer.asked[0].KeyAuthorization != "t.k" || seer.asked[0].Method != acme.HTTP01 {
				t.Errorf("asked %+v", seer.asked)
			}
		})
	}
}

func TestOnlyExpectedIdentitiesAreLetIn(t *testing.T) {
	h, foreign := newHouse(t), newHouse(t)
	good := func() (site, there remote.Peer) {
		return h.peer(t, siteID, nil, thereID), h.peer(t, thereID, nil, siteID)
	}
	for what, change := range map[string]func(site, there *remote.Peer){
		"a site not expected":  func(site, _ *remote.Peer) { *site = h.peer(t, "spiffe://segl.test/platform/other", nil, thereID) },
		"a tenant's workload":  func(site, _ *remote.Peer) { *site = h.peer(t, "spiffe://segl.test/tenant/demo/site", nil, thereID) },
		"another trust domain": func(site, _ *remote.Peer) { *site = h.peer(t, "spiffe://other.test/platform/site", nil, thereID) },
		"another root's site": func(site, _ *remote.Peer) {
			*site = foreign.peer(t, siteID, nil, thereID)
			site.Roots = filepath.Join(h.dir, "roots.pem")
		},
		"an expired site":             func(site, _ *remote.Peer) { *site = h.peer(t, siteID, expired, thereID) },
		"a site's server certificate": func(site, _ *remote.Peer) { *site = h.peer(t, siteID, only(x509.ExtKeyUsageServerAuth), thereID) },
		"a place not expected":        func(_, there *remote.Peer) { *there = h.peer(t, "spiffe://segl.test/platform/other", nil, siteID) },
		"another root's place": func(_, there *remote.Peer) {
			*there = foreign.peer(t, thereID, nil, siteID)
			there.Roots = filepath.Join(h.dir, "roots.pem")
		},
		"an expired place":             func(_, there *remote.Peer) { *there = h.peer(t, thereID, expired, siteID) },
		"a place's client certificate": func(_, there *remote.Peer) { *there = h.peer(t, thereID, only(x509.ExtKeyUsageClientAuth), siteID) },
		"a place with two identities":  func(_, there *remote.Peer) { *there = h.peer(t, thereID, two, siteID) },
	} {
		t.Run(what, func(t *testing.T) {
			site, there := good()
			change(&site, &there)
			p := perspective(t, site, there, remote.Handler(&here{}))
			if got, err := p.Validate(t.Context(), question()); err == nil {
				t.Errorf("answered %v", got)
			}
		})
	}
	site, there := good()
	if _, err := perspective(t, site, there, remote.Handler(&here{})).Validate(t.Context(), question()); err != nil {
		t.Errorf("the good ones are refused: %v", err)
	}
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

func two(c *x509.Certificate) { c.URIs = append(c.URIs, must(url.Parse(siteID))) }

func only(u x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{u} }
}

func TestNobodyIsLetInWithoutACertificate(t *testing.T) {
	h := newHouse(t)
	base := serve(t, must(h.peer(t, thereID, nil, siteID).Server()), remote.Handler(&here{}))
	bare := must(remote.NewPerspective("there", base, &tls.Config{InsecureSkipVerify: true})) //nolint:gosec // the test is about the other end
	t.Cleanup(bare.Close)
	if got, err := bare.Validate(t.Context(), question()); err == nil {
		t.Errorf("answered %v", got)
	}
}

func TestARenewedCertificateIsShownWithoutARestart(t *testing.T) {
	h := newHouse(t)
	site, there := h.peer(t, siteID, expired, thereID), h.peer(t, thereID, nil, siteID)
	p := perspective(t, site, there, remote.Handler(&here{}))
	if _, err := p.Validate(t.Context(), question()); err == nil {
		t.Fatal("an expired certificate is taken")
	}
	h.peer(t, siteID, nil, thereID) // writes the same files
	if _, err := p.Validate(t.Context(), question()); err != nil {
		t.Errorf("after renewal: %v", err)
	}
}

func TestAPlaceThatAnswersSomethingElseIsSilent(t *testing.T) {
	h := newHouse(t)
	for what, answer := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"no JSON":        func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("yes")) },         //nolint:errcheck // it may have gone
		"another answer": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"ok":true}`)) }, //nolint:errcheck // same
		"a long one": func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"problem":"` + strings.Repeat("x", 1<<20)))
		}, //nolint:errcheck // same
		"an empty one": func(http.ResponseWriter, *http.Request) {},
	} {
		t.Run(what, func(t *testing.T) {
			p := perspective(t, h.peer(t, siteID, nil, thereID), h.peer(t, thereID, nil, siteID), answer)
			if got, err := p.Validate(t.Context(), question()); err == nil {
				t.Errorf("taken for %v", got)
			}
		})
	}
}

func TestAPerspectiveRefusesWhatIsNoQuestion(t *testing.T) {
	seer := &here{}
	srv := httptest.NewServer(remote.Handler(seer))
	t.Cleanup(srv.Close)
	for what, body := range map[string]string{
		"nothing":          ``,
		"no JSON":          `x`,
		"another question": `{"question":"?"}`,
		"no scope":         `{"scope":"","name":"dns:a.test","method":"http-01"}`,
		"no name":          `{"scope":"demo","name":"","method":"http-01"}`,
		"a long one":       `{"scope":"demo","name":"dns:a.test","token":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		res := must(http.Post(srv.URL+"/v1/validate", "application/json", strings.NewReader(body))) //nolint:noctx // a test's
		res.Body.Close()                                                                            //nolint:errcheck // only the status counts
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", what, res.StatusCode)
		}
	}
	if len(seer.asked) != 0 {
		t.Errorf("looked for %v", seer.asked)
	}
}

func TestPeersAreRefusedThatWouldLetAnybodyIn(t *testing.T) {
	h := newHouse(t)
	for what, change := range map[string]func(*remote.Peer){
		"nobody expected": func(p *remote.Peer) { p.Others = nil },
		"a tenant expected": func(p *remote.Peer) {
			p.Others = []identity.ID{must(identity.ParseID("spiffe://segl.test/tenant/demo/x"))}
		},
		"no clock":             func(p *remote.Peer) { p.Now = nil },
		"no key":               func(p *remote.Peer) { p.Key = "/nowhere" },
		"no roots":             func(p *remote.Peer) { p.Roots = "/nowhere" },
		"roots that are a key": func(p *remote.Peer) { p.Roots = p.Key },
	} {
		p := h.peer(t, siteID, nil, thereID)
		change(&p)
		if _, err := p.Client(); err == nil {
			t.Errorf("%s: taken by the site", what)
		}
		if _, err := p.Server(); err == nil {
			t.Errorf("%s: taken by the place", what)
		}
	}
	for _, base := range []string{"http://there", "there:8444", "https://", "https://a@there"} {
		if _, err := remote.NewPerspective("x", base, &tls.Config{MinVersion: tls.VersionTLS13}); err == nil {
			t.Errorf("%s is taken", base)
		}
	}
}
