package server_test

import (
	"net/http"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/oidc/oidctest"
	"codeberg.org/dataverket/segl/internal/web"
)

// Somebody to whom another delegated is the same person as when it comes itself, to whoever counts to two.
func TestWhoActsForAnotherIsKnownAgain(t *testing.T) {
	provider := oidctest.New(t)
	p, err := oidc.New(oidc.Config{Issuer: provider.URL, Audience: "segl", Client: &http.Client{Timeout: 5 * time.Second}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	bears := func(claims map[string]any) identity.Caller {
		t.Helper()
		claims["iss"], claims["aud"], claims["iat"], claims["exp"] = provider.URL, "segl", time.Now().Unix(), time.Now().Add(time.Minute).Unix()
		who, bound, err := server.Bearers(p).Verify(t.Context(), web.Presented{Scheme: "Bearer", Token: provider.Sign(t, claims)})
		if err != nil || bound {
			t.Fatalf("%v, bound %t", err, bound)
		}
		who.Operator = true
		return who
	}
	bob := bears(map[string]any{"sub": "bob"})
	if bob.Act != "" {
		t.Errorf("%s acts for bob", bob.Act)
	}
	for name, act := range map[string]map[string]any{"bob": {"sub": "bob"}, "bob, with his issuer": {"sub": "bob", "iss": provider.URL}} {
		acting := bears(map[string]any{"sub": "ann", "act": act})
		if acting.Act != bob.Actor {
			t.Errorf("%s acts as %q, and comes as %q", name, acting.Act, bob.Actor)
		}
		if (access.Approval{AskedBy: bob.Actor}).MayDecide(acting, true) == nil {
			t.Errorf("%s confirmed, as ann, what he asked for", name)
		}
		if (access.Approval{AskedBy: acting.Actor, AskedAct: acting.Act}).MayDecide(bob, true) == nil {
			t.Errorf("%s confirmed what he asked for as ann", name)
		}
	}
	if other := bears(map[string]any{"sub": "ann", "act": map[string]any{"sub": "bob", "iss": "https://other.test"}}); other.Act == bob.Actor {
		t.Error("a namesake elsewhere is taken for bob")
	}
}
