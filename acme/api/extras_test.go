package api_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	limits "codeberg.org/dataverket/segl/internal/limit/store"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// boss may do all that operators may.
var boss = identity.Caller{Actor: "boss", Scope: identity.Platform, Operator: true}

// key makes an external account key of the demo environment.
func (r *replica) key(t *testing.T, b acme.Binding) (acme.Binding, []byte) {
	t.Helper()
	if b.Label == "" {
		b.Label = "test"
	}
	if b.Scope.IsZero() {
		b.Scope = pkitest.Demo
	}
	b, secret, err := r.server.CreateBinding(t.Context(), boss, b)
	must(t, err)
	return b, secret
}

// binding is the payload of a newAccount request at r with an external account key.
func (r *replica) binding(t *testing.T, a *account, id uid.UID, secret []byte) string {
	t.Helper()
	h := jwstest.Header{"alg": "HS256", "kid": id.String(), "url": r.at("new-account")}
	return `{"termsOfServiceAgreed":true,"externalAccountBinding":` + string(jwstest.Bind(t, secret, h, a.key)) + `}`
}

// member makes an account bound to a key.
func (r *replica) member(t *testing.T, id uid.UID, secret []byte) *account {
	t.Helper()
	a := &account{replica: r, key: jwstest.NewKey(t)}
	res := a.post(t, r.at("new-account"), r.binding(t, a, id, secret))
	if res.status != http.StatusCreated {
		t.Fatalf("new-account: %d %s", res.status, res.body)
	}
	a.kid = res.header.Get("Location")
	return a
}

// issued takes an order through to its certificate.
func (a *account) issued(t *testing.T, payload string, names ...string) *x509.Certificate {
	t.Helper()
	res := a.post(t, a.at("new-order"), payload)
	if res.status != http.StatusCreated {
		t.Fatalf("new-order: %d %s", res.status, res.body)
	}
	url, o := res.header.Get("Location"), res.json(t)
	if o["status"] == "pending" {
		a.prove(t, o, "http-01")
		if o = a.wait(t, url); o["status"] != "ready" {
			t.Fatalf("order %v", o)
		}
	}
	if res, _ := a.finalize(t, o, names...); res.status != http.StatusOK {
		t.Fatalf("finalize: %d %s", res.status, res.body)
	}
	o = a.wait(t, url)
	if o["status"] != "valid" {
		t.Fatalf("order %v", o)
	}
	return leaf(t, a.post(t, o["certificate"].(string), "").body)
}

// certID names a certificate as its holder does (RFC 9773 §4.1).
func certID(c *x509.Certificate) string {
	return jwstest.B64(c.AuthorityKeyId) + "." + jwstest.B64(c.SerialNumber.Bytes())
}

// with adds a member to a JSON object.
func with(object, name string, value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return strings.TrimSuffix(object, "}") + `,"` + name + `":` + string(b) + `}`
}

// facts counts those of a kind about a subject that begins so.
func (s *site) facts(t *testing.T, what, subject string, allowed bool) (n int) {
	t.Helper()
	must(t, s.DB.QueryRow(t.Context(), `
		SELECT count(*)
		FROM   fact
		WHERE  what = $1 AND starts_with(subject, $2) AND allowed = $3`, what, subject, allowed).Scan(&n))
	return n
}

// counter counts on the site's database, with those rates in place of the usual.
func (s *site) counter(t testing.TB, rates map[limit.Name]limit.Rate) *limits.Store {
	defined := acme.LimitsDefined()
	for i, d := range defined {
		if r, ok := rates[d.Name]; ok {
			defined[i].Rate = r
		}
	}
	c := limits.New(s.DB, s.Now, defined)
	t.Cleanup(c.Close)
	return c
}

// leaf reads the first certificate of a chain.
func leaf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	if block == nil {
		t.Fatalf("no certificate in %q", chain)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return c
}

func asProblem(err error) (*acme.Problem, bool) { return errors.AsType[*acme.Problem](err) }

func asType[E error](err error) (E, bool) { return errors.AsType[E](err) }
