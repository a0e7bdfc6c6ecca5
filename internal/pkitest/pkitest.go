// Package pkitest gives a test a whole CA on a database of its own: ledger, keys, authorities, and the demo scopes.
//
// Everything is real, Postgres included; only the clock is the test's. It is for tests alone.
package pkitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/access"
	accessstore "codeberg.org/dataverket/segl/internal/access/store"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// Domain is the trust domain of every CA made here.
const Domain = "segl.test"

// Demo is the scope demo/shop/dev, which may have localhost, *.localhost, *.demo.test, 127.0.0.0/8 and ::1.
var Demo = Scope("demo/shop/dev")

// Scope parses a scope that is known to be one.
func Scope(s string) identity.Scope {
	v, err := identity.ParseScope(s)
	if err != nil {
		panic("pkitest: internal error: " + err.Error())
	}
	return v
}

// A House is a CA and everything below it.
type House struct {
	*ca.CA
	DB      *postgres.DB
	Ledger  *ledger.Ledger
	Scopes  *tenancy.Registry
	Access  *accessstore.Registry
	Keyring kms.Keyring
	skew    *atomic.Int64
}

// New returns a founded CA with the demo scopes. All of one test binary are copies of one that was founded first, keys
// included: founding costs more than most tests. One of another root is On a database of its own.
func New(t testing.TB) *House {
	t.Helper()
	return On(t, postgrestest.Connect(t, postgrestest.From(t, "house", found)))
}

func found(ctx context.Context, url string) error {
	db, err := postgres.Open(ctx, postgres.Config{URL: url})
	if err != nil {
		return err
	}
	defer db.Close()
	h := &House{DB: db, Ledger: ledger.New(db, 1), skew: new(atomic.Int64)}
	defer h.Ledger.Close()
	return build(ctx, h, h.Ledger)
}

// On returns a CA on db, founded if it was not: a second replica on the same database.
func On(t testing.TB, db *postgres.DB) *House {
	t.Helper()
	h := &House{DB: db, Ledger: ledger.New(db, 1), skew: new(atomic.Int64)}
	t.Cleanup(h.Ledger.Close)
	return With(t, h, h.Ledger)
}

// With finishes h with l in place of its ledger: for faults between the two.
func With(t testing.TB, h *House, l ca.Ledger) *House {
	t.Helper()
	must(t, build(t.Context(), h, l))
	return h
}

func build(ctx context.Context, h *House, l ca.Ledger) error {
	if err := ready(ctx, h); err != nil {
		return err
	}
	var err error
	if h.Scopes, err = tenancy.Open(ctx, h.DB, h.Now); err != nil {
		return err
	}
	if err := Demonstrate(ctx, h.Scopes); err != nil {
		return err
	}
	if h.Access, err = accessstore.Open(ctx, h.DB, access.Rule{}, h.Now); err != nil {
		return err
	}
	pass, err := softkms.NewPassphrase("correct horse battery staple")
	if err != nil {
		return err
	}
	h.Keyring, err = softkms.Open(ctx, softkms.Config{DB: h.DB, Passphrase: pass, Now: h.Now, Iterations: 1000})
	if err != nil {
		return err
	}
	h.CA, err = ca.New(ca.Config{Site: 1, TrustDomain: Domain, PublicURL: "http://127.0.0.1:8080", Ledger: l, Scopes: h.Scopes, Now: h.Now})
	if err != nil {
		return err
	}
	return h.Found(ctx, h.Keyring)
}

func ready(ctx context.Context, h *House) error {
	_, err := h.Ledger.MakeEpochs(ctx, h.Now())
	return err
}

// Demonstrate makes the demo scopes, and the platform's own, where they are missing.
func Demonstrate(ctx context.Context, r *tenancy.Registry) error {
	rights := map[string]policy.Rights{
		"platform":      {DNS: []string{"localhost", "*.platform.test"}, IP: []string{"127.0.0.0/8", "::1"}, SPIFFE: []string{"*"}},
		"demo":          {DNS: []string{"localhost", "*.localhost", "*.demo.test", "demo.test"}, IP: []string{"127.0.0.0/8", "::1"}, SPIFFE: []string{"*"}},
		"demo/shop":     {},
		"demo/shop/dev": {DNS: []string{"localhost", "*.localhost", "*.demo.test"}},
		"other":         {DNS: []string{"*.other.test"}, SPIFFE: []string{"*"}},
	}
	for _, path := range []string{"platform", "demo", "demo/shop", "demo/shop/dev", "other"} {
		if _, err := r.Scope(Scope(path)); err == nil {
			continue
		}
		if _, err := r.Create(ctx, identity.System("test"), Scope(path), rights[path]); err != nil {
			return err
		}
	}
	return nil
}

// Now is the house's clock: the real one plus what Advance added.
func (h *House) Now() time.Time { return time.Now().Add(time.Duration(h.skew.Load())) }

// Advance moves the house's clock.
func (h *House) Advance(d time.Duration) { h.skew.Add(int64(d)) }

// Workload returns the caller that scope's workload is, without a certificate.
func Workload(scope identity.Scope, name string) identity.Caller {
	id, err := identity.NewID(Domain, scope, name)
	if err != nil {
		panic("pkitest: internal error: " + err.Error())
	}
	return identity.Caller{Actor: id.String(), ID: id, Scope: scope}
}

// Key returns a fresh P-256 key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// CSR returns a request for names, such as "dns:a.demo.test", under key. "cn:" gives the common name.
func CSR(t testing.TB, key any, names ...string) cert.Request {
	t.Helper()
	req, err := cert.ParseRequest(CSRBytes(t, key, names...))
	must(t, err)
	return req
}

// CSRBytes is CSR in DER, with no check of what it asks.
func CSRBytes(t testing.TB, key any, names ...string) []byte {
	t.Helper()
	var tmpl x509.CertificateRequest
	for _, n := range names {
		kind, v := n[:index(n)], n[index(n)+1:]
		switch kind {
		case "cn":
			tmpl.Subject = pkix.Name{CommonName: v}
		case "dns":
			tmpl.DNSNames = append(tmpl.DNSNames, v)
		case "ip":
			tmpl.IPAddresses = append(tmpl.IPAddresses, net.ParseIP(v))
		case "uri":
			u, err := url.Parse(v)
			must(t, err)
			tmpl.URIs = append(tmpl.URIs, u)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
	must(t, err)
	return der
}

func index(s string) int {
	for i := range s {
		if s[i] == ':' {
			return i
		}
	}
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
