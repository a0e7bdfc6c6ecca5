package tbs_test

import (
	"crypto/x509"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zresult "github.com/zmap/zlint/v3/lint"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Every shape that a profile can be configured to: what zlint finds an error in, by a rule of an RFC, a profile may not be.
func TestZLintFindsNoErrorInAnyShapeOfAProfile(t *testing.T) {
	f := newTree(t)
	for _, s := range []tbs.Spec{
		{NoRevAvail: true}, {NoRevAvail: true, Issuers: issuers},
		{OCSP: ocsp, MustStaple: true}, {OCSP: ocsp, CRLs: crls, Issuers: issuers, MustStaple: true},
		{OCSP: ocsp}, {CRLs: crls}, {CRLs: crls, Issuers: issuers}, {OCSP: ocsp, CRLs: crls},
	} {
		for _, u := range []tbs.Usage{tbs.Server, tbs.ServerAndClient, tbs.Client} {
			if s.MustStaple && u == tbs.Client {
				continue
			}
			s.Usage, s.Issuer = u, f.sub
			template := compile(t, s)
			for _, holder := range f.keys {
				c := sign(t, template, f.keys[0], tbs.Values{
					Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day - time.Second), SPKI: holder.spki, Names: names(t, "dns:www.shop.test"),
				})
				parsed, err := zx509.ParseCertificate(c.Raw)
				if err != nil {
					t.Fatalf("zcrypto: %v", err)
				}
				for name, r := range zlint.LintCertificate(parsed).Results {
					if r.Status >= zresult.Error && !excusable(name) {
						t.Errorf("%+v, %s: %s: %s", []bool{s.NoRevAvail, s.MustStaple, s.OCSP != "", s.CRLs != ""}, holder.name, name, r.Details)
					}
				}
			}
		}
	}
}

func TestWhatContradictsItselfIsNotCompiled(t *testing.T) {
	f := newTree(t)
	for name, s := range map[string]tbs.Spec{
		"no revocation beside a list":      {Usage: tbs.Server, NoRevAvail: true, CRLs: crls},
		"no revocation beside a responder": {Usage: tbs.Server, NoRevAvail: true, OCSP: ocsp},
		"stapling without a responder":     {Usage: tbs.Server, MustStaple: true, CRLs: crls},
		"no revocation of a responder":     {Usage: tbs.OCSPResponder, NoRevAvail: true},
		"no revocation of an authority":    {Usage: tbs.Authority, NoRevAvail: true, Subject: f.sub.RawSubject},
		"name constraints of a leaf":       {Usage: tbs.Server, Permitted: &lint.Permitted{}},
		"name constraints upon a root":     {Usage: tbs.Authority, Permitted: &lint.Permitted{}, Subject: f.root.RawSubject, Key: f.root.PublicKey},
	} {
		if s.Key == nil {
			s.Issuer = f.sub
		}
		if _, err := tbs.Compile(s); err == nil {
			t.Errorf("%s was compiled", name)
		}
	}
}

// Go and OpenSSL, each by itself, let nothing stand below an authority that its name constraints leave out.
func TestNameConstraintsHoldForGoAndOpenSSL(t *testing.T) {
	openssl, f, dir := program(t, "openssl"), newTree(t), t.TempDir()
	wide := &lint.Permitted{DNS: []string{"shop.test"}, IP: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, URI: []string{"segl.test"}}
	rows := []struct {
		name      string
		permitted *lint.Permitted
		leaf      string
		want      bool
	}{
		{"a name", wide, "dns:shop.test", true},
		{"a name below", wide, "dns:www.shop.test", true},
		{"a name beside", wide, "dns:shop.example", false},
		{"a name that ends alike", wide, "dns:workshop.test", false},
		{"an address", wide, "ip:192.0.2.7", true},
		{"an address beside", wide, "ip:192.0.3.7", false},
		{"an address of six", wide, "ip:2001:db8::7", true},
		{"an address of six beside", wide, "ip:2001:db9::7", false},
		{"an identity", wide, "uri:spiffe://segl.test/tenant/demo/web", true},
		{"an identity of others", wide, "uri:spiffe://other.test/tenant/demo/web", false},
		{"a name where none may be", &lint.Permitted{}, "dns:shop.test", false},
		{"an address where none may be", &lint.Permitted{}, "ip:192.0.2.7", false},
		{"an address of six where none may be", &lint.Permitted{}, "ip:2001:db8::7", false},
		{"an identity where none may be", &lint.Permitted{}, "uri:spiffe://segl.test/tenant/demo/web", false},
	}
	rootPEM := writePEM(t, dir, "root.pem", f.root)
	for _, row := range rows {
		sub := constrained(t, f, row.permitted)
		leaf := sign(t, compile(t, tbs.Spec{Usage: tbs.ServerAndClient, Issuer: sub, CRLs: crls}), f.keys[0], tbs.Values{
			Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day - time.Second), SPKI: f.keys[0].spki, Names: names(t, row.leaf),
		})
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(f.root)
		between.AddCert(sub)
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: start.Add(time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != row.want {
			t.Errorf("%s, as Go has it: %v", row.name, err)
		}
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-no_check_time", "-CAfile", rootPEM,
			"-untrusted", writePEM(t, dir, "sub.pem", sub), writePEM(t, dir, "leaf.pem", leaf)).CombinedOutput()
		if (err == nil) != row.want || !row.want && !strings.Contains(string(out), "subtree violation") {
			t.Errorf("%s, as OpenSSL has it: %v: %s", row.name, err, out)
		}
	}
}

func constrained(t *testing.T, f tree, p *lint.Permitted) *x509.Certificate {
	t.Helper()
	template := compile(t, tbs.Spec{
		Usage: tbs.Authority, Issuer: f.root, PathLen: 0, Subject: f.sub.RawSubject, Permitted: p, CRLs: "http://ca.test/crl/root/",
		Purposes: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	c := sign(t, template, f.keys[1], tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(365*day - time.Second), SPKI: f.keys[0].spki})
	if !c.PermittedDNSDomainsCritical {
		t.Error("name constraints are not critical")
	}
	for _, r := range c.PermittedIPRanges {
		if ones, bits := r.Mask.Size(); ones == 0 && bits == 8*net.IPv4len {
			t.Errorf("%s is every address", r)
		}
	}
	return c
}
