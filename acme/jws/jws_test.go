package jws_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/cert"
)

const (
	url = "https://ca.test/acme/demo/new-order"
	kid = "https://ca.test/acme/demo/acct/1"
)

func good() jwstest.Header {
	return jwstest.Header{"alg": "ES256", "nonce": "AAAA", "url": url, "kid": kid}
}

// with returns a good header that differs in one member; nil takes the member out.
func with(name string, value any) jwstest.Header {
	h := good()
	h[name] = value
	if value == nil {
		delete(h, name)
	}
	return h
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVerifyTakesEveryListedAlgorithm(t *testing.T) {
	keys := map[string]crypto.Signer{
		"ES256": jwstest.NewKey(t), "ES384": jwstest.ECKey(t, elliptic.P384()), "EdDSA": edKey(t), "RS256": rsaKey(t, 2048),
	}
	for _, alg := range jws.Algorithms() {
		key := keys[alg]
		h := with("kid", nil)
		h["alg"], h["jwk"] = alg, jwstest.JWK(t, key)
		m, err := jws.Parse(jwstest.Sign(t, key, h, `{"a":1}`))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if err := m.Verify(m.Key); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if m.Algorithm != alg || m.Nonce != "AAAA" || m.URL != url || m.KeyID != "" || string(m.Payload) != `{"a":1}` {
			t.Errorf("%s: read %+v", alg, m)
		}
	}
}

func TestParseTakesPostAsGetAndUnknownHeaderParameters(t *testing.T) {
	key := jwstest.NewKey(t)
	m, err := jws.Parse(jwstest.Sign(t, key, with("typ", "JOSE"), ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(key.Public()); err != nil || len(m.Payload) != 0 || m.KeyID != kid {
		t.Fatalf("read %+v, %v", m, err)
	}
}

func TestParseRefusesHeaders(t *testing.T) {
	key, other := jwstest.NewKey(t), jwstest.ECKey(t, elliptic.P384())
	jwk := jwstest.JWK(t, key)
	both, only384 := with("jwk", jwk), with("kid", nil)
	only384["jwk"] = jwstest.JWK(t, other)
	named := func(jwk string) jwstest.Header {
		h := with("kid", nil)
		h["jwk"] = json.RawMessage(jwk)
		return h
	}
	secret := strings.Replace(string(jwk), `{`, `{"d":"AAAA",`, 1)
	for name, c := range map[string]struct {
		h    jwstest.Header
		want error
	}{
		"no alg":                     {with("alg", nil), jws.ErrMalformed},
		"empty alg":                  {with("alg", ""), jws.ErrMalformed},
		"alg is a number":            {with("alg", 1), jws.ErrMalformed},
		"none":                       {with("alg", "none"), jws.ErrAlgorithm},
		"None":                       {with("alg", "None"), jws.ErrAlgorithm},
		"HS256":                      {with("alg", "HS256"), jws.ErrAlgorithm},
		"ES512":                      {with("alg", "ES512"), jws.ErrAlgorithm},
		"PS256":                      {with("alg", "PS256"), jws.ErrAlgorithm},
		"ES256K":                     {with("alg", "ES256K"), jws.ErrAlgorithm},
		"lower-case alg":             {with("alg", "es256"), jws.ErrAlgorithm},
		"no url":                     {with("url", nil), jws.ErrMalformed},
		"empty url":                  {with("url", ""), jws.ErrMalformed},
		"url is a list":              {with("url", []string{url}), jws.ErrMalformed},
		"nonce with padding":         {with("nonce", "AAA="), jws.ErrMalformed},
		"nonce in base64":            {with("nonce", "A+/A"), jws.ErrMalformed},
		"nonce is a number":          {with("nonce", 7), jws.ErrMalformed},
		"neither jwk nor kid":        {with("kid", nil), jws.ErrMalformed},
		"both jwk and kid":           {both, jws.ErrMalformed},
		"empty kid":                  {with("kid", ""), jws.ErrMalformed},
		"null kid":                   {with("kid", json.RawMessage("null")), jws.ErrMalformed},
		"null jwk":                   {named("null"), jws.ErrMalformed},
		"jwk is a string":            {named(`"x"`), jws.ErrMalformed},
		"crit":                       {with("crit", []string{"exp"}), jws.ErrMalformed},
		"empty crit":                 {with("crit", []string{}), jws.ErrMalformed},
		"b64":                        {with("b64", false), jws.ErrMalformed},
		"private jwk":                {named(secret), jws.ErrKey},
		"symmetric jwk":              {named(`{"kty":"oct","k":"AAAA"}`), jws.ErrKey},
		"jwk off the curve":          {named(`{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 42) + `E","y":"` + strings.Repeat("A", 42) + `E"}`), jws.ErrKey},
		"jwk of an unknown type":     {named(`{"kty":"XX"}`), jws.ErrKey},
		"jwk with a member twice":    {named(`{"kty":"EC","kty":"EC"}`), jws.ErrMalformed},
		"jwk of P-384 with ES256":    {only384, jws.ErrKey},
		"jwk Ed25519 of small order": {named(`{"kty":"OKP","crv":"Ed25519","x":"` + strings.Repeat("A", 43) + `"}`), jws.ErrKey},
	} {
		if m, err := jws.Parse(jwstest.Sign(t, key, c.h, "{}")); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, m, err, c.want)
		}
	}
}

func TestParseRefusesWeakRSA(t *testing.T) {
	key := rsaKey(t, 1024)
	h := with("kid", nil)
	h["alg"], h["jwk"] = "RS256", jwstest.JWK(t, key)
	_, err := jws.Parse(jwstest.Sign(t, key, h, "{}"))
	if !errors.Is(err, jws.ErrKey) || !errors.Is(err, cert.ErrBadKey) {
		t.Fatalf("RSA-1024: %v", err)
	}
}

func TestParseRefusesBodies(t *testing.T) {
	key := jwstest.NewKey(t)
	body := string(jwstest.Sign(t, key, good(), "{}"))
	var parts struct{ Protected, Payload, Signature string }
	if err := json.Unmarshal([]byte(body), &parts); err != nil {
		t.Fatal(err)
	}
	swap := func(old, with string) string {
		if !strings.Contains(body, old) {
			t.Fatalf("%q is not in the body", old)
		}
		return strings.Replace(body, old, with, 1)
	}
	for name, b := range map[string]string{
		"empty":                     "",
		"not JSON":                  "hello",
		"null":                      "null",
		"list":                      "[" + body + "]",
		"compact serialization":     parts.Protected + "." + parts.Payload + "." + parts.Signature,
		"trailing value":            body + "{}",
		"trailing octet":            body + "x",
		"cut short":                 body[:len(body)-1],
		"unprotected header":        swap(`{`, `{"header":{"kid":"x"},`),
		"general serialization":     `{"payload":"` + parts.Payload + `","signatures":[{"protected":"` + parts.Protected + `","signature":"` + parts.Signature + `"}]}`,
		"both serializations":       swap(`{`, `{"signatures":[],`),
		"unknown member":            swap(`{`, `{"extra":1,`),
		"payload twice":             swap(`{`, `{"payload":"e30",`),
		"protected twice":           swap(`}`, `,"protected":"`+parts.Protected+`"}`),
		"payload twice, escaped":    swap(`{`, `{"pa\u0079load":"e30",`),
		"upper-case member":         swap(`"payload"`, `"Payload"`),
		"no payload":                swap(`"payload":"e30",`, ``),
		"no signature":              swap(`,"signature":"`+parts.Signature+`"`, ``),
		"empty signature":           swap(parts.Signature, ``),
		"payload is an object":      swap(`"e30"`, `{}`),
		"payload is null":           swap(`"e30"`, `null`),
		"payload with padding":      swap(`"e30"`, `"e30="`),
		"payload with stray bits":   swap(`"e30"`, `"e31"`),
		"payload in base64":         swap(`"e30"`, `"+/+/"`),
		"payload with a line break": swap(`"e30"`, `"e3\n0"`),
		"header is not JSON":        string(jwstest.SignRaw(t, key, "hello", "{}")),
		"header is a list":          string(jwstest.SignRaw(t, key, "[]", "{}")),
		"header followed by more":   string(jwstest.SignRaw(t, key, headerOf(t)+"{}", "{}")),
		"header with alg twice":     string(jwstest.SignRaw(t, key, strings.Replace(headerOf(t), "{", `{"alg":"none",`, 1), "{}")),
		"header with url twice":     string(jwstest.SignRaw(t, key, strings.Replace(headerOf(t), "{", `{"url":"https://a.test/",`, 1), "{}")),
		"header in Latin-1":         string(jwstest.SignRaw(t, key, strings.Replace(headerOf(t), "{", "{\"typ\":\"\xe6\",", 1), "{}")),
		"oversized":                 string(jwstest.Sign(t, key, good(), strings.Repeat(" ", jws.MaxSize))),
	} {
		if m, err := jws.Parse([]byte(b)); !errors.Is(err, jws.ErrMalformed) {
			t.Errorf("%s: got %v, %v", name, m, err)
		}
	}
	if _, err := jws.Parse([]byte(body)); err != nil {
		t.Fatalf("the good body is refused: %v", err)
	}
}

func headerOf(t *testing.T) string {
	t.Helper()
	b, err := json.Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVerifyRefusesForgeries(t *testing.T) {
	key, other := jwstest.NewKey(t), jwstest.NewKey(t)
	body := jwstest.Sign(t, key, good(), `{"a":1}`)
	var parts struct{ Protected, Payload, Signature string }
	if err := json.Unmarshal(body, &parts); err != nil {
		t.Fatal(err)
	}
	sig := jwstest.Signature(t, key, parts.Protected+"."+parts.Payload)
	flipped := bytes.Clone(sig)
	flipped[40] ^= 1
	for name, c := range map[string]struct {
		body []byte
		key  crypto.PublicKey
		want error
	}{
		"another key":           {body, other.Public(), jws.ErrSignature},
		"another payload":       {jwstest.Body(parts.Protected, jwstest.B64([]byte(`{"a":2}`)), parts.Signature), key.Public(), jws.ErrSignature},
		"another header":        {jwstest.Body(jwstest.B64([]byte(headerOf(t)+" ")), parts.Payload, parts.Signature), key.Public(), jws.ErrSignature},
		"a flipped bit":         {jwstest.Body(parts.Protected, parts.Payload, jwstest.B64(flipped)), key.Public(), jws.ErrSignature},
		"a short signature":     {jwstest.Body(parts.Protected, parts.Payload, jwstest.B64(sig[:63])), key.Public(), jws.ErrSignature},
		"a long signature":      {jwstest.Body(parts.Protected, parts.Payload, jwstest.B64(append(bytes.Clone(sig), 0))), key.Public(), jws.ErrSignature},
		"zeros":                 {jwstest.Body(parts.Protected, parts.Payload, jwstest.B64(make([]byte, 64))), key.Public(), jws.ErrSignature},
		"a key on P-384":        {body, jwstest.ECKey(t, elliptic.P384()).Public(), jws.ErrKey},
		"an Ed25519 key":        {body, edKey(t).Public(), jws.ErrKey},
		"an Ed25519 key by ref": {body, &ed25519.PublicKey{}, jws.ErrKey},
		"no key":                {body, nil, jws.ErrKey},
	} {
		m, err := jws.Parse(c.body)
		if err != nil {
			t.Errorf("%s: parsing: %v", name, err)
			continue
		}
		if err := m.Verify(c.key); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestRefusalsNeverQuoteSecrets(t *testing.T) {
	key := jwstest.NewKey(t)
	h := with("kid", nil)
	h["jwk"] = json.RawMessage(`{"kty":"EC","crv":"P-256","d":"c2VjcmV0c2VjcmV0","x":"AA","y":"AA"}`)
	if _, err := jws.Parse(jwstest.Sign(t, key, h, "{}")); err == nil || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Fatalf("refusal %v", err)
	}
}

func TestThumbprintIsRFC7638s(t *testing.T) {
	const jwk = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	key, err := jws.ParseKey([]byte(jwk)) // RFC 7638 §3.1
	if err != nil {
		t.Fatal(err)
	}
	if got, err := jws.Thumbprint(key); err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Fatalf("thumbprint %s, %v", got, err)
	}
}

func TestDecodeRefusesAmbiguousPayloads(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for name, p := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "two values": "{}{}", "cut short": `{"status":`,
		"a member twice": `{"status":"a","status":"b"}`, "twice below": `{"x":{"a":1,"a":2}}`,
		"twice in a list": `{"x":[1,{"a":1}, {"b":[{"c":1,"c":1}]} ]}`, "nested too deep": deep, "wrong type": `{"status":7}`,
	} {
		var v struct {
			Status string `json:"status"`
		}
		if err := jws.Decode([]byte(p), &v); !errors.Is(err, jws.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var v struct {
		Status string `json:"status"`
	}
	if err := jws.Decode([]byte(` {"x":[ ],"y":[1 , -2.5e3,"a\"]",[true]],"status":"valid"} `), &v); err != nil || v.Status != "valid" {
		t.Fatalf("good payload: %v, %v", v, err)
	}
}

func TestBindingVerifiesOnlyUnderItsKey(t *testing.T) {
	account := jwstest.NewKey(t)
	secret := bytes.Repeat([]byte{7}, 32)
	for _, alg := range []string{"HS256", "HS384", "HS512"} {
		b, err := jws.ParseBinding(jwstest.Bind(t, secret, jwstest.Header{"alg": alg, "kid": "k1", "url": url}, account))
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if err := b.Verify(secret); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if !account.PublicKey.Equal(b.Key) || b.KeyID != "k1" || b.URL != url {
			t.Errorf("%s: read %+v", alg, b)
		}
		if err := b.Verify(secret[1:]); !errors.Is(err, jws.ErrSignature) {
			t.Errorf("%s under another secret: %v", alg, err)
		}
	}
}

func TestParseBindingRefuses(t *testing.T) {
	account := jwstest.NewKey(t)
	h := func(more ...any) jwstest.Header {
		h := jwstest.Header{"alg": "HS256", "kid": "k1", "url": url}
		for i := 0; i < len(more); i += 2 {
			if h[fmt.Sprint(more[i])] = more[i+1]; more[i+1] == nil {
				delete(h, fmt.Sprint(more[i]))
			}
		}
		return h
	}
	for name, c := range map[string]struct {
		h    jwstest.Header
		want error
	}{
		"none": {h("alg", "none"), jws.ErrAlgorithm}, "signature": {h("alg", "ES256"), jws.ErrAlgorithm},
		"nonce": {h("nonce", "AAAA"), jws.ErrMalformed}, "no kid": {h("kid", nil), jws.ErrMalformed},
		"no url": {h("url", nil), jws.ErrMalformed}, "jwk": {h("jwk", jwstest.JWK(t, account)), jws.ErrMalformed},
		"crit": {h("crit", []string{"a"}), jws.ErrMalformed},
	} {
		if _, err := jws.ParseBinding(jwstest.Bind(t, []byte("secret"), c.h, account)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := jwstest.NewKey(f)
	f.Add(jwstest.Sign(f, key, good(), `{"a":1}`))
	h := with("kid", nil)
	h["jwk"] = jwstest.JWK(f, key)
	f.Add(jwstest.Sign(f, key, h, ""))
	f.Add([]byte(`{"protected":"e30","payload":"","signature":"AA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := jws.Parse(b)
		if err != nil {
			return
		}
		if (m.Key == nil) == (m.KeyID == "") || m.URL == "" || len(b) > jws.MaxSize {
			t.Fatalf("parsed %q into %+v", b, m)
		}
		if m.Key != nil { // what was read is what go-jose would write: one key, one thumbprint
			if _, err := jws.Thumbprint(m.Key); err != nil {
				t.Fatalf("key without a thumbprint: %v", err)
			}
		}
		_ = m.Verify(key.Public()) // must not panic
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":"c\\\""},1,true,null]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var v map[string]any
		_ = jws.Decode(b, &v) // must not panic
	})
}

func BenchmarkParseVerifyES256(b *testing.B) {
	key := jwstest.NewKey(b)
	body := jwstest.Sign(b, key, good(), `{"a":1}`)
	b.ReportAllocs()
	for b.Loop() {
		m, err := jws.Parse(body)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Verify(key.Public()); err != nil {
			b.Fatal(err)
		}
	}
}
