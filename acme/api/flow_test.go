package api_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
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
