package identity_test

import (
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

func scope(t testing.TB, s string) identity.Scope {
	t.Helper()
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestScopesReadBack(t *testing.T) {
	for _, s := range []string{"platform", "demo", "demo/shop", "demo/shop/dev", "tenant/project/environment", "a/platform/a", "1", strings.Repeat("a", 63)} {
		if got := scope(t, s); got.String() != s || got.IsZero() || got.IsPlatform() != (s == "platform") {
			t.Errorf("%q reads back as %q", s, got)
		}
	}
	for name, s := range map[string]string{
		"nothing": "", "a slash": "/", "a leading slash": "/demo", "a trailing slash": "demo/", "an empty part": "demo//dev", "four parts": "a/b/c/d",
		"upper case": "Demo", "an underscore": "de_mo", "a dot": "demo.shop", "dots": "demo/../other", "a leading hyphen": "-demo", "a trailing hyphen": "demo-",
		"64 octets": strings.Repeat("a", 64), "a project of the platform": "platform/shop", "a Cyrillic letter": "dеmo", "a percent": "de%6do", "a space": "demo ",
		"a line break": "demo\n", "a wildcard": "*", "a LIKE pattern": "demo/%",
	} {
		if got, err := identity.ParseScope(s); err == nil || !got.IsZero() {
			t.Errorf("%s: took %q as %v", name, s, got)
		}
	}
}

func TestAScopeContainsItselfAndBelow(t *testing.T) {
	contains := func(outer, inner string) {
		t.Helper()
		if !scope(t, outer).Contains(scope(t, inner)) {
			t.Errorf("%s does not contain %s", outer, inner)
		}
	}
	apart := func(outer, inner string) {
		t.Helper()
		if scope(t, outer).Contains(scope(t, inner)) {
			t.Errorf("%s contains %s", outer, inner)
		}
	}
	contains("demo", "demo")
	contains("demo", "demo/shop")
	contains("demo", "demo/shop/dev")
	contains("demo/shop", "demo/shop/dev")
	contains("platform", "platform")
	apart("demo/shop", "demo")
	apart("demo/shop/dev", "demo/shop")
	apart("demo", "demo2")
	apart("demo", "demo2/shop")
	apart("demo/shop", "demo/shop2/dev")
	apart("demo/shop/dev", "demo/shop/prod")
	apart("demo/shop/dev", "demo/shop2/dev")
	apart("platform", "demo") // an operator's right is a role, not a place
	apart("demo", "platform")
	var nobody identity.Scope
	if nobody.Contains(nobody) || nobody.Contains(scope(t, "demo")) || scope(t, "demo").Contains(nobody) || identity.Platform.Contains(nobody) {
		t.Error("nobody's scope contains or is contained")
	}
}

func TestParents(t *testing.T) {
	s := scope(t, "demo/shop/dev")
	for _, want := range []string{"demo/shop", "demo"} {
		var ok bool
		if s, ok = s.Parent(); !ok || s.String() != want {
			t.Fatalf("parent %s, want %s", s, want)
		}
	}
	if p, ok := s.Parent(); ok {
		t.Errorf("a tenant has parent %s", p)
	}
	if p, ok := identity.Platform.Parent(); ok {
		t.Errorf("the platform has parent %s", p)
	}
}

func TestIDsReadBack(t *testing.T) {
	for s, at := range map[string]string{
		"spiffe://segl.test/platform/segl":                                           "platform",
		"spiffe://segl.test/tenant/demo/web":                                         "demo",
		"spiffe://segl.test/tenant/demo/project/shop/web.v1_2-3":                     "demo/shop",
		"spiffe://segl.test/tenant/demo/project/shop/environment/dev/web":            "demo/shop/dev",
		"spiffe://segl.test/tenant/project/project/environment/environment/tenant/w": "project/environment/tenant",
		"spiffe://a_b-c.1/tenant/platform2/web":                                      "platform2",
	} {
		id, err := identity.ParseID(s)
		if err != nil || id.String() != s || id.Scope() != scope(t, at) || id.IsZero() {
			t.Errorf("%s: %s in %s, %v", s, id, id.Scope(), err)
			continue
		}
		if same, err := identity.NewID(id.Domain(), id.Scope(), id.Workload()); err != nil || same != id {
			t.Errorf("%s made again is %s, %v", id, same, err)
		}
		if n, err := cert.ParseURI(s); err != nil || n.Value() != s {
			t.Errorf("%s as a name is %s, %v", s, n, err)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	const good = "spiffe://segl.test/tenant/demo/project/shop/environment/dev/web"
	for name, s := range map[string]string{
		"nothing": "", "no scheme": good[9:], "another scheme": "https" + good[6:], "an upper-case scheme": "SPIFFE" + good[6:],
		"no domain": strings.Replace(good, "segl.test", "", 1), "an upper-case domain": strings.Replace(good, "segl", "Segl", 1),
		"a user": strings.Replace(good, "segl", "me@segl", 1), "a port": strings.Replace(good, ".test", ".test:1", 1),
		"a query": good + "?a", "a fragment": good + "#a", "a trailing slash": good + "/", "an empty part": strings.Replace(good, "/shop", "//shop", 1),
		"an escape": strings.Replace(good, "web", "w%65b", 1), "a dot segment": strings.Replace(good, "dev", "..", 1), "a dot workload": strings.Replace(good, "web", ".", 1),
		"no workload": good[:len(good)-4], "a reserved workload": strings.Replace(good, "web", "environment", 1), "two workloads": good + "/two",
		"no tenant": strings.Replace(good, "/tenant/demo", "", 1), "the platform as tenant": strings.Replace(good, "demo", "platform", 1),
		"project first": "spiffe://segl.test/project/shop/tenant/demo/web", "two tenants": strings.Replace(good, "/project", "/tenant", 1),
		"a scope of the platform": "spiffe://segl.test/platform/environment/dev/web", "an upper-case part": strings.Replace(good, "shop", "Shop", 1),
		"a Cyrillic letter": strings.Replace(good, "web", "wеb", 1), "a NUL": good + "\x00", "long": good + strings.Repeat("a", 2048), "a long workload": good + strings.Repeat("a", 61),
	} {
		if id, err := identity.ParseID(s); err == nil || !id.IsZero() || id.String() != "" {
			t.Errorf("%s: took %q as %s", name, s, id)
		}
	}
}

func TestNewIDRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		domain   string
		scope    identity.Scope
		workload string
	}{
		"nobody's scope": {"segl.test", identity.Scope{}, "web"}, "no domain": {"", identity.Platform, "web"}, "a slash in the domain": {"a/b", identity.Platform, "web"},
		"a slash in the workload": {"segl.test", identity.Platform, "a/b"}, "no workload": {"segl.test", identity.Platform, ""},
		"a word of the path": {"segl.test", scope(t, "demo"), "project"},
	} {
		if id, err := identity.NewID(c.domain, c.scope, c.workload); err == nil {
			t.Errorf("%s: made %s", name, id)
		}
	}
}

func TestCallersMayNothingByDefault(t *testing.T) {
	var nobody identity.Caller
	if nobody.Operator || !nobody.Scope.IsZero() || !nobody.Proved.IsZero() {
		t.Error("nobody may something")
	}
	if duty := identity.System("recover"); !duty.Operator || duty.Actor != "duty:recover" {
		t.Errorf("a duty is %+v", duty)
	}
}

func TestFromCertificateWantsOneIdentityOfOurs(t *testing.T) {
	serial := cert.NewSerial(1, time.Unix(1_800_000_000, 0))
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := func() *x509.Certificate {
		return &x509.Certificate{SerialNumber: serial.Int(), URIs: []*url.URL{uri("spiffe://segl.test/tenant/demo/web")}}
	}
	who, err := identity.FromCertificate(good(), "segl.test")
	if err != nil || who.Serial != serial || who.Scope != scope(t, "demo") || who.Actor != who.ID.String() || who.Operator {
		t.Fatalf("%+v, %v", who, err)
	}
	for name, edit := range map[string]func(*x509.Certificate){
		"no URI":               func(c *x509.Certificate) { c.URIs = nil },
		"two URIs":             func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, // X.509-SVID §2: "exactly one URI SAN"
		"no SPIFFE ID":         func(c *x509.Certificate) { c.URIs[0] = uri("https://segl.test/") },
		"another trust domain": func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://evil.test/tenant/demo/web") },
		"another's serial":     func(c *x509.Certificate) { c.SerialNumber = big.NewInt(42) },
		"no serial":            func(c *x509.Certificate) { c.SerialNumber = nil },
	} {
		c := good()
		edit(c)
		if who, err := identity.FromCertificate(c, "segl.test"); err == nil || who != (identity.Caller{}) {
			t.Errorf("%s: %+v", name, who)
		}
	}
}

func FuzzParseScope(f *testing.F) {
	for _, s := range []string{"platform", "demo", "demo/shop", "demo/shop/dev", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := identity.ParseScope(s)
		if err != nil {
			return
		}
		var back identity.Scope
		if err := back.UnmarshalText([]byte(v.String())); err != nil || back != v || v.String() != s || !v.Contains(v) {
			t.Fatalf("%q taken as %q, read back as %q, %v", s, v, back, err)
		}
		if p, ok := v.Parent(); ok && (!p.Contains(v) || v.Contains(p)) {
			t.Fatalf("%s and its parent %s contain one another", v, p)
		}
	})
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"spiffe://segl.test/platform/a", "spiffe://segl.test/tenant/demo/project/shop/environment/dev/web", "spiffe://a/tenant/b/project/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseID(s)
		if err != nil {
			return
		}
		if same, err := identity.NewID(id.Domain(), id.Scope(), id.Workload()); err != nil || same != id || id.String() != s {
			t.Fatalf("%q taken as %s, made again as %s, %v", s, id, same, err)
		}
		if n, err := cert.ParseURI(s); err != nil || n.Value() != s {
			t.Fatalf("%q is no name: %v", s, err)
		}
	})
}
