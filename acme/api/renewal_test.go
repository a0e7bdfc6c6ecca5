package api_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	acmezacme "github.com/mholt/acmez/v3/acme"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/cert"
)

func TestRenewalInfoIsForAnybodyAndRefusesOthers(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	c := a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test")
	get := func(id string) reply { return r.do(t, "GET", r.at("renewal-info/"+id), "", nil) }

	directory := r.do(t, "GET", r.directory(), "", nil).json(t)
	if directory["renewalInfo"] != r.at("renewal-info") {
		t.Errorf("renewalInfo is %v", directory["renewalInfo"])
	}
	res := get(certID(c))
	window, _ := res.json(t)["suggestedWindow"].(map[string]any)
	start, err := time.Parse(time.RFC3339, window["start"].(string))
	must(t, err)
	end, err := time.Parse(time.RFC3339, window["end"].(string))
	must(t, err)
	if res.status != http.StatusOK || !start.Before(end) || !start.After(c.NotBefore) || !end.Before(c.NotAfter) || res.header.Get("Retry-After") == "" ||
		res.header.Get("Content-Type") != "application/json" || !strings.Contains(res.header.Get("Link"), `rel="index"`) {
		t.Errorf("%d %v %s", res.status, res.header, res.body)
	}

	key, serial := jwstest.B64(c.AuthorityKeyId), jwstest.B64(c.SerialNumber.Bytes())
	unknown := cert.NewSerial(1, time.Now())
	for name, x := range map[string]struct {
		id     string
		status int
	}{
		"no dot":                      {key + serial, 400},
		"no key":                      {"." + serial, 400},
		"no serial":                   {key + ".", 400},
		"a third part":                {key + "." + serial + ".AA", 400},
		"padding":                     {key + "=." + serial, 400},
		"the standard alphabet":       {"+" + key[1:] + "." + serial, 400},
		"stray bits":                  {stray(key) + "." + serial, 400},
		"a leading zero":              {key + "." + jwstest.B64(append([]byte{0}, c.SerialNumber.Bytes()...)), 400},
		"hex":                         {key + "." + c.SerialNumber.Text(16), 400},
		"a serial of nobody":          {key + "." + jwstest.B64(unknown.Bytes()), 404},
		"another issuer's serial":     {jwstest.B64(append([]byte{1}, c.AuthorityKeyId[1:]...)) + "." + serial, 404},
		"a part of the issuer's name": {jwstest.B64(c.AuthorityKeyId[:10]) + "." + serial, 404},
	} {
		refused(t, name, get(x.id), x.status, "malformed")
	}
	elsewhere := r.do(t, "GET", r.base+"/acme/-/other/renewal-info/"+certID(c), "", nil)
	refused(t, "another scope's directory", elsewhere, 404, "malformed")

	number, err := cert.SerialFromInt(c.SerialNumber)
	must(t, err)
	_, err = s.Revoke(t.Context(), boss, number, cert.Superseded)
	must(t, err)
	must(t, eventually(t, func() bool { // what was asked a moment ago is believed for one more
		w := get(certID(c)).json(t)["suggestedWindow"].(map[string]any)
		end, err := time.Parse(time.RFC3339, w["end"].(string))
		return err == nil && end.Before(s.Now().Add(time.Second))
	}))
}

// stray sets the bits of the last character that encode nothing (RFC 4648 §3.5): 20 octets leave two.
func stray(key string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, key[len(key)-1])
	return key[:len(key)-1] + string(alphabet[last|1])
}

func eventually(t testing.TB, holds func() bool) error {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it does not come true")
		}
		select {
		case <-t.Context().Done():
			return t.Context().Err()
		case <-time.After(50 * time.Millisecond): // a poll: nothing tells us
		}
	}
	return nil
}

func TestClientsFindTheirWindow(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	c := r.register(t).issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test")
	client := &acmezacme.Client{Directory: r.directory(), HTTPClient: r.client}
	info, err := client.GetRenewalInfo(t.Context(), c)
	must(t, err)
	if !info.SuggestedWindow.Start.Before(info.SuggestedWindow.End) || info.RetryAfter == nil {
		t.Errorf("acmez finds %+v", info)
	}
	s.Advance(26 * 24 * time.Hour)
	if !info.NeedsRefresh() && !s.Now().After(info.SuggestedWindow.End) {
		t.Error("the window is not over at the end of its certificate's life")
	}
}

func TestAnOrderReplacesACertificate(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a, b := r.register(t), r.register(t)
	old := a.issued(t, orderFor("dns:a.demo.test", "dns:b.demo.test"), "dns:a.demo.test", "dns:b.demo.test")
	id := certID(old)
	ask := func(who *account, replaces any, names ...string) reply {
		return who.post(t, who.at("new-order"), with(orderFor(names...), "replaces", replaces))
	}
	refused(t, "no identifier", ask(a, "nonsense", "dns:a.demo.test"), 400, "malformed")
	refused(t, "no string", ask(a, 7, "dns:a.demo.test"), 400, "malformed")
	refused(t, "another account's", ask(b, id, "dns:a.demo.test"), 400, "malformed")
	refused(t, "nobody's", ask(a, strings.Split(id, ".")[0]+"."+jwstest.B64(cert.NewSerial(1, time.Now()).Bytes()), "dns:a.demo.test"), 400, "malformed")
	refused(t, "no name in common", ask(a, id, "dns:c.demo.test"), 400, "malformed")

	res := ask(a, id, "dns:a.demo.test")
	if res.status != http.StatusCreated || res.json(t)["replaces"] != id {
		t.Fatalf("%d %s", res.status, res.body)
	}
	if o := a.post(t, res.header.Get("Location"), "").json(t); o["replaces"] != id {
		t.Errorf("the order says it replaces %v", o["replaces"])
	}
	// RFC 9773 §5: another order may replace it only once this one is invalid.
	refused(t, "replaced already", ask(a, id, "dns:b.demo.test"), 409, "alreadyReplaced")
	s.Advance(8 * 24 * time.Hour) // the order expires
	_, err := s.Ledger.MakeEpochs(t.Context(), s.Now())
	must(t, err)
	a.nonce = "" // it is as old
	again := a.issued(t, with(orderFor("dns:b.demo.test"), "replaces", id), "dns:b.demo.test")
	refused(t, "replaced for good", ask(a, id, "dns:b.demo.test"), 409, "alreadyReplaced")

	// The ledger knows who came in whose place.
	oldSerial, err := cert.SerialFromInt(old.SerialNumber)
	must(t, err)
	newSerial, err := cert.SerialFromInt(again.SerialNumber)
	must(t, err)
	info, err := s.RenewalInfo(t.Context(), oldSerial)
	must(t, err)
	if info.ReplacedBy != newSerial {
		t.Errorf("%s was replaced by %v, want %s", oldSerial, info.ReplacedBy, newSerial)
	}
}

func TestOneOfManyOrdersReplacesACertificate(t *testing.T) {
	_, one, two := balanced(t, options{validator: yes{}})
	a := one.register(t)
	id := certID(a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test"))
	acct, err := one.store.Account(t.Context(), uidOf(t, a.kid))
	must(t, err)
	var won, lost atomic.Int32
	together(9, func(i int) {
		srv := []*replica{one, two}[i%2].server
		o, err := srv.NewOrder(t.Context(), acme.Holder{Account: acct}, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: "a.demo.test"}}, Replaces: id})
		switch p, ok := asProblem(err); {
		case err == nil && o.Replaces.String() == id:
			won.Add(1)
		case ok && p.Type == acme.AlreadyReplaced:
			lost.Add(1)
		default:
			t.Errorf("%+v %v", o, err)
		}
	})
	if won.Load() != 1 || lost.Load() != 8 {
		t.Fatalf("%d orders replace it, %d do not", won.Load(), lost.Load())
	}
}
