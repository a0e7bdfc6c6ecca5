package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/e2e"
)

// A balancer ends TLS and sends each request to the next replica, so that a client that keeps its connection open speaks to
// all of them in turn. A request that names a replica in atReplica goes to that one.
type balancer struct {
	address string
	next    atomic.Uint64
	to      http.RoundTripper

	mu   sync.Mutex
	live []string
}

const atReplica = "Test-Replica"

func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	live := b.live
	b.mu.Unlock()
	n := b.next.Add(1)
	if at := r.Header.Get(atReplica); at != "" {
		n, _ = strconv.ParseUint(at, 10, 8) //nolint:errcheck // the tests write digits
	}
	r.URL.Host = live[n%uint64(len(live))]
	return b.to.RoundTrip(r)
}

// without stops sending requests to a replica, as a balancer does that has noticed its death.
func (b *balancer) without(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var live []string
	for _, h := range b.live {
		if h != host {
			live = append(live, h)
		}
	}
	b.live = live
}

// A threesome is a site of three replicas on one database, behind a balancer.
type threesome struct {
	*acmeSite
	balancer *balancer
	replicas []*e2e.Segl // the first has the database
	hosts    []string
}

func newThreesome(t *testing.T) *threesome {
	t.Helper()
	site, flags := newACMEWorld(t)
	front := listenLoopback(t)
	s := &threesome{acmeSite: site, balancer: &balancer{address: front.Addr().String()}}
	for i := range 3 {
		host := "127.0.0.1:" + clientPort(t)
		own := append([]string{"--service", host, "--service-url", "https://" + s.balancer.address}, flags...)
		if i > 0 {
			own = append(own, "--database-url", s.Env["SEGL_DATABASE_URL"], "--public-url", s.Env["SEGL_PUBLIC_URL"])
		}
		r := e2e.New(t, own...)
		if i > 0 {
			sharePassphrase(t, s.replicas[0].Dir, r.Dir)
		}
		r.Begin(t)
		if i == 0 {
			s.Segl = r
		}
		s.replicas, s.hosts = append(s.replicas, r), append(s.hosts, host)
	}
	s.root, s.directory = s.webroot(t, "127.0.0.1"), s.Env["SEGL_ACME_DIRECTORY"]
	s.balancer.live = s.hosts
	s.serve(t, front)
	return s
}

// sharePassphrase lets a replica open the keys that another one made.
func sharePassphrase(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(from, "passphrase"))
	if err == nil {
		err = errors.Join(os.MkdirAll(to, 0o700), os.WriteFile(filepath.Join(to, "passphrase"), text, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serve is the balancer at work, under a certificate of the same authority.
func (s *threesome) serve(t *testing.T, l net.Listener) {
	t.Helper()
	key := e2e.NewKey(t)
	order := e2e.Order{Profile: "server", Names: []string{"127.0.0.1"}}
	csr, err := order.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := e2e.Ask(t.Context(), s.Operator(t), http.MethodPost, s.Env["SEGL_OPERATOR_URL"]+e2e.Scope+"/certificates", order.Body(csr))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	kept := s.Keep(t, c, key)
	pair, err := tls.LoadX509KeyPair(kept.CertFile, kept.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	s.balancer.to = s.Client(t, "", "").Transport
	srv := &http.Server{
		Handler: &httputil.ReverseProxy{
			Transport: s.balancer,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(&url.URL{Scheme: "https", Host: "replica"})
				r.Out.Host = r.In.Host
			},
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		},
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	var all sync.WaitGroup
	all.Go(func() { srv.ServeTLS(l, "", "") })
	t.Cleanup(func() {
		srv.Close()
		all.Wait()
	})
}

// The database is all that replicas share: clients that know nothing of it speak to a different one with each request.
func TestThreeReplicasServeClientsAsOne(t *testing.T) {
	s := newThreesome(t)
	var all sync.WaitGroup
	for name, f := range map[string]func(*testing.T, *acmeSite){
		"certbot issues, renews and revokes":         certbotLives,
		"lego issues, renews and revokes":            legoLives,
		"acmez and x-crypto-acme order side by side": librariesShareAnAccount,
	} {
		all.Go(func() { t.Run(name, func(t *testing.T) { f(t, s.acmeSite) }) })
	}
	all.Go(func() { t.Run("a nonce counts once", func(t *testing.T) { nonceCountsOnce(t, s) }) })
	all.Go(func() { t.Run("a binding counts once", func(t *testing.T) { bindingCountsOnce(t, s) }) })
	all.Go(func() { t.Run("a finalize counts once", func(t *testing.T) { finalizeCountsOnce(t, s) }) })
	all.Wait()
	t.Run("a death amid an order loses nothing", func(t *testing.T) { deathLosesNothing(t, s) }) // last: then they are two
}

// A rawACME signs requests by hand.
type rawACME struct {
	s         *threesome
	client    *http.Client
	key       *ecdsa.PrivateKey
	account   string
	directory map[string]any
}

func newRawACME(t *testing.T, s *threesome) *rawACME {
	t.Helper()
	c := &rawACME{s: s, client: s.Client(t, "", ""), key: e2e.NewKey(t)}
	a, err := e2e.Ask(t.Context(), c.client, http.MethodGet, s.directory, nil)
	if err == nil {
		err = json.Unmarshal(a.Body, &c.directory)
	}
	if err != nil {
		t.Fatal(err)
	}
	made := c.post(t, "", c.url("newAccount"), c.sign(t, c.nonce(t), c.url("newAccount"), `{"termsOfServiceAgreed":true}`))
	c.account = made.Header.Get("Location")
	if made.Status != http.StatusCreated || c.account == "" {
		t.Fatalf("newAccount: %d %s", made.Status, made.Body)
	}
	return c
}

func (c *rawACME) url(resource string) string { return fmt.Sprint(c.directory[resource]) }

func (c *rawACME) nonce(t *testing.T) string {
	t.Helper()
	a, err := e2e.Ask(t.Context(), c.client, http.MethodHead, c.url("newNonce"), nil)
	if err != nil || a.Header.Get("Replay-Nonce") == "" {
		t.Fatalf("newNonce: %d %v", a.Status, err)
	}
	return a.Header.Get("Replay-Nonce")
}

func (c *rawACME) sign(t *testing.T, nonce, to, payload string) []byte {
	t.Helper()
	h := jwstest.Header{"alg": "ES256", "nonce": nonce, "url": to}
	if c.account == "" {
		h["jwk"] = jwstest.JWK(t, c.key)
	} else {
		h["kid"] = c.account
	}
	return jwstest.Sign(t, c.key, h, payload)
}

// post sends a signed request to a replica, or to whose turn it is.
func (c *rawACME) post(t *testing.T, at, to string, body []byte) e2e.Answer {
	t.Helper()
	header := []string{"Content-Type", "application/jose+json"}
	if at != "" {
		header = append(header, atReplica, at)
	}
	a, err := e2e.Ask(t.Context(), c.client, http.MethodPost, to, body, header...)
	if err != nil {
		t.Error(err)
	}
	return a
}

// everywhere sends a body of its own to each replica at once.
func (c *rawACME) everywhere(t *testing.T, to string, bodies [][]byte) []e2e.Answer {
	t.Helper()
	out := make([]e2e.Answer, len(bodies))
	var all sync.WaitGroup
	for i := range bodies {
		all.Go(func() { out[i] = c.post(t, strconv.Itoa(i), to, bodies[i]) })
	}
	all.Wait()
	return out
}

func nonceCountsOnce(t *testing.T, s *threesome) {
	c := newRawACME(t, s)
	for range 20 {
		body := c.sign(t, c.nonce(t), c.url("newOrder"), `{"identifiers":[{"type":"dns","value":"nonce.demo.test"}]}`)
		taken := 0
		for _, a := range c.everywhere(t, c.url("newOrder"), [][]byte{body, body, body}) {
			switch {
			case a.Status == http.StatusCreated:
				taken++
			case a.Status != http.StatusBadRequest || !strings.Contains(string(a.Body), "urn:ietf:params:acme:error:badNonce"):
				t.Errorf("a nonce used twice: %d %s", a.Status, a.Body)
			}
		}
		if taken != 1 {
			t.Errorf("one nonce was taken %d times", taken)
		}
	}
}

// A key for one account, sent to all replicas at once, makes one account.
func bindingCountsOnce(t *testing.T, s *threesome) {
	bound := newBoundSite(t, s.acmeSite)
	var k accountKey
	made := bound.operate(t, "acme", "eab", "create", "--scope", boundScope, "--label", "once", "--uses", "1", "--json")
	if err := json.Unmarshal([]byte(made), &k); err != nil {
		t.Fatal(err)
	}
	secret, err := base64.RawURLEncoding.DecodeString(k.HMAC)
	if err != nil {
		t.Fatal(err)
	}
	c := &rawACME{s: s, client: s.Client(t, "", "")}
	a, err := e2e.Ask(t.Context(), c.client, http.MethodGet, bound.directory, nil)
	if err == nil {
		err = json.Unmarshal(a.Body, &c.directory)
	}
	if err != nil {
		t.Fatal(err)
	}
	bodies := make([][]byte, 3)
	for i := range bodies { // another account each, the same binding key
		c.key = e2e.NewKey(t)
		binding := jwstest.Bind(t, secret, jwstest.Header{"alg": "HS256", "kid": k.ID, "url": c.url("newAccount")}, c.key)
		bodies[i] = c.sign(t, c.nonce(t), c.url("newAccount"), `{"termsOfServiceAgreed":true,"externalAccountBinding":`+string(binding)+`}`)
	}
	taken := 0
	for _, a := range c.everywhere(t, c.url("newAccount"), bodies) {
		switch {
		case a.Status == http.StatusCreated:
			taken++
		case a.Status != http.StatusForbidden && a.Status != http.StatusUnauthorized || !strings.Contains(string(a.Body), "urn:ietf:params:acme:error:unauthorized"):
			t.Errorf("a binding used up: %d %s", a.Status, a.Body)
		}
	}
	if taken != 1 {
		t.Errorf("a key for one account made %d", taken)
	}
}

// An orderBody is what the test reads of an order.
type orderBody struct {
	Status         string
	Authorizations []string
	Finalize       string
	Certificate    string
}

func (c *rawACME) order(t *testing.T, a e2e.Answer) orderBody {
	t.Helper()
	var o orderBody
	if err := json.Unmarshal(a.Body, &o); err != nil || a.Status >= 300 {
		t.Fatalf("an order: %d %s", a.Status, a.Body)
	}
	return o
}

func finalizeCountsOnce(t *testing.T, s *threesome) {
	const name = "finalize.demo.test"
	c, d := newRawACME(t, s), new(desk)
	s.holds(t, d, name)
	made := c.post(t, "", c.url("newOrder"), c.sign(t, c.nonce(t), c.url("newOrder"), `{"identifiers":[{"type":"dns","value":"`+name+`"}]}`))
	o, where := c.order(t, made), made.Header.Get("Location")
	x := &xacme.Client{Key: c.key, DirectoryURL: s.directory, HTTPClient: c.client}
	if err := (xclient{x, c.account}).prove(t.Context(), d, o.Authorizations[0]); err != nil {
		t.Fatal(err)
	}
	csr, err := e2e.Order{Names: []string{name}}.Request(e2e.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(csr))
	bodies := make([][]byte, 3)
	for i := range bodies {
		bodies[i] = c.sign(t, c.nonce(t), o.Finalize, `{"csr":"`+jwstest.B64(block.Bytes)+`"}`)
	}
	for _, a := range c.everywhere(t, o.Finalize, bodies) {
		if a.Status != http.StatusOK {
			t.Errorf("finalize: %d %s, want every replica to tell of the one certificate", a.Status, a.Body)
		}
	}
	e2e.Eventually(t, 30*time.Second, func() error {
		o = c.order(t, c.post(t, "", where, c.sign(t, c.nonce(t), where, "")))
		if o.Status != "valid" {
			return fmt.Errorf("the order is %s", o.Status)
		}
		return nil
	})
	for i := range bodies {
		bodies[i] = c.sign(t, c.nonce(t), o.Certificate, "")
	}
	serials := map[string]bool{}
	for _, a := range c.everywhere(t, o.Certificate, bodies) {
		serials[s.judge(t, a.Body, name).serial()] = true
	}
	if made := s.issuedFor(t, name); len(serials) != 1 || made != 1 {
		t.Errorf("one order has %d certificates, and the ledger %d of its name; want 1", len(serials), made)
	}
}

// issuedFor counts the ledger's certificates of a name, asked past the balancer, which takes away who asks.
func (s *threesome) issuedFor(t *testing.T, name string) int {
	t.Helper()
	at, found := "https://"+s.hosts[0], 0
	for _, serial := range strings.Fields(s.Run(t, "segl", "cert", "list", "--scope", "demo/shop/dev", "-o", "name", "--url", at)) {
		a, err := e2e.Ask(t.Context(), s.Workload(t), http.MethodGet, at+e2e.Scope+"/certificates/"+serial, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if x := certificates(t, []byte(c.PEM))[0]; slices.Contains(x.DNSNames, name) {
			found++
		}
	}
	return found
}

// The replica that took the challenge dies before it tells what came of it.
func deathLosesNothing(t *testing.T, s *threesome) {
	const orders = 6
	key, d := e2e.NewKey(t), new(desk)
	if _, err := (&xacme.Client{Key: key, DirectoryURL: s.directory, HTTPClient: s.Client(t, "", "")}).Register(t.Context(), &xacme.Account{}, xacme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	x := s.xacme(t, key)
	names, made := make([]string, orders), make([]*xacme.Order, orders)
	for i := range names {
		names[i] = fmt.Sprintf("death-%d.demo.test", i)
	}
	s.holds(t, d, names...)
	for i, name := range names {
		o, err := x.AuthorizeOrder(t.Context(), xacme.DomainIDs(name))
		if err != nil {
			t.Fatal(err)
		}
		made[i] = o
	}
	for i, o := range made {
		if err := x.accept(t.Context(), d, o.AuthzURLs[0]); err != nil {
			t.Fatal(err)
		}
		if i == orders/2 {
			s.balancer.without(s.hosts[2])
			s.replicas[2].Kill(t)
		}
	}
	for i, o := range made {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		chain, err := x.finish(ctx, o, names[i], e2e.NewKey(t))
		cancel()
		if err != nil {
			t.Fatalf("order %d: %v", i, err)
		}
		s.judge(t, chain, names[i])
		if n := s.issuedFor(t, names[i]); n != 1 {
			t.Errorf("%s has %d certificates", names[i], n)
		}
	}
}
