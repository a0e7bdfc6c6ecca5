package api_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// parts are a good request of an account for its own URL, taken apart.
func (w *world) parts(t *testing.T) (protected, payload string, signature []byte) {
	t.Helper()
	var j struct{ Protected, Payload, Signature string }
	must(t, json.Unmarshal(jwstest.Sign(t, w.one.key, w.one.header(t, w.one.kid), ""), &j))
	sig, err := base64.RawURLEncoding.DecodeString(j.Signature)
	must(t, err)
	return j.Protected, j.Payload, sig
}

// bodies are requests that are no JWS as RFC 8555 §6.2 wants it, or not signed by whom they say.
func (w *world) bodies(t *testing.T) {
	p, _, sig := w.parts(t)
	good := jwstest.B64(sig)
	half := len(sig) / 2
	r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	must(t, err)
	flip := func(i int) string { b := append([]byte(nil), sig...); b[i] ^= 1; return jwstest.B64(b) }
	order := elliptic.P256().Params().N.FillBytes(make([]byte, half))
	zero := make([]byte, half)
	for name, body := range map[string]string{
		"nothing":                      ``,
		"null":                         `null`,
		"a string":                     `"x"`,
		"two objects":                  string(jwstest.Body(p, "", good)) + `{}`,
		"words after it":               string(jwstest.Body(p, "", good)) + `x`,
		"a byte order mark":            "\xef\xbb\xbf" + string(jwstest.Body(p, "", good)),
		"broken UTF-8":                 strings.Replace(string(jwstest.Body(p, "", good)), `"payload":""`, "\"payload\":\"\xff\"", 1),
		"no protected":                 `{"payload":"","signature":"` + good + `"}`,
		"no payload":                   `{"protected":"` + p + `","signature":"` + good + `"}`,
		"no signature":                 `{"protected":"` + p + `","payload":""}`,
		"an empty signature":           string(jwstest.Body(p, "", "")),
		"protected twice":              `{"protected":"` + p + `","protected":"` + p + `","payload":"","signature":"` + good + `"}`,
		"payload twice":                `{"protected":"` + p + `","payload":"","payload":"e30","signature":"` + good + `"}`,
		"signature twice":              `{"protected":"` + p + `","payload":"","signature":"AA","signature":"` + good + `"}`,
		"an unprotected header":        `{"header":{"kid":"x"},"protected":"` + p + `","payload":"","signature":"` + good + `"}`,
		"signatures":                   `{"payload":"","signatures":[{"protected":"` + p + `","signature":"` + good + `"}]}`,
		"both forms":                   `{"protected":"` + p + `","payload":"","signature":"` + good + `","signatures":[]}`,
		"a stranger's member":          `{"protected":"` + p + `","payload":"","signature":"` + good + `","x":1}`,
		"protected is an object":       `{"protected":{"alg":"ES256"},"payload":"","signature":"` + good + `"}`,
		"payload is an object":         `{"protected":"` + p + `","payload":{},"signature":"` + good + `"}`,
		"payload is null":              `{"protected":"` + p + `","payload":null,"signature":"` + good + `"}`,
		"signature is a list":          `{"protected":"` + p + `","payload":"","signature":["` + good + `"]}`,
		"protected is empty":           string(jwstest.Body("", "", good)),
		"protected is a list":          string(jwstest.Body(jwstest.B64([]byte(`[]`)), "", good)),
		"protected is no JSON":         string(jwstest.Body(jwstest.B64([]byte(`{`)), "", good)),
		"protected is padded":          string(jwstest.Body(p+"=", "", good)),
		"payload is padded":            string(jwstest.Body(p, "e30=", good)),
		"signature is padded":          string(jwstest.Body(p, "", good+"==")),
		"the other alphabet":           string(jwstest.Body(p, "", base64.RawStdEncoding.EncodeToString([]byte{0xfb, 0xff, 0xfe}))),
		"a line break in it":           `{"protected":"` + p[:20] + `\n` + p[20:] + `","payload":"","signature":"` + good + `"}`,
		"a space in it":                string(jwstest.Body(p[:20]+" "+p[20:], "", good)),
		"stray bits":                   string(jwstest.Body(p, "e31", good)),
		"another payload":              string(jwstest.Body(p, "e30", good)),
		"one bit of R":                 string(jwstest.Body(p, "", flip(0))),
		"one bit of S":                 string(jwstest.Body(p, "", flip(half))),
		"R and S changed about":        string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), sig[half:]...), sig[:half]...)))),
		"a signature in DER":           string(jwstest.Body(p, "", jwstest.B64(der))),
		"one octet less":               string(jwstest.Body(p, "", jwstest.B64(sig[:len(sig)-1]))),
		"one octet more":               string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), sig...), 0)))),
		"R is zero":                    string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), zero...), sig[half:]...)))),
		"S is zero":                    string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), sig[:half]...), zero...)))),
		"all zero (CVE-2022-21449)":    string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), zero...), zero...)))),
		"R is the group's order":       string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), order...), sig[half:]...)))),
		"S is the group's order":       string(jwstest.Body(p, "", jwstest.B64(append(append([]byte(nil), sig[:half]...), order...)))),
		"deep nesting":                 string(jwstest.Body(jwstest.B64([]byte(`{"alg":"ES256","x":`+strings.Repeat("[", 15000)+strings.Repeat("]", 15000)+`}`)), "", good)),
		"a header member twice":        string(jwstest.SignRaw(t, w.one.key, `{"alg":"ES256","alg":"none","kid":"`+w.one.kid+`","nonce":"AAAA","url":"`+w.one.kid+`"}`, "")),
		"a header member in two cases": string(jwstest.SignRaw(t, w.one.key, `{"Alg":"ES256","kid":"`+w.one.kid+`","nonce":"AAAA","url":"`+w.one.kid+`"}`, "")),
		"kid is null":                  string(jwstest.SignRaw(t, w.one.key, `{"alg":"ES256","kid":null,"nonce":"AAAA","url":"`+w.one.kid+`"}`, "")),
		"alg is a list":                string(jwstest.SignRaw(t, w.one.key, `{"alg":["ES256"],"kid":"`+w.one.kid+`","nonce":"AAAA","url":"`+w.one.kid+`"}`, "")),
		"url is null":                  string(jwstest.SignRaw(t, w.one.key, `{"alg":"ES256","kid":"`+w.one.kid+`","nonce":"AAAA","url":null}`, "")),
	} {
		refused(t, name, w.one.send(t, w.one.kid, []byte(body)), 400, "malformed")
	}
	if res := w.one.send(t, w.one.kid, jwstest.Body(p, "", good)); res.status != http.StatusOK { // its nonce was spent by none of them
		t.Errorf("the good request after all: %d %s", res.status, res.body)
	}
	refused(t, "the very same request again", w.one.send(t, w.one.kid, jwstest.Body(p, "", good)), 400, "badNonce")
}

// jwks are keys that newAccount does not take.
func (w *world) jwks(t *testing.T) {
	u := w.r.at("new-account")
	key := jwstest.NewKey(t)
	x, y := jwstest.B64(key.X.FillBytes(make([]byte, 32))), jwstest.B64(key.Y.FillBytes(make([]byte, 32))) //nolint:staticcheck // as a JWK has them
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	send := func(alg, jwk string) reply {
		a := &account{replica: w.r, key: key}
		return a.send(t, u, jwstest.SignRaw(t, key, `{"alg":"`+alg+`","nonce":"`+w.r.freshNonce(t)+`","url":"`+u+`","jwk":`+jwk+`}`, `{}`))
	}
	for name, c := range map[string]struct{ alg, jwk, kind string }{
		"a symmetric key":            {"ES256", `{"kty":"oct","k":"AAAA"}`, "badPublicKey"},
		"a private key":              {"ES256", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `","d":"AAAA"}`, "badPublicKey"},
		"no type":                    {"ES256", `{"crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "badPublicKey"},
		"another curve's name":       {"ES256", `{"kty":"EC","crv":"P-384","x":"` + x + `","y":"` + y + `"}`, "badPublicKey"},
		"no curve of ours":           {"ES256", `{"kty":"EC","crv":"secp256k1","x":"` + x + `","y":"` + y + `"}`, "badPublicKey"},
		"P-521":                      {"ES256", `{"kty":"EC","crv":"P-521","x":"` + x + `","y":"` + y + `"}`, "badPublicKey"},
		"a point off the curve":      {"ES256", `{"kty":"EC","crv":"P-256","x":"` + y + `","y":"` + x + `"}`, "badPublicKey"},
		"a point at infinity":        {"ES256", `{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}`, "badPublicKey"},
		"no y":                       {"ES256", `{"kty":"EC","crv":"P-256","x":"` + x + `"}`, "badPublicKey"},
		"x twice":                    {"ES256", `{"kty":"EC","crv":"P-256","x":"` + x + `","x":"` + x + `","y":"` + y + `"}`, "malformed"},
		"a short RSA key":            {"RS256", `{"kty":"RSA","n":"` + jwstest.B64(make([]byte, 128)) + `","e":"AQAB"}`, "badPublicKey"},
		"an RSA key with e = 1":      {"RS256", `{"kty":"RSA","n":"` + jwstest.B64(append([]byte{0xff}, make([]byte, 255)...)) + `","e":"AQ"}`, "badPublicKey"},
		"an even modulus":            {"RS256", `{"kty":"RSA","n":"` + jwstest.B64(append([]byte{0xff}, make([]byte, 255)...)) + `","e":"AQAB"}`, "badPublicKey"},
		"Ed25519 under ES256":        {"ES256", `{"kty":"OKP","crv":"Ed25519","x":"` + jwstest.B64(ed) + `"}`, "badPublicKey"},
		"P-256 under EdDSA":          {"EdDSA", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "badPublicKey"},
		"X25519":                     {"EdDSA", `{"kty":"OKP","crv":"X25519","x":"` + jwstest.B64(ed) + `"}`, "badPublicKey"},
		"a public key as MAC secret": {"HS256", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "badSignatureAlgorithm"},
		"PS256":                      {"PS256", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "badSignatureAlgorithm"},
		"es256 in lower case":        {"es256", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "badSignatureAlgorithm"},
		"null":                       {"ES256", `null`, "malformed"},
		"a list":                     {"ES256", `[]`, "malformed"},
		"a string":                   {"ES256", `"x"`, "malformed"},
		"an empty one":               {"ES256", `{}`, "badPublicKey"},
	} {
		refused(t, name, send(c.alg, c.jwk), 400, c.kind)
	}
	if res := send("ES256", `{"kty":"EC","crv":"P-256","x":"`+x+`","y":"`+y+`"}`); res.status != http.StatusCreated {
		t.Errorf("the good key: %d %s", res.status, res.body)
	}
}

// incidents are what public CAs, or clients at them, once got away with.
func (w *world) incidents(t *testing.T) {
	a, b := w.r.register(t), w.r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	csr := func(names ...string) string { return csrFor(t, pkitest.Key(t), names...) }
	// An authorization of another account, reused for one's own order or finalized upon.
	_, own := b.order(t, "dns:a.demo.test")
	if own["status"] != "pending" {
		t.Errorf("another account's authorization is reused: %v", own)
	}
	refused(t, "finalizing on another account's proof", b.post(t, own["finalize"].(string), csr("dns:a.demo.test")), 403, "orderNotReady")
	refused(t, "finalizing another account's order", b.post(t, o["finalize"].(string), csr("dns:a.demo.test")), 404, "malformed")
	// A request for one resource sent to another, and one scope's account at another's directory.
	h := a.header(t, a.at("new-order"))
	moved := jwstest.Sign(t, a.key, h, orderFor("dns:a.demo.test"))
	refused(t, "a request sent elsewhere", a.send(t, a.at("new-authz"), moved), 403, "unauthorized")
	refused(t, "an order in another scope", w.other.post(t, w.r.at("new-order"), orderFor("dns:a.demo.test")), 400, "accountDoesNotExist")
	// A wildcard on the proof of its domain, and names that were not ordered.
	for name, names := range map[string][]string{
		"a wildcard instead": {"dns:*.demo.test"}, "a wildcard besides": {"dns:a.demo.test", "dns:*.a.demo.test"}, "the domain above": {"dns:demo.test"},
		"more names": {"dns:a.demo.test", "dns:b.demo.test"}, "another name": {"dns:b.demo.test"}, "the name in a longer one": {"dns:a.demo.test.evil.test"},
		"only as common name, and another": {"cn:a.demo.test", "dns:b.demo.test"}, "an address instead": {"ip:127.0.0.1"}, "none": nil,
	} {
		refused(t, "finalizing with "+name, a.post(t, o["finalize"].(string), csr(names...)), 400, "badCSR")
	}
	// A NUL in a name (CVE-2009-2408), a name with a port, a name in percent signs, homographs.
	for _, n := range []string{`a.demo.test\u0000.evil.test`, `a.demo.test:443`, `a%2edemo.test`, `а.demo.test`, `a。demo.test`, `a.demo.test\n`, ` a.demo.test`, `user@a.demo.test`, `//a.demo.test`} {
		refused(t, n, a.post(t, w.r.at("new-order"), `{"identifiers":[{"type":"dns","value":"`+n+`"}]}`), 400, "rejectedIdentifier")
	}
	// An order is finalized once: after its certificate, with another key, it gives no second one.
	if res := a.post(t, o["finalize"].(string), csr("dns:a.demo.test")); res.status != http.StatusOK || res.json(t)["status"] != "valid" {
		t.Fatalf("finalizing: %d %s", res.status, res.body)
	}
	refused(t, "a second certificate", a.post(t, o["finalize"].(string), csr("dns:a.demo.test")), 403, "orderNotReady")
}
