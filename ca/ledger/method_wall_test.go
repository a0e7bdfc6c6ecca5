package ledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A tenant's admin may come with a certificate, and is walled then as everybody of the tenant.
func TestBehindTheWallMethodsAreMadeAndEndedInOnesOwnScopes(t *testing.T) {
	h := pkitest.New(t)
	walled, err := h.DB.Walled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(walled.Close)
	l := ledger.New(walled, 1)
	t.Cleanup(l.Close)
	as := func(path string) context.Context {
		scopes, above := h.Scopes.Wall(pkitest.Scope(path))
		return postgres.Within(t.Context(), scopes, above)
	}
	admin := pkitest.Workload(pkitest.Scope("demo"), "boss")
	fact := audit.Fact{At: time.Now(), Who: admin, Scope: pkitest.Demo, What: audit.MethodMade, Subject: "ci"}
	m := ca.Method{Scope: pkitest.Demo, Name: "ci", Kind: ca.OIDC, Profile: "workload", Subject: "x", Issuer: "https://id.test", Audience: "a", MadeAt: time.Now()}
	for _, path := range []string{"other", "platform"} {
		if _, err := l.AddMethod(as(path), m, fact); err == nil {
			t.Errorf("made from %s", path)
		}
	}
	if _, err := l.AddMethod(as("demo"), m, fact); err != nil {
		t.Fatalf("not made by its own: %v", err)
	}
	for _, path := range []string{"other", "platform"} {
		if _, err := l.EndMethod(as(path), pkitest.Demo, "ci", fact); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("ended from %s: %v", path, err)
		}
	}
	if _, err := l.EndMethod(as("demo"), pkitest.Demo, "ci", fact); err != nil {
		t.Errorf("not ended by its own: %v", err)
	}
}
