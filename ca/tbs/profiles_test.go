package tbs_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zresult "github.com/zmap/zlint/v3/lint"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A profile as docs/x509-profiles.md tells it.
type profile struct {
	name  string
	usage tbs.Usage
	life  time.Duration
	cn    string
	names []string
}

var profiles = []profile{
	{"server", tbs.Server, 90 * day, "", []string{"dns:www.shop.test", "dns:*.shop.test", "ip:192.0.2.1", "ip:2001:db8::1"}},
	{"workload", tbs.ServerAndClient, 7 * day, "", []string{"uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web", "dns:web.shop.test", "ip:192.0.2.1"}},
	{"client", tbs.Client, 7 * day, "", []string{"uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web"}},
	{"database-server", tbs.Server, 90 * day, "", []string{"dns:db.shop.test"}},
	{"database-client", tbs.Client, 7 * day, "app@dev.shop.demo", []string{"uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web"}},
	{"ocsp-responder", tbs.OCSPResponder, 7 * day, "OCSP servers", nil},
}

// A tree is a root, an authority below it, and a template for each profile.
type tree struct {
	keys      []keyPair
	root, sub *x509.Certificate
}

func newTree(tb testing.TB) tree {
	tb.Helper()
	keys := keyPairs(tb)
	top := root(tb, keys[1])
	return tree{keys, top, subordinate(tb, top, keys[1], keys[0])}
}

func (f tree) issue(tb testing.TB, p profile, holder keyPair) *x509.Certificate {
	tb.Helper()
	t := compile(tb, tbs.Spec{Usage: p.usage, Issuer: f.sub, CRLs: crls, OCSP: ocsp, Issuers: issuers})
	return sign(tb, t, f.keys[0], tbs.Values{
		Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(p.life - time.Second), SPKI: holder.spki, CommonName: p.cn, Names: names(tb, p.names...),
	})
}

// explained reads the lints that the page explains, each with its profiles: rows "| `lint` | profiles | why |".
func explained(tb testing.TB) map[string][]string {
	tb.Helper()
	page, err := os.ReadFile("../../docs/x509-profiles.md")
	if err != nil {
		tb.Fatal(err)
	}
	why := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([ew]_[a-z0-9_]+)` \\| ([a-z, -]+) \\| .{8,} \\|$").FindAllStringSubmatch(string(page), -1) {
		why[row[1]] = strings.Split(row[2], ", ")
	}
	return why
}

// An error may be explained where the rule is one of the public web's; one of an RFC's is a fault.
func excusable(lint string) bool {
	source := string(zresult.GlobalRegistry().CertificateLints().ByName(lint).Source)
	return strings.HasPrefix(source, "CABF_") || source == string(zresult.MozillaRootStorePolicy) || source == string(zresult.AppleRootStorePolicy)
}

func TestZLintFindsNothingThatThePageDoesNotExplain(t *testing.T) {
	f := newTree(t)
	known := explained(t)
	met := map[string]bool{}
	check := func(profile, key string, c *x509.Certificate) {
		t.Helper()
		parsed, err := zx509.ParseCertificate(c.Raw)
		if err != nil {
			t.Fatalf("%s, %s: zcrypto: %v", profile, key, err)
		}
		for name, r := range zlint.LintCertificate(parsed).Results {
			if r.Status < zresult.Warn {
				continue
			}
			met[name+" "+profile] = true
			if !slices.Contains(known[name], profile) {
				t.Errorf("%s, %s: %s: %s: %s: neither mended nor explained in docs/x509-profiles.md", profile, key, r.Status, name, r.Details)
			}
			if r.Status >= zresult.Error && !excusable(name) {
				t.Errorf("%s, %s: %s: %s: %s: nothing excuses that", profile, key, r.Status, name, r.Details)
			}
		}
	}
	for _, holder := range f.keys {
		for _, p := range profiles {
			check(p.name, holder.name, f.issue(t, p, holder))
		}
		check("root", holder.name, root(t, holder))
		check("authority", holder.name, subordinate(t, f.root, f.keys[1], holder))
	}
	for name, list := range known {
		for _, profile := range list {
			if !met[name+" "+profile] {
				t.Errorf("docs/x509-profiles.md explains %s for %s, which zlint does not say", name, profile)
			}
		}
	}
}

func writePEM(tb testing.TB, dir, name string, certs ...*x509.Certificate) string {
	tb.Helper()
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// program returns the path of an outside program, or fails: make test installs it.
func program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is not installed: deploy/tools/need test", name)
	}
	return path
}

func TestOpenSSLAndGnuTLSAcceptEveryProfileStrictly(t *testing.T) {
	openssl, certtool := program(t, "openssl"), program(t, "certtool")
	f := newTree(t)
	dir := t.TempDir()
	rootPEM, subPEM := writePEM(t, dir, "root.pem", f.root), writePEM(t, dir, "sub.pem", f.sub)
	purpose := map[tbs.Usage]string{tbs.Server: "sslserver", tbs.Client: "sslclient", tbs.ServerAndClient: "sslserver", tbs.OCSPResponder: "ocsphelper"}
	for _, p := range profiles {
		for _, holder := range f.keys {
			c := f.issue(t, p, holder)
			leaf := writePEM(t, dir, "leaf.pem", c)
			out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose[p.usage],
				"-CAfile", rootPEM, "-untrusted", subPEM, leaf).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "leaf.pem: OK") {
				t.Errorf("%s, %s: openssl verify: %v: %s", p.name, holder.name, err, out)
			}
			chain := writePEM(t, dir, "chain.pem", c, f.sub, f.root)
			out, err = exec.CommandContext(t.Context(), certtool, "--verify", "--load-ca-certificate", rootPEM, "--infile", chain).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Chain verification output: Verified") {
				t.Errorf("%s, %s: certtool --verify: %v: %s", p.name, holder.name, err, out)
			}
		}
	}
}
