package api_test

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// renewing is an order for a.demo.test that renews itself, which differs from a good one as edit says.
func renewing(s *site, edit func(auto, order map[string]any)) string {
	auto := map[string]any{"end-date": s.Now().Add(10 * time.Hour).UTC().Format(time.RFC3339), "lifetime": 7200, "lifetime-adjust": 1800}
	order := map[string]any{"identifiers": []any{map[string]any{"type": "dns", "value": "a.demo.test"}}, "auto-renewal": auto}
	if edit != nil {
		edit(auto, order)
	}
	b, err := json.Marshal(order)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestRenewingOrdersAreRefused(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	a := r.register(t)
	at := func(d time.Duration) string { return s.Now().Add(d).UTC().Format(time.RFC3339) }
	meta := r.do(t, "GET", r.directory(), "", nil).json(t)["meta"].(map[string]any)["auto-renewal"].(map[string]any)
	if meta["min-lifetime"] != 3600.0 || meta["max-duration"] != 365*86400.0 || meta["allow-certificate-get"] != true {
		t.Errorf("meta says %v", meta)
	}
	for name, edit := range map[string]func(auto, order map[string]any){
		"no end":                     func(auto, _ map[string]any) { delete(auto, "end-date") },
		"an end that is no date":     func(auto, _ map[string]any) { auto["end-date"] = "tomorrow" },
		"an end in the past":         func(auto, _ map[string]any) { auto["end-date"] = at(-time.Hour) },
		"an end before one lifetime": func(auto, _ map[string]any) { auto["end-date"] = at(time.Hour) },
		"an end years away":          func(auto, _ map[string]any) { auto["end-date"] = at(2 * 365 * 24 * time.Hour) },
		"a start in the past":        func(auto, _ map[string]any) { auto["start-date"] = at(-time.Hour) },
		"a start far away": func(auto, _ map[string]any) {
			auto["start-date"], auto["end-date"] = at(30*24*time.Hour), at(40*24*time.Hour)
		},
		"a start after the end":  func(auto, _ map[string]any) { auto["start-date"] = at(20 * time.Hour) },
		"no lifetime":            func(auto, _ map[string]any) { delete(auto, "lifetime") },
		"a lifetime below zero":  func(auto, _ map[string]any) { auto["lifetime"] = -7200 },
		"a lifetime of a minute": func(auto, _ map[string]any) { auto["lifetime"] = 60 },
		"a lifetime of years":    func(auto, _ map[string]any) { auto["lifetime"], auto["end-date"] = 1<<62, at(300*24*time.Hour) },
		"a lifetime of text":     func(auto, _ map[string]any) { auto["lifetime"] = "7200" },
		"more than the profile has": func(auto, _ map[string]any) {
			auto["lifetime"], auto["end-date"] = 90*86400, at(300*24*time.Hour)
		},
		"an adjustment below zero":   func(auto, _ map[string]any) { auto["lifetime-adjust"] = -1 },
		"an adjustment of ages":      func(auto, _ map[string]any) { auto["lifetime-adjust"] = 1 << 62 },
		"a date of the order's":      func(_, order map[string]any) { order["notAfter"] = at(5 * time.Hour) },
		"another date of the orders": func(_, order map[string]any) { order["notBefore"] = at(time.Hour) },
		"no object":                  func(_, order map[string]any) { order["auto-renewal"] = true },
	} {
		refused(t, name, a.post(t, r.at("new-order"), renewing(s, edit)), 400, "malformed")
	}
	for name, url := range map[string]string{"an order that does not renew itself": first(a.order(t, "dns:b.demo.test")), "one that is not finalized": a.post(t, r.at("new-order"), renewing(s, nil)).header.Get("Location")} {
		refused(t, "canceling "+name, a.post(t, url, `{"status":"canceled"}`), 400, "autoRenewalCancellationInvalid")
		refused(t, "changing "+name, a.post(t, url, `{"status":"valid"}`), 400, "malformed")
		refused(t, "fetching "+name, a.post(t, r.at("star-cert/"+uidOf(t, url).String()), ""), 404, "malformed")
	}
}

func first(url string, _ map[string]any) string { return url }

func TestAnOrderRenewsItselfUntilItIsCanceled(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	second := s.replica(t, options{idle: true})
	a, b := r.register(t), r.register(t)
	begun := func(allow bool) (url string, o map[string]any) {
		t.Helper()
		res := a.post(t, r.at("new-order"), renewing(s, func(auto, _ map[string]any) { auto["allow-certificate-get"] = allow }))
		if res.status != http.StatusCreated {
			t.Fatalf("new-order: %d %s", res.status, res.body)
		}
		url, o = res.header.Get("Location"), res.json(t)
		a.prove(t, o, "http-01")
		if o["status"] == "pending" {
			a.wait(t, url)
		}
		if res, _ := a.finalize(t, o, "dns:a.demo.test"); res.status != http.StatusOK {
			t.Fatalf("finalize: %d %s", res.status, res.body)
		}
		return url, a.post(t, url, "").json(t)
	}
	url, o := begun(false)
	star, _ := o["star-certificate"].(string)
	if auto, _ := o["auto-renewal"].(map[string]any); o["status"] != "valid" || star == "" || o["certificate"] != nil || auto["lifetime"] != 7200.0 {
		t.Fatalf("order %v", o)
	}
	get := func() (*x509.Certificate, http.Header) {
		t.Helper()
		res := a.post(t, star, "")
		if res.status != http.StatusOK || res.header.Get("Content-Type") != "application/pem-certificate-chain" {
			t.Fatalf("%d %s", res.status, res.body)
		}
		c := leaf(t, res.body)
		// RFC 8739 §3.3: how long it is good is told without reading it.
		if res.header.Get("Cert-Not-Before") != c.NotBefore.UTC().Format(http.TimeFormat) || res.header.Get("Cert-Not-After") != c.NotAfter.UTC().Format(http.TimeFormat) {
			t.Errorf("the header says %v of %s to %s", res.header, c.NotBefore, c.NotAfter)
		}
		return c, res.header
	}
	was, _ := get()
	if life := was.NotAfter.Sub(was.NotBefore); life < 2*time.Hour-2*time.Second || life > 2*time.Hour {
		t.Errorf("the first certificate lives for %s", life)
	}
	refused(t, "another account's", b.post(t, star, ""), 404, "malformed")
	refused(t, "anybody's", r.do(t, "GET", star, "", nil), 404, "malformed")
	refused(t, "revoking it", a.post(t, r.at("revoke-cert"), `{"certificate":"`+jwstest.B64(was.Raw)+`"}`), 403, "autoRenewalRevocationNotSupported")

	end := s.Now().Add(9 * time.Hour)
	serials := map[string]bool{was.SerialNumber.String(): true}
	for s.Now().Before(end) {
		s.Advance(20 * time.Minute)
		together(4, func(i int) { // whichever replica does it, and however often
			if err := []*replica{r, second}[i%2].server.RenewStars(t.Context()); err != nil {
				t.Error(err)
			}
		})
		a.nonce = ""
		c, _ := get()
		serials[c.SerialNumber.String()] = true
		if now := s.Now(); now.Before(c.NotBefore) || now.After(c.NotAfter) || c.NotAfter.Before(was.NotAfter) {
			t.Fatalf("at %s the certificate is of %s to %s", now, c.NotBefore, c.NotAfter)
		}
		was = c
	}
	var terms int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM origin WHERE origin >= '\x24' AND origin < '\x25'`).Scan(&terms))
	if len(serials) != 5 || terms != 4 { // 10 hours of 2 hours each
		t.Errorf("%d certificates were served, %d of later terms made", len(serials), terms)
	}
	s.Advance(2 * time.Hour)
	a.nonce = ""
	refused(t, "after the end", a.post(t, star, ""), 403, "autoRenewalExpired")

	// Revoked by an operator, it is not served, and renews no more.
	url, o = begun(false)
	star = o["star-certificate"].(string)
	last, _ := get()
	number, err := cert.SerialFromInt(last.SerialNumber)
	must(t, err)
	_, err = s.Revoke(t.Context(), boss, number, cert.Superseded)
	must(t, err)
	refused(t, "a revoked one", a.post(t, star, ""), 403, "autoRenewalCanceled")
	s.Advance(90 * time.Minute)
	a.nonce = ""
	must(t, r.server.RenewStars(t.Context()))
	if st, err := r.store.Star(t.Context(), uidOf(t, url)); err != nil || st.Problem == nil || st.Term != 1 {
		t.Errorf("%+v %v", st, err)
	}

	// Canceled, nothing more is issued or served.
	url, o = begun(true)
	star = o["star-certificate"].(string)
	if res := r.do(t, "GET", star, "", nil); res.status != http.StatusOK || res.header.Get("Cert-Not-After") == "" || leaf(t, res.body).DNSNames[0] != "a.demo.test" {
		t.Errorf("anybody's, where the order allows it: %d %s", res.status, res.body)
	}
	refused(t, "another account cancels", b.post(t, url, `{"status":"canceled"}`), 400, "badNonce")
	refused(t, "another account cancels", b.post(t, url, `{"status":"canceled"}`), 404, "malformed")
	if res := a.post(t, url, `{"status":"canceled"}`); res.status != http.StatusOK || res.json(t)["status"] != "canceled" {
		t.Fatalf("%d %s", res.status, res.body)
	}
	refused(t, "canceling again", a.post(t, url, `{"status":"canceled"}`), 400, "autoRenewalCancellationInvalid")
	if o := a.post(t, url, "").json(t); o["status"] != "canceled" || o["star-certificate"] != nil {
		t.Errorf("order %v", o)
	}
	refused(t, "after canceling", a.post(t, star, ""), 403, "autoRenewalCanceled")
	refused(t, "after canceling, anybody", r.do(t, "GET", star, "", nil), 403, "autoRenewalCanceled")
	s.Advance(3 * time.Hour)
	must(t, r.server.RenewStars(t.Context()))
	var after int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM origin WHERE origin >= '\x24' AND origin < '\x25'`).Scan(&after))
	if after != terms || s.facts(t, "order.cancel", "", true) != 1 {
		t.Errorf("%d terms after canceling, were %d", after, terms)
	}
	_, err = s.Ledger.MakeEpochs(t.Context(), s.Now())
	must(t, err)
	s.Advance(acme.MaxDuration)
	_, err = s.Ledger.MakeEpochs(t.Context(), s.Now())
	must(t, err)
	must(t, r.server.RenewStars(t.Context()))
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_star`).Scan(&after))
	if after != 0 {
		t.Errorf("%d orders are remembered a year later", after)
	}
}

func TestAnOrderOfSomebodyGoneRenewsNoMore(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	key, secret := r.key(t, acme.Binding{})
	var orders []string
	all := []*account{r.member(t, key.ID, secret), r.register(t)}
	for _, a := range all {
		res := a.post(t, r.at("new-order"), renewing(s, nil))
		o := res.json(t)
		a.prove(t, o, "http-01")
		a.wait(t, res.header.Get("Location"))
		if res, _ := a.finalize(t, o, "dns:a.demo.test"); res.status != http.StatusOK {
			t.Fatalf("finalize: %d %s", res.status, res.body)
		}
		orders = append(orders, res.header.Get("Location"))
	}
	_, err := r.server.RevokeBinding(t.Context(), boss, pkitest.Demo, key.ID)
	must(t, err)
	all[1].post(t, all[1].kid, `{"status":"deactivated"}`)
	s.Advance(3 * time.Hour)
	must(t, r.server.RenewStars(t.Context()))
	for _, url := range orders {
		st, err := r.store.Star(t.Context(), uidOf(t, url))
		if err != nil || st.Term != 1 || st.Problem == nil || st.Problem.Type != acme.Unauthorized || !st.Next.IsZero() {
			t.Errorf("%+v %v", st, err)
		}
	}
}
