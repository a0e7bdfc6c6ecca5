package ca_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// Whoever could make somebody of the platform alone could be the second operator too, by whichever door.
func TestOneOperatorMakesNobodyOfThePlatform(t *testing.T) {
	h := newHall(t)
	ann := pkitest.Workload(identity.Platform, "ann")
	ann.Operator = true
	var asked []access.Request
	hold := func(_ context.Context, _ identity.Caller, q access.Request) error {
		asked = append(asked, q)
		return &access.Pending{ID: 1}
	}
	method := ca.Method{Scope: identity.Platform, Name: "builder", Kind: ca.JWK, Subject: "bob", Issuer: "builder", Keys: h.provider.Keys(t)}
	bob := ca.Invitation{Scope: identity.Platform, Workload: "bob"}
	for name, do := range map[string]func() error{
		"an invitation": func() error { _, _, err := h.Invite(t.Context(), ann, bob); return err },
		"a method":      func() error { _, err := h.AddMethod(t.Context(), ann, method); return err },
		"a certificate": func() error {
			_, err := h.Issue(t.Context(), ann, ca.Request{Scope: identity.Platform, Profile: "client", CSR: pkitest.CSR(t, pkitest.Key(t), "uri:spiffe://segl.test/platform/bob")})
			return err
		},
	} {
		asked, h.Guard = nil, hold
		if err := do(); !errors.Is(err, access.ErrPending) || len(asked) != 1 || asked[0].Kind != access.WidenPlatform || !strings.Contains(asked[0].Terms, "bob") {
			t.Errorf("%s: %v, asked %+v", name, err, asked)
		}
	}
	h.Guard = nil
	token, _, err := h.Invite(t.Context(), ann, bob)
	must(t, err)
	asked, h.Guard = nil, hold
	if _, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t))); err != nil || len(asked) != 0 {
		t.Errorf("what was confirmed when it was made is asked again of whom it names: %v, %+v", err, asked)
	}
	if _, _, err := h.Invite(t.Context(), ann, ca.Invitation{Scope: pkitest.Demo, Workload: "web"}); err != nil || len(asked) != 0 {
		t.Errorf("a tenant's workload takes two: %v", err)
	}
}

// Whoever has a certificate of an admin is one: to issue in the platform is not yet to say who that may be.
func TestAnIssuerOfThePlatformMakesNoAdmin(t *testing.T) {
	h := newHall(t)
	made, err := h.Access.Grant(t.Context(), identity.System("test"), access.Binding{
		Role: access.Issuer, Scope: identity.Platform, Subject: access.Subject{Identity: "spiffe://segl.test/platform/issuer"},
	})
	must(t, err)
	issuer := h.Access.Name(pkitest.Workload(identity.Platform, "issuer"))
	if !access.May(issuer, access.Issue, identity.Platform) {
		t.Fatalf("%s does not hold", made)
	}
	_, err = h.Issue(t.Context(), issuer, ca.Request{Scope: identity.Platform, Profile: "client", CSR: pkitest.CSR(t, pkitest.Key(t), "uri:spiffe://segl.test/platform/root")})
	refusedBy(t, h.House, "a certificate", err, "the role issuer at platform (binding 1), which does not include role.grant", nil)
	_, _, err = h.Invite(t.Context(), issuer, ca.Invitation{Scope: identity.Platform, Workload: "root"})
	refusedBy(t, h.House, "an invitation", err, "the role issuer at platform (binding 1), which does not include role.grant", nil)
	if _, err := h.Issue(t.Context(), issuer, ca.Request{Scope: pkitest.Demo, Profile: "client", CSR: pkitest.CSR(t, pkitest.Key(t), "uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/web")}); err != nil {
		t.Errorf("in a tenant: %v", err)
	}
}

// The service asks issuers where tenants say that they are; what listens beside it is none of theirs.
func TestATenantsAdminSendsTheServiceToNothingOnItsMachine(t *testing.T) {
	h := newHall(t)
	_, err := h.Access.Grant(t.Context(), identity.System("test"), access.Binding{
		Role: access.Admin, Scope: pkitest.Scope("demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/boss"},
	})
	must(t, err)
	boss := h.Access.Name(pkitest.Workload(pkitest.Scope("demo"), "boss"))
	m := ca.Method{Scope: pkitest.Demo, Name: "own", Kind: ca.OIDC, Subject: "x", Issuer: "http://127.0.0.1:9090"}
	_, err = h.AddMethod(t.Context(), boss, m)
	refusedBy(t, h.House, "plain HTTP", err, "enrolment methods", nil)
	m.Issuer = "https://id.demo.test"
	if _, err := h.AddMethod(t.Context(), boss, m); err != nil {
		t.Errorf("https: %v", err)
	}
}

func TestWhatAMethodSaysIsWhatIsConfirmed(t *testing.T) {
	h := newHall(t)
	var terms []string
	h.Guard = func(_ context.Context, _ identity.Caller, q access.Request) error {
		terms = append(terms, q.Terms)
		return &access.Pending{ID: 1}
	}
	ann := pkitest.Workload(identity.Platform, "ann")
	ann.Operator = true
	good := ca.Method{Scope: identity.Platform, Name: "builder", Kind: ca.JWK, Subject: "bob", Issuer: "builder", Keys: h.provider.Keys(t)}
	for _, change := range []func(*ca.Method){
		func(*ca.Method) {},
		func(m *ca.Method) { m.Subject = "*" },
		func(m *ca.Method) { m.Workload = "root" },
		func(m *ca.Method) { m.Audience = "anybody" },
		func(m *ca.Method) { m.Issuer = "another" },
		func(m *ca.Method) { m.Claims = map[string]string{"env": "dev"} },
		func(m *ca.Method) { m.Keys = append([]byte(" "), m.Keys...) },
		func(m *ca.Method) { m.Profile = "client" },
	} {
		m := good
		change(&m)
		if _, err := h.AddMethod(t.Context(), ann, m); !errors.Is(err, access.ErrPending) {
			t.Fatalf("%+v: %v", m, err)
		}
	}
	for i := range terms {
		for j := range i {
			if terms[i] == terms[j] {
				t.Errorf("what differs is confirmed by the same words: %s", terms[i])
			}
		}
	}
}
