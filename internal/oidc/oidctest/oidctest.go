// Package oidctest is an OpenID provider for tests: it publishes keys, signs whatever it is told, and logs people in by a browser's
// redirects (RFC 6749 §4.1 with RFC 7636) or from another device (RFC 8628), without asking anybody.
//
// It is for tests only and may be used concurrently.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// A Provider is a running one.
type Provider struct {
	URL string

	mu        sync.Mutex
	keys      []jose.JSONWebKey // private ones; the last signs
	made      int
	away      bool
	asked     int
	issuer    string            // what it calls itself
	redirects map[string]string // where requests for a path are sent instead
	logins
}

// New starts one, which ends with the test.
func New(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{redirects: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.describe)
	mux.HandleFunc("GET /keys", p.publish)
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /device", p.device)
	mux.HandleFunc("POST /token", p.token)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		to := p.redirects[r.URL.Path]
		p.mu.Unlock()
		if to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	p.URL, p.issuer = s.URL, s.URL
	p.Rotate(t)
	return p
}

// Rotate makes another key, which signs from here on. Earlier ones stay published until Forget.
func (p *Provider) Rotate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.Add(key, "ES256")
}

// Add publishes a key and signs with it from here on.
func (p *Provider) Add(key crypto.Signer, algorithm string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	p.keys = append(p.keys, jose.JSONWebKey{Key: key, KeyID: "key-" + strconv.Itoa(p.made), Algorithm: algorithm, Use: "sig"})
}

// Forget publishes only the newest key.
func (p *Provider) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = p.keys[len(p.keys)-1:]
}

// Away makes it answer nothing but errors, or answer again.
func (p *Provider) Away(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// CallItself makes it claim to be another issuer.
func (p *Provider) CallItself(issuer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.issuer = issuer
}

// Redirect sends whoever asks for a path elsewhere.
func (p *Provider) Redirect(path, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.redirects[path] = to
}

// Asked returns how often its keys were read.
func (p *Provider) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *Provider) describe(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		http.Error(w, "away", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the client has gone
		"issuer": p.issuer, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
		"device_authorization_endpoint": p.URL + "/device", "id_token_signing_alg_values_supported": []string{"ES256"},
	})
}

func (p *Provider) publish(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.away {
		http.Error(w, "away", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(p.public()) //nolint:errcheck // the client has gone
}

// public returns the keys as anybody may have them.
func (p *Provider) public() (set jose.JSONWebKeySet) {
	for _, k := range p.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	return set
}

// Keys returns what it publishes, a JWK set.
func (p *Provider) Keys(t testing.TB) []byte {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := json.Marshal(p.public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Sign returns claims as a JWT under the newest key.
func (p *Provider) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	p.mu.Lock()
	key := p.keys[len(p.keys)-1]
	p.mu.Unlock()
	return SignWith(t, key, claims)
}

// SignWith returns claims as a JWT under any key.
func SignWith(t testing.TB, key jose.JSONWebKey, claims map[string]any) string {
	t.Helper()
	token, err := sign(key, claims, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// SignWithHeader is SignWith with further members of the header, such as x5c.
func SignWithHeader(t testing.TB, key jose.JSONWebKey, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	token, err := sign(key, claims, header)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func sign(key jose.JSONWebKey, claims map[string]any, header map[jose.HeaderKey]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, (&jose.SignerOptions{ExtraHeaders: header}).WithType("at+jwt"))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
