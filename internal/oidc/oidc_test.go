package oidc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/oidc/oidctest"
)

// A clock is set by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type rig struct {
	*oidctest.Provider
	clock *clock
	sut   *oidc.Provider
}

func newRig(t *testing.T, change ...func(*oidc.Config)) *rig {
	t.Helper()
	r := &rig{Provider: oidctest.New(t), clock: &clock{now: time.Unix(1_800_000_000, 0)}}
	cfg := oidc.Config{Issuer: r.URL, Audience: "segl", Client: &http.Client{Timeout: 5 * time.Second}, Now: r.clock.Now}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.sut, err = oidc.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.sut.Close)
	return r
}

// claims are good ones, but for change: nil takes a claim out.
func (r *rig) claims(change map[string]any) map[string]any {
	now := r.clock.Now().Unix()
	c := map[string]any{
		"iss": r.URL, "sub": "user-1", "aud": []string{"other", "segl"}, "exp": now + 600, "iat": now, "jti": "t1",
		oidc.DefaultTenantClaim: "4711",
		oidc.DefaultRolesClaim:  map[string]any{"issuer": map[string]any{"4711": "demo.test"}, "admin": map[string]any{"4712": "x", "4711": "demo.test"}},
	}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func TestVerifyNamesTheBearer(t *testing.T) {
	r := newRig(t)
	got, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(map[string]any{"act": map[string]any{"sub": "robot", "act": map[string]any{"sub": "older"}}})))
	want := oidc.Bearer{
		Issuer: r.URL, Subject: "user-1", Tenant: "4711", ID: "t1", Act: "robot", ActIssuer: r.URL, Expires: r.clock.Now().Add(10 * time.Minute),
		Roles: []oidc.Role{{"admin", []string{"4711", "4712"}}, {"issuer", []string{"4711"}}}, Issued: r.clock.Now().UTC(),
		Claims: map[string][]string{
			"iss": {r.URL}, "sub": {"user-1"}, "aud": {"other", "segl"}, "jti": {"t1"}, oidc.DefaultTenantClaim: {"4711"}, "tenant": {"4711"},
			"role": {"admin@4711", "admin@4712", "issuer@4711"}, // never without the organization that gave it
		},
	}
	if err != nil || !got.Expires.Equal(want.Expires) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got.Expires, got.Issued = want.Expires, got.Issued.UTC(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestVerifyReadsConfiguredClaims(t *testing.T) {
	r := newRig(t, func(c *oidc.Config) { c.TenantClaim, c.RolesClaim = "org", "groups" })
	for _, form := range []any{"a b", []string{"a", "b"}} {
		got, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(map[string]any{"org": "acme", "groups": form})))
		if err != nil || got.Tenant != "acme" || !reflect.DeepEqual(got.Roles, []oidc.Role{{Name: "a"}, {Name: "b"}}) {
			t.Errorf("%v: %+v, %v", form, got, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	r := newRig(t)
	now := r.clock.Now().Unix()
	for what, v := range map[string]struct {
		change map[string]any
		says   string
	}{
		"another issuer":         {map[string]any{"iss": "https://evil.test"}, "another provider"},
		"no issuer":              {map[string]any{"iss": nil}, "another provider"},
		"another audience":       {map[string]any{"aud": "other"}, "ask for one for segl"},
		"no audience":            {map[string]any{"aud": nil}, "ask for one for segl"},
		"expired":                {map[string]any{"exp": now - 1}, "log in again"},
		"no expiry":              {map[string]any{"exp": nil}, "log in again"},
		"not yet good":           {map[string]any{"nbf": now + 3600}, "not good yet"},
		"a subject of two lines": {map[string]any{"sub": "a\nb"}, "no subject"},
		"no subject":             {map[string]any{"sub": nil}, "no subject"},
		"empty subject":          {map[string]any{"sub": ""}, "no subject"},
		"endless subject":        {map[string]any{"sub": strings.Repeat("x", 2000)}, "no subject"},
		"tenant is a list":       {map[string]any{oidc.DefaultTenantClaim: []string{"4711"}}, "want a string"},
		"token id is a number":   {map[string]any{"jti": 7}, "want a string"},
		"roles are a number":     {map[string]any{oidc.DefaultRolesClaim: 7}, "want a list"},
		"a role has no name":     {map[string]any{oidc.DefaultRolesClaim: []string{""}}, "with names"},
		"too many roles":         {map[string]any{oidc.DefaultRolesClaim: strings.Repeat("r ", 300)}, "at most 256 roles"},
		"nobody acts":            {map[string]any{"act": map[string]any{}}, "names a subject"},
		"act is a string":        {map[string]any{"act": "robot"}, "names a subject"},
	} {
		t.Run(what, func(t *testing.T) {
			token := r.Sign(t, r.claims(v.change))
			_, err := r.sut.Verify(t.Context(), token)
			if !errors.Is(err, oidc.ErrToken) || !strings.Contains(err.Error(), v.says) {
				t.Errorf("%v, want a refusal that says %q", err, v.says)
			}
			if err != nil && strings.Contains(err.Error(), strings.Split(token, ".")[1]) {
				t.Error("the error repeats the token")
			}
		})
	}
}

func TestVerifyRefusesForgeries(t *testing.T) {
	r := newRig(t)
	good := r.Sign(t, r.claims(nil))
	parts := strings.Split(good, ".")
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Split(r.Sign(t, r.claims(map[string]any{"sub": "admin"})), ".")
	public := func() []byte { // what anybody can read, as if it were a secret (RFC 8725 §2.1)
		b, err := jose.JSONWebKey{Key: stranger.Public(), KeyID: "key-1"}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}()
	for what, token := range map[string]string{
		"nothing":                    "",
		"no JWT":                     "abc",
		"an endless one":             good + strings.Repeat("a", 20<<10),
		"another's claims":           parts[0] + "." + other[1] + "." + parts[2],
		"no signature":               parts[0] + "." + parts[1] + ".",
		"algorithm none":             "eyJhbGciOiJub25lIiwia2lkIjoia2V5LTEifQ." + parts[1] + ".",
		"a stranger's key":           oidctest.SignWith(t, jose.JSONWebKey{Key: stranger, KeyID: "key-1", Algorithm: "ES256"}, r.claims(nil)),
		"a key nobody has":           oidctest.SignWith(t, jose.JSONWebKey{Key: stranger, KeyID: "key-9", Algorithm: "ES256"}, r.claims(nil)),
		"no key named":               oidctest.SignWith(t, jose.JSONWebKey{Key: stranger, Algorithm: "ES256"}, r.claims(nil)),
		"the public key as a secret": oidctest.SignWith(t, jose.JSONWebKey{Key: public, KeyID: "key-1", Algorithm: "HS256"}, r.claims(nil)),
	} {
		if _, err := r.sut.Verify(t.Context(), token); !errors.Is(err, oidc.ErrToken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.sut.Verify(t.Context(), good); err != nil {
		t.Error(err)
	}
}

func TestANewKeyIsReadWhenATokenNamesIt(t *testing.T) {
	r := newRig(t)
	must(t, r, nil)
	r.Rotate(t)
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrToken) {
		t.Errorf("within the pause after a reading: %v", err)
	}
	r.clock.pass(6 * time.Second)
	must(t, r, nil)
}

// Inventing keys makes us ask the provider once in a while, not once a token.
func TestInventedKeysDoNotMakeUsAskOften(t *testing.T) {
	r := newRig(t)
	must(t, r, nil)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := oidctest.SignWith(t, jose.JSONWebKey{Key: stranger, KeyID: "invented", Algorithm: "ES256"}, r.claims(nil))
	for range 50 {
		if _, err := r.sut.Verify(t.Context(), token); !errors.Is(err, oidc.ErrToken) {
			t.Fatal(err)
		}
	}
	if n := r.Asked(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestAKeyThatWasTakenBackEndsAtTheNextReading(t *testing.T) {
	r := newRig(t)
	old := r.Sign(t, r.claims(nil))
	must(t, r, nil)
	r.Rotate(t)
	r.Forget()
	r.clock.pass(9 * time.Minute)
	if _, err := r.sut.Verify(t.Context(), old); err != nil {
		t.Errorf("before its keys are old: %v", err)
	}
	r.clock.pass(50 * time.Second)
	r.clock.pass(11 * time.Second)
	for range 1000 { // the first begins the reading and is not kept waiting for it
		if _, err := r.sut.Verify(t.Context(), oidctest.SignWith(t, jose.JSONWebKey{Key: nobody(t), KeyID: "key-2", Algorithm: "ES256"}, r.claims(nil))); err == nil {
			t.Fatal("a forged token passed")
		}
		if r.Asked() == 2 {
			break
		}
	}
	fresh := r.claims(nil)
	for range 1000 {
		if _, err := r.sut.Verify(t.Context(), r.Sign(t, fresh)); err == nil {
			break
		}
	}
	if _, err := r.sut.Verify(t.Context(), old); !errors.Is(err, oidc.ErrToken) {
		t.Errorf("a key taken back still counts: %v", err)
	}
}

func nobody(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func must(t *testing.T, r *rig, change map[string]any) {
	t.Helper()
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(change))); err != nil {
		t.Fatal(err)
	}
}

func TestKeysAreKeptWhileTheProviderIsAway(t *testing.T) {
	r := newRig(t)
	must(t, r, nil)
	r.Away(true)
	r.clock.pass(23 * time.Hour)
	must(t, r, nil)
	r.clock.pass(90 * time.Minute)
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrUnavailable) || errors.Is(err, oidc.ErrToken) {
		t.Errorf("beyond what keys are kept for: %v", err)
	}
	r.Away(false)
	r.clock.pass(6 * time.Second)
	must(t, r, nil)
}

func TestAProviderThatIsAwayAtFirstIsNoRefusal(t *testing.T) {
	r := newRig(t)
	r.Away(true)
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	r.Away(false)
	r.clock.pass(6 * time.Second)
	must(t, r, nil)
}

func TestAProviderThatCallsItselfOtherwiseIsNotBelieved(t *testing.T) {
	r := newRig(t)
	r.CallItself("https://other.test")
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// What a provider answers is a stranger's, as much of it as it likes: it ends up in our log.
func TestWhatAProviderAnswersIsRepeatedInPartOnly(t *testing.T) {
	r := newRig(t)
	r.CallItself("https://" + strings.Repeat("x", 100_000))
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrUnavailable) || len(err.Error()) > 1000 {
		t.Errorf("%d octets: %.300v", len(err.Error()), err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := oidc.Config{Issuer: "https://id.test", Audience: "segl", Client: &http.Client{Timeout: time.Second}, Now: time.Now}
	for what, change := range map[string]func(*oidc.Config){
		"no issuer":                 func(c *oidc.Config) { c.Issuer = "" },
		"plain HTTP":                func(c *oidc.Config) { c.Issuer = "http://id.test" },
		"a query":                   func(c *oidc.Config) { c.Issuer = "https://id.test?x=1" },
		"no audience":               func(c *oidc.Config) { c.Audience = "" },
		"no timeout":                func(c *oidc.Config) { c.Client = &http.Client{} },
		"no clock":                  func(c *oidc.Config) { c.Now = nil },
		"keeping less than reading": func(c *oidc.Config) { c.Keep, c.Refresh = time.Minute, time.Hour },
	} {
		cfg := good
		change(&cfg)
		if p, err := oidc.New(cfg); err == nil {
			p.Close()
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestClaimsThatARuleCanBeAbout(t *testing.T) {
	r := newRig(t)
	got, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(map[string]any{
		"groups": []string{"a", "", "b"}, "email": "mia@demo.test", "n": 7, "o": map[string]any{"a": 1}, "role": "admin", "tenant": "other",
		oidc.DefaultRolesClaim: []string{"reader"},
	})))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"groups": {"a", "b"}, "role": {"reader"}, "tenant": {"4711"}, // what the provider itself calls so is not what we call so
		"email": nil, "n": nil, "o": nil,
	} {
		if !reflect.DeepEqual(got.Claims[name], want) {
			t.Errorf("%s is %q, want %q", name, got.Claims[name], want)
		}
	}
	got, err = r.sut.Verify(t.Context(), r.Sign(t, r.claims(map[string]any{"email": "mia@demo.test", "email_verified": true})))
	if err != nil || !reflect.DeepEqual(got.Claims["email"], []string{"mia@demo.test"}) {
		t.Errorf("%q, %v", got.Claims["email"], err)
	}
	many := map[string]any{}
	for i := range 200 {
		many["c"+strconv.Itoa(i)] = "x"
	}
	if _, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(many))); !errors.Is(err, oidc.ErrToken) {
		t.Errorf("200 claims: %v", err)
	}
}

func TestWhatIsNoAccessTokenIsTold(t *testing.T) {
	r := newRig(t)
	for claim, want := range map[string]oidc.Kind{"sid": oidc.None, "nonce": oidc.Login, "at_hash": oidc.Login, "events": oidc.Logout, "cnf": oidc.Bound} {
		got, err := r.sut.Verify(t.Context(), r.Sign(t, r.claims(map[string]any{claim: "a"})))
		if err != nil || got.Kind != want {
			t.Errorf("with %s: %q, %v", claim, got.Kind, err)
		}
	}
}

// Whoever could make the issuer's host redirect would otherwise choose the keys.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, path := range []string{"/.well-known/openid-configuration", "/keys"} {
		r := newRig(t)
		evil := oidctest.New(t)
		evil.CallItself(r.URL)
		r.Redirect(path, evil.URL+path)
		if _, err := r.sut.Verify(t.Context(), evil.Sign(t, r.claims(nil))); !errors.Is(err, oidc.ErrUnavailable) {
			t.Errorf("%s: %v", path, err)
		}
		if evil.Asked() > 0 {
			t.Errorf("%s: the other one was asked", path)
		}
	}
}

func TestKeysAtHandAskNobody(t *testing.T) {
	p := oidctest.New(t)
	r := newRig(t, func(c *oidc.Config) { c.Issuer, c.Keys, c.Client = "builder", p.Keys(t), nil })
	good := r.claims(map[string]any{"iss": "builder"})
	if b, err := r.sut.Verify(t.Context(), p.Sign(t, good)); err != nil || b.Issuer != "builder" {
		t.Errorf("%+v, %v", b, err)
	}
	p.Rotate(t)
	if _, err := r.sut.Verify(t.Context(), p.Sign(t, good)); !errors.Is(err, oidc.ErrToken) {
		t.Errorf("another key: %v", err)
	}
	if p.Asked() > 0 {
		t.Error("somebody was asked")
	}
	for what, keys := range map[string]string{"nothing": "{}", "a secret": `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`, "no JSON": "x"} {
		if _, err := oidc.New(oidc.Config{Issuer: "builder", Audience: "segl", Keys: []byte(keys), Now: r.clock.Now}); err == nil {
			t.Errorf("%s was taken for keys", what)
		}
	}
}

func TestATokenOfAMillionDotsCostsNothing(t *testing.T) {
	r := newRig(t)
	dots := strings.Repeat(".", 1_000_000)
	if _, err := r.sut.Verify(t.Context(), dots); !errors.Is(err, oidc.ErrToken) {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(10, func() { r.sut.Verify(t.Context(), dots) }); n > 10 { //nolint:errcheck // counted, not judged
		t.Errorf("%v allocations", n)
	}
	if r.Asked() > 0 {
		t.Error("the provider was asked")
	}
}
