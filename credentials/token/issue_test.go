package token_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/identity"
)

func TestATokenSaysWhoForWhomAndWhatItIsBoundTo(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	a := h.issue(t, w, "scope", "read")
	c := h.says(t, a.Token)
	switch {
	case c.Subject != w.id || c.ClientID != w.id || c.Issuer != issuer || c.Audience[0] != orders || c.Scope != "read" || c.Type != verify.TypeAccessToken:
		t.Errorf("%+v", c)
	case c.Bound.Certificate != verify.Thumbprint(w.Leaf.Raw) || c.Bound.Key != "" || a.Type != "Bearer":
		t.Errorf("bound to %+v, as %s", c.Bound, a.Type)
	case c.Expires-c.IssuedAt != 3600 || a.Expires != 3600:
		t.Errorf("it lives for %d s, told %d", c.Expires-c.IssuedAt, a.Expires)
	}
	last := h.facts[len(h.facts)-1]
	if last.What != "token.issue" || last.Who.Actor != w.id || last.Serial != w.Who.Serial || last.Subject != c.ID+" "+orders {
		t.Errorf("the fact is %+v", last)
	}
	for _, f := range h.facts {
		if strings.Contains(f.Subject+f.Why, a.Token) {
			t.Error("a fact holds a token")
		}
	}
}

func TestATokenNeverOutlivesItsCertificate(t *testing.T) {
	h := open(t, nil)
	w := h.workload(t, "/tenant/demo/project/shop/environment/dev/web", 10*time.Minute)
	if c := h.says(t, h.issue(t, w).Token); c.Expires > w.Leaf.NotAfter.Unix() {
		t.Errorf("until %s, the certificate until %s", time.Unix(c.Expires, 0), w.Leaf.NotAfter)
	}
	h.pass(t, 10*time.Minute)
	if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), nil); code(err) != token.InvalidGrant {
		t.Errorf("at its very end: %v", err)
	}
}

func TestATokenIsAnSVIDWhereAskedFor(t *testing.T) {
	h := open(t, func(c *token.Config) { c.Algorithms = []string{"EdDSA", "ES256"} })
	w := h.web(t)
	a := h.issue(t, w, "requested_token_type", token.TypeJWT)
	c := h.says(t, a.Token)
	keys, _ := h.Keys()
	if c.Type != verify.TypeSVID || c.Subject != w.id || len(c.Audience) != 1 || a.Issued != token.TypeJWT || len(keys) != 2 {
		t.Errorf("%+v %+v", a, c)
	}
	// JWT-SVID §2.1 lists no EdDSA.
	if k, err := (published{h}).Key(t.Context(), kid(t, a.Token)); err != nil || k.Algorithm != "ES256" {
		t.Errorf("signed with %s, %v", k.Algorithm, err)
	}
	if k, err := (published{h}).Key(t.Context(), kid(t, h.issue(t, w).Token)); err != nil || k.Algorithm != "EdDSA" {
		t.Errorf("an access token is signed with %s, %v", k.Algorithm, err)
	}
}

func TestTokenRequestsAreRefusedByTheRightCode(t *testing.T) {
	h := open(t, nil)
	h.bind(t, "spiffe://segl.test/tenant/demo/project/shop/environment/dev/two", time.Hour, []string{orders, billing}, "read")
	web, two := h.web(t), h.workload(t, "/tenant/demo/project/shop/environment/dev/two", time.Hour)
	stranger := h.workload(t, "/tenant/other/web", time.Hour)
	nobody := workload{id: web.id}
	without := func(w workload, name string) url.Values { v := asking(w); v.Del(name); return v }
	for name, c := range map[string]struct {
		who  workload
		form url.Values
		want string
	}{
		"no certificate":                 {nobody, asking(web), token.InvalidClient},
		"another's client_id":            {web, asking(two), token.InvalidClient},
		"no client_id":                   {web, without(web, "client_id"), token.InvalidRequest},
		"a client secret":                {web, asking(web, "client_secret", "s"), token.InvalidClient},
		"two methods":                    {web, asking(web, "client_assertion", "x.y.z"), token.InvalidRequest},
		"no grant":                       {web, without(web, "grant_type"), token.InvalidRequest},
		"a grant of people's":            {web, asking(web, "grant_type", "authorization_code"), token.UnsupportedGrant},
		"the password grant":             {web, asking(web, "grant_type", "password"), token.UnsupportedGrant},
		"a grant in other letters":       {web, asking(web, "grant_type", "Client_Credentials"), token.UnsupportedGrant},
		"nobody's binding":               {stranger, asking(stranger), token.UnauthorizedClient},
		"an audience of nobody's":        {web, asking(web, "audience", billing), token.InvalidTarget},
		"a resource of nobody's":         {web, asking(web, "resource", billing), token.InvalidTarget},
		"two audiences":                  {two, url.Values{"grant_type": {"client_credentials"}, "client_id": {two.id}, "audience": {orders, billing}}, token.InvalidTarget},
		"which of several":               {two, asking(two), token.InvalidTarget},
		"a scope of nobody's":            {web, asking(web, "scope", "read admin"), token.InvalidScope},
		"a life longer than allowed":     {web, asking(web, "expires_in", "3601"), token.InvalidRequest},
		"a life of nothing":              {web, asking(web, "expires_in", "0"), token.InvalidRequest},
		"a life below nothing":           {web, asking(web, "expires_in", "-5"), token.InvalidRequest},
		"a life past counting":           {web, asking(web, "expires_in", "99999999999999999999"), token.InvalidRequest},
		"a form of token nobody knows":   {web, asking(web, "requested_token_type", "urn:ietf:params:oauth:token-type:saml2"), token.InvalidRequest},
		"an exchange of nothing":         {web, asking(web, "grant_type", token.TokenExchange), token.InvalidRequest},
		"an exchange of what kind":       {web, asking(web, "grant_type", token.TokenExchange, "subject_token", "x"), token.InvalidRequest},
		"an exchange of a stranger's":    {web, asking(web, "grant_type", token.TokenExchange, "subject_token", "x", "subject_token_type", token.TypeJWT), token.InvalidGrant},
		"an exchange of SAML":            {web, asking(web, "grant_type", token.TokenExchange, "subject_token", "x", "subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), token.InvalidRequest},
		"an actor beside who connects":   {web, asking(web, "grant_type", token.TokenExchange, "subject_token", "x", "subject_token_type", token.TypeJWT, "actor_token", "y"), token.InvalidRequest},
		"an assertion of no type":        {nobody, asking(web, "client_assertion", "x.y.z"), token.InvalidClient},
		"an assertion without its chain": {nobody, asking(web, "client_assertion", "e30.e30.e30", "client_assertion_type", token.AssertionType), token.InvalidClient},
	} {
		facts := len(h.facts)
		a, err := h.Issue(t.Context(), c.who.Peer, form(t, c.form), nil)
		if code(err) != c.want || a.Token != "" {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if len(h.facts) != facts {
			t.Errorf("%s left a fact of a token", name)
		}
	}
	if len(h.refusals) == 0 {
		t.Error("no refusal was written down")
	}
}

func TestFormsAreRefused(t *testing.T) {
	for name, body := range map[string]string{
		"a parameter twice": "grant_type=a&grant_type=a", "a bad escape": "grant_type=%zz", "too many": strings.Repeat("a=b&", 40), "too large": "a=" + strings.Repeat("b", token.MaxForm),
		"a semicolon": "a=b;c=d",
	} {
		if _, err := token.ParseForm([]byte(body)); code(err) != token.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACertificateRevokedBetweenRequestAndAnswerGivesNothing(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	h.revoked[w.Who.Serial] = true
	if a, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), nil); code(err) != token.InvalidClient || a.Token != "" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNothingIsIssuedThatTheLedgerDoesNotKnow(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	h.down = errors.New("the database is away")
	if a, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), nil); code(err) != token.Unavailable || a.Token != "" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNothingIsIssuedInASuspendedScope(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	h.suspended[scope(t, "demo")] = true
	if _, err := h.Issue(t.Context(), w.Peer, form(t, asking(w)), nil); code(err) != token.UnauthorizedClient {
		t.Errorf("below a suspended scope: %v", err)
	}
}

func TestAnExchangeNamesWhoActs(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	h.subjects["person"] = token.Subject{Actor: "oidc:https://id.test#42", Scope: scope(t, "demo"), Act: "portal", Expires: h.now().Add(10 * time.Minute)}
	a := h.issue(t, w, "grant_type", token.TokenExchange, "subject_token", "person", "subject_token_type", token.TypeAccessToken)
	c := h.says(t, a.Token)
	if c.Subject != "oidc:https://id.test#42" || c.Act == nil || c.Act.Subject != w.id || c.Act.Act == nil || c.Act.Act.Subject != "portal" || c.ClientID != w.id {
		t.Errorf("%+v", c)
	}
	if a.Issued != token.TypeAccessToken || c.Expires > h.now().Add(10*time.Minute).Unix() {
		t.Errorf("%+v until %d", a, c.Expires)
	}
	if last := h.facts[len(h.facts)-1]; last.Who.Actor != "oidc:https://id.test#42" || last.Who.Act != w.id {
		t.Errorf("the fact is %+v", last)
	}
}

func TestAnExchangeIsRefusedAcrossTenants(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	h.subjects["foreign"] = token.Subject{Actor: "oidc:https://id.test#42", Scope: scope(t, "other"), Expires: h.now().Add(time.Hour)}
	h.subjects["homeless"] = token.Subject{Actor: "oidc:https://id.test#42", Expires: h.now().Add(time.Hour)}
	h.subjects["impostor"] = token.Subject{Actor: w.id, Scope: scope(t, "demo"), Expires: h.now().Add(time.Hour)}
	h.subjects["late"] = token.Subject{Actor: "oidc:https://id.test#42", Scope: scope(t, "demo"), Expires: h.now()}
	for name := range h.subjects {
		v := asking(w, "grant_type", token.TokenExchange, "subject_token", name, "subject_token_type", token.TypeJWT)
		if _, err := h.Issue(t.Context(), w.Peer, form(t, v), nil); code(err) != token.InvalidGrant {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATokenForAServiceIsExchangedByThatServiceAlone(t *testing.T) {
	h := open(t, nil)
	web, back := h.web(t), h.workload(t, "/tenant/demo/project/shop/environment/dev/back", time.Hour)
	h.bind(t, web.id, time.Hour, []string{back.id})
	given := h.issue(t, web, "audience", back.id).Token
	ask := func(w workload) (token.Answer, error) {
		v := asking(w, "grant_type", token.TokenExchange, "subject_token", given, "subject_token_type", token.TypeAccessToken, "audience", orders)
		return h.Issue(t.Context(), w.Peer, form(t, v), nil)
	}
	a, err := ask(back)
	if err != nil {
		t.Fatal(err)
	}
	c := h.says(t, a.Token)
	if c.Subject != web.id || c.Act.Subject != back.id || len(c.Certificates) != 2 || c.Bound.Certificate != verify.Thumbprint(back.Leaf.Raw) {
		t.Errorf("%+v", c)
	}
	other := h.workload(t, "/tenant/demo/project/shop/environment/dev/other", time.Hour)
	if _, err := ask(other); code(err) != token.InvalidGrant {
		t.Errorf("somebody else exchanged it: %v", err)
	}
	h.End(web.Who.Serial) // the first certificate's end is the exchanged token's
	if h.active(t, back, a.Token) {
		t.Error("it outlives the certificate that it began with")
	}
	if _, err := ask(back); code(err) != token.InvalidGrant {
		t.Errorf("it is exchanged after its end: %v", err)
	}
}

func TestAnExchangedTokenEndsWithTheOneItCameFrom(t *testing.T) {
	h := open(t, nil)
	back, far := h.workload(t, "/tenant/demo/project/shop/environment/dev/back", time.Hour), h.workload(t, "/tenant/demo/project/shop/environment/dev/far", time.Hour)
	h.bind(t, back.id, time.Hour, []string{far.id})
	exchange := func(w workload, given, audience string) string {
		return h.issue(t, w, "grant_type", token.TokenExchange, "subject_token", given, "subject_token_type", token.TypeAccessToken, "audience", audience).Token
	}
	for name, end := range map[string]func(web workload, given string, binding int64){
		"it is revoked": func(web workload, given string, _ int64) {
			if err := h.Revoke(t.Context(), web.Peer, form(t, url.Values{"client_id": {web.id}, "token": {given}})); err != nil {
				t.Fatal(err)
			}
		},
		"its binding ends": func(_ workload, _ string, binding int64) {
			h.mu.Lock()
			h.ended = append(h.ended, binding)
			h.mu.Unlock()
			h.Moved()
		},
	} {
		web := h.workload(t, "/tenant/demo/project/shop/environment/dev/"+strings.ReplaceAll(name, " ", "-"), time.Hour)
		binding := h.bind(t, web.id, time.Hour, []string{back.id})
		given := h.issue(t, web, "audience", back.id).Token
		once := exchange(back, given, far.id)
		twice := exchange(far, once, orders)
		if !h.active(t, back, once) || !h.active(t, far, twice) {
			t.Fatal("it is over from the beginning")
		}
		end(web, given, binding)
		signed, _, err := h.List(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		l, err := verify.ParseList(t.Context(), signed, issuer, published{h})
		if err != nil {
			t.Fatal(err)
		}
		for times, text := range map[string]string{"once": once, "twice": twice} {
			if h.active(t, far, text) || !l.Has(h.says(t, text)) {
				t.Errorf("%s, and exchanged %s it is active; offline, %t", name, times, !l.Has(h.says(t, text)))
			}
		}
	}
}

// What somebody gave another tenant's service a token for is that service's to answer, not to pass on.
func TestATokenOfAnotherTenantIsNotExchanged(t *testing.T) {
	h := open(t, nil)
	client := h.workload(t, "/tenant/other/project/p/environment/dev/service", time.Hour)
	h.bind(t, client.id, time.Hour, []string{orders}, "admin")
	platform := h.workload(t, "/platform/admin", time.Hour)
	h.bind(t, platform.id, time.Hour, []string{client.id})
	web := h.web(t)
	h.bind(t, web.id, time.Hour, []string{client.id})
	for _, from := range []workload{web, platform} {
		given := h.issue(t, from, "audience", client.id).Token
		v := asking(client, "grant_type", token.TokenExchange, "subject_token", given, "subject_token_type", token.TypeAccessToken, "audience", orders)
		if a, err := h.Issue(t.Context(), client.Peer, form(t, v), nil); code(err) != token.InvalidGrant {
			t.Errorf("%s acts for %s for %d s: %v", client.id, from.id, a.Expires, err)
		}
	}
}

// An actor has at this service what is its own: who may do what here is no API's scope, and nobody's to hand on.
func TestAnExchangedTokenIsNoEvidenceHere(t *testing.T) {
	h := open(t, nil)
	web, back := h.web(t), h.workload(t, "/tenant/demo/project/shop/environment/dev/back", time.Hour)
	h.bind(t, web.id, time.Hour, []string{back.id, issuer})
	h.bind(t, back.id, time.Hour, []string{issuer})
	judge := func(w workload, text string) error {
		_, err := h.Judge(t.Context(), text, verify.Shown{Certificate: w.Leaf, Method: "POST", URL: issuer + "/v1/leases"})
		return err
	}
	if err := judge(web, h.issue(t, web, "audience", issuer).Token); err != nil {
		t.Errorf("its own: %v", err)
	}
	given := h.issue(t, web, "audience", back.id).Token
	exchanged := h.issue(t, back, "grant_type", token.TokenExchange, "subject_token", given, "subject_token_type", token.TypeAccessToken, "audience", issuer).Token
	if err := judge(back, exchanged); !errors.Is(err, verify.ErrToken) {
		t.Errorf("%s is taken for %s: %v", back.id, web.id, err)
	}
}

func scope(t *testing.T, s string) identity.Scope {
	t.Helper()
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func FuzzParseForm(f *testing.F) {
	for _, s := range []string{"", "a=b", "a=b&a=c", "audience=a&audience=b", "a=%", "a;b", "=&=&="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := token.ParseForm(b)
		if err != nil {
			if code(err) != token.InvalidRequest {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		for _, one := range v.All("audience", "resource") {
			if one == "" {
				t.Fatalf("%q holds an empty value", b)
			}
		}
		v.Get("grant_type")
	})
}
