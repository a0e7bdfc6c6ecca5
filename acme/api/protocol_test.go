package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// rollover makes the payload of keyChange: an inner JWS of key, whose header and object differ from good ones as edit says.
func (a *account) rollover(t testing.TB, key crypto.Signer, edit func(h jwstest.Header, o map[string]any)) string {
	t.Helper()
	h := jwstest.Header{"alg": jwstest.Algorithm(key), "url": a.at("key-change"), "jwk": jwstest.JWK(t, key)}
	o := map[string]any{"account": a.kid, "oldKey": jwstest.JWK(t, a.key)}
	if edit != nil {
		edit(h, o)
	}
	b, err := json.Marshal(o)
	must(t, err)
	return string(jwstest.Sign(t, key, h, string(b)))
}

func TestAKeyIsChangedForEveryReplicaAtOnce(t *testing.T) {
	s, one := newSite(t, options{validator: yes{}})
	two := s.replica(t, options{validator: yes{}})
	a := one.register(t)
	kid := uidOf(t, a.kid).String()
	elsewhere := &account{replica: two, key: a.key, kid: two.at("acct/" + kid)}
	for _, who := range []*account{a, elsewhere} { // both replicas know the old key now
		if res := who.post(t, who.kid, ""); res.status != http.StatusOK {
			t.Fatalf("%d %s", res.status, res.body)
		}
	}
	fresh := jwstest.ECKey(t, elliptic.P384())
	res := a.post(t, a.at("key-change"), a.rollover(t, fresh, nil))
	if res.status != http.StatusOK || res.header.Get("Location") != a.kid || res.json(t)["status"] != "valid" {
		t.Fatalf("key-change: %d %v %s", res.status, res.header, res.body)
	}
	old := a.key
	for _, who := range []*account{a, elsewhere} {
		who.key = old
		refused(t, "the old key", who.post(t, who.kid, ""), 400, "badPublicKey") // ES256 does not go with the new key
		refused(t, "the old key orders", who.post(t, who.at("new-order"), orderFor("dns:a.demo.test")), 400, "badPublicKey")
		who.key = fresh
		if res := who.post(t, who.kid, ""); res.status != http.StatusOK {
			t.Errorf("the new key: %d %s", res.status, res.body)
		}
	}
	// The new key is the account's in every respect: it proves names, and finds the account.
	url, o := elsewhere.order(t, "dns:a.demo.test")
	elsewhere.prove(t, o, "http-01")
	if o = elsewhere.wait(t, url); o["status"] != "ready" {
		t.Errorf("order %v", o)
	}
	found := (&account{replica: one, key: fresh}).post(t, one.at("new-account"), `{"onlyReturnExisting":true}`)
	if found.status != http.StatusOK || found.header.Get("Location") != a.kid {
		t.Errorf("the account of the new key: %d %v", found.status, found.header)
	}
	refused(t, "the account of the old key", (&account{replica: one, key: old}).post(t, one.at("new-account"), `{"onlyReturnExisting":true}`), 400, "accountDoesNotExist")
	// A key that signs alike, and so is not told from the old one by its algorithm.
	third := jwstest.ECKey(t, elliptic.P384())
	if res := a.post(t, a.at("key-change"), a.rollover(t, third, nil)); res.status != http.StatusOK {
		t.Fatalf("key-change: %d %s", res.status, res.body)
	}
	refused(t, "the second key", elsewhere.post(t, elsewhere.kid, ""), 400, "malformed") // its signature does not verify
	var facts int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'account.change' AND why LIKE 'key changed to %'`).Scan(&facts))
	if facts != 2 {
		t.Errorf("%d facts of two changes", facts)
	}
}

func TestOneOfManyKeyChangesWins(t *testing.T) {
	_, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	acct, err := r.store.Account(t.Context(), uidOf(t, a.kid))
	must(t, err)
	won := make(chan acme.Account, 8)
	together(8, func(int) {
		c := acme.KeyChange{Old: acct.Key, New: pkitest.Key(t).Public(), Thumbprint: "x"}
		if got, err := r.server.ChangeKey(t.Context(), acme.Holder{Account: acct}, c); err == nil {
			won <- got
		}
	})
	close(won)
	now, err := r.store.Account(t.Context(), acct.ID)
	must(t, err)
	if got := <-won; got.KeyID != now.KeyID || len(won) != 0 {
		t.Errorf("%d more changed the same key", len(won))
	}
}

func (w *world) keyChanges(t *testing.T) {
	u, a := w.r.at("key-change"), w.one
	fresh := func() *ecdsa.PrivateKey { return jwstest.NewKey(t) }
	for name, c := range map[string]struct {
		edit   func(jwstest.Header, map[string]any)
		status int
		kind   string
	}{
		"inner with kid":           {func(h jwstest.Header, _ map[string]any) { delete(h, "jwk"); h["kid"] = a.kid }, 400, "malformed"},
		"inner with both":          {func(h jwstest.Header, _ map[string]any) { h["kid"] = a.kid }, 400, "malformed"},
		"inner without key":        {func(h jwstest.Header, _ map[string]any) { delete(h, "jwk") }, 400, "malformed"},
		"inner with a nonce":       {func(h jwstest.Header, _ map[string]any) { h["nonce"] = "AAAA" }, 400, "malformed"},
		"inner without url":        {func(h jwstest.Header, _ map[string]any) { delete(h, "url") }, 400, "malformed"},
		"inner with another url":   {func(h jwstest.Header, _ map[string]any) { h["url"] = w.r.at("new-account") }, 400, "malformed"},
		"inner alg none":           {func(h jwstest.Header, _ map[string]any) { h["alg"] = "none" }, 400, "badSignatureAlgorithm"},
		"inner alg HS256":          {func(h jwstest.Header, _ map[string]any) { h["alg"] = "HS256" }, 400, "badSignatureAlgorithm"},
		"inner alg of another key": {func(h jwstest.Header, _ map[string]any) { h["alg"] = "ES384" }, 400, "badPublicKey"},
		"inner crit":               {func(h jwstest.Header, _ map[string]any) { h["crit"] = []string{"exp"} }, 400, "malformed"},
		"inner of somebody else":   {func(h jwstest.Header, _ map[string]any) { h["jwk"] = jwstest.JWK(t, fresh()) }, 400, "malformed"},
		"no account":               {func(_ jwstest.Header, o map[string]any) { delete(o, "account") }, 400, "malformed"},
		"another's account":        {func(_ jwstest.Header, o map[string]any) { o["account"] = w.two.kid }, 400, "malformed"},
		"the account elsewhere": {func(_ jwstest.Header, o map[string]any) {
			o["account"] = strings.Replace(a.kid, "127.0.0.1", "localhost", 1)
		}, 400, "malformed"},
		"an account that is a list":  {func(_ jwstest.Header, o map[string]any) { o["account"] = []string{a.kid} }, 400, "malformed"},
		"no old key":                 {func(_ jwstest.Header, o map[string]any) { delete(o, "oldKey") }, 400, "malformed"},
		"another's old key":          {func(_ jwstest.Header, o map[string]any) { o["oldKey"] = jwstest.JWK(t, w.two.key) }, 400, "malformed"},
		"an old key that is a word":  {func(_ jwstest.Header, o map[string]any) { o["oldKey"] = "x" }, 400, "malformed"},
		"an old key that is private": {func(_ jwstest.Header, o map[string]any) { o["oldKey"] = withPrivate(t, a.key) }, 400, "malformed"},
	} {
		refused(t, name, a.post(t, u, a.rollover(t, fresh(), c.edit)), c.status, c.kind)
	}
	for name, payload := range map[string]string{
		"empty": "", "an object": "{}", "the keyChange object itself": `{"account":"` + a.kid + `"}`, "compact": "a.b.c",
		"an unsigned one":   string(jwstest.Body("e30", "e30", "")),
		"a broken payload":  strings.Replace(a.rollover(t, fresh(), nil), `"payload":"ey`, `"payload":"eY`, 1),
		"a member twice":    string(jwstest.Sign(t, fresh(), jwstest.Header{"alg": "ES256", "url": u, "jwk": jwstest.JWK(t, w.one.key)}, `{"account":"x","account":"x"}`)),
		"an outer unsigned": `{"protected":"","payload":"","signature":"","header":{}}`,
	} {
		refused(t, name, a.post(t, u, payload), 400, "malformed")
	}
	refused(t, "signed by the new key", (&account{replica: w.r, key: fresh()}).post(t, u, a.rollover(t, fresh(), nil)), 400, "malformed")
	weak := jwstest.ECKey(t, elliptic.P224())
	inner := a.rollover(t, fresh(), nil)
	refused(t, "a weak new key", a.post(t, u, withKey(t, inner, weak)), 400, "badPublicKey")
	// RFC 8555 §7.3.5: 409, and where the account is that has the key.
	for name, who := range map[string]*account{"another account's key": w.two, "its own key": w.one} {
		res := a.post(t, u, a.rollover(t, who.key, nil))
		refused(t, name, res, 409, "malformed")
		if res.header.Get("Location") != who.kid {
			t.Errorf("%s: Location %q, want %q", name, res.header.Get("Location"), who.kid)
		}
	}
	if res := a.post(t, a.kid, ""); res.status != http.StatusOK {
		t.Errorf("after all refusals: %d %s", res.status, res.body)
	}
	// The key of an account of another scope is free here: accounts are of one scope.
	tenant := w.r.register(t)
	if res := tenant.post(t, u, tenant.rollover(t, w.other.key, nil)); res.status != http.StatusOK {
		t.Errorf("a key of another scope: %d %s", res.status, res.body)
	}
}

// withPrivate is key's JWK with a private member.
func withPrivate(t testing.TB, key crypto.Signer) json.RawMessage {
	return json.RawMessage(strings.Replace(string(jwstest.JWK(t, key)), "{", `{"d":"AAAA",`, 1))
}

// withKey puts key into the header of a JWS, whose signature is not looked at then.
func withKey(t testing.TB, body string, key *ecdsa.PrivateKey) string {
	t.Helper()
	var j struct{ Payload, Signature string }
	must(t, json.Unmarshal([]byte(body), &j))
	h := fmt.Sprintf(`{"alg":"ES256","url":"x","jwk":{"kty":"EC","crv":"P-224","x":%q,"y":%q}}`, jwstest.B64(key.X.Bytes()), jwstest.B64(key.Y.Bytes())) //nolint:staticcheck // go-jose takes no such key
	return string(jwstest.Body(jwstest.B64([]byte(h)), j.Payload, j.Signature))
}

func TestOrdersAreListedByPages(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a, b := r.register(t), r.register(t)
	list := a.post(t, a.kid, "").json(t)["orders"].(string)
	if got := a.post(t, list, "").json(t)["orders"].([]any); len(got) != 0 {
		t.Errorf("orders of a new account %v", got)
	}
	b.order(t, "dns:b.demo.test")
	const orders = 230
	made := map[string]bool{}
	for range orders {
		u, _ := a.order(t, "dns:a.demo.test")
		made[u] = true
	}
	failed, o := a.order(t, "dns:b.demo.test")
	a.post(t, authorizations(o)[0], `{"status":"deactivated"}`)
	pages := 0
	for next := list; next != ""; pages++ {
		res := a.post(t, next, "")
		for _, u := range res.json(t)["orders"].([]any) {
			if !made[u.(string)] || u == failed {
				t.Errorf("%v is listed twice, or is another's, or invalid", u)
			}
			delete(made, u.(string))
		}
		if next = linkOf(res.header, "next"); pages > 3 {
			t.Fatal("the list does not end")
		}
	}
	if len(made) != 0 || pages != 3 {
		t.Errorf("%d orders on none of %d pages", len(made), pages)
	}
	refused(t, "another's list", b.post(t, list, ""), 403, "unauthorized")
	refused(t, "a list with a payload", a.post(t, list, "{}"), 400, "malformed")
	for _, bad := range []string{"?below=x", "?x=y", "?below=", "?below=" + uidOf(t, a.kid).String()} {
		refused(t, "page "+bad, a.post(t, list+bad, ""), 404, "malformed")
	}
	s.Advance(8 * 24 * time.Hour)
	a.nonce = ""
	if got := a.post(t, list, "").json(t)["orders"].([]any); len(got) != 0 {
		t.Errorf("%d expired orders are listed", len(got))
	}
	s.Advance(-8 * 24 * time.Hour)
}

// linkOf returns where the Link header with a relation leads, or nothing.
func linkOf(h http.Header, relation string) string {
	for _, l := range h.Values("Link") {
		if u, ok := strings.CutSuffix(l, `>;rel="`+relation+`"`); ok {
			return strings.TrimPrefix(u, "<")
		}
	}
	return ""
}

func dated(from, to time.Time) string {
	return fmt.Sprintf(`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notBefore":%q,"notAfter":%q}`, from.Format(time.RFC3339), to.Format(time.RFC3339))
}

func TestDatesAreGivenAsAskedFor(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	at := s.Now().UTC().Truncate(time.Second)
	for name, c := range map[string]struct{ from, to time.Time }{
		"both":      {at.Add(time.Hour), at.Add(25 * time.Hour)},
		"notAfter":  {time.Time{}, at.Add(24*time.Hour + 7*time.Second)},
		"notBefore": {at.Add(3 * time.Hour), time.Time{}},
		"from now":  {at, at.Add(10 * time.Minute)},
	} {
		payload := map[string]any{"identifiers": []map[string]string{{"type": "dns", "value": "a.demo.test"}}}
		if !c.from.IsZero() {
			payload["notBefore"] = c.from.Format(time.RFC3339)
		}
		if !c.to.IsZero() {
			payload["notAfter"] = c.to.Format(time.RFC3339)
		}
		b, err := json.Marshal(payload)
		must(t, err)
		res := a.post(t, r.at("new-order"), string(b))
		o := res.json(t)
		if res.status != http.StatusCreated || !c.from.IsZero() && o["notBefore"] != payload["notBefore"] || !c.to.IsZero() && o["notAfter"] != payload["notAfter"] {
			t.Errorf("%s: order %d %s", name, res.status, res.body)
			continue
		}
		if o["status"] == "pending" {
			a.prove(t, o, "http-01")
			a.wait(t, res.header.Get("Location"))
		}
		fin, _ := a.finalize(t, o, "dns:a.demo.test")
		done := fin.json(t)
		if done["status"] != "valid" {
			t.Errorf("%s: %s", name, fin.body)
			continue
		}
		leaf := parseLeaf(t, a.post(t, done["certificate"].(string), "").body)
		if !c.from.IsZero() && !leaf.NotBefore.Equal(c.from) || !c.to.IsZero() && !leaf.NotAfter.Equal(c.to) {
			t.Errorf("%s: certificate from %s to %s, want %s to %s", name, leaf.NotBefore, leaf.NotAfter, c.from, c.to)
		}
	}
	// A date is kept or the order ends: what begins in the past by then is not backdated.
	_, o := a.order(t, "dns:a.demo.test")
	res := a.post(t, r.at("new-order"), dated(s.Now(), s.Now().Add(48*time.Hour)))
	s.Advance(2 * time.Hour)
	a.nonce = ""
	fin, _ := a.finalize(t, res.json(t), "dns:a.demo.test")
	refused(t, "two hours after its first second", fin, 403, "orderNotReady")
	if fin, _ := a.finalize(t, o, "dns:a.demo.test"); fin.status != http.StatusOK {
		t.Errorf("an order without dates: %d %s", fin.status, fin.body)
	}
	s.Advance(-2 * time.Hour)
}

func TestACertificateComesWithAlternateChains(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	res, _ := a.finalize(t, o, "dns:a.demo.test")
	u := res.json(t)["certificate"].(string)
	first := a.post(t, u, "")
	other := linkOf(first.header, "alternate")
	second := a.post(t, other, "")
	if second.status != http.StatusOK || linkOf(second.header, "alternate") != u || linkOf(second.header, "index") == "" {
		t.Fatalf("%s: %d %v", other, second.status, second.header)
	}
	for _, chain := range [][]byte{first.body, second.body} {
		verify(t, s, chain, "a.demo.test")
	}
	if !strings.HasPrefix(string(second.body), string(first.body)) || strings.Count(string(second.body), "BEGIN") != strings.Count(string(first.body), "BEGIN")+1 {
		t.Errorf("the alternate is not the chain with its root:\n%s", second.body)
	}
	for _, bad := range []string{"/0", "/2", "/01", "/+1", "/-1", "/x", "/99999999999999999999"} {
		refused(t, "chain "+bad, a.post(t, u+bad, ""), 404, "malformed")
	}
	refused(t, "another's alternate", r.register(t).post(t, other, ""), 404, "malformed")
}

func TestWhoeverProvedAllNamesRevokes(t *testing.T) {
	_, r := newSite(t, options{validator: yes{}})
	a, b := r.register(t), r.register(t)
	url, o := a.order(t, "dns:a.demo.test", "dns:b.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	res, _ := a.finalize(t, o, "dns:a.demo.test", "dns:b.demo.test")
	leaf := parseLeaf(t, a.post(t, res.json(t)["certificate"].(string), "").body)
	ask := `{"certificate":"` + jwstest.B64(leaf.Raw) + `","reason":4}`
	prove := func(names ...string) map[string]any {
		url, o := b.order(t, names...)
		b.prove(t, o, "http-01")
		b.wait(t, url)
		return o
	}
	u := r.at("revoke-cert")
	refused(t, "with no name", b.post(t, u, ask), 403, "unauthorized")
	prove("dns:a.demo.test")
	refused(t, "with one of two names", b.post(t, u, ask), 403, "unauthorized")
	_, pending := b.order(t, "dns:b.demo.test")
	refused(t, "with the other one pending", b.post(t, u, ask), 403, "unauthorized")
	b.post(t, authorizations(pending)[0], `{"status":"deactivated"}`)
	given := prove("dns:b.demo.test")
	b.post(t, authorizations(given)[0], `{"status":"deactivated"}`)
	refused(t, "with the other one given up", b.post(t, u, ask), 403, "unauthorized")
	prove("dns:b.demo.test")
	if res := b.post(t, u, ask); res.status != http.StatusOK {
		t.Errorf("with all names: %d %s", res.status, res.body)
	}
	refused(t, "twice", a.post(t, u, ask), 400, "alreadyRevoked")
}

func TestAnOrderThatFailedElsewhereStaysFailed(t *testing.T) {
	s, one := newSite(t, options{validator: yes{}})
	two := s.replica(t, options{validator: yes{}})
	a := one.register(t)
	elsewhere := &account{replica: two, key: a.key, kid: two.at("acct/" + uidOf(t, a.kid).String())}
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	lost, who := pkitest.Key(t), pkitest.Workload(pkitest.Demo, "demo")
	c, err := s.Issue(t.Context(), who, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, lost, "dns:a.demo.test")})
	must(t, err)
	_, err = s.Revoke(t.Context(), who, c.Serial, 1)
	must(t, err)
	at := two.at("order/" + uidOf(t, url).String() + "/finalize")
	if res := elsewhere.post(t, at, csrFor(t, lost, "dns:a.demo.test")); res.json(t)["status"] != "invalid" {
		t.Fatalf("a compromised key: %s", res.body)
	}
	for name, who := range map[string]*account{"where it was made": a, "where it failed": elsewhere} { // the one remembers that it was ready
		res := who.post(t, who.at("order/"+uidOf(t, url).String()+"/finalize"), csrFor(t, pkitest.Key(t), "dns:a.demo.test"))
		refused(t, "another key, "+name, res, 403, "orderNotReady")
	}
}

func TestADeactivatedAccountsWorkStops(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}, issuer: func(i acme.Issuer) acme.Issuer { return dying{i} }})
	two := s.replica(t, options{validator: yes{}, idle: true})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	_, waiting := a.order(t, "dns:b.demo.test")
	id := uidOf(t, authorizations(waiting)[0])
	acct, err := r.store.Account(t.Context(), uidOf(t, a.kid))
	must(t, err)
	if res, _ := a.finalize(t, o, "dns:a.demo.test"); res.json(t)["status"] != "processing" {
		t.Fatalf("finalized %s", res.body)
	}
	_, _, err = r.store.Attempt(t.Context(), acme.Ask{Account: acct.ID, Authorization: id, Method: acme.HTTP01, At: s.Now(), Lease: time.Nanosecond})
	must(t, err)
	a.post(t, a.kid, `{"status":"deactivated"}`)
	if tasks, err := r.store.TakeOver(t.Context(), s.Now(), time.Minute, 10); err != nil || len(tasks) != 0 {
		t.Errorf("its validations are still waiting: %v, %v", tasks, err)
	}
	if _, ours, err := r.store.Attempt(t.Context(), acme.Ask{Account: acct.ID, Authorization: id, Method: acme.HTTP01, At: s.Now(), Lease: time.Nanosecond}); err == nil && ours {
		t.Error("another validation was queued")
	}
	s.Advance(time.Minute)
	must(t, two.server.Recover(t.Context()))
	got, err := r.store.Order(t.Context(), uidOf(t, url))
	must(t, err)
	if got.Status(s.Now()) != acme.Invalid || !got.Certificate.IsZero() || got.Failure.Type != acme.Unauthorized {
		t.Errorf("its order is %s: %+v", got.Status(s.Now()), got)
	}
	s.Advance(-time.Minute)
}

// parseLeaf reads the first certificate of a chain in PEM.
func parseLeaf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(chain)
	if b == nil {
		t.Fatalf("no certificate in %q", chain)
	}
	c, err := x509.ParseCertificate(b.Bytes)
	must(t, err)
	return c
}

func TestTheSweepingDutyDropsOrdersOfLongAgo(t *testing.T) {
	var cfg acme.Config
	s, r := newSite(t, options{validator: yes{}, config: func(c *acme.Config) { cfg = *c }})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	a.finalize(t, o, "dns:a.demo.test")
	const day = 24 * time.Hour
	for _, c := range []struct {
		after time.Duration
		there bool
	}{{90 * day, true}, {20 * day, false}} {
		s.Advance(c.after)
		must(t, r.server.Sweep(t.Context()))
		_, err := r.store.Order(t.Context(), uidOf(t, url))
		if c.there && err != nil || !c.there && !errors.Is(err, acme.ErrNotFound) {
			t.Errorf("after %s more: %v", c.after, err)
		}
	}
	s.Advance(-110 * day)
	cfg.Keep = 30 * day
	if _, err := acme.New(cfg); err == nil {
		t.Error("orders may leave while statements name their partitions")
	}
}
