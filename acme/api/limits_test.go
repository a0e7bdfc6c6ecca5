package api_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// of returns the rate of n in a time that no test takes.
func of(n int) limit.Rate { return limit.Rate{Count: n, Per: 1000 * time.Hour} }

// overLimit wants what RFC 8555 §6.6 says of an answer about limit name.
func overLimit(t *testing.T, r *replica, what string, res reply, name limit.Name) {
	t.Helper()
	refused(t, what, res, http.StatusTooManyRequests, "rateLimited")
	if got := res.json(t)["limit"]; got != string(name) || !strings.Contains(string(res.body), string(name)) {
		t.Errorf("%s: it was limit %v, want %s", what, got, name)
	}
	if wait, err := strconv.Atoi(res.header.Get("Retry-After")); err != nil || wait < 1 {
		t.Errorf("%s: Retry-After is %q", what, res.header.Get("Retry-After"))
	}
	if links := strings.Join(res.header.Values("Link"), ","); !strings.Contains(links, "<"+r.at("limits")+`>;rel="help"`) || !strings.Contains(links, `rel="index"`) {
		t.Errorf("%s: Link is %q", what, links)
	}
	if res.header.Get("Replay-Nonce") == "" {
		t.Errorf("%s: no fresh nonce", what)
	}
}

func TestEachLimitIsToldByItsName(t *testing.T) {
	t.Run("orders", func(t *testing.T) {
		s, r := newSite(t, options{validator: yes{}, rates: map[limit.Name]limit.Rate{
			acme.OrdersPerAccount: of(5), acme.OrdersPerScope: of(8), acme.OrdersPerName: of(2),
		}})
		a, b := r.register(t), r.register(t)
		first := a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test")
		a.order(t, "dns:a.demo.test")
		overLimit(t, r, "a name", a.post(t, r.at("new-order"), orderFor("dns:a.demo.test")), acme.OrdersPerName)
		b.order(t, "dns:b.demo.test", "dns:a.demo.test") // who proved nothing takes nothing from others
		// What replaces a certificate is expected.
		if res := a.post(t, r.at("new-order"), with(orderFor("dns:a.demo.test"), "replaces", certID(first))); res.status != http.StatusCreated {
			t.Errorf("a renewal: %d %s", res.status, res.body)
		}
		a.order(t, "dns:c.demo.test")
		a.order(t, "dns:d.demo.test")
		overLimit(t, r, "an account", a.post(t, r.at("new-order"), orderFor("dns:e.demo.test")), acme.OrdersPerAccount)
		b.order(t, "dns:g.demo.test")
		b.order(t, "dns:h.demo.test")
		overLimit(t, r, "a scope", b.post(t, r.at("new-order"), orderFor("dns:i.demo.test")), acme.OrdersPerScope)
		if n := s.facts(t, "limit.exceed", "", false); n != 3 {
			t.Errorf("%d facts of 3 refusals", n)
		}
		// What was ordered goes on: reading and finalizing are not counted.
		if res := a.post(t, a.kid, ""); res.status != http.StatusOK {
			t.Errorf("reading: %d", res.status)
		}
	})
	t.Run("finalized orders", func(t *testing.T) {
		_, r := newSite(t, options{validator: yes{}, rates: map[limit.Name]limit.Rate{acme.OrdersPerName: of(1)}})
		r.register(t).issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test")
		b := r.register(t)
		url, o := b.order(t, "dns:a.demo.test")
		b.prove(t, o, "http-01")
		res, _ := b.finalize(t, b.wait(t, url), "dns:a.demo.test")
		overLimit(t, r, "a name that was proved", res, acme.OrdersPerName)
	})
	t.Run("authorizations", func(t *testing.T) {
		_, r := newSite(t, options{idle: true, rates: map[limit.Name]limit.Rate{acme.ClaimsPerAccount: of(1)}})
		a := r.register(t)
		const claim = `{"identifier":{"type":"dns","value":"a.demo.test"}}`
		if res := a.post(t, r.at("new-authz"), claim); res.status != http.StatusCreated {
			t.Fatalf("new-authz: %d %s", res.status, res.body)
		}
		overLimit(t, r, "an account", a.post(t, r.at("new-authz"), claim), acme.ClaimsPerAccount)
		a.order(t, "dns:a.demo.test")
	})
	t.Run("accounts", func(t *testing.T) {
		_, r := newSite(t, options{idle: true, rates: map[limit.Name]limit.Rate{acme.AccountsPerAddress: of(2)}})
		old := r.register(t)
		r.register(t)
		third := &account{replica: r, key: old.key}
		if res := third.post(t, r.at("new-account"), `{}`); res.status != http.StatusOK { // finding one makes none
			t.Errorf("finding an account: %d %s", res.status, res.body)
		}
		third = &account{replica: r, key: pkitest.Key(t)}
		overLimit(t, r, "an address", third.post(t, r.at("new-account"), `{}`), acme.AccountsPerAddress)
	})
	t.Run("changes", func(t *testing.T) {
		_, r := newSite(t, options{idle: true, rates: map[limit.Name]limit.Rate{acme.ChangesPerAccount: of(1)}})
		a := r.register(t)
		if res := a.post(t, a.kid, `{"contact":["mailto:b@demo.test"]}`); res.status != http.StatusOK {
			t.Fatalf("a change: %d %s", res.status, res.body)
		}
		overLimit(t, r, "another", a.post(t, a.kid, `{"contact":["mailto:c@demo.test"]}`), acme.ChangesPerAccount)
		if res := a.post(t, a.kid, `{"status":"deactivated"}`); res.status != http.StatusOK {
			t.Errorf("deactivating: %d %s", res.status, res.body)
		}
	})
	t.Run("failures", func(t *testing.T) {
		_, r := newSite(t, options{validator: no{}, rates: map[limit.Name]limit.Rate{acme.FailuresPerName: of(2)}})
		a := r.register(t)
		_, early := a.order(t, "dns:a.demo.test")
		answer := challengeOf(t, a.post(t, authorizations(early)[0], "").json(t), "http-01")["url"].(string)
		for range 2 {
			url, o := a.order(t, "dns:a.demo.test")
			a.prove(t, o, "http-01")
			if o := a.wait(t, url); o["status"] != "invalid" {
				t.Fatalf("order %v", o)
			}
		}
		overLimit(t, r, "failed validations", a.post(t, r.at("new-order"), orderFor("dns:b.demo.test", "dns:a.demo.test")), acme.FailuresPerName)
		overLimit(t, r, "an answer to an order made before", a.post(t, answer, "{}"), acme.FailuresPerName)
		a.order(t, "dns:b.demo.test")
		r.register(t).order(t, "dns:a.demo.test") // another account's
	})
}

func TestALimitHoldsForAllReplicasTogether(t *testing.T) {
	const most = 60
	rates := map[limit.Name]limit.Rate{acme.OrdersPerAccount: of(most)}
	s, one := newSite(t, options{idle: true, rates: rates})
	all := []*replica{one, s.replica(t, options{idle: true, rates: rates}), s.replica(t, options{idle: true, rates: rates})}
	a := one.register(t)
	acct, err := one.store.Account(t.Context(), uidOf(t, a.kid))
	must(t, err)
	var made, refusals atomic.Int32
	together(12, func(i int) {
		for n := range 10 {
			name := "n" + strconv.Itoa(i) + "-" + strconv.Itoa(n) + ".demo.test"
			_, err := all[i%3].server.NewOrder(t.Context(), acme.Holder{Account: acct}, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: name}}})
			switch p, ok := asProblem(err); {
			case err == nil:
				made.Add(1)
			case ok && p.Type == acme.RateLimited && p.Limit == acme.OrdersPerAccount:
				refusals.Add(1)
			default:
				t.Error(err)
			}
		}
	})
	// A replica may keep a few uses it took in advance: a twentieth at most.
	if n := made.Load(); n > most || n < most-3*most/20 || n+refusals.Load() != 120 {
		t.Errorf("%d orders were made and %d refused, of 120, want %d and no more", n, refusals.Load(), most)
	}
	var rows int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_order`).Scan(&rows))
	if rows != int(made.Load()) {
		t.Errorf("%d orders are recorded, %d were made", rows, made.Load())
	}
}

func TestAScopeMayHaveItsOwnRate(t *testing.T) {
	rates := map[limit.Name]limit.Rate{acme.OrdersPerAccount: of(1)}
	s, r := newSite(t, options{idle: true, rates: rates})
	more := of(3)
	must(t, s.counter(t, rates).Set(t.Context(), boss, acme.OrdersPerAccount, pkitest.Scope("demo"), &more))
	a := r.register(t)
	for range 3 {
		a.order(t, "dns:a.demo.test")
	}
	overLimit(t, r, "its own", a.post(t, r.at("new-order"), orderFor("dns:a.demo.test")), acme.OrdersPerAccount)

	page := r.do(t, "GET", r.at("limits"), "", nil)
	list, _ := page.json(t)["limits"].([]any)
	found := false
	for _, l := range list {
		l := l.(map[string]any)
		if l["name"] == string(acme.OrdersPerAccount) {
			found = l["rate"] == "3/1000h" && l["about"] != ""
		}
	}
	if page.status != http.StatusOK || len(list) != len(acme.LimitsDefined()) || !found {
		t.Errorf("%d %s", page.status, page.body)
	}
	refused(t, "no scope", r.do(t, "GET", r.base+"/acme/-/nobody/limits", "", nil), 404, "malformed")
}

func TestRefusalsOfOneWhoGoesOnAskingAreWrittenDownAFewTimes(t *testing.T) {
	s, r := newSite(t, options{idle: true, rates: map[limit.Name]limit.Rate{acme.OrdersPerAccount: of(1)}})
	a, b := r.register(t), r.register(t)
	a.order(t, "dns:a.demo.test")
	for range 15 {
		overLimit(t, r, "an order", a.post(t, r.at("new-order"), orderFor("dns:a.demo.test")), acme.OrdersPerAccount)
		refused(t, "a name", b.post(t, r.at("new-order"), orderFor("dns:a.other.test")), http.StatusBadRequest, "rejectedIdentifier")
	}
	if n := s.facts(t, "limit.exceed", "", false); n != 10 {
		t.Errorf("%d facts of 15 limited requests in a minute", n)
	}
	if n := s.facts(t, "order.create", "dns:a.other.test", false); n != 10 {
		t.Errorf("%d facts of 15 refused names in a minute", n)
	}
}
