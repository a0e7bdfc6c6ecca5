package tenancy_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
)

var operator = identity.System("test")

func opened(t *testing.T) (*tenancy.Registry, *postgres.DB) {
	t.Helper()
	db := pkitest.On(t, postgrestest.Open(t)).DB
	return replica(t, db), db
}

func replica(t *testing.T, db *postgres.DB) *tenancy.Registry {
	t.Helper()
	r, err := tenancy.Open(t.Context(), db, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func allows(t *testing.T, r *tenancy.Registry, scope, name string) bool {
	t.Helper()
	chain, err := r.Chain(t.Context(), pkitest.Scope(scope))
	if err != nil {
		t.Fatal(err)
	}
	n, err := cert.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Allow(n) == nil
}

func TestCreateRefuses(t *testing.T) {
	r, db := opened(t)
	before := facts(t, db)
	for name, c := range map[string]struct {
		scope  string
		rights policy.Rights
		want   error
	}{
		"a tenant twice":               {"demo", policy.Rights{}, tenancy.ErrExists},
		"the platform twice":           {"platform", policy.Rights{}, tenancy.ErrExists},
		"a project without its tenant": {"nobody/shop", policy.Rights{}, tenancy.ErrNoParent},
		"an environment without both":  {"nobody/shop/dev", policy.Rights{}, tenancy.ErrNoParent},
		"an environment without one":   {"demo/nothing/dev", policy.Rights{}, tenancy.ErrNoParent},
		"rights nobody can match":      {"demo/new", policy.Rights{DNS: []string{"a..b"}}, nil},
	} {
		_, err := r.Create(t.Context(), operator, pkitest.Scope(c.scope), c.rights)
		refusal, ok := errors.AsType[*policy.Refusal](err)
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && (!ok || refusal.Remedy == "") {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := facts(t, db); n != before {
		t.Errorf("%d facts of scopes that were not made", n-before)
	}
	if _, err := r.SetRights(t.Context(), operator, pkitest.Scope("nobody"), policy.Rights{}); !errors.Is(err, tenancy.ErrNotFound) {
		t.Errorf("the rights of nobody: %v", err)
	}
	if _, err := r.Chain(t.Context(), pkitest.Scope("nobody")); !errors.Is(err, tenancy.ErrNotFound) {
		t.Errorf("the chain of nobody: %v", err)
	}
	if _, err := r.Scope(identity.Scope{}); !errors.Is(err, tenancy.ErrNotFound) {
		t.Errorf("the zero scope: %v", err)
	}
}

func facts(t *testing.T, db *postgres.DB) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE allowed`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAChangeIsDurableNotedAndHereAtOnce(t *testing.T) {
	r, db := opened(t)
	other := replica(t, db)
	before := facts(t, db)
	made, err := r.Create(t.Context(), operator, pkitest.Scope("demo/new"), policy.Rights{DNS: []string{"a.demo.test"}})
	if err != nil || made.Rights.SPIFFE != nil || len(made.Rights.DNS) != 1 {
		t.Fatalf("%+v, %v", made, err)
	}
	if !allows(t, r, "demo/new", "dns:a.demo.test") || allows(t, r, "demo/new", "dns:b.demo.test") {
		t.Error("the rights of a scope just made do not hold")
	}
	if _, err := r.SetRights(t.Context(), operator, pkitest.Scope("demo/new"), policy.Rights{DNS: []string{"b.demo.test"}}); err != nil {
		t.Fatal(err)
	}
	if allows(t, r, "demo/new", "dns:a.demo.test") || !allows(t, r, "demo/new", "dns:b.demo.test") {
		t.Error("rights just changed do not hold")
	}
	if _, err := other.Scope(pkitest.Scope("demo/new")); !errors.Is(err, tenancy.ErrNotFound) {
		t.Fatalf("the other replica knew without a look: %v", err)
	}
	if err := other.Reload(t.Context()); err != nil || !allows(t, other, "demo/new", "dns:b.demo.test") {
		t.Errorf("the other replica after a look: %v", err)
	}
	if n := facts(t, db) - before; n != 2 {
		t.Errorf("%d facts, want two", n)
	}
	var scope string
	err = db.QueryRow(t.Context(), `
		SELECT s.path
		FROM   fact f
		JOIN   scope s ON s.id = f.scope
		WHERE  f.what = 'scope.create' AND f.subject = 'demo/new'`).Scan(&scope)
	if err != nil || scope != "demo/new" {
		t.Errorf("the fact is of scope %q, %v", scope, err)
	}
}

func TestAChangeWithoutItsFactIsNoChange(t *testing.T) {
	r, db := opened(t)
	for _, sql := range []string{
		`CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken by a test''; END'`,
		`CREATE TRIGGER broken BEFORE INSERT ON fact FOR EACH ROW EXECUTE FUNCTION break_it()`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Create(t.Context(), operator, pkitest.Scope("demo/new"), policy.Rights{}); err == nil {
		t.Error("created")
	}
	if _, err := r.SetRights(t.Context(), operator, pkitest.Demo, policy.Rights{DNS: []string{"evil.test"}}); err == nil {
		t.Error("changed")
	}
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Scope(pkitest.Scope("demo/new")); !errors.Is(err, tenancy.ErrNotFound) || allows(t, r, "demo/shop/dev", "dns:evil.test") {
		t.Errorf("half a change is there: %v", err)
	}
}

func TestChildrenAreDirectlyBelow(t *testing.T) {
	r, _ := opened(t)
	for parent, want := range map[string]string{"": "demo other", "demo": "demo/shop", "demo/shop": "demo/shop/dev", "demo/shop/dev": "", "platform": ""} {
		var scope identity.Scope
		if parent != "" {
			scope = pkitest.Scope(parent)
		}
		got := ""
		for i, c := range r.Children(scope) {
			if i > 0 {
				got += " "
			}
			got += c.Scope.String()
		}
		if got != want {
			t.Errorf("below %q is %q, want %q", parent, got, want)
		}
	}
}

func TestConcurrentChangesAreAllHere(t *testing.T) {
	r, _ := opened(t)
	var wait sync.WaitGroup
	for _, name := range []string{"demo/a", "demo/b", "demo/c", "demo/d", "demo/e", "demo/f"} {
		wait.Go(func() {
			if _, err := r.Create(t.Context(), operator, pkitest.Scope(name), policy.Rights{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wait.Wait()
	if n := len(r.Children(pkitest.Scope("demo"))); n != 7 {
		t.Errorf("%d projects are here, want 7", n)
	}
}
