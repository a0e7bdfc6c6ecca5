package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/e2e"
)

const ordersAPI = "https://orders.test"

// A tokenSite is a segl whose demo environment has a binding for tokens.
type tokenSite struct {
	*e2e.Segl
	pair *e2e.Pair
	id   string
}

// openTokens binds tokens to a workload of its own.
func openTokens(t *testing.T, name string) *tokenSite {
	t.Helper()
	s := &tokenSite{Segl: e2e.Shared(t)}
	s.pair = s.Issue(t, e2e.Order{Profile: "workload", Workload: name})
	s.id = s.pair.X509.URIs[0].String()
	a, err := e2e.Ask(t.Context(), s.Operator(t), http.MethodPost, s.Env["SEGL_OPERATOR_URL"]+e2e.Scope+"/bindings",
		map[string]any{"name": name, "for": s.id, "life": "1h", "audiences": []string{ordersAPI}, "scopes": []string{"read", "write"}})
	if err != nil || a.Status != http.StatusCreated {
		t.Fatalf("making a binding: %d %s %v", a.Status, a.Body, err)
	}
	return s
}

// client speaks to the service listener with a certificate.
func (s *tokenSite) client(t *testing.T, pair *e2e.Pair) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(s.Env["SEGL_ROOT"])
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no root", err)
	}
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	if pair != nil {
		cfg.Certificates = []tls.Certificate{pair.TLS()}
	}
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}
}

// token gets one as golang.org/x/oauth2 does, once the replica has heard of the binding.
func (s *tokenSite) token(t *testing.T) *oauth2.Token {
	t.Helper()
	cfg := clientcredentials.Config{ClientID: s.id, TokenURL: s.Env["SEGL_URL"] + "/oauth2/token", Scopes: []string{"read"}, AuthStyle: oauth2.AuthStyleInParams}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, s.client(t, s.pair))
	var got *oauth2.Token
	soon(t, "a token", func() bool {
		v, err := cfg.Token(ctx)
		if err != nil {
			t.Log(err)
		}
		got = v
		return err == nil
	})
	return got
}

func (s *tokenSite) active(t *testing.T, text string) bool {
	t.Helper()
	res, err := s.client(t, s.pair2(t)).PostForm(s.Env["SEGL_URL"]+"/oauth2/introspect", url.Values{"token": {text}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	var said struct{ Active bool }
	if err := json.NewDecoder(res.Body).Decode(&said); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("introspection: %d, %v", res.StatusCode, err)
	}
	return said.Active
}

// pair2 is a certificate of another workload of the same tenant, as a service that is called has.
func (s *tokenSite) pair2(t *testing.T) *e2e.Pair {
	t.Helper()
	return s.Issue(t, e2e.Order{Profile: "workload", Workload: "orders"})
}

func TestOthersLibrariesTakeOurTokens(t *testing.T) {
	s := openTokens(t, "libraries")
	got := s.token(t)
	ctx := oidc.ClientContext(t.Context(), s.client(t, nil))
	provider, err := oidc.NewProvider(ctx, s.Env["SEGL_URL"]) // what Kubernetes verifies tokens with
	if err != nil {
		t.Fatal(err)
	}
	check := provider.Verifier(&oidc.Config{ClientID: ordersAPI, SupportedSigningAlgs: []string{"ES256"}})
	token, err := check.Verify(ctx, got.AccessToken)
	if err != nil || token.Subject != s.id {
		t.Errorf("go-oidc: %+v, %v", token, err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: "https://other.test", SupportedSigningAlgs: []string{"ES256"}}).Verify(ctx, got.AccessToken); err == nil {
		t.Error("go-oidc takes it for another audience")
	}
}

func TestNodesJoseTakesOurTokens(t *testing.T) {
	s := openTokens(t, "node")
	program, npm := e2e.Need(t, "node", "nodejs"), e2e.Need(t, "npm", "npm")
	dir := s.Temp(t)
	if err := os.CopyFS(dir, os.DirFS("testdata/jose")); err != nil {
		t.Fatal(err)
	}
	s.Run(t, npm, "ci", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts")
	said := s.Run(t, "env", "NODE_EXTRA_CA_CERTS="+s.Env["SEGL_ROOT"], "ISSUER="+s.Env["SEGL_URL"], "AUDIENCE="+ordersAPI, "TOKEN="+s.token(t).AccessToken,
		program, filepath.Join(dir, "verify.mjs"))
	if want := "taken " + s.id + "\nrefused for another audience\n"; said != want {
		t.Errorf("jose says %q, want %q", said, want)
	}
}

// A service judges tokens by itself: it asks us for keys and for the list of what ended, and never about a token.
func TestAStolenTokenIsRefusedAndARevokedOneWithinASecond(t *testing.T) {
	s := openTokens(t, "stolen")
	text := s.token(t).AccessToken
	plain := s.client(t, nil)
	keys := verify.NewKeys(s.Env["SEGL_URL"]+"/oauth2/jwks", plain, time.Now)
	feed := verify.NewFeed(s.Env["SEGL_URL"]+"/oauth2/revocations", s.Env["SEGL_URL"], keys, plain, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); feed.Run(ctx) }()
	defer func() { cancel(); <-done }()
	v, err := verify.New(verify.Config{Issuer: s.Env["SEGL_URL"], Audience: ordersAPI, Keys: keys, Ended: feed})
	if err != nil {
		t.Fatal(err)
	}
	served := s.pair2(t)
	api := httptest.NewUnstartedServer(v.Handler(ordersAPI, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "read"))
	api.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{served.TLS()}, MinVersion: tls.VersionTLS13}
	api.StartTLS()
	defer api.Close()
	call := func(pair *e2e.Pair) int {
		t.Helper()
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair.TLS()}, InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec // whose service it is is not in question here
		}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+text)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close() //nolint:errcheck // only its status counts
		return res.StatusCode
	}
	soon(t, "the first list", func() bool { return call(s.pair) == http.StatusOK })
	if got := call(served); got != http.StatusUnauthorized {
		t.Errorf("with another's certificate it is answered %d", got)
	}
	if !s.active(t, text) {
		t.Fatal("it is not active")
	}
	s.Segl.Revoke(t, s.pair.Serial, "keyCompromise")
	at := time.Now()
	if s.active(t, text) {
		t.Error("it is active though its certificate is revoked")
	}
	for call(s.pair) != http.StatusUnauthorized {
		if time.Since(at) > 10*time.Second {
			t.Fatal("services go on taking it")
		}
	}
	t.Logf("services refused it %s after the revocation was answered", time.Since(at))
	if took := time.Since(at); took > time.Second {
		t.Errorf("it took %s, want a second at most", took)
	}
}

func TestTokensAreToldByTranscript(t *testing.T) {
	s := openTokens(t, "transcript")
	s.token(t)
	client := s.client(t, s.pair)
	for name, c := range map[string]struct {
		form   string
		status int
		code   string
	}{
		"an unsupported grant":      {"grant_type=password&client_id=" + url.QueryEscape(s.id), 400, "unsupported_grant_type"},
		"a parameter twice":         {"grant_type=client_credentials&grant_type=client_credentials", 400, "invalid_request"},
		"an oversized form":         {"grant_type=" + strings.Repeat("a", 60<<10), 413, "invalid_request"},
		"another client":            {"grant_type=client_credentials&client_id=spiffe%3A%2F%2Fsegl.test%2Ftenant%2Fdemo%2Fother", 401, "invalid_client"},
		"a life beyond what may be": {"grant_type=client_credentials&expires_in=7200&client_id=" + url.QueryEscape(s.id), 400, "invalid_request"},
		"another audience":          {"grant_type=client_credentials&audience=https%3A%2F%2Fother.test&client_id=" + url.QueryEscape(s.id), 400, "invalid_target"},
	} {
		res, err := client.Post(s.Env["SEGL_URL"]+"/oauth2/token", "application/x-www-form-urlencoded", strings.NewReader(c.form)) //nolint:noctx // it has a timeout
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var said struct{ Error string }
		err = json.NewDecoder(res.Body).Decode(&said)
		res.Body.Close() //nolint:errcheck // only read
		if err != nil || res.StatusCode != c.status || said.Error != c.code || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %q %v, want %d %s", name, res.StatusCode, said.Error, err, c.status, c.code)
		}
	}
}

// soon waits for what a replica hears of within a moment.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
