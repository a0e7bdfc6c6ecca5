package policy_test

import (
	"errors"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

func chain(t *testing.T, scope string, rights ...policy.Rights) policy.Chain {
	t.Helper()
	parts := strings.Split(scope, "/")
	var c policy.Chain
	for i, r := range rights {
		s, err := identity.ParseScope(strings.Join(parts[:i+1], "/"))
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := policy.Compile(s, r)
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, compiled)
	}
	return c
}

func TestNameRights(t *testing.T) {
	demo := chain(t, "demo/shop/dev",
		policy.Rights{DNS: []string{"localhost", "*.localhost", "*.demo.test", "demo.test"}, IP: []string{"127.0.0.0/8", "::1"}, SPIFFE: []string{"*"}},
		policy.Rights{},
		policy.Rights{DNS: []string{"localhost", "*.demo.test"}})
	allow := func(names ...string) { t.Helper(); decide(t, demo, true, names) }
	deny := func(names ...string) { t.Helper(); decide(t, demo, false, names) }

	allow("dns:localhost", "dns:a.demo.test", "dns:*.demo.test")
	allow("ip:127.0.0.1", "ip:127.255.255.254", "ip:::1")
	allow("uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web")

	deny("dns:demo.test") // the tenant may, the environment may not
	deny("dns:a.localhost", "dns:a.b.demo.test", "dns:*.a.demo.test")
	deny("dns:demo.test.evil.test", "dns:evildemo.test", "dns:test", "dns:*.test")
	deny("ip:128.0.0.1", "ip:::2", "ip:10.0.0.1")
	deny("uri:spiffe://segl.test/tenant/demo/project/shop/web", "uri:spiffe://segl.test/tenant/demo/web")
	deny("uri:spiffe://segl.test/tenant/other/project/shop/environment/dev/web", "uri:spiffe://segl.test/platform/web")
	deny("uri:https://segl.test/tenant/demo")
}

func decide(t *testing.T, c policy.Chain, want bool, names []string) {
	t.Helper()
	for _, s := range names {
		n, err := cert.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		err = c.Allow(n)
		if (err == nil) != want {
			t.Errorf("%s: allowed %t, want %t (%v)", s, err == nil, want, err)
		}
		if r, ok := errors.AsType[*policy.Refusal](err); err != nil && (!ok || r.Rule == "" || r.Remedy == "") {
			t.Errorf("%s: refusal names no rule or no remedy: %v", s, err)
		}
	}
}

func TestAChainThatDeclaresNothingAllowsNothing(t *testing.T) {
	decide(t, chain(t, "demo", policy.Rights{}), false, []string{"dns:localhost", "ip:::1", "uri:spiffe://segl.test/tenant/demo/web"})
	decide(t, nil, false, []string{"dns:localhost", "ip:::1"})
}

func TestAnEmptyListAllowsNothing(t *testing.T) {
	decide(t, chain(t, "demo", policy.Rights{DNS: []string{}}), false, []string{"dns:localhost"})
}

func TestCompileRefusesWhatItCannotMatch(t *testing.T) {
	for _, r := range []policy.Rights{
		{DNS: []string{"a..b"}},
		{DNS: []string{"a.*.b"}},
		{DNS: []string{""}},
		{DNS: []string{".demo.test"}},
		{IP: []string{"127.0.0.0/99"}},
		{IP: []string{"localhost"}},
		{SPIFFE: []string{"a/b"}},
		{SPIFFE: []string{""}},
	} {
		if _, err := policy.Compile(identity.Platform, r); err == nil {
			t.Errorf("compiled %+v", r)
		}
	}
}
