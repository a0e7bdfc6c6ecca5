package token_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/credentials/token"
)

func kid(t *testing.T, text string) string {
	t.Helper()
	head, _, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var h struct{ Kid string }
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.Kid
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAProofBindsATokenToItsKey(t *testing.T) {
	h := open(t, nil)
	w, key := h.web(t), newKey(t)
	v := asking(w, "client_assertion", w.assertion(t, h, nil), "client_assertion_type", token.AssertionType)
	a, err := h.Issue(t.Context(), token.Peer{}, form(t, v), []string{h.proof(t, key, nil)})
	if err != nil {
		t.Fatal(err)
	}
	c := h.says(t, a.Token)
	if a.Type != "DPoP" || c.Bound.Key == "" || c.Bound.Certificate != "" || c.ClientID != w.id || c.Certificates[0] != w.Who.Serial.String() {
		t.Errorf("%+v %+v", a, c)
	}
}

func TestProofsAreRefused(t *testing.T) {
	h := open(t, nil)
	w, key := h.web(t), newKey(t)
	used := h.proof(t, key, nil)
	if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), []string{used}); err != nil {
		t.Fatal(err)
	}
	stale, err := h.Nonce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.pass(t, 6*time.Minute)
	for name, c := range map[string]struct {
		proofs []string
		want   string
	}{
		"shown before":       {[]string{h.proof(t, key, map[string]any{"jti": "again"}), ""}, token.InvalidProof},
		"used":               {[]string{used}, token.InvalidProof}, // and too old by now
		"two of them":        {[]string{h.proof(t, key, nil), h.proof(t, key, nil)}, token.InvalidProof},
		"no JWT":             {[]string{"x"}, token.InvalidProof},
		"for another method": {[]string{h.proof(t, key, map[string]any{"htm": "GET"})}, token.InvalidProof},
		"for another URL":    {[]string{h.proof(t, key, map[string]any{"htu": "https://evil.test/oauth2/token"})}, token.InvalidProof},
		"of long ago":        {[]string{h.proof(t, key, map[string]any{"iat": h.now().Add(-2 * time.Minute).Unix()})}, token.InvalidProof},
		"of the future":      {[]string{h.proof(t, key, map[string]any{"iat": h.now().Add(time.Minute).Unix()})}, token.InvalidProof},
		"without a name":     {[]string{h.proof(t, key, map[string]any{"jti": ""})}, token.InvalidProof},
		"without a nonce":    {[]string{h.proof(t, key, map[string]any{"nonce": ""})}, token.UseNonce},
		"a nonce of its own": {[]string{h.proof(t, key, map[string]any{"nonce": "bm9uY2U"})}, token.UseNonce},
		"an old nonce":       {[]string{h.proof(t, key, map[string]any{"nonce": stale})}, token.UseNonce},
		"another type":       {[]string{jws(t, key, map[jose.HeaderKey]any{"typ": "JWT"}, true, map[string]any{})}, token.InvalidProof},
		"no key":             {[]string{jws(t, key, map[jose.HeaderKey]any{"typ": "dpop+jwt"}, false, map[string]any{})}, token.InvalidProof},
	} {
		if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), c.proofs); code(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestAProofCountsOnceOnAllReplicas(t *testing.T) {
	h := open(t, nil)
	w, key := h.web(t), newKey(t)
	p := h.proof(t, key, nil)
	if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), []string{p}); err != nil {
		t.Fatal(err)
	}
	h.restart(t) // another replica over the same store
	if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), []string{p}); code(err) != token.InvalidProof {
		t.Errorf("a second time: %v", err)
	}
}

func TestAssertionsAreRefused(t *testing.T) {
	h := open(t, nil)
	w, key := h.web(t), newKey(t)
	other := h.workload(t, "/tenant/demo/project/shop/environment/dev/other", time.Hour)
	foreign := w
	foreign.key = key
	used := w.assertion(t, h, nil)
	ask := func(assertion string, proofs ...string) error {
		v := asking(w, "client_assertion", assertion, "client_assertion_type", token.AssertionType)
		_, err := h.Issue(t.Context(), token.Peer{}, form(t, v), proofs)
		return err
	}
	if err := ask(used, h.proof(t, key, nil)); err != nil {
		t.Fatal(err)
	}
	unknown := w
	made := *w.made
	made.Raw = other.made.Raw[:len(other.made.Raw):len(other.made.Raw)]
	for name, assertion := range map[string]string{
		"used before":             used,
		"by another key":          foreign.assertion(t, h, nil),
		"of another client":       other.assertion(t, h, nil),
		"for another audience":    w.assertion(t, h, map[string]any{"aud": "https://evil.test"}),
		"over":                    w.assertion(t, h, map[string]any{"exp": h.now().Unix()}),
		"for too long":            w.assertion(t, h, map[string]any{"exp": h.now().Add(time.Hour).Unix()}),
		"without an end":          w.assertion(t, h, map[string]any{"exp": 0}),
		"without a name":          w.assertion(t, h, map[string]any{"jti": ""}),
		"from somebody else":      w.assertion(t, h, map[string]any{"iss": other.id}),
		"about somebody else":     w.assertion(t, h, map[string]any{"sub": other.id}),
		"without its certificate": jws(t, w.key, nil, false, map[string]any{"iss": w.id}),
	} {
		if err := ask(assertion, h.proof(t, key, nil)); code(err) != token.InvalidClient {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ask(w.assertion(t, h, nil)); code(err) != token.InvalidRequest {
		t.Errorf("a token bound to nothing: %v", err)
	}
	delete(h.holders, string(unknown.made.Raw))
	if err := ask(w.assertion(t, h, nil), h.proof(t, key, nil)); code(err) != token.InvalidClient {
		t.Errorf("a certificate that is no good: %v", err)
	}
}

type jheader = jose.HeaderKey

func raw(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }
