package api_test

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"testing"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/acme/store"
)

func TestAnOrderBecomesACertificate(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test", "dns:b.demo.test")
	if o["status"] != "pending" {
		t.Fatalf("new order %v", o)
	}
	a.prove(t, o, "http-01")
	if o = a.wait(t, url); o["status"] != "ready" {
		t.Fatalf("proved order %v", o)
	}
	res, key := a.finalize(t, o, "dns:b.demo.test", "dns:a.demo.test")
	if res.status != http.StatusOK || res.header.Get("Location") != url {
		t.Fatalf("finalize: %d %v %s", res.status, res.header, res.body)
	}
	o = res.json(t)
	if o["status"] != "valid" {
		t.Fatalf("finalized order %v", o)
	}
	res = a.post(t, o["certificate"].(string), "")
	if res.status != http.StatusOK || res.header.Get("Content-Type") != "application/pem-certificate-chain" {
		t.Fatalf("certificate: %d %v", res.status, res.header)
	}
	leaf := verify(t, s, res.body, "a.demo.test", "b.demo.test")
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate has another key")
	}
}

// verify checks a chain against the site's root alone and returns the leaf.
func verify(t testing.TB, s *site, chain []byte, names ...string) *x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	between := x509.NewCertPool()
	for rest := chain; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		must(t, err)
		certs = append(certs, c)
		between.AddCert(c)
	}
	if len(certs) < 2 {
		t.Fatalf("a chain of %d certificates", len(certs))
	}
	for _, n := range names {
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between, DNSName: n, CurrentTime: s.Now()}); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	return certs[0]
}

func TestTermsMustBeAgreedTo(t *testing.T) {
	const terms = "https://demo.test/terms"
	_, r := newSite(t, options{idle: true, config: func(c *acme.Config) { c.Terms = terms }})
	meta := r.do(t, "GET", r.directory(), "", nil).json(t)["meta"].(map[string]any)
	if meta["termsOfService"] != terms {
		t.Errorf("meta %v", meta)
	}
	a := &account{replica: r, key: jwstest.NewKey(t)}
	refused(t, "without a word", a.post(t, r.at("new-account"), `{}`), http.StatusForbidden, "userActionRequired")
	refused(t, "not agreed", a.post(t, r.at("new-account"), `{"termsOfServiceAgreed":false}`), http.StatusForbidden, "userActionRequired")
	if res := a.post(t, r.at("new-account"), `{"termsOfServiceAgreed":true}`); res.status != http.StatusCreated {
		t.Errorf("agreed: %d %s", res.status, res.body)
	}
}

func TestThePlatformHasItsOwnDoor(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	refused(t, "on the tenants' door", r.do(t, "GET", r.base+"/acme/platform/directory", "", nil), http.StatusNotFound, "malformed")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	op := &replica{site: s, base: "https://" + ln.Addr().String(), server: r.server, store: store.New(s.DB, s.Now)}
	op.serve(t, ln, api.Door(api.Config{Server: r.server, Base: op.base, Platform: true}), true)
	d := op.do(t, "GET", op.base+"/acme/platform/directory", "", nil)
	if d.status != http.StatusOK || d.json(t)["newOrder"] != op.base+"/acme/-/platform/new-order" {
		t.Errorf("%d %s", d.status, d.body)
	}
	refused(t, "a tenant on the operators' door", op.do(t, "GET", op.base+"/acme/demo/directory", "", nil), http.StatusNotFound, "malformed")
	a := &account{replica: op, key: jwstest.NewKey(t), nonce: op.do(t, "HEAD", op.base+"/acme/-/platform/new-nonce", "", nil).header.Get("Replay-Nonce")}
	if res := a.post(t, op.base+"/acme/-/platform/new-account", `{}`); res.status != http.StatusCreated {
		t.Errorf("%d %s", res.status, res.body)
	}
}
