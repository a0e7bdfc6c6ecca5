package verify_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/credentials/token/verify"
)

const (
	issuer  = "https://segl.test"
	orders  = "https://orders.test"
	private = "kid-1"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	mine = &x509.Certificate{Raw: []byte("my certificate")}
)

// An issuing is an issuer of tokens for tests.
type issuing struct {
	key *ecdsa.PrivateKey
	now time.Time
}

func open(t testing.TB) *issuing {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuing{key, noon}
}

func (i *issuing) Now() time.Time { return i.now }

// Key implements verify.Keys.
func (i *issuing) Key(_ context.Context, id string) (jose.JSONWebKey, error) {
	if id != private {
		return jose.JSONWebKey{}, verify.ErrToken
	}
	return jose.JSONWebKey{Key: &i.key.PublicKey, KeyID: private, Algorithm: "ES256"}, nil
}

func good() map[string]any {
	return map[string]any{
		"iss": issuer, "sub": "spiffe://segl.test/tenant/demo/web", "client_id": "spiffe://segl.test/tenant/demo/web", "aud": orders, "jti": "one",
		"iat": noon.Unix(), "exp": noon.Add(time.Hour).Unix(), "scope": "read write", "cnf": map[string]string{"x5t#S256": verify.Thumbprint(mine.Raw)},
		"segl_crt": []string{"10aa"}, "segl_bnd": "7",
	}
}

func with(name string, value any) map[string]any {
	c := good()
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

func sign(t testing.TB, key crypto.Signer, header map[jose.HeaderKey]any, embed bool, claims any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, &jose.SignerOptions{EmbedJWK: embed, ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (i *issuing) token(t testing.TB, claims map[string]any) string {
	return sign(t, i.key, map[jose.HeaderKey]any{"typ": "at+jwt", "kid": private}, false, claims)
}

func (i *issuing) verifier(t testing.TB, ended verify.Ended) *verify.Verifier {
	t.Helper()
	v, err := verify.New(verify.Config{Issuer: issuer, Audience: orders, Keys: i, Ended: ended, Seen: verify.NewSeen(4, i.Now), Now: i.Now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAGoodTokenIsTaken(t *testing.T) {
	i := open(t)
	c, err := i.verifier(t, nil).Verify(t.Context(), i.token(t, good()), verify.Shown{Certificate: mine})
	if err != nil || c.Subject != "spiffe://segl.test/tenant/demo/web" || !c.HasScope("write") || c.HasScope("wri") {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := i.verifier(t, nil).Verify(t.Context(), i.token(t, with("aud", []string{"x", orders})), verify.Shown{Certificate: mine}); err != nil {
		t.Errorf("for several: %v", err)
	}
}

func TestTokensAreRefused(t *testing.T) {
	i, other := open(t), open(t)
	text := i.token(t, good())
	head, rest, _ := strings.Cut(text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	typed := func(typ string) string {
		return sign(t, i.key, map[jose.HeaderKey]any{"typ": typ, "kid": private}, false, good())
	}
	for name, c := range map[string]struct {
		text  string
		shown *x509.Certificate
	}{
		"stolen: another certificate": {text, &x509.Certificate{Raw: []byte("a thief's")}},
		"stolen: no certificate":      {text, nil},
		"another issuer":              {i.token(t, with("iss", "https://evil.test")), mine},
		"another audience":            {i.token(t, with("aud", "https://billing.test")), mine},
		"no audience":                 {i.token(t, with("aud", nil)), mine},
		"over":                        {i.token(t, with("exp", noon.Unix())), mine},
		"without an end":              {i.token(t, with("exp", nil)), mine},
		"of the future":               {i.token(t, with("iat", noon.Add(time.Minute).Unix())), mine},
		"of no time":                  {i.token(t, with("iat", nil)), mine},
		"without a subject":           {i.token(t, with("sub", nil)), mine},
		"without a name":              {i.token(t, with("jti", nil)), mine},
		"bound to nothing":            {i.token(t, with("cnf", nil)), mine},
		"bound twice":                 {i.token(t, with("cnf", map[string]string{"x5t#S256": verify.Thumbprint(mine.Raw), "jkt": "k"})), mine},
		"times that are words":        {i.token(t, with("exp", "soon")), mine},
		"another key":                 {other.token(t, good()), mine},
		"a key that it brings":        {sign(t, other.key, map[jose.HeaderKey]any{"typ": "at+jwt"}, true, good()), mine},
		"no name of a key":            {sign(t, i.key, map[jose.HeaderKey]any{"typ": "at+jwt"}, false, good()), mine},
		"a path for a key":            {sign(t, i.key, map[jose.HeaderKey]any{"typ": "at+jwt", "kid": "../kid-1"}, false, good()), mine},
		"another type":                {typed("dpop+jwt"), mine},
		"a list of ends":              {typed(verify.TypeEnded), mine},
		"alg none":                    {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt","kid":"kid-1"}`)) + "." + payload + ".", mine},
		"our public key as a secret":  {hmacked(t, i, payload), mine},
		"a cut signature":             {text[:len(text)-8], mine},
		"a changed claim":             {head + "." + payload[:len(payload)-2] + "AA" + text[strings.LastIndex(text, "."):], mine},
		"two dots too many":           {text + ".a.b", mine},
		"nothing":                     {"", mine},
		"too long":                    {strings.Repeat("a", 20000) + "..", mine},
	} {
		if got, err := i.verifier(t, nil).Verify(t.Context(), c.text, verify.Shown{Certificate: c.shown}); !errors.Is(err, verify.ErrToken) || got.ID != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// hmacked signs with the public key as if it were a secret (RFC 8725 §2.1).
func hmacked(t *testing.T, i *issuing, payload string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"at+jwt","kid":"kid-1"}`)) + "." + payload
	m := hmac.New(sha256.New, der)
	m.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (i *issuing) proof(t *testing.T, key crypto.Signer, token string, more map[string]any) string {
	t.Helper()
	sum := sha256.Sum256([]byte(token))
	c := map[string]any{"jti": rand.Text(), "htm": "GET", "htu": orders + "/a", "iat": i.now.Unix(), "ath": base64.RawURLEncoding.EncodeToString(sum[:])}
	for k, v := range more {
		c[k] = v
	}
	return sign(t, key, map[jose.HeaderKey]any{"typ": "dpop+jwt"}, true, c)
}

func thumb(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: &key.PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

func TestATokenBoundToAKeyWantsAProofOfThatKeyEachTime(t *testing.T) {
	i, own, thief := open(t), open(t).key, open(t).key
	text := i.token(t, with("cnf", map[string]string{"jkt": thumb(t, own)}))
	v := i.verifier(t, nil)
	p := i.proof(t, own, text, nil)
	show := func(proof string) error {
		_, err := v.Verify(t.Context(), text, verify.Shown{Proof: proof, Method: "GET", URL: "HTTPS://Orders.test:443/a?b=c"})
		return err
	}
	if err := show(p); err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string]string{
		"shown again":       p,
		"a thief's":         i.proof(t, thief, text, nil),
		"none":              "",
		"of another token":  i.proof(t, own, "another", nil),
		"of no token":       i.proof(t, own, text, map[string]any{"ath": ""}),
		"of another method": i.proof(t, own, text, map[string]any{"htm": "POST"}),
		"of another place":  i.proof(t, own, text, map[string]any{"htu": orders + "/b"}),
		"old":               i.proof(t, own, text, map[string]any{"iat": noon.Add(-2 * time.Minute).Unix()}),
		"of no time":        i.proof(t, own, text, map[string]any{"iat": nil}),
	} {
		if err := show(proof); !errors.Is(err, verify.ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A memory that is full takes nothing more, and forgets in time.
	for range 3 {
		if err := show(i.proof(t, own, text, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := show(i.proof(t, own, text, nil)); !errors.Is(err, verify.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
	i.now = noon.Add(3 * time.Minute)
	if err := show(i.proof(t, own, text, nil)); err != nil {
		t.Errorf("later: %v", err)
	}
}

type endedBy func(verify.Claims) (bool, error)

func (f endedBy) Has(c verify.Claims) (bool, error) { return f(c) }

func TestWhatHasEndedIsRefusedAndDoubtIsNoYes(t *testing.T) {
	i := open(t)
	text := i.token(t, good())
	for want, ended := range map[error]endedBy{
		verify.ErrToken:       func(verify.Claims) (bool, error) { return true, nil },
		verify.ErrUnavailable: func(verify.Claims) (bool, error) { return false, verify.ErrUnavailable },
	} {
		if _, err := i.verifier(t, ended).Verify(t.Context(), text, verify.Shown{Certificate: mine}); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

func TestAListEndsATokenByEachOfItsMarks(t *testing.T) {
	i := open(t)
	c, err := verify.Read(t.Context(), i.token(t, good()), i)
	if err != nil {
		t.Fatal(err)
	}
	list := func(change map[string]any, typ string) (*verify.List, error) {
		body := map[string]any{"iss": issuer, "iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix(), "ended": []string{}}
		for k, v := range change {
			body[k] = v
		}
		return verify.ParseList(t.Context(), sign(t, i.key, map[jose.HeaderKey]any{"typ": typ, "kid": private}, false, body), issuer, i)
	}
	marks := func(kind, value string) map[string]any {
		m := verify.MarkOf(kind, value)
		return map[string]any{"ended": []string{base64.RawURLEncoding.EncodeToString(m[:])}}
	}
	for name, change := range map[string]map[string]any{
		"itself": marks("jti", "one"), "its certificate": marks("crt", "10aa"), "its binding": marks("bnd", "7"),
		"its scope": marks("spf", "spiffe://segl.test/tenant/demo"), "a floor": {"floor": noon.Unix() + 1},
	} {
		if l, err := list(change, verify.TypeEnded); err != nil || !l.Has(c) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]map[string]any{
		"another's name": marks("jti", "two"), "another scope": marks("spf", "spiffe://segl.test/tenant/demo2"), "a floor just below": {"floor": noon.Unix()},
	} {
		if l, err := list(change, verify.TypeEnded); err != nil || l.Has(c) {
			t.Errorf("%s ends it: %v", name, err)
		}
	}
	for name, change := range map[string]map[string]any{
		"another issuer": {"iss": "https://evil.test"}, "no end": {"exp": 0}, "no time": {"iat": 0}, "a mark that is none": {"ended": []string{"AAAA"}},
	} {
		if _, err := list(change, verify.TypeEnded); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := list(nil, "at+jwt"); err == nil {
		t.Error("a token is taken for a list")
	}
}

func TestAFeedSaysNothingOnceItIsTooOld(t *testing.T) {
	i := open(t)
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("If-None-Match") == `"a"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", `"a"`)
		w.Write([]byte(sign(t, i.key, map[jose.HeaderKey]any{"typ": verify.TypeEnded, "kid": private}, false, map[string]any{ //nolint:errcheck // the client says
			"iss": issuer, "iat": i.now.Unix(), "exp": i.now.Add(time.Minute).Unix(), "ended": []string{},
		})))
	}))
	defer s.Close()
	f := verify.NewFeed(s.URL, issuer, i, s.Client(), i.Now)
	if _, err := f.Has(verify.Claims{}); !errors.Is(err, verify.ErrUnavailable) {
		t.Errorf("before anything was fetched: %v", err)
	}
	for range 2 { // the second finds nothing new
		if err := f.Fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if over, err := f.Has(verify.Claims{IssuedAt: 1}); err != nil || over {
		t.Errorf("%v, %v", over, err)
	}
	i.now = noon.Add(40 * time.Second)
	if err := f.Fetch(t.Context()); err != nil { // half over: fetched anew though it has not changed
		t.Fatal(err)
	}
	i.now = noon.Add(90 * time.Second)
	if _, err := f.Has(verify.Claims{IssuedAt: 1}); err != nil {
		t.Errorf("it was not fetched anew: %v", err)
	}
	i.now = noon.Add(100 * time.Second)
	if _, err := f.Has(verify.Claims{IssuedAt: 1}); !errors.Is(err, verify.ErrUnavailable) {
		t.Errorf("after its end: %v", err)
	}
	f.Grace = time.Minute
	if _, err := f.Has(verify.Claims{IssuedAt: 1}); err != nil {
		t.Errorf("within its grace: %v", err)
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestKeysAreFetchedOnceAndKept(t *testing.T) {
	i := open(t)
	var asked atomic.Int32
	away := atomic.Bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{ //nolint:errcheck // the client says
			{Key: &i.key.PublicKey, KeyID: private, Algorithm: "ES256", Use: "sig"}, {Key: []byte("a secret that must not be taken for a key"), KeyID: "oct", Algorithm: "HS256"},
		}})
	}))
	defer s.Close()
	keys := verify.NewKeys(s.URL, s.Client(), i.Now)
	away.Store(true)
	if _, err := keys.Key(t.Context(), private); !errors.Is(err, verify.ErrUnavailable) {
		t.Errorf("nothing could be read: %v", err)
	}
	away.Store(false)
	i.now = noon.Add(10 * time.Second)
	for range 3 {
		if _, err := keys.Key(t.Context(), private); err != nil {
			t.Fatal(err)
		}
	}
	for _, unknown := range []string{"oct", "other", ""} {
		if _, err := keys.Key(t.Context(), unknown); !errors.Is(err, verify.ErrToken) {
			t.Errorf("key %q: %v", unknown, err)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	away.Store(true)
	i.now = noon.Add(time.Hour)
	if _, err := keys.Key(t.Context(), private); err != nil {
		t.Errorf("while the issuer is away: %v", err)
	}
	i.now = noon.Add(25 * time.Hour)
	if _, err := keys.Key(t.Context(), private); !errors.Is(err, verify.ErrUnavailable) {
		t.Errorf("a day later: %v", err)
	}
}

func TestTheHandlerAnswersAsTheSpecificationsSay(t *testing.T) {
	i, own := open(t), open(t).key
	text, keyed := i.token(t, good()), i.token(t, with("cnf", map[string]string{"jkt": thumb(t, own)}))
	h := i.verifier(t, nil).Handler(orders, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := verify.Of(r); !ok || c.ID != "one" {
			t.Error("the handler is not told who asks")
		}
	}), "read")
	admin := i.verifier(t, nil).Handler(orders, http.NotFoundHandler(), "admin")
	for name, c := range map[string]struct {
		handler   http.Handler
		fields    []string
		status    int
		challenge string
	}{
		"good":                      {h, []string{"Bearer " + text}, 200, ""},
		"nothing":                   {h, nil, 401, "Bearer"},
		"two of them":               {h, []string{"Bearer " + text, "Bearer " + text}, 401, "invalid_token"},
		"another scheme":            {h, []string{"Basic " + text}, 401, "invalid_token"},
		"a bad one":                 {h, []string{"Bearer " + text[:20]}, 401, "invalid_token"},
		"the wrong scheme":          {h, []string{"DPoP " + text}, 401, "invalid_token"},
		"a key's as a bearer's":     {h, []string{"Bearer " + keyed}, 401, "invalid_dpop_proof"},
		"a scope that is not there": {admin, []string{"Bearer " + text}, 403, "insufficient_scope"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/a", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{mine}}
		r.Header["Authorization"] = c.fields
		w := httptest.NewRecorder()
		c.handler.ServeHTTP(w, r)
		res := w.Result()
		if res.StatusCode != c.status || !strings.Contains(strings.Join(res.Header.Values("WWW-Authenticate"), " "), c.challenge) {
			t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
		}
	}
}

func FuzzRead(f *testing.F) {
	i := open(f)
	f.Add(i.token(f, good()))
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := verify.Read(t.Context(), text, i)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back verify.Claims
		if err := json.Unmarshal(again, &back); err != nil || back.ID != c.ID || len(back.Marks()) != len(c.Marks()) {
			t.Fatalf("%+v became %+v, %v", c, back, err)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	f.Add("a.b.c")
	f.Add(sign(f, open(f).key, map[jose.HeaderKey]any{"typ": "dpop+jwt"}, true, map[string]any{"jti": "a", "htm": "GET", "htu": orders, "iat": 1}))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := verify.ParseProof(text)
		if err == nil && (p.ID == "" || p.Thumbprint == "" || p.URL == "") {
			t.Fatalf("%q is %+v", text, p)
		}
	})
}
