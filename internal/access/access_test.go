package access_test

import (
	"errors"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

const issuer = "https://login.test"

func scope(t testing.TB, s string) identity.Scope {
	t.Helper()
	if s == "" {
		return identity.Scope{}
	}
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func workload(t testing.TB, s string) identity.Caller {
	t.Helper()
	id, err := identity.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Caller{Actor: s, ID: id, Scope: id.Scope()}
}

// table compiles bindings spelt "role scope subject", a subject being an identity or a claim as name=value.
func table(t testing.TB, lines ...string) *access.Table {
	t.Helper()
	var list []access.Binding
	for i, l := range lines {
		f := strings.Fields(l)
		s, err := access.ParseIdentity(f[2])
		if name, value, ok := strings.Cut(f[2], "="); ok {
			s, err = access.NewClaim(issuer, name, value)
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, access.Binding{ID: int64(i + 1), Role: access.Role(f[0]), Scope: scope(t, f[1]), Subject: s})
	}
	out, err := access.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	root = "spiffe://segl.test/platform/root"
	web  = "spiffe://segl.test/tenant/demo/project/shop/environment/dev/web"
	boss = "spiffe://segl.test/tenant/demo/boss"
)

func TestNobodyMayDoNothing(t *testing.T) {
	named := table(t, "admin platform "+root, "admin demo role=admin").Name
	for name, who := range map[string]identity.Caller{
		"nobody": {}, "an actor without proof": {Actor: "spiffe://segl.test/platform/root"}, "who belongs somewhere": {Actor: "a", Scope: scope(t, "demo")},
		"a stranger": {Actor: "oidc:eve", Issuer: issuer}, "another issuer's admin": {Actor: "eve", Issuer: "https://evil.test", Claims: identity.NewClaims(map[string][]string{"role": {"admin"}})},
		"an issuer's claim spelt otherwise": {Actor: "eve", Issuer: issuer, Claims: identity.NewClaims(map[string][]string{"role": {"Admin", "admin ", "admi"}, "ROLE": {"admin"}})},
		"claims of no issuer":               {Actor: "eve", Claims: identity.NewClaims(map[string][]string{"role": {"admin"}})},
		"who says it is an operator":        {Actor: "eve", Operator: true, Grants: identity.NewGrants(identity.Grant{Role: "admin", At: identity.Platform, Mask: ^uint64(0)})},
		"a namesake of another domain":      workload(t, "spiffe://evil.test/platform/root"),
		"a workload of the platform":        workload(t, "spiffe://segl.test/platform/other"),
	} {
		who = named(who)
		for _, a := range access.Actions() {
			for _, at := range []string{"platform", "demo", "demo/shop/dev", "other", ""} {
				if access.Check(who, a, scope(t, at)) == nil {
					t.Errorf("%s may do %s in %q", name, a, at)
				}
			}
			if access.MayAnywhere(who, a) {
				t.Errorf("%s may do %s somewhere", name, a)
			}
			if at, everywhere := access.Scopes(who, a); len(at) > 0 || everywhere {
				t.Errorf("%s may do %s in %v", name, a, at)
			}
		}
	}
}

func TestRolesHoldAtTheirScopeAndBelow(t *testing.T) {
	named := table(t, "admin platform "+root, "issuer demo/shop "+boss, "reader demo role=reader", "revoker other role=on-call", "auditor platform role=audit",
		"reader demo/shop spiffe://segl.test/tenant/other/*", "reader demo spiffe://segl.test/tenant/other/project/p/**").Name
	person := func(role string) identity.Caller {
		return named(identity.Caller{Actor: "oidc:" + role, Issuer: issuer, Claims: identity.NewClaims(map[string][]string{"role": {"staff", role}})})
	}
	other := func(path string) identity.Caller { return named(workload(t, "spiffe://segl.test/tenant/other/"+path)) }
	allow := func(who identity.Caller, a access.Action, scopes ...string) {
		t.Helper()
		for _, s := range scopes {
			if err := access.Check(who, a, scope(t, s)); err != nil {
				t.Errorf("%s, %s in %s: %v", who.Actor, a, s, err)
			}
		}
	}
	deny := func(who identity.Caller, a access.Action, scopes ...string) {
		t.Helper()
		for _, s := range scopes {
			if access.Check(who, a, scope(t, s)) == nil {
				t.Errorf("%s may %s in %s", who.Actor, a, s)
			}
		}
	}
	for _, a := range access.Actions() {
		allow(named(workload(t, root)), a, "platform", "demo", "other/p/e")
	}
	deny(named(workload(t, root)), 0, "platform")
	deny(named(workload(t, root)), access.Action(250), "platform")
	deny(named(workload(t, root)), access.Issue, "")

	allow(person("reader"), access.ReadFacts, "demo", "demo/shop/dev")
	deny(person("reader"), access.ReadFacts, "platform", "other", "demo2")
	deny(person("reader"), access.Issue, "demo", "demo/shop/dev")
	deny(person("reader"), access.ReadRoles, "demo")
	allow(person("on-call"), access.Revoke, "other", "other/p")
	deny(person("on-call"), access.Revoke, "demo", "platform")
	deny(person("on-call"), access.RevokeAnyhow, "other")
	allow(person("audit"), access.ReadRoles, "platform", "demo", "other/p/e")
	deny(person("audit"), access.Grant, "platform", "demo")

	allow(named(workload(t, web)), access.Issue, "demo/shop/dev")
	deny(named(workload(t, web)), access.Issue, "demo/shop", "demo", "other", "platform", "demo/shop/prod")
	deny(named(workload(t, web)), access.ChangeScopes, "demo/shop/dev")
	deny(named(workload(t, web)), access.Grant, "demo/shop/dev")
	allow(other("a"), access.ReadFacts, "demo/shop", "demo/shop/dev")
	deny(other("a"), access.ReadFacts, "demo")
	allow(other("project/p/a"), access.ReadFacts, "demo")
	allow(other("project/p/environment/e/a"), access.ReadFacts, "demo/shop/dev")
	deny(other("project/q/a"), access.ReadFacts, "demo")
	deny(other("project/q/environment/e/a"), access.ReadFacts, "demo", "demo/shop")
}

func TestWhatWasProvedIsForThatScopeAlone(t *testing.T) {
	who := workload(t, root).As("acme:1", scope(t, "demo/shop"))
	if err := access.Check(who, access.Issue, scope(t, "demo/shop")); err != nil {
		t.Error(err)
	}
	for _, a := range access.Actions() {
		for _, s := range []string{"demo", "demo/shop/dev", "platform", "other"} {
			if access.Check(who, a, scope(t, s)) == nil {
				t.Errorf("an account of demo/shop may %s in %s", a, s)
			}
		}
		if a != access.Issue && a != access.Revoke && access.Check(who, a, scope(t, "demo/shop")) == nil {
			t.Errorf("an account may %s", a)
		}
	}
}

func TestProofsGiveNothingInThePlatform(t *testing.T) {
	who := workload(t, root).As("acme:1", identity.Platform)
	for _, a := range access.Actions() {
		if access.May(who, a, identity.Platform) || access.MayAnywhere(who, a) {
			t.Errorf("an account of the platform may %s", a)
		}
	}
}

func TestARefusalSaysWhoWhatWhichRuleAndWhatWouldGrantIt(t *testing.T) {
	named := table(t, "reader demo role=reader").Name
	reader := named(identity.Caller{Actor: "oidc:ann", Issuer: issuer, Claims: identity.NewClaims(map[string][]string{"role": {"reader"}})})
	for _, c := range []struct {
		who   identity.Caller
		at    string
		says  []string
		never []string
	}{
		{reader, "demo/shop", []string{"certificate.issue in demo/shop", "oidc:ann", "reader at demo (binding 1)", "issuer or admin at demo/shop or above"}, nil},
		{reader, "other", []string{"oidc:ann", "nothing grants", "ask an admin"}, []string{"issuer or admin"}},
		{named(workload(t, web)), "demo", []string{web, "ask an admin"}, []string{"issuer or admin"}},
		{identity.Caller{}, "demo", []string{"nobody"}, []string{"issuer or admin"}},
		{identity.Caller{Actor: "a", Act: "b"}, "demo", []string{"a, for whom b acts"}, nil},
	} {
		err := access.Check(c.who, access.Issue, scope(t, c.at))
		r, ok := errors.AsType[*policy.Refusal](err)
		if !ok || r.Rule == "" || r.Remedy == "" {
			t.Errorf("%s: %v", c.at, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v\n does not say %q", err, s)
			}
		}
		for _, s := range c.never {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%v\n says %q", err, s)
			}
		}
	}
}

func TestBindingsThatWouldOpenTheWallAreRefused(t *testing.T) {
	claim := access.Subject{Issuer: issuer, Claim: "role", Value: "x"}
	id := access.Subject{Identity: root}
	for name, b := range map[string]access.Binding{
		"nobody":                            {Role: access.Reader, Scope: scope(t, "demo")},
		"no scope":                          {Role: access.Reader, Subject: id},
		"no role":                           {Scope: scope(t, "demo"), Subject: id},
		"an undefined role":                 {Role: "owner", Scope: scope(t, "demo"), Subject: id},
		"a role spelt otherwise":            {Role: "Admin", Scope: scope(t, "demo"), Subject: id},
		"a tenant's workload at platform":   {Role: access.Reader, Scope: identity.Platform, Subject: access.Subject{Identity: web}},
		"a tenant's workloads at platform":  {Role: access.Reader, Scope: identity.Platform, Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/**"}},
		"a claim of nobody":                 {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Claim: "role", Value: "x"}},
		"a claim and an identity":           {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: root, Issuer: issuer, Claim: "role", Value: "x"}},
		"a claim without a value":           {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Issuer: issuer, Claim: "role"}},
		"a pattern of no scope":             {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://segl.test/**"}},
		"a pattern of tenants":              {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/*/web"}},
		"a pattern of trust domains":        {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://*/tenant/demo/web"}},
		"a pattern within a name":           {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/w*"}},
		"an escape":                         {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/%2a"}},
		"two stars and something behind it": {Role: access.Reader, Scope: scope(t, "demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/**/web"}},
	} {
		if err := b.Check(); err == nil {
			t.Errorf("%s: took %s", name, b)
		}
		if _, err := access.Compile([]access.Binding{b}); err == nil {
			t.Errorf("%s: compiled %s", name, b)
		}
	}
	for _, good := range []access.Subject{claim, id} {
		if err := (access.Binding{Role: access.Admin, Scope: identity.Platform, Subject: good}).Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestABindingThatEndedNoLongerCounts(t *testing.T) {
	who := table(t, "admin platform "+root).Name(workload(t, root))
	if access.Check(who, access.Issue, identity.Platform) != nil {
		t.Fatal("an admin may not issue")
	}
	for _, ended := range []*access.Table{table(t), nil} {
		if who := ended.Name(who); who.Operator || access.Check(who, access.Issue, identity.Platform) == nil {
			t.Error("a binding that ended counts")
		}
	}
}

func TestWordsReadBack(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range access.Actions() {
		back, ok := access.ParseAction(a.String())
		if !ok || back != a || seen[a.String()] || !access.Admin.Allows(a) {
			t.Errorf("%d is %q, read back as %d", a, a, back)
		}
		seen[a.String()] = true
	}
	for _, s := range []string{"", "nothing", "certificate", "Certificate.issue", "certificate.issue "} {
		if a, ok := access.ParseAction(s); ok {
			t.Errorf("%q is %d", s, a)
		}
	}
	for _, s := range []string{"", "owner", "Admin", "admin "} {
		if r, err := access.ParseRole(s); err == nil {
			t.Errorf("%q is %s", s, r)
		}
	}
}

func TestADecisionCostsNoAllocation(t *testing.T) {
	tab := table(t, "admin platform "+root, "issuer demo/shop "+boss)
	for name, who := range map[string]identity.Caller{"a workload": workload(t, web), "an admin": workload(t, root), "an issuer": workload(t, boss)} {
		at := scope(t, "demo/shop/dev")
		if n := testing.AllocsPerRun(100, func() {
			if access.Check(tab.Name(who), access.Issue, at) != nil {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	tab, who, at := table(b, "admin platform "+root, "reader demo spiffe://segl.test/tenant/other/**"), workload(b, web), scope(b, "demo/shop/dev")
	for b.Loop() {
		if access.Check(tab.Name(who), access.Issue, at) != nil {
			b.Fatal("refused")
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{root, web, "spiffe://segl.test/tenant/demo/*", "spiffe://segl.test/tenant/demo/**", "*", "/", "spiffe://a/platform/**"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := access.ParseIdentity(s)
		if err != nil {
			return
		}
		if v.String() != s || strings.Count(s, "*") > 2 {
			t.Fatalf("%q taken as %q", s, v)
		}
		if err := (access.Binding{Role: access.Reader, Scope: scope(t, "demo"), Subject: v}).Check(); err != nil {
			t.Fatal(err)
		}
	})
}
