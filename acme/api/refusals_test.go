package api_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// A world is one site with what the refusals are tried on: two accounts, one of another scope, and orders in each state.
type world struct {
	*site
	r                     *replica
	one, two, other       *account
	pending, ready, valid map[string]any // orders of one
	readyURL, validURL    string
	chain                 []byte // of valid
	leaf                  []byte // DER
	key                   crypto.Signer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, r := newSite(t, options{validator: yes{}})
	w := &world{site: s, r: r, one: r.register(t), two: r.register(t)}
	w.other = &account{replica: r, key: jwstest.NewKey(t)}
	res := w.other.post(t, r.base+"/acme/-/other/new-account", `{}`)
	w.other.kid = res.header.Get("Location")
	_, w.pending = w.one.order(t, "dns:a.demo.test")
	w.readyURL, w.ready = w.one.order(t, "dns:a.demo.test", "dns:b.demo.test")
	w.one.prove(t, w.ready, "http-01")
	w.one.wait(t, w.readyURL)
	w.validURL, w.valid = w.one.order(t, "dns:a.demo.test")
	w.one.prove(t, w.valid, "http-01")
	w.one.wait(t, w.validURL)
	res, key := w.one.finalize(t, w.valid, "dns:a.demo.test")
	w.valid, w.key = res.json(t), key
	w.chain = w.one.post(t, w.valid["certificate"].(string), "").body
	w.leaf = verify(t, s, w.chain, "a.demo.test").Raw
	return w
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	before := refusals.Load()
	t.Run("transport", w.transport)
	t.Run("bodies", w.bodies)
	t.Run("jwks", w.jwks)
	t.Run("incidents", w.incidents)
	t.Run("header", w.header)
	t.Run("nonce", w.nonces)
	t.Run("accounts", w.accounts)
	t.Run("orders", w.orders)
	t.Run("rollover", w.keyChanges)
	t.Run("preauthorization", w.preauthorizations)
	t.Run("names", w.names)
	t.Run("others", w.others)
	t.Run("finalize", w.finalizes)
	t.Run("keys", w.keys)
	t.Run("revocation", w.revocations)
	const atLeast = 150
	n := refusals.Load() - before
	if some := strings.Contains(flag.Lookup("test.run").Value.String(), "/"); n < atLeast && !some {
		t.Errorf("%d refusals were tried, want %d", n, atLeast)
	}
	t.Logf("%d refusals", n)
}

func (w *world) transport(t *testing.T) {
	good := func() []byte {
		return jwstest.Sign(t, w.one.key, w.one.header(t, w.one.kid), "")
	}
	for _, ct := range []string{"", "application/json", "application/jose", "text/plain", "application/jose+json, x", "application/jose+jsonx"} {
		refused(t, "content type "+ct, w.one.do(t, "POST", w.one.kid, ct, good()), http.StatusUnsupportedMediaType, "malformed")
	}
	refused(t, "oversized", w.one.do(t, "POST", w.one.kid, "application/jose+json", []byte(strings.Repeat("x", 70<<10))), http.StatusRequestEntityTooLarge, "malformed")
	for _, u := range []string{"new-account", "new-order", "revoke-cert", "acct/" + uidOf(t, w.one.kid).String(), "order/x", "authz/x", "chall/x/http-01", "cert/x", "order/x/finalize"} {
		res := w.r.do(t, "GET", w.r.at(u), "", nil)
		refused(t, "GET "+u, res, http.StatusMethodNotAllowed, "malformed")
		if res.header.Get("Allow") != "POST" || !strings.Contains(res.header.Get("Link"), `rel="index"`) {
			t.Errorf("GET %s: %v", u, res.header)
		}
	}
	for _, u := range []string{"/acme/nobody/directory", "/acme/demo/nothing/directory", "/acme/Demo/directory", "/acme/platform/directory", "/acme/-/directory", "/acme/-/nobody/directory"} {
		refused(t, u, w.r.do(t, "GET", w.r.base+u, "", nil), http.StatusNotFound, "malformed")
	}
	for _, u := range []string{"/acme/-/platform/new-nonce", "/acme/-/a.b.c.d/new-nonce", "/acme/-/demo%2Fshop/new-nonce", "/acme/-/-/new-nonce"} {
		if res := w.r.do(t, "GET", w.r.base+u, "", nil); res.status != http.StatusNotFound || res.header.Get("Replay-Nonce") != "" {
			t.Errorf("%s: %d %v", u, res.status, res.header)
		}
	}
}

// edit returns a good header for the account's own URL that differs in one member; nil takes it out.
func (w *world) edit(t *testing.T, member string, v any) jwstest.Header {
	h := w.one.header(t, w.one.kid)
	h[member] = v
	if v == nil {
		delete(h, member)
	}
	return h
}

func (w *world) header(t *testing.T) {
	kid := w.one.kid
	jwk := jwstest.JWK(t, w.one.key)
	noKid := w.edit(t, "kid", nil)
	jwkOnly := w.edit(t, "kid", nil)
	jwkOnly["jwk"] = jwk
	for name, c := range map[string]struct {
		h      jwstest.Header
		status int
		kind   string
	}{
		"alg none":             {w.edit(t, "alg", "none"), 400, "badSignatureAlgorithm"},
		"alg HS256":            {w.edit(t, "alg", "HS256"), 400, "badSignatureAlgorithm"},
		"alg ES512":            {w.edit(t, "alg", "ES512"), 400, "badSignatureAlgorithm"},
		"alg of another key":   {w.edit(t, "alg", "RS256"), 400, "badPublicKey"},
		"no alg":               {w.edit(t, "alg", nil), 400, "malformed"},
		"crit":                 {w.edit(t, "crit", []string{"x"}), 400, "malformed"},
		"b64":                  {w.edit(t, "b64", true), 400, "malformed"},
		"no url":               {w.edit(t, "url", nil), 400, "malformed"},
		"url of another":       {w.edit(t, "url", w.r.at("new-order")), 403, "unauthorized"},
		"url by another name":  {w.edit(t, "url", strings.Replace(kid, "127.0.0.1", "localhost", 1)), 403, "unauthorized"},
		"url with a query":     {w.edit(t, "url", kid+"?x"), 403, "unauthorized"},
		"url by http":          {w.edit(t, "url", strings.Replace(kid, "https", "http", 1)), 403, "unauthorized"},
		"no kid":               {noKid, 400, "malformed"},
		"jwk in place of kid":  {jwkOnly, 400, "malformed"},
		"jwk beside kid":       {w.edit(t, "jwk", jwk), 400, "malformed"},
		"kid of nobody":        {w.edit(t, "kid", kid[:len(kid)-4]+"0000"), 400, "accountDoesNotExist"},
		"kid is no URL":        {w.edit(t, "kid", uidOf(t, kid).String()), 400, "accountDoesNotExist"},
		"kid of an order":      {w.edit(t, "kid", strings.Replace(w.readyURL, "order/", "acct/", 1)), 400, "accountDoesNotExist"},
		"kid in upper case":    {w.edit(t, "kid", strings.Replace(kid, uidOf(t, kid).String(), strings.ToUpper(uidOf(t, kid).String()), 1)), 400, "accountDoesNotExist"},
		"kid of another scope": {w.edit(t, "kid", w.other.kid), 400, "accountDoesNotExist"},
		"kid elsewhere":        {w.edit(t, "kid", strings.Replace(kid, "demo.shop.dev", "demo", 1)), 400, "accountDoesNotExist"},
		"another's kid":        {w.edit(t, "kid", w.two.kid), 400, "malformed"}, // the signature does not verify
	} {
		res := w.one.send(t, kid, jwstest.Sign(t, w.one.key, c.h, ""))
		refused(t, name, res, c.status, c.kind)
		if res.header.Get("Replay-Nonce") == "" {
			t.Errorf("%s: no nonce", name)
		}
		if c.kind == "badSignatureAlgorithm" && !strings.Contains(string(res.body), `"algorithms":["ES256"`) { // RFC 8555 §6.2
			t.Errorf("%s: %s names no algorithms", name, res.body)
		}
	}
	for name, body := range map[string]string{
		"empty": "", "not JSON": "x", "compact": "a.b.c", "list": "[]", "unprotected header": `{"header":{},"protected":"","payload":"","signature":""}`,
	} {
		refused(t, name, w.one.send(t, kid, []byte(body)), 400, "malformed")
	}
	// The account's URL in the scope it belongs to, asked at a scope it does not.
	h := w.one.header(t, strings.Replace(kid, "demo.shop.dev", "demo", 1))
	refused(t, "scope of another", w.one.send(t, strings.Replace(kid, "demo.shop.dev", "demo", 1), jwstest.Sign(t, w.one.key, h, "")), 400, "accountDoesNotExist")
}

func (w *world) nonces(t *testing.T) {
	used := w.one.freshNonce(t)
	h := w.edit(t, "nonce", used)
	if res := w.one.send(t, w.one.kid, jwstest.Sign(t, w.one.key, h, "")); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	fresh := w.one.freshNonce(t)
	for name, c := range map[string]struct {
		nonce any
		kind  string
	}{
		"none":               {nil, "badNonce"},
		"empty":              {"", "badNonce"},
		"used":               {used, "badNonce"},
		"made up":            {strings.Repeat("A", len(used)), "badNonce"},
		"changed at the end": {fresh[:len(fresh)-2] + "AA", "badNonce"},
		"another's offset":   {"AAAAAAAAAAAAAA" + fresh[14:], "badNonce"},
		"short":              {fresh[:20], "badNonce"},
		"long":               {fresh + "AAAA", "badNonce"},
		"padded":             {fresh + "=", "malformed"},
		"not base64url":      {"!!!!", "malformed"},
		"a number":           {7, "malformed"},
	} {
		res := w.one.send(t, w.one.kid, jwstest.Sign(t, w.one.key, w.edit(t, "nonce", c.nonce), ""))
		refused(t, name, res, 400, c.kind)
	}
	old := w.edit(t, "nonce", w.one.freshNonce(t))
	w.Advance(2 * time.Hour)
	refused(t, "too old", w.one.send(t, w.one.kid, jwstest.Sign(t, w.one.key, old, "")), 400, "badNonce")
	w.Advance(-2 * time.Hour)
	res := w.one.send(t, w.one.kid, jwstest.Sign(t, w.one.key, w.edit(t, "nonce", fresh), ""))
	if res.status != http.StatusOK {
		t.Errorf("the good nonce: %d %s", res.status, res.body)
	}
}

func (w *world) accounts(t *testing.T) {
	register := func(payload string) reply {
		a := &account{replica: w.r, key: jwstest.NewKey(t)}
		return a.post(t, w.r.at("new-account"), payload)
	}
	refused(t, "only existing", register(`{"onlyReturnExisting":true}`), 400, "accountDoesNotExist")
	refused(t, "no payload", register(``), 400, "malformed")
	refused(t, "a list", register(`[]`), 400, "malformed")
	refused(t, "a member twice", register(`{"contact":[],"contact":[]}`), 400, "malformed")
	refused(t, "contact is a string", register(`{"contact":"mailto:a@b.test"}`), 400, "malformed")
	refused(t, "tel", register(`{"contact":["tel:+4712345678"]}`), 400, "unsupportedContact")
	for _, c := range []string{"mailto:", "mailto:x", "mailto:a@b.test,c@d.test", "mailto:a@b.test?subject=x", "mailto:A <a@b.test>", "mailto:a@b.test\\n"} {
		refused(t, c, register(`{"contact":["`+c+`"]}`), 400, "invalidContact")
	}
	refused(t, "many contacts", register(`{"contact":["`+strings.Repeat(`mailto:a@b.test","`, 11)+`mailto:a@b.test"]}`), 400, "invalidContact")
	unknown := &account{replica: w.r, key: jwstest.NewKey(t)}
	refused(t, "kid at new-account", w.one.post(t, w.r.at("new-account"), `{}`), 400, "malformed")
	refused(t, "no scope", unknown.post(t, w.r.base+"/acme/-/nobody/new-account", `{}`), 404, "malformed")
	refused(t, "another's account", w.one.post(t, w.two.kid, ``), 403, "unauthorized")
	refused(t, "status valid? revoked", w.one.post(t, w.one.kid, `{"status":"revoked"}`), 400, "malformed")
	refused(t, "bad contact in an update", w.one.post(t, w.one.kid, `{"contact":["tel:1"]}`), 400, "unsupportedContact")

	again := &account{replica: w.r, key: w.one.key}
	res := again.post(t, w.r.at("new-account"), `{"contact":["mailto:other@demo.test"]}`)
	if res.status != http.StatusOK || res.header.Get("Location") != w.one.kid || strings.Contains(string(res.body), "other@") {
		t.Errorf("the same key: %d %v %s", res.status, res.header, res.body)
	}
	gone := w.r.register(t)
	if res := gone.post(t, gone.kid, `{"status":"deactivated"}`); res.json(t)["status"] != "deactivated" {
		t.Errorf("deactivating: %d %s", res.status, res.body)
	}
	refused(t, "a deactivated account", gone.post(t, gone.kid, ``), 401, "unauthorized")
	refused(t, "its key", (&account{replica: w.r, key: gone.key}).post(t, w.r.at("new-account"), `{}`), 401, "unauthorized")
}

func (w *world) orders(t *testing.T) {
	for name, c := range map[string]struct {
		payload string
		kind    string
	}{
		"empty payload":                   {``, "malformed"},
		"no identifiers":                  {`{}`, "malformed"},
		"none":                            {`{"identifiers":[]}`, "malformed"},
		"a string":                        {`{"identifiers":"a.demo.test"}`, "malformed"},
		"a list of them":                  {`{"identifiers":["a.demo.test"]}`, "malformed"},
		"an identifier with a type twice": {`{"identifiers":[{"type":"dns","type":"ip","value":"127.0.0.1"}]}`, "malformed"},
		"e-mail":                          {`{"identifiers":[{"type":"email","value":"a@demo.test"}]}`, "unsupportedIdentifier"},
		"no type":                         {`{"identifiers":[{"value":"a.demo.test"}]}`, "unsupportedIdentifier"},
		"no value":                        {`{"identifiers":[{"type":"dns"}]}`, "rejectedIdentifier"},
		"mixed refusals":                  {`{"identifiers":[{"type":"x","value":"y"},{"type":"dns","value":"evil.test"}]}`, "compound"},
		"notBefore long past":             {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notBefore":"2016-01-01T00:00:00Z"}`, "malformed"},
		"notAfter past":                   {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notAfter":"2016-01-01T00:00:00Z"}`, "malformed"},
		"notAfter far off":                {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notAfter":"2106-01-01T00:00:00Z"}`, "malformed"},
		"notBefore far off":               {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notBefore":"2106-01-01T00:00:00Z"}`, "malformed"},
		"dates in the wrong order":        {dated(w.Now().Add(2*time.Hour), w.Now().Add(time.Hour)), "malformed"},
		"dates that are one":              {dated(w.Now().Add(time.Hour), w.Now().Add(time.Hour)), "malformed"},
		"a date of another format":        {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notAfter":"Mon, 02 Jan 2006 15:04:05 MST"}`, "malformed"},
		"a date that is none":             {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notBefore":"2026-02-30T00:00:00Z"}`, "malformed"},
		"a date that is a number":         {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"notBefore":1}`, "malformed"},
		"an ancestor that is none":        {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"other.test"}]}`, "malformed"},
		"an ancestor that is the name":    {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"a.demo.test"}]}`, "malformed"},
		"an ancestor by its letters":      {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"emo.test"}]}`, "malformed"},
		"an ancestor that is below":       {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"x.a.demo.test"}]}`, "malformed"},
		"an ancestor that is a wildcard":  {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"*.demo.test"}]}`, "malformed"},
		"an ancestor in upper case":       {`{"identifiers":[{"type":"dns","value":"a.demo.test","ancestorDomain":"DEMO.test"}]}`, "malformed"},
		"an ancestor of a wildcard":       {`{"identifiers":[{"type":"dns","value":"*.demo.test","ancestorDomain":"demo.test"}]}`, "malformed"},
		"an ancestor of an address":       {`{"identifiers":[{"type":"ip","value":"127.0.0.1","ancestorDomain":"0.1"}]}`, "malformed"},
		"an unknown profile":              {`{"identifiers":[{"type":"dns","value":"a.demo.test"}],"profile":"root"}`, "invalidProfile"},
		"101 names":                       {orderFor(many(101)...), "malformed"},
	} {
		refused(t, name, w.one.post(t, w.r.at("new-order"), c.payload), 400, c.kind)
	}
	res := w.one.post(t, w.r.at("new-order"), orderFor("dns:evil.test", "dns:a.demo.test", "dns:worse.test"))
	var p struct {
		Subproblems []struct {
			Type, Detail string
			Identifier   struct{ Type, Value string }
		}
	}
	must(t, json.Unmarshal(res.body, &p))
	if len(p.Subproblems) != 2 || p.Subproblems[0].Identifier.Value != "evil.test" || p.Subproblems[1].Identifier.Value != "worse.test" ||
		!strings.Contains(p.Subproblems[0].Detail, "name rights") { // RFC 8555 §6.7.1
		t.Errorf("subproblems %s", res.body)
	}
	var facts int
	must(t, w.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'order.create' AND NOT allowed AND subject IN ('dns:evil.test', 'dns:worse.test')`).Scan(&facts))
	if facts < 2 {
		t.Errorf("%d refusals are facts", facts)
	}
}

func many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("dns:n%d.demo.test", i))
	}
	return out
}

func (w *world) names(t *testing.T) {
	for _, n := range []string{
		"dns:evil.test", "dns:demo.test.evil.test", "dns:a.b.demo.test", "dns:A.demo.test", "dns:a.demo.test.", "dns:.demo.test", "dns:a..test",
		"dns:a_b.demo.test", "dns:-a.demo.test", "dns:a-.demo.test", "dns:*", "dns:*.*.demo.test", "dns:a.*.demo.test", "dns:a*.demo.test",
		"dns:xn--a.demo.test", "dns:bücher.demo.test", "dns:127.0.0.1", "dns:[::1]", "dns:" + strings.Repeat("a", 64) + ".demo.test",
		"dns:" + strings.Repeat("a.", 130) + "demo.test", "dns:a b.demo.test", "dns:a/demo.test", "dns:demo.test:80", "dns:", "dns:*.test", "dns:*.other.test",
		"ip:10.0.0.1", "ip:a.demo.test", "ip:127.0.0.1/8", "ip:127.1", "ip:::ffff:127.0.0.1", "ip:0:0:0:0:0:0:0:1", "ip:fe80::1%eth0", "ip:169.254.169.254",
	} {
		refused(t, n, w.one.post(t, w.r.at("new-order"), orderFor(n)), 400, "rejectedIdentifier")
	}
}

func (w *world) others(t *testing.T) {
	authz := authorizations(w.ready)[0]
	chall := challengeOf(t, w.one.post(t, authorizations(w.pending)[0], "").json(t), "http-01")["url"].(string)
	for name, u := range map[string]string{"order": w.readyURL, "authorization": authz, "challenge": chall, "certificate": w.valid["certificate"].(string)} {
		refused(t, "another's "+name, w.two.post(t, u, ""), 404, "malformed")
	}
	refused(t, "another's challenge, answered", w.two.post(t, chall, "{}"), 404, "malformed")
	if c := w.one.post(t, chall, "").json(t); c["status"] != "pending" {
		t.Errorf("another account or a read set off the challenge: %v", c)
	}
	refused(t, "another's finalize", w.two.post(t, w.ready["finalize"].(string), csrFor(t, pkitest.Key(t), "dns:a.demo.test", "dns:b.demo.test")), 404, "malformed")
	id := uidOf(t, w.readyURL).String()
	for name, u := range map[string]string{
		"no such order": "order/" + strings.Repeat("0", 36), "an account as order": "order/" + uidOf(t, w.one.kid).String(), "an order as authorization": "authz/" + id,
		"an unknown method": strings.TrimPrefix(chall, w.r.at("")) + "x", "an upper-case id": "order/" + strings.ToUpper(id), "no certificate yet": "cert/" + id,
	} {
		refused(t, name, w.one.post(t, w.r.at(u), ""), 404, "malformed")
	}
	refused(t, "a read with a payload", w.one.post(t, w.readyURL, "{}"), 400, "malformed")
	refused(t, "an answer that is a list", w.one.post(t, chall, "[]"), 400, "malformed")
	_, wild := w.one.order(t, "dns:*.demo.test")
	z := w.one.post(t, authorizations(wild)[0], "").json(t)
	if z["wildcard"] != true || z["identifier"].(map[string]any)["value"] != "demo.test" || len(z["challenges"].([]any)) != 1 {
		t.Errorf("a wildcard's authorization %v", z)
	}
	dns := challengeOf(t, z, "dns-01")["url"].(string)
	refused(t, "a wildcard by http-01", w.one.post(t, strings.Replace(dns, "dns-01", "http-01", 1), "{}"), 404, "malformed")
	_, ip := w.one.order(t, "ip:127.0.0.1")
	z = w.one.post(t, authorizations(ip)[0], "").json(t)
	if _, has := z["wildcard"]; has || len(z["challenges"].([]any)) != 2 {
		t.Errorf("an address's authorization %v", z)
	}
	http := challengeOf(t, z, "http-01")["url"].(string)
	refused(t, "an address by dns-01", w.one.post(t, strings.Replace(http, "http-01", "dns-01", 1), "{}"), 404, "malformed")
}

func (w *world) finalizes(t *testing.T) {
	finalize := func(order map[string]any, payload string) reply {
		return w.one.post(t, order["finalize"].(string), payload)
	}
	key := pkitest.Key(t)
	good := []string{"dns:a.demo.test", "dns:b.demo.test"}
	broken := pkitest.CSRBytes(t, key, good...)
	broken[len(broken)-1] ^= 1
	for name, payload := range map[string]string{
		"fewer names":           csrFor(t, key, "dns:a.demo.test"),
		"more names":            csrFor(t, key, append(good, "dns:c.demo.test")...),
		"other names":           csrFor(t, key, "dns:a.demo.test", "dns:c.demo.test"),
		"no names":              csrFor(t, key),
		"an address besides":    csrFor(t, key, append(good, "ip:127.0.0.1")...),
		"a URI besides":         csrFor(t, key, append(good, "uri:spiffe://segl.test/tenant/demo/x")...),
		"a wildcard":            csrFor(t, key, append(good, "dns:*.demo.test")...),
		"another common name":   csrFor(t, key, append(good, "cn:c.demo.test")...),
		"a name as CN":          csrFor(t, key, append(good, "cn:Example Org")...),
		"a CN of 65 octets":     csrFor(t, key, append(good, "cn:"+strings.Repeat("a", 65))...),
		"the account's key":     csrFor(t, w.one.key, good...),
		"another account's key": csrFor(t, w.two.key, good...),
		"not a CSR":             `{"csr":"AAAA"}`,
		"more after the CSR":    `{"csr":"` + jwstest.B64(append(pkitest.CSRBytes(t, key, good...), 0)) + `"}`,
		"a broken signature":    `{"csr":"` + jwstest.B64(broken) + `"}`,
		"a certificate":         `{"csr":"` + jwstest.B64(w.leaf) + `"}`,
	} {
		refused(t, name, finalize(w.ready, payload), 400, "badCSR")
	}
	for name, payload := range map[string]string{
		"no csr": `{}`, "csr in PEM": `{"csr":"-----BEGIN CERTIFICATE REQUEST-----"}`, "padded": `{"csr":"AAA="}`, "a number": `{"csr":1}`, "empty": ``,
	} {
		refused(t, name, finalize(w.ready, payload), 400, "malformed")
	}
	refused(t, "a pending order", finalize(w.pending, csrFor(t, key, "dns:a.demo.test")), 403, "orderNotReady")
	refused(t, "a valid order, another key", finalize(w.valid, csrFor(t, key, "dns:a.demo.test")), 403, "orderNotReady")
	if res := finalize(w.valid, csrFor(t, w.key, "dns:a.demo.test")); res.status != http.StatusOK || res.json(t)["certificate"] != w.valid["certificate"] {
		t.Errorf("the same key again: %d %s", res.status, res.body)
	}
	// The common name alone names it too (RFC 8555 §7.4).
	url, o := w.one.order(t, "dns:a.demo.test")
	w.one.wait(t, url) // proved for the orders before
	if res := finalize(o, csrFor(t, key, "cn:a.demo.test")); res.status != http.StatusOK || res.json(t)["status"] != "valid" {
		t.Errorf("a name in the subject only: %d %s", res.status, res.body)
	}
	if res := finalize(w.ready, csrFor(t, key, good...)); res.status != http.StatusOK || res.json(t)["status"] != "valid" {
		t.Errorf("after all refusals: %d %s", res.status, res.body)
	}
}

func (w *world) keys(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for _, k := range []crypto.Signer{ed, big, jwstest.ECKey(t, elliptic.P384())} {
		a := &account{replica: w.r, key: k}
		if res := a.post(t, w.r.at("new-account"), `{}`); res.status != http.StatusCreated {
			t.Errorf("account key %T: %d %s", k, res.status, res.body)
		}
	}
	a := &account{replica: w.r, key: small}
	refused(t, "RSA-1024 account", a.post(t, w.r.at("new-account"), `{}`), 400, "badPublicKey")
	url, o := w.one.order(t, "dns:a.demo.test")
	w.one.prove(t, o, "http-01")
	w.one.wait(t, url)
	for name, k := range map[string]crypto.Signer{"RSA-1024": small, "P-224": jwstest.ECKey(t, elliptic.P224()), "P-521": jwstest.ECKey(t, elliptic.P521())} {
		refused(t, name, w.one.post(t, o["finalize"].(string), csrFor(t, k, "dns:a.demo.test")), 400, "badCSR")
	}
	// A key once revoked as compromised fails the order it is asked for.
	bad := pkitest.Key(t)
	who := pkitest.Workload(pkitest.Demo, "demo")
	c, err := w.Issue(t.Context(), who, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, bad, "dns:a.demo.test")})
	must(t, err)
	_, err = w.Revoke(t.Context(), who, c.Serial, 1)
	must(t, err)
	res := w.one.post(t, o["finalize"].(string), csrFor(t, bad, "dns:a.demo.test"))
	got := res.json(t)
	if got["status"] != "invalid" || !strings.Contains(string(res.body), "badCSR") || !strings.Contains(string(res.body), "compromised") {
		t.Errorf("a compromised key: %d %s", res.status, res.body)
	}
}

func (w *world) revocations(t *testing.T) {
	ask := func(der []byte, reason string) string {
		return `{"certificate":"` + jwstest.B64(der) + `"` + reason + `}`
	}
	u := w.r.at("revoke-cert")
	for name, c := range map[string]struct {
		who     *account
		payload string
		status  int
		kind    string
	}{
		"another account": {w.two, ask(w.leaf, ""), 403, "unauthorized"},
		"no certificate":  {w.one, `{}`, 400, "malformed"},
		"not DER":         {w.one, ask([]byte("x"), ""), 400, "malformed"},
		"more after it":   {w.one, ask(append(append([]byte(nil), w.leaf...), 0), ""), 400, "malformed"},
		"another CA's":    {w.one, ask(w.Roots()[0].Raw, ""), 404, "malformed"},
		"altered":         {w.one, ask(altered(w.leaf), ""), 404, "malformed"},
		"certificateHold": {w.one, ask(w.leaf, `,"reason":6`), 400, "badRevocationReason"},
		"removeFromCRL":   {w.one, ask(w.leaf, `,"reason":8`), 400, "badRevocationReason"},
		"the authority's": {w.one, ask(w.leaf, `,"reason":2`), 400, "badRevocationReason"},
		"unused code":     {w.one, ask(w.leaf, `,"reason":7`), 400, "badRevocationReason"},
		"unknown code":    {w.one, ask(w.leaf, `,"reason":99`), 400, "badRevocationReason"},
		"negative code":   {w.one, ask(w.leaf, `,"reason":-1`), 400, "badRevocationReason"},
		"reason by name":  {w.one, ask(w.leaf, `,"reason":"superseded"`), 400, "malformed"},
	} {
		refused(t, name, c.who.post(t, u, c.payload), c.status, c.kind)
	}
	stranger := &account{replica: w.r, key: jwstest.NewKey(t)}
	refused(t, "another key", stranger.post(t, u, ask(w.leaf, "")), 403, "unauthorized")
	other := w.r.base + "/acme/-/other/revoke-cert"
	refused(t, "at another scope", w.other.post(t, other, ask(w.leaf, "")), 404, "malformed")
	refused(t, "its key at another scope", (&account{replica: w.r, key: w.key}).post(t, other, ask(w.leaf, "")), 404, "malformed")
	if res := w.one.post(t, u, ask(w.leaf, "")); res.status != http.StatusOK || len(res.body) != 0 {
		t.Errorf("its account: %d %s", res.status, res.body)
	}
	refused(t, "twice", w.one.post(t, u, ask(w.leaf, "")), 400, "alreadyRevoked")
}

// altered changes a certificate's signature, and so nothing that is parsed.
func altered(der []byte) []byte {
	out := append([]byte(nil), der...)
	out[len(out)-1] ^= 1
	return out
}
