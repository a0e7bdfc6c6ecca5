package api_test

import (
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
)

func TestAScopeOffersItsProfiles(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	meta := func() map[string]any {
		return r.do(t, "GET", r.directory(), "", nil).json(t)["meta"].(map[string]any)
	}
	if p := meta()["profiles"].(map[string]any); len(p) != 1 || p["server"] == "" {
		t.Errorf("profiles are %v", p)
	}
	a := r.register(t)
	for name, payload := range map[string]string{
		"one that is not offered": with(orderFor("dns:a.demo.test"), "profile", "database-server"),
		"one of workloads":        with(orderFor("dns:a.demo.test"), "profile", "workload"),
		"one that is not":         with(orderFor("dns:a.demo.test"), "profile", "nonsense"),
		"another spelling":        with(orderFor("dns:a.demo.test"), "profile", "Server"),
	} {
		refused(t, name, a.post(t, r.at("new-order"), payload), 400, "invalidProfile")
	}
	refused(t, "no string", a.post(t, r.at("new-order"), with(orderFor("dns:a.demo.test"), "profile", 7)), 400, "malformed")
	if _, o := a.order(t, "dns:a.demo.test"); o["profile"] != "server" {
		t.Errorf("the order's profile is %v", o["profile"])
	}

	// What is said above holds below, until a scope says otherwise.
	must(t, r.server.Set(t.Context(), boss, pkitest.Scope("demo"), acme.Setting{Profiles: []string{"database-server", "server"}}))
	if p := meta()["profiles"].(map[string]any); len(p) != 2 {
		t.Errorf("profiles are %v", p)
	}
	if _, o := a.order(t, "dns:a.demo.test"); o["profile"] != "database-server" {
		t.Errorf("the first profile is not the usual one: %v", o["profile"])
	}
	begun, late := a.order(t, "dns:c.demo.test")
	a.prove(t, late, "http-01")
	a.wait(t, begun)
	c := a.issued(t, with(orderFor("dns:b.demo.test"), "profile", "server"), "dns:b.demo.test")
	d := a.issued(t, with(orderFor("dns:b.demo.test"), "profile", "database-server"), "dns:b.demo.test")
	if string(c.AuthorityKeyId) == string(d.AuthorityKeyId) || c.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Error("both profiles come from one authority")
	}
	must(t, r.server.Set(t.Context(), boss, pkitest.Demo, acme.Setting{Profiles: []string{"server"}}))
	res, _ := a.finalize(t, late, "dns:c.demo.test")
	refused(t, "one offered no more", res, 400, "invalidProfile")
	refused(t, "one offered above", a.post(t, r.at("new-order"), with(orderFor("dns:a.demo.test"), "profile", "database-server")), 400, "invalidProfile")

	for name, v := range map[string]acme.Setting{
		"a profile of identities": {Profiles: []string{"workload"}}, "a profile that is not": {Profiles: []string{"server", "nonsense"}},
		"a database's client": {Profiles: []string{"database-client"}},
	} {
		if _, is := asRefusal(r.server.Set(t.Context(), boss, pkitest.Demo, v)); !is {
			t.Errorf("%s was set", name)
		}
	}
	if _, is := asRefusal(r.server.Set(t.Context(), pkitest.Workload(pkitest.Demo, "w"), pkitest.Demo, acme.Setting{})); !is {
		t.Error("a tenant set its own")
	}
	if err := r.server.Set(t.Context(), boss, pkitest.Scope("nobody/knows"), acme.Setting{}); err == nil {
		t.Error("set for a scope that is not")
	}
	if n := s.facts(t, "acme.change", "", true); n != 0 { // its subject is NULL: the scope is in its own column
		t.Errorf("%d", n)
	}
	var facts int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'acme.change'`).Scan(&facts))
	if facts != 2 {
		t.Errorf("%d facts of 2 changes", facts)
	}
}

func TestAcmezOrdersAProfile(t *testing.T) {
	s, r := newSite(t, options{})
	h := s.holder(t)
	must(t, r.server.Set(t.Context(), boss, pkitest.Demo, acme.Setting{Profiles: []string{"server", "database-server"}}))
	client := &acmez.Client{Client: &acmezacme.Client{Directory: r.directory(), HTTPClient: r.client}, ChallengeSolvers: map[string]acmez.Solver{"http-01": solver{h}}}
	mine, err := client.NewAccount(t.Context(), acmezacme.Account{PrivateKey: jwstest.NewKey(t), TermsOfServiceAgreed: true})
	must(t, err)
	csr, err := acmez.NewCSR(pkitest.Key(t), []string{"a.demo.test"})
	must(t, err)
	for profile, good := range map[string]bool{"database-server": true, "nonsense": false} {
		params, err := acmez.OrderParametersFromCSR(mine, csr)
		must(t, err)
		params.Profile = profile
		if _, err := client.ObtainCertificate(t.Context(), params); (err == nil) != good {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

func TestChangedTermsMustBeAgreedToAgain(t *testing.T) {
	terms := func(url string) options {
		return options{validator: yes{}, config: func(c *acme.Config) { c.Terms = url }}
	}
	s, before := newSite(t, terms("https://demo.test/terms/1"))
	unasked := &account{replica: before, key: jwstest.NewKey(t)}
	refused(t, "no agreement", unasked.post(t, before.at("new-account"), `{}`), 403, "userActionRequired")
	refused(t, "disagreement", unasked.post(t, before.at("new-account"), `{"termsOfServiceAgreed":false}`), 403, "userActionRequired")
	a := before.register(t)
	a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test")

	// The terms changed: two replicas have the new ones.
	after, third := s.replica(t, terms("https://demo.test/terms/2")), s.replica(t, terms("https://demo.test/terms/2"))
	id := uidOf(t, a.kid).String()
	now := &account{replica: after, key: a.key, kid: after.at("acct/" + id)}
	elsewhere := &account{replica: third, key: a.key, kid: third.at("acct/" + id)}
	for _, who := range []*account{now, elsewhere} {
		res := who.post(t, who.at("new-order"), orderFor("dns:a.demo.test"))
		refused(t, "changed terms", res, 403, "userActionRequired")
		// RFC 8555 §7.3.3: the Link field and the instance lead to them.
		if links := strings.Join(res.header.Values("Link"), ","); !strings.Contains(links, `<https://demo.test/terms/2>;rel="terms-of-service"`) {
			t.Errorf("Link is %q", links)
		}
		if res.json(t)["instance"] != "https://demo.test/terms/2" {
			t.Errorf("instance is %v", res.json(t)["instance"])
		}
	}
	// Updating something else agrees to nothing.
	if res := now.post(t, now.kid, `{"contact":["mailto:b@demo.test"]}`); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	refused(t, "an update of contacts", now.post(t, now.at("new-order"), orderFor("dns:a.demo.test")), 403, "userActionRequired")
	if res := now.post(t, now.kid, `{"termsOfServiceAgreed":true}`); res.status != http.StatusOK || res.json(t)["termsOfServiceAgreed"] != true {
		t.Fatalf("%d %s", res.status, res.body)
	}
	now.order(t, "dns:a.demo.test")
	elsewhere.order(t, "dns:a.demo.test") // which remembers the account as it was
	if n := s.facts(t, "account.change", id, true); n != 2 {
		t.Errorf("%d facts of 2 changes", n)
	}
}
