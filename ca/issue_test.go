package ca_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
)

var demo = pkitest.Workload(pkitest.Demo, "demo")

func TestIssueGivesAChainThatVerifies(t *testing.T) {
	h := pkitest.New(t)
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test", "ip:127.0.0.1"), Life: time.Hour}
	c, err := h.Issue(t.Context(), demo, req)
	if err != nil {
		t.Fatal(err)
	}
	x, err := x509.ParseCertificate(c.DER)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range h.Roots() {
		roots.AddCert(r)
	}
	for _, der := range c.Chain {
		i, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(i)
	}
	if _, err := x.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "a.demo.test"}); err != nil {
		t.Fatal(err)
	}
	if life := x.NotAfter.Sub(x.NotBefore); life != time.Hour-time.Second {
		t.Errorf("lives %s, want an hour less a second: both ends count", life)
	}
	got, err := h.Certificate(t.Context(), c.Serial)
	if err != nil || string(got.DER) != string(c.DER) || got.Scope != pkitest.Demo || len(got.Names) != 2 {
		t.Fatalf("the ledger has %+v, %v", got, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	h := pkitest.New(t)
	key := pkitest.Key(t)
	good := func() ca.Request {
		return ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test")}
	}
	for name, c := range map[string]struct {
		who  identity.Caller
		edit func(*ca.Request)
	}{
		"nobody":                               {identity.Caller{}, func(*ca.Request) {}},
		"another tenant":                       {pkitest.Workload(pkitest.Scope("other"), "x"), func(*ca.Request) {}},
		"a child for its parent":               {demo, func(r *ca.Request) { r.Scope = pkitest.Scope("demo/shop") }},
		"a tenant for the platform":            {demo, func(r *ca.Request) { r.Scope = identity.Platform }},
		"a platform workload for the platform": {pkitest.Workload(identity.Platform, "x"), func(r *ca.Request) { r.Scope = identity.Platform }},
		"unknown profile":                      {demo, func(r *ca.Request) { r.Profile = "root" }},
		"own profiles":                         {demo, func(r *ca.Request) { r.Profile = "ocsp-responder" }},
		"authority profile":                    {demo, func(r *ca.Request) { r.Profile = "authority" }},
		"a name outside":                       {demo, func(r *ca.Request) { r.CSR = pkitest.CSR(t, key, "dns:evil.test") }},
		"one name of two outside":              {demo, func(r *ca.Request) { r.CSR = pkitest.CSR(t, key, "dns:a.demo.test", "dns:evil.test") }},
		"an address outside":                   {demo, func(r *ca.Request) { r.CSR = pkitest.CSR(t, key, "ip:10.0.0.1") }},
		"no name":                              {demo, func(r *ca.Request) { r.CSR = pkitest.CSR(t, key) }},
		"a name in the subject":                {demo, func(r *ca.Request) { r.CSR = pkitest.CSR(t, key, "cn:b.demo.test", "dns:a.demo.test") }},
		"an identity as server": {demo, func(r *ca.Request) {
			r.CSR = pkitest.CSR(t, key, "dns:a.demo.test", "uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web")
		}},
		"another tenant's identity": {demo, func(r *ca.Request) {
			r.Profile, r.CSR = "workload", pkitest.CSR(t, key, "uri:spiffe://segl.test/tenant/other/web")
		}},
		"a platform identity": {demo, func(r *ca.Request) {
			r.Profile, r.CSR = "workload", pkitest.CSR(t, key, "uri:spiffe://segl.test/platform/web")
		}},
		"another trust domain": {demo, func(r *ca.Request) {
			r.Profile, r.CSR = "workload", pkitest.CSR(t, key, "uri:spiffe://evil.test/tenant/demo/project/shop/environment/dev/web")
		}},
		"two identities": {demo, func(r *ca.Request) {
			r.Profile = "workload"
			r.CSR = pkitest.CSR(t, key, "uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/a", "uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/b")
		}},
		"too long a life":  {demo, func(r *ca.Request) { r.Life = 91 * 24 * time.Hour }},
		"too short a life": {demo, func(r *ca.Request) { r.Life = time.Second }},
		"negative life":    {demo, func(r *ca.Request) { r.Life = -time.Hour }},
		"the server's role": {demo, func(r *ca.Request) {
			r.Profile, r.Identity, r.CSR = "database-client", demo.ID, pkitest.CSR(t, key, "cn:postgres")
		}},
		"a role to inject": {demo, func(r *ca.Request) {
			r.Profile, r.Identity, r.CSR = "database-client", demo.ID, pkitest.CSR(t, key, "cn:app; DROP ROLE x")
		}},
		"another scope's role": {demo, func(r *ca.Request) {
			r.Profile, r.Identity, r.CSR = "database-client", demo.ID, pkitest.CSR(t, key, "cn:app@dev.shop.other")
		}},
	} {
		req := good()
		c.edit(&req)
		_, err := h.Issue(t.Context(), c.who, req)
		if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Rule == "" || r.Remedy == "" {
			t.Errorf("%s: %v, want a refusal with rule and remedy", name, err)
		}
	}
	var facts int
	if err := h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE NOT allowed`).Scan(&facts); err != nil || facts < 20 {
		t.Errorf("%d refusals are facts, %v", facts, err)
	}
	var intents int
	if err := h.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent WHERE profile = 'server'`).Scan(&intents); err != nil || intents != 0 {
		t.Errorf("%d intents, want none: %v", intents, err)
	}
}

func TestDatabaseClientCarriesItsRole(t *testing.T) {
	h := pkitest.New(t)
	c, err := h.Issue(t.Context(), demo, ca.Request{
		Scope: pkitest.Demo, Profile: "database-client", Identity: demo.ID, CSR: pkitest.CSR(t, pkitest.Key(t), "cn:app"),
	})
	if err != nil || c.Role != "app@dev.shop.demo" || c.Identity() != demo.ID {
		t.Fatalf("role %q, identity %s, %v", c.Role, c.Identity(), err)
	}
}

func TestOneOriginHasOneCertificate(t *testing.T) {
	h, key := pkitest.New(t), pkitest.Key(t)
	req := ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test"),
		Origin: ca.RequestOrigin(1, demo, "key-1", []byte("body")),
	}
	first, err := h.Issue(t.Context(), demo, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.Issue(t.Context(), demo, req)
	if err != nil || again.Serial != first.Serial || string(again.DER) != string(first.DER) {
		t.Fatalf("asked again: %s, %v; want %s", again.Serial, err, first.Serial)
	}
	other := req
	other.CSR = pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")
	if c, err := h.Issue(t.Context(), demo, other); !errors.Is(err, ca.ErrConflict) {
		t.Fatalf("another key: %s, %v; want a conflict", c.Serial, err)
	}
	other = req
	other.Origin = ca.RequestOrigin(1, demo, "key-1", []byte("another body"))
	if c, err := h.Issue(t.Context(), demo, other); !errors.Is(err, ca.ErrConflict) {
		t.Fatalf("another request under the same key: %s, %v; want a conflict", c.Serial, err)
	}
}

func TestEightAtOnceMakeOneCertificate(t *testing.T) {
	h, key := pkitest.New(t), pkitest.Key(t)
	req := ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test"), Origin: ca.RequestOrigin(1, demo, "race", nil),
	}
	results := make(chan error, 8)
	serials := make(chan cert.Serial, 8)
	for range 8 {
		go func() {
			c, err := h.Issue(t.Context(), demo, req)
			if err == nil {
				serials <- c.Serial
			}
			results <- err
		}()
	}
	for range 8 {
		if err := <-results; err != nil && !errors.Is(err, ca.ErrInProgress) {
			t.Error(err)
		}
	}
	close(serials)
	seen := map[cert.Serial]bool{}
	for s := range serials {
		seen[s] = true
	}
	if len(seen) != 1 {
		t.Fatalf("%d certificates, want one", len(seen))
	}
	var n int
	if err := h.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent WHERE profile = 'server'`).Scan(&n); err != nil || n != 1 {
		t.Fatalf("%d intents, want one: %v", n, err)
	}
}
