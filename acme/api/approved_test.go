package api_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// below is an order for names of which each is to be proved by the domain demo.test above it (RFC 9444 §4.3).
func below(names ...string) string {
	payload := `{"identifiers":[`
	for i, n := range names {
		if i > 0 {
			payload += ","
		}
		payload += `{"type":"dns","value":"` + n + `","ancestorDomain":"demo.test"}`
	}
	return payload + `]}`
}

func TestAnApprovedNameProvesNoOtherBelowADomainAboveIt(t *testing.T) {
	s, r := newSite(t, options{validator: no{}})
	key, secret := r.key(t, acme.Binding{Approved: []string{"dns:a.demo.test"}})
	a := r.member(t, key.ID, secret)
	for _, names := range [][]string{{"a.demo.test", "b.demo.test"}, {"b.demo.test", "a.demo.test"}} {
		o := a.post(t, r.at("new-order"), below(names...)).json(t)
		if o["status"] != "pending" || len(authorizations(o)) != 2 {
			t.Errorf("an order for %v, of which one is approved: %v", names, o)
		}
		for _, u := range authorizations(o) {
			z := a.post(t, u, "").json(t)
			name := z["identifier"].(map[string]any)["value"]
			if approved := name == "a.demo.test"; approved != (z["status"] == "valid") || approved == (z["subdomainAuthAllowed"] == true) {
				t.Errorf("authorization %v", z)
			}
		}
		res, _ := a.finalize(t, o, "dns:a.demo.test", "dns:b.demo.test")
		refused(t, "finalizing with a name that nobody proved", res, http.StatusForbidden, "orderNotReady")
	}
	if n := s.facts(t, "authorization.approve", "dns:demo.test", true); n != 0 {
		t.Errorf("%d times the domain above was approved", n)
	}
	// The approved name by itself goes on as before, and asks for no proof of the domain above.
	if o := a.post(t, r.at("new-order"), below("a.demo.test")).json(t); o["status"] != "ready" {
		t.Errorf("an order for the approved name: %v", o)
	}
}

func TestAnOrderAndWhatItRestsOnAreOfOneSecond(t *testing.T) {
	var ticks atomic.Int64 // every look at the clock finds it another second on
	_, r := newSite(t, options{idle: true, config: func(c *acme.Config) {
		now := c.Now
		c.Now = func() time.Time { return now().Add(time.Duration(ticks.Add(1)) * time.Second) }
	}})
	a := r.register(t)
	res := a.post(t, r.at("new-order"), below("a.demo.test", "b.demo.test"))
	url := res.header.Get("Location")
	if z := authorizations(res.json(t)); len(z) != 1 || !uidOf(t, z[0]).Time().Equal(uidOf(t, url).Time()) {
		t.Errorf("an order of %s rests on %v", uidOf(t, url).Time(), z)
	}
	if got := a.post(t, url, ""); got.status != http.StatusOK {
		t.Errorf("reading it: %d %s", got.status, got.body)
	}
}

func TestAnOrderApprovedByAKeyEndsWithIt(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}, issuer: func(i acme.Issuer) acme.Issuer { return dying{i} }})
	key, secret := r.key(t, acme.Binding{Approved: []string{"dns:a.demo.test"}})
	a := r.member(t, key.ID, secret)
	_, kept := a.order(t, "dns:a.demo.test")   // for later
	url, late := a.order(t, "dns:a.demo.test") // finalized, and not issued
	proof, proved := a.order(t, "dns:b.demo.test")
	if res, _ := a.finalize(t, late, "dns:a.demo.test"); res.json(t)["status"] != "processing" {
		t.Fatalf("finalize: %d %s", res.status, res.body)
	}
	a.prove(t, proved, "http-01")
	a.wait(t, proof)
	_, err := r.server.RevokeBinding(t.Context(), boss, pkitest.Demo, key.ID)
	must(t, err)
	res, _ := a.finalize(t, kept, "dns:a.demo.test")
	refused(t, "an order kept until after the revocation", res, http.StatusForbidden, "unauthorized")
	s.Advance(time.Minute)
	a.nonce = ""
	must(t, s.replica(t, options{idle: true}).server.Recover(t.Context()))
	if o := a.post(t, url, "").json(t); o["status"] != "invalid" {
		t.Errorf("an order finalized before the revocation: %v", o)
	}
	if res, _ := a.finalize(t, proved, "dns:b.demo.test"); res.json(t)["status"] != "processing" { // no key spared it its proof
		t.Errorf("an order that was proved: %d %s", res.status, res.body)
	}
}
