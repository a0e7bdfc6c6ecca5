package ledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// No door and no domain stands between these and the ledger: what is refused here is refused by the database.
func TestBehindTheWallTheLedgerKnowsItsCallersCertificatesAlone(t *testing.T) {
	h := pkitest.New(t)
	walled, err := h.DB.Walled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(walled.Close)
	l := ledger.New(walled, 1)
	t.Cleanup(l.Close)
	c, err := h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "demo"), ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	as := func(paths ...string) context.Context {
		var roots []identity.Scope
		for _, p := range paths {
			roots = append(roots, pkitest.Scope(p))
		}
		scopes, above := h.Scopes.Wall(roots...)
		return postgres.Within(t.Context(), scopes, above)
	}
	for name, caller := range map[string]struct {
		ctx  context.Context
		sees bool
	}{
		"its own":  {as("demo/shop/dev"), true},
		"a parent": {as("demo"), true},
		"another":  {as("other"), false},
		"platform": {as("platform"), false},
		"nobody":   {t.Context(), false},
		"ours":     {postgres.AsOwner(t.Context()), true},
	} {
		if _, err := l.BySerial(caller.ctx, c.Serial); caller.sees != (err == nil) || err != nil && !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s: by serial: %v", name, err)
		}
		if _, err := l.Renewal(caller.ctx, c.Serial, time.Now()); caller.sees != (err == nil) || err != nil && !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s: its renewal: %v", name, err)
		}
		for what, q := range map[string]ca.Query{"a scope": {Scope: pkitest.Demo, Limit: 10}, "everywhere": {Limit: 100}} {
			p, err := l.Select(caller.ctx, q)
			found := false
			for _, r := range p.Records {
				found = found || r.Serial == c.Serial
			}
			if err != nil || found != caller.sees {
				t.Errorf("%s: listing %s: found %t, %v", name, what, found, err)
			}
		}
		facts, err := l.Read(caller.ctx, audit.Query{What: audit.Issue, Limit: 100})
		found := false
		for _, e := range facts.Entries {
			found = found || e.Serial == c.Serial
		}
		if err != nil || found != caller.sees {
			t.Errorf("%s: facts: found %t, %v", name, found, err)
		}
	}
	end := ca.Revocation{Serial: c.Serial, At: time.Now(), Reason: cert.Superseded, Fact: audit.Fact{
		At: time.Now(), Who: pkitest.Workload(pkitest.Scope("other"), "x"), Scope: pkitest.Demo, What: audit.Revoke, Serial: c.Serial,
	}}
	for _, ctx := range []context.Context{as("other"), as("platform"), t.Context()} {
		if err := l.Revoke(ctx, end); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("revoked by a stranger: %v", err)
		}
	}
	if err := l.Revoke(as("demo/shop/dev"), end); err != nil {
		t.Errorf("not revoked by its own: %v", err)
	}
}
