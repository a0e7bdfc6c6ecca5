package ca_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// refusedBy fails the test unless err is one of the refusals, or the sentinel, and the newest fact is of it: what was refused,
// to whom, by which rule.
func refusedBy(t *testing.T, h *pkitest.House, name string, err error, rule string, sentinel error) {
	t.Helper()
	r, ok := errors.AsType[*policy.Refusal](err)
	switch {
	case sentinel != nil && !errors.Is(err, sentinel):
		t.Errorf("%s: %v, want %v", name, err, sentinel)
		return
	case sentinel == nil && (!ok || r.Rule != rule || r.Remedy == ""):
		t.Errorf("%s: %v, want a refusal by %s with a remedy", name, err, rule)
		return
	}
	var allowed bool
	var why string
	ferr := h.DB.QueryRow(t.Context(), `
		SELECT allowed, coalesce(why, '')
		FROM   fact
		ORDER  BY xid DESC, id DESC
		LIMIT  1`).Scan(&allowed, &why)
	if ferr != nil || allowed || why != rule {
		t.Errorf("%s: the last fact is allowed %t, rule %q; want refused by %q: %v", name, allowed, why, rule, ferr)
	}
}

func TestRenewalHasOneSuccessor(t *testing.T) {
	h := pkitest.New(t)
	who, key := enrolled(t, h), pkitest.Key(t)
	who.Act = "spiffe://segl.test/tenant/demo/agent"
	was := count(t, h)
	next, err := h.Renew(t.Context(), who, pkitest.CSR(t, key))
	if err != nil || next.Identity() != who.ID || next.Serial == who.Serial {
		t.Fatalf("%s of %s, %v", next.Serial, next.Identity(), err)
	}
	if life := next.NotAfter.Sub(next.NotBefore) + time.Second; life != 24*time.Hour {
		t.Errorf("lives %s, want as long as the one before", life)
	}
	again, err := h.Renew(t.Context(), who, pkitest.CSR(t, key, who.ID.String())) // with or without the names: the same
	if err != nil || again.Serial != next.Serial || string(again.DER) != string(next.DER) {
		t.Fatalf("asked again: %s, %v; want %s", again.Serial, err, next.Serial)
	}
	if got := count(t, h).since(was); got != (tally{intents: 1, signed: 1, allowed: 1}) {
		t.Errorf("two requests left %+v, want one certificate", got)
	}
	var what, act string
	err = h.DB.QueryRow(t.Context(), `
		SELECT what, act
		FROM   fact
		WHERE  serial = $1`, next.Serial.Bytes()).Scan(&what, &act)
	if err != nil || what != "certificate.renew" || act != who.Act {
		t.Errorf("the fact says %s by %s, %v", what, act, err)
	}
	_, err = h.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h, "another key", err, "one origin has one certificate", ca.ErrConflict)
	if err == nil || !strings.Contains(err.Error(), next.Serial.String()) {
		t.Errorf("%v does not name the successor %s", err, next.Serial)
	}
}

func TestRenewalIsAWholeDecision(t *testing.T) {
	h := pkitest.New(t)
	shop := pkitest.Scope("demo/shop")
	fresh := func() identity.Caller { return enrolled(t, h) }
	revoked := fresh()
	if _, err := h.Revoke(t.Context(), revoked, revoked.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	unknown := fresh()
	unknown.Serial = cert.NewSerial(1, h.Now())
	blocked := pkitest.Key(t)
	c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, blocked, "dns:a.demo.test")})
	must(t, err)
	_, err = h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise)
	must(t, err)
	moved := fresh() // the same certificate shown by a caller of another scope
	moved.Scope = pkitest.Scope("other")
	for name, x := range map[string]struct {
		who  identity.Caller
		csr  cert.Request
		rule string
		err  error
	}{
		"no certificate":     {demo, pkitest.CSR(t, pkitest.Key(t)), "proof of possession", nil},
		"an unknown one":     {unknown, pkitest.CSR(t, pkitest.Key(t)), "the ledger", nil},
		"a revoked one":      {revoked, pkitest.CSR(t, pkitest.Key(t)), "revocation", ca.ErrCallerRevoked},
		"another's scope":    {moved, pkitest.CSR(t, pkitest.Key(t)), "roles: nothing grants this caller anything there", nil},
		"a compromised key":  {fresh(), pkitest.CSR(t, blocked), "the list of compromised keys", ca.ErrKeyBlocked},
		"one more name":      {fresh(), pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"), "renewal keeps the names", nil},
		"another identity":   {fresh(), pkitest.CSR(t, pkitest.Key(t), "uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/other"), "renewal keeps the names", nil},
		"another commonName": {fresh(), pkitest.CSR(t, pkitest.Key(t), "cn:admin"), "renewal keeps the names", nil},
	} {
		_, err := h.Renew(t.Context(), x.who, x.csr)
		refusedBy(t, h, name, err, x.rule, x.err)
	}

	narrowed := fresh()
	_, err = h.Scopes.SetRights(t.Context(), identity.System("test"), shop, policy.Rights{SPIFFE: []string{"another"}})
	must(t, err)
	_, err = h.Renew(t.Context(), narrowed, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h, "rights narrowed since", err, "the name rights of demo/shop", nil)
	_, err = h.Scopes.SetRights(t.Context(), identity.System("test"), shop, policy.Rights{})
	must(t, err)
	if _, err := h.Renew(t.Context(), narrowed, pkitest.CSR(t, pkitest.Key(t))); err != nil {
		t.Errorf("rights given back: %v", err)
	}

	expired := fresh()
	h.Advance(24 * time.Hour)
	_, err = h.Renew(t.Context(), expired, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h, "an expired one", err, "its validity", nil)
}

func TestRenewalKeepsADatabaseRole(t *testing.T) {
	h := pkitest.New(t)
	c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "database-client", Identity: demo.ID, CSR: pkitest.CSR(t, pkitest.Key(t), "cn:app")})
	must(t, err)
	who := demo
	who.Serial = c.Serial
	_, err = h.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t), "cn:admin"))
	refusedBy(t, h, "another role", err, "renewal keeps the names", nil)
	next, err := h.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t), "cn:app"))
	if err != nil || next.Role != c.Role {
		t.Fatalf("role %q, %v; want %q", next.Role, err, c.Role)
	}
}

func TestRevokeAsksWhoAndWhy(t *testing.T) {
	h := pkitest.New(t)
	holder := enrolled(t, h)
	other := pkitest.Workload(pkitest.Scope("other"), "web")
	operator := pkitest.Workload(identity.Platform, "root")
	operator.Operator = true
	_, err := h.Revoke(t.Context(), other, holder.Serial, cert.Superseded)
	refusedBy(t, h, "another tenant", err, "roles: nothing grants this caller anything there", nil)
	_, err = h.Revoke(t.Context(), holder, holder.Serial, cert.CACompromise)
	refusedBy(t, h, "an operator's reason", err, "reasons a holder may give", nil)
	if _, err := h.Revoke(t.Context(), holder, cert.NewSerial(1, h.Now()), cert.Superseded); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	second := enrolled(t, h)
	if got, err := h.Revoke(t.Context(), operator, second.Serial, cert.PrivilegeWithdrawn); err != nil || got.Revoked.Reason != cert.PrivilegeWithdrawn {
		t.Errorf("an operator: %+v, %v", got.Revoked, err)
	}
	_, err = h.Revoke(t.Context(), second, holder.Serial, cert.Superseded)
	refusedBy(t, h, "a revoked caller", err, "revocation", ca.ErrCallerRevoked)
	if got, err := h.Revoke(t.Context(), second, second.Serial, cert.KeyCompromise); !errors.Is(err, ca.ErrAlreadyRevoked) || got.Revoked.Reason != cert.PrivilegeWithdrawn {
		t.Errorf("again: %+v, %v; want the first revocation as it was", got.Revoked, err)
	}
	if _, err := h.Revoke(t.Context(), holder, holder.Serial, cert.Superseded); err != nil {
		t.Errorf("the holder itself: %v", err)
	}
	_, err = h.Issue(t.Context(), holder, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")})
	refusedBy(t, h, "issuing with a revoked one", err, "revocation", ca.ErrCallerRevoked)
	_, _, err = h.Invite(t.Context(), holder, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
	refusedBy(t, h, "inviting with a revoked one", err, "revocation", ca.ErrCallerRevoked)
}

func TestRenewalIsNoWayAroundAnOrdersValidation(t *testing.T) {
	h, key := pkitest.New(t), pkitest.Key(t)
	c, err := h.Issue(t.Context(), demo, ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test"), Origin: ca.Origin{ID: uid.New(uid.Order, 1, h.Now())},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Renew(t.Context(), identity.Caller{Actor: "certificate:" + c.Serial.String(), Serial: c.Serial}, pkitest.CSR(t, key))
	refusedBy(t, h, "an order's certificate", err, "orders are validated each time", nil)
}
