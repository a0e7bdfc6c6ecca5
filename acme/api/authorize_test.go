package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAnAuthorizationIsGivenUp(t *testing.T) {
	s, one := newSite(t, options{validator: yes{}})
	two := s.replica(t, options{validator: yes{}})
	a := one.register(t)
	elsewhere := &account{replica: two, key: a.key, kid: two.at("acct/" + uidOf(t, a.kid).String())}
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	if got := a.wait(t, url); got["status"] != "ready" {
		t.Fatalf("order %v", got)
	}
	z := authorizations(o)[0]
	// Given up at one replica, it is no good at the other, which remembers that it was proved.
	res := elsewhere.post(t, two.at("authz/"+uidOf(t, z).String()), `{"status":"deactivated"}`)
	if res.status != http.StatusOK || res.json(t)["status"] != "deactivated" {
		t.Fatalf("deactivating: %d %s", res.status, res.body)
	}
	res, _ = a.finalize(t, o, "dns:a.demo.test")
	refused(t, "finalizing on it", res, 403, "orderNotReady")
	if got := a.post(t, url, "").json(t); got["status"] != "invalid" {
		t.Errorf("its order %v", got)
	}
	if got := a.post(t, z, "").json(t); got["status"] != "deactivated" {
		t.Errorf("authorization %v", got)
	}
	if got := a.post(t, z, `{"status":"deactivated"}`).json(t); got["status"] != "deactivated" {
		t.Errorf("again: %v", got)
	}
	if _, fresh := a.order(t, "dns:a.demo.test"); fresh["status"] != "pending" || authorizations(fresh)[0] == z {
		t.Errorf("a new order rests on it: %v", fresh)
	}
	// One that was never proved may be given up as well, and then not be proved.
	_, o = a.order(t, "dns:b.demo.test")
	z = authorizations(o)[0]
	c := challengeOf(t, a.post(t, z, "").json(t), "http-01")
	a.post(t, z, `{"status":"deactivated"}`)
	a.post(t, c["url"].(string), "{}")
	if got := a.post(t, z, "").json(t); got["status"] != "deactivated" {
		t.Errorf("proved after all: %v", got)
	}
	other := one.register(t)
	refused(t, "another's", other.post(t, z, `{"status":"deactivated"}`), 404, "malformed")
	for name, payload := range map[string]string{
		"to valid": `{"status":"valid"}`, "to nothing": `{}`, "to revoked": `{"status":"revoked"}`, "a list": `[]`, "a number": `{"status":1}`,
	} {
		refused(t, name, a.post(t, z, payload), 400, "malformed")
	}
	_, failing := newSite(t, options{validator: no{}})
	b := failing.register(t)
	_, o = b.order(t, "dns:a.demo.test")
	b.prove(t, o, "http-01")
	b.wait(t, authorizations(o)[0])
	refused(t, "an invalid one", b.post(t, authorizations(o)[0], `{"status":"deactivated"}`), 400, "malformed")
}

func TestAProvedNameNeedsNoSecondProof(t *testing.T) {
	s, one := newSite(t, options{validator: yes{}})
	two := s.replica(t, options{validator: yes{}})
	a, b := one.register(t), one.register(t)
	elsewhere := &account{replica: two, key: a.key, kid: two.at("acct/" + uidOf(t, a.kid).String())}
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	proved := uidOf(t, authorizations(o)[0])
	for name, who := range map[string]*account{"here": a, "at another replica": elsewhere} {
		_, again := who.order(t, "dns:a.demo.test")
		if again["status"] != "ready" || uidOf(t, authorizations(again)[0]) != proved {
			t.Errorf("%s: %v", name, again)
			continue
		}
		res, _ := who.finalize(t, again, "dns:a.demo.test")
		if res.status != http.StatusOK || res.json(t)["status"] != "valid" {
			t.Errorf("%s: %d %s", name, res.status, res.body)
		}
	}
	_, half := a.order(t, "dns:a.demo.test", "dns:b.demo.test")
	if half["status"] != "pending" || uidOf(t, authorizations(half)[0]) != proved {
		t.Errorf("with another name: %v", half)
	}
	// Never another account's (as a public CA had it), nor for another name, nor a wildcard.
	for name, c := range map[string]struct {
		who  *account
		want string
	}{"another account": {b, "dns:a.demo.test"}, "another name": {a, "dns:b.demo.test"}, "a wildcard": {a, "dns:*.demo.test"}, "an address": {a, "ip:127.0.0.1"}} {
		if _, o := c.who.order(t, c.want); o["status"] != "pending" || uidOf(t, authorizations(o)[0]) == proved {
			t.Errorf("%s rests on it: %v", name, o)
		}
	}
	// A wildcard proved by its zone does not prove the host of that name.
	url, o = a.order(t, "dns:*.demo.test")
	a.prove(t, o, "dns-01")
	a.wait(t, url)
	for name, want := range map[string]string{"dns:*.demo.test": "ready", "dns:c.demo.test": "pending"} {
		if _, o := a.order(t, name); o["status"] != want {
			t.Errorf("%s after the wildcard: %v", name, o)
		}
	}
	// The order ends with the authorization it rests on; near its end, nothing rests on it any more.
	s.Advance(6*24*time.Hour + 12*time.Hour)
	a.nonce = ""
	_, late := a.order(t, "dns:a.demo.test")
	ends, err := time.Parse(time.RFC3339, late["expires"].(string))
	if err != nil || late["status"] != "ready" || ends.After(s.Now().Add(13*time.Hour)) {
		t.Errorf("late order %v", late)
	}
	s.Advance(11*time.Hour + 30*time.Minute)
	a.nonce = ""
	if _, o := a.order(t, "dns:a.demo.test"); o["status"] != "pending" {
		t.Errorf("an order rests on what is about to expire: %v", o)
	}
	s.Advance(-7 * 24 * time.Hour)
}

func TestANameIsAuthorizedBeforeItsOrder(t *testing.T) {
	_, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	u := r.at("new-authz")
	res := a.post(t, u, `{"identifier":{"type":"dns","value":"a.demo.test"}}`)
	z := res.header.Get("Location")
	if res.status != http.StatusCreated || !strings.HasPrefix(z, r.at("authz/")) || res.json(t)["status"] != "pending" {
		t.Fatalf("new-authz: %d %v %s", res.status, res.header, res.body)
	}
	c := challengeOf(t, res.json(t), "http-01")
	a.post(t, c["url"].(string), "{}")
	if got := a.wait(t, z); got["status"] != "valid" {
		t.Fatalf("authorization %v", got)
	}
	if _, o := a.order(t, "dns:a.demo.test"); o["status"] != "ready" || authorizations(o)[0] != z {
		t.Errorf("its order %v", o)
	}
	if res := a.post(t, u, `{"identifier":{"type":"ip","value":"127.0.0.1"}}`); res.status != http.StatusCreated {
		t.Errorf("an address: %d %s", res.status, res.body)
	}
}

func TestADomainProvesTheNamesBelowIt(t *testing.T) {
	_, r := newSite(t, options{validator: yes{}})
	if d := r.do(t, "GET", r.directory(), "", nil).json(t); d["meta"].(map[string]any)["subdomainAuthAllowed"] != true {
		t.Errorf("directory %v", d)
	}
	a := r.register(t)
	// RFC 9444 §4.2: the domain above is proved before any order, by its zone alone.
	res := a.post(t, r.at("new-authz"), `{"identifier":{"type":"dns","value":"demo.test"},"subdomainAuthAllowed":true}`)
	z := res.json(t)
	if res.status != http.StatusCreated || z["subdomainAuthAllowed"] != true || z["identifier"].(map[string]any)["value"] != "demo.test" {
		t.Fatalf("new-authz: %d %s", res.status, res.body)
	}
	for _, c := range z["challenges"].([]any) {
		if kind := c.(map[string]any)["type"].(string); !strings.HasPrefix(kind, "dns-") {
			t.Errorf("a domain with all below it is proved by %s", kind)
		}
	}
	c := challengeOf(t, z, "dns-01")["url"].(string)
	refused(t, "by http-01", a.post(t, strings.Replace(c, "dns-01", "http-01", 1), "{}"), 404, "malformed")
	a.post(t, c, "{}")
	if got := a.wait(t, res.header.Get("Location")); got["status"] != "valid" {
		t.Fatalf("authorization %v", got)
	}
	_, o := a.order(t, "dns:a.demo.test", "dns:b.demo.test")
	if o["status"] != "ready" || len(authorizations(o)) != 1 || authorizations(o)[0] != res.header.Get("Location") {
		t.Errorf("an order below: %v", o)
	}
	if res, _ := a.finalize(t, o, "dns:a.demo.test", "dns:b.demo.test"); res.json(t)["status"] != "valid" {
		t.Errorf("finalized %s", res.body)
	}
	if _, o := a.order(t, "dns:*.demo.test"); o["status"] != "pending" {
		t.Errorf("a wildcard: %v", o)
	}
	// RFC 9444 §4.3: or in the order itself; two names share what is to be proved.
	b := r.register(t)
	made := b.post(t, r.at("new-order"), `{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"demo.test"},`+
		`{"type":"dns","value":"b.demo.test","ancestorDomain":"demo.test"},{"type":"dns","value":"c.demo.test"}]}`).json(t)
	if made["status"] != "pending" || len(authorizations(made)) != 2 {
		t.Fatalf("order %v", made)
	}
	got := b.post(t, authorizations(made)[0], "").json(t)
	if got["subdomainAuthAllowed"] != true || got["identifier"].(map[string]any)["value"] != "demo.test" {
		t.Errorf("authorization %v", got)
	}
	if got := b.post(t, authorizations(made)[1], "").json(t); got["subdomainAuthAllowed"] != nil {
		t.Errorf("a plain authorization %v", got)
	}
}

func (w *world) preauthorizations(t *testing.T) {
	for name, c := range map[string]struct{ payload, kind string }{
		"empty":                    {``, "malformed"},
		"nothing":                  {`{}`, "unsupportedIdentifier"},
		"a list":                   {`{"identifier":[]}`, "malformed"},
		"identifiers":              {`{"identifiers":[{"type":"dns","value":"a.demo.test"}]}`, "unsupportedIdentifier"},
		"a wildcard":               {`{"identifier":{"type":"dns","value":"*.demo.test"}}`, "rejectedIdentifier"}, // RFC 8555 §7.4.1
		"another's name":           {`{"identifier":{"type":"dns","value":"evil.test"}}`, "rejectedIdentifier"},
		"upper case":               {`{"identifier":{"type":"dns","value":"A.demo.test"}}`, "rejectedIdentifier"},
		"an e-mail":                {`{"identifier":{"type":"email","value":"a@demo.test"}}`, "unsupportedIdentifier"},
		"subdomains of an address": {`{"identifier":{"type":"ip","value":"127.0.0.1"},"subdomainAuthAllowed":true}`, "rejectedIdentifier"},
		"subdomains of another's":  {`{"identifier":{"type":"dns","value":"evil.test"},"subdomainAuthAllowed":true}`, "rejectedIdentifier"},
		"subdomains of a wildcard": {`{"identifier":{"type":"dns","value":"*.demo.test"},"subdomainAuthAllowed":true}`, "rejectedIdentifier"},
		"subdomains of the top":    {`{"identifier":{"type":"dns","value":"test"},"subdomainAuthAllowed":true}`, "rejectedIdentifier"},
		"subdomains by a word":     {`{"identifier":{"type":"dns","value":"demo.test"},"subdomainAuthAllowed":"yes"}`, "malformed"},
		"the domain by itself":     {`{"identifier":{"type":"dns","value":"demo.test"}}`, "rejectedIdentifier"}, // dev may have *.demo.test alone
	} {
		refused(t, name, w.one.post(t, w.r.at("new-authz"), c.payload), 400, c.kind)
	}
}
