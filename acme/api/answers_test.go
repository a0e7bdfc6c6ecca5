package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAFailedChallengeFailsItsAuthorizationAndOrder(t *testing.T) {
	s, r := newSite(t, options{validator: no{}})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test", "dns:b.demo.test")
	z := authorizations(o)[0]
	c := challengeOf(t, a.post(t, z, "").json(t), "http-01")
	a.post(t, c["url"].(string), "{}")
	got := a.wait(t, z)
	if got["status"] != "invalid" || len(got["challenges"].([]any)) != 1 {
		t.Fatalf("authorization %v", got)
	}
	failed := challengeOf(t, got, "http-01")
	if failed["status"] != "invalid" || failed["token"] == "" || failed["error"].(map[string]any)["type"] != "urn:ietf:params:acme:error:incorrectResponse" {
		t.Errorf("challenge %v", failed)
	}
	if o = a.post(t, url, "").json(t); o["status"] != "invalid" || o["error"] == nil {
		t.Errorf("order %v", o)
	}
	res, _ := a.finalize(t, o, "dns:a.demo.test", "dns:b.demo.test")
	refused(t, "finalizing it", res, 403, "orderNotReady")
	again := a.post(t, c["url"].(string), "{}").json(t)
	if again["status"] != "invalid" {
		t.Errorf("a failed challenge was set off again: %v", again)
	}
	var facts int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'authorization.validate' AND NOT allowed`).Scan(&facts))
	if facts != 1 {
		t.Errorf("%d facts", facts)
	}
}

func TestOrdersExpire(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	s.Advance(8 * 24 * time.Hour)
	a.nonce = ""
	if got := a.post(t, url, "").json(t); got["status"] != "invalid" {
		t.Errorf("order %v", got)
	}
	z := authorizations(o)[0]
	got := a.post(t, z, "").json(t)
	if got["status"] != "expired" {
		t.Errorf("authorization %v", got)
	}
	c := challengeOf(t, got, "http-01")
	if got := a.post(t, c["url"].(string), "{}").json(t); got["status"] != "pending" {
		t.Errorf("an expired authorization was validated: %v", got)
	}
	s.Advance(-8 * 24 * time.Hour)
}

func TestEveryAnswerCarriesWhatItMust(t *testing.T) {
	_, r := newSite(t, options{validator: yes{}})
	index := `<` + r.directory() + `>;rel="index"`
	for _, m := range []string{"HEAD", "GET"} {
		res := r.do(t, m, r.at("new-nonce"), "", nil)
		want := map[string]int{"HEAD": http.StatusOK, "GET": http.StatusNoContent}[m] // RFC 8555 §7.2
		if res.status != want || res.header.Get("Cache-Control") != "no-store" || res.header.Get("Replay-Nonce") == "" || res.header.Get("Link") != index {
			t.Errorf("%s new-nonce: %d %v", m, res.status, res.header)
		}
	}
	d := r.do(t, "GET", r.directory(), "", nil)
	for name, u := range d.json(t) {
		if u, ok := u.(string); ok && !strings.HasPrefix(u, r.base+"/acme/-/demo.shop.dev/") {
			t.Errorf("directory: %s is %s", name, u)
		}
	}
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	z := authorizations(o)[0]
	c := challengeOf(t, a.post(t, z, "").json(t), "http-01")
	for _, u := range []string{a.kid, url, z, c["url"].(string)} {
		res := a.post(t, u, "")
		if res.status != http.StatusOK || res.header.Get("Replay-Nonce") == "" || res.header.Values("Link")[0] != index || res.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", u, res.status, res.header)
		}
		if u == url && res.header.Get("Location") != url {
			t.Errorf("the order's Location is %q", res.header.Get("Location"))
		}
		if u == c["url"] && len(res.header.Values("Link")) != 2 {
			t.Errorf("the challenge's links %v", res.header.Values("Link"))
		}
	}
}
