package tenancy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/tenancy"
)

// ender says that certificates are revoked once it was asked rounds times.
type ender struct{ rounds, asked int }

func (e *ender) Count(context.Context, identity.Scope) (int, error) { return 7, nil }

func (e *ender) End(_ context.Context, _ int64, _ identity.Scope) (int, bool, error) {
	e.asked++
	return 7, e.asked >= e.rounds, nil
}

func exec(t *testing.T, db *postgres.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, db *postgres.DB, path string) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SELECT id FROM scope WHERE path = $1`, path).Scan(&n); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

// furnished gives demo/shop/dev one of each thing that a tenant has.
func furnished(t *testing.T, db *postgres.DB) {
	t.Helper()
	exec(t, db, `
		INSERT INTO acme_account (id, scope, key_id, key, thumbprint, contact, terms_agreed, created_at)
		SELECT decode(repeat('2', 36), 'hex'), id, decode(repeat('ab', 32), 'hex'), '\x00', 'x', '{}', true, now()
		FROM   scope
		WHERE  path = 'demo/shop/dev'`)
	exec(t, db, `
		INSERT INTO role_binding (role, scope, identity, made_at, made_by)
		SELECT 'admin', id, 'spiffe://segl.test/tenant/demo/boss', now(), 'test'
		FROM   scope
		WHERE  path = 'demo'`)
	exec(t, db, `
		INSERT INTO role_binding (role, scope, identity, made_at, made_by)
		SELECT 'reader', s.id, v.identity, now(), 'test'
		FROM   (VALUES ('spiffe://segl.test/tenant/demo/project/shop/**'), ('spiffe://segl.test/tenant/demo2/ci'), ('spiffe://segl.test/platform/demo')) AS v (identity)
		CROSS  JOIN scope s
		WHERE  s.path = 'other'`)
	exec(t, db, `
		INSERT INTO limit_override (name, scope, rate, changed_at)
		SELECT 'few', id, '1/1h', now()
		FROM   scope
		WHERE  path = 'demo/shop'`)
	exec(t, db, `
		INSERT INTO credential_target (scope, root, name, kind, address, authority, manager, database, made_at)
		SELECT id, 'demo', 'db', 'postgresql', 'a:5432', '', 'm', 'd', now()
		FROM   scope
		WHERE  path = 'demo/shop'`)
	exec(t, db, `
		INSERT INTO credential_binding (scope, root, name, subject, target, way, database, member_of, role, life, connections, leases, audiences, scopes, made_at)
		SELECT s.id, 'demo', 'b', 'x', t.id, 'leased', 'd', 'g', 'r', 60, 1, 1, '{}', '{}', now()
		FROM   scope s
		CROSS  JOIN credential_target t
		WHERE  s.path = 'demo/shop/dev'`)
}

func TestADeletedTenantMadeAgainHasNothingOfTheOld(t *testing.T) {
	r, db := opened(t)
	furnished(t, db)
	was, e := number(t, db, "demo/shop/dev"), &ender{rounds: 2}
	d := &tenancy.Deleter{Registry: r, Ender: e}
	demo := pkitest.Scope("demo")

	plan, err := d.Preview(t.Context(), operator, demo)
	if err != nil || plan.Scopes != 3 || plan.Accounts != 1 || plan.Roles != 2 || plan.Targets != 1 || plan.Certificates != 7 || r.State(demo) != tenancy.Active {
		t.Fatalf("%+v, %s, %v", plan, r.State(demo), err)
	}
	begun, err := d.Delete(t.Context(), operator, demo, "they left")
	must(t, err)
	again, err := d.Delete(t.Context(), operator, demo, "they left")
	if err != nil || again.ID != begun.ID {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	if r.State(pkitest.Demo) != tenancy.Deleting || stopped(t, r, "demo/shop/dev") != "demo" {
		t.Errorf("begun, it is %s, stopped by %q", r.State(pkitest.Demo), stopped(t, r, "demo/shop/dev"))
	}
	if _, err := r.Resume(t.Context(), operator, demo, ""); !errors.Is(err, tenancy.ErrUnchanged) {
		t.Errorf("a tenant that is being deleted goes on: %v", err)
	}
	refuses(t, r, "demo/new", "being deleted")

	must(t, d.RunOnce(t.Context())) // its certificates are not all revoked yet
	if r.State(demo) != tenancy.Deleting {
		t.Fatalf("it is %s before its certificates are revoked", r.State(demo))
	}
	must(t, d.RunOnce(t.Context()))
	must(t, d.RunOnce(t.Context())) // nothing is left to do
	proof, err := d.Deletion(t.Context(), operator, begun.ID)
	if err != nil || proof.FinishedAt.IsZero() || proof.Certificates != 7 || proof.Accounts != 1 || proof.Roles != 2 || proof.Targets != 2 || proof.Scopes != 3 {
		t.Fatalf("%+v, %v", proof, err)
	}
	var why string
	must(t, db.QueryRow(t.Context(), `SELECT why FROM fact WHERE what = 'scope.gone' AND subject = 'demo'`).Scan(&why))
	if !strings.Contains(why, "7 certificates revoked, 1 accounts") {
		t.Errorf("the fact says %q", why)
	}

	refuses(t, r, "demo", "rests")
	exec(t, db, `UPDATE scope SET deleted_at = deleted_at - interval '25 hours', deleting_at = deleting_at - interval '25 hours' WHERE born IS NOT NULL`)
	for _, path := range []string{"demo", "demo/shop", "demo/shop/dev"} {
		if _, err := r.Create(t.Context(), operator, pkitest.Scope(path), policy.Rights{}); err != nil {
			t.Fatalf("%s made again: %v", path, err)
		}
	}
	if number(t, db, "demo/shop/dev") == was || number(t, db, proof.Gone.String()+"/shop/dev") != was {
		t.Error("the new one has the old one's number")
	}
	if r.State(pkitest.Demo) != tenancy.Active || r.Living(pkitest.Demo, time.Now().Add(-time.Hour)) || !r.Living(pkitest.Demo, time.Now()) {
		t.Error("what is older than the new one is taken for its own")
	}
	for _, table := range []string{"acme_account", "role_binding", "limit_override", "credential_target", "credential_binding"} {
		var n int
		must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM `+table+` t JOIN scope s ON s.id = t.scope WHERE s.path LIKE 'demo%'`).Scan(&n))
		if n != 0 {
			t.Errorf("the new tenant has %d of the old one's %s", n, table)
		}
	}
	var roles []string
	must(t, db.QueryRow(t.Context(), `SELECT array_agg(identity ORDER BY identity) FROM role_binding WHERE ended_at IS NULL AND role = 'reader'`).Scan(&roles))
	if len(roles) != 2 || roles[0] != "spiffe://segl.test/platform/demo" || roles[1] != "spiffe://segl.test/tenant/demo2/ci" {
		t.Errorf("elsewhere %q have roles", roles)
	}
	if _, err := r.Chain(t.Context(), pkitest.Scope(proof.Gone.String()+"/shop/dev")); err == nil {
		t.Error("something is issued under the name of what is gone")
	}
	for _, c := range r.Children(identity.Scope{}) {
		if c.Scope == proof.Gone {
			t.Error("what is gone is listed")
		}
	}
}

func refuses(t *testing.T, r *tenancy.Registry, path, rule string) {
	t.Helper()
	_, err := r.Create(t.Context(), operator, pkitest.Scope(path), policy.Rights{})
	if v, ok := errors.AsType[*policy.Refusal](err); !ok || !strings.Contains(v.Rule, rule) {
		t.Errorf("making %s: %v, want a refusal by %q", path, err, rule)
	}
}

func TestDeletingRefuses(t *testing.T) {
	r, db := opened(t)
	asked, terms := 0, map[string]bool{}
	d := &tenancy.Deleter{Registry: r, Ender: &ender{}, Guard: func(_ context.Context, _ identity.Caller, q access.Request) error {
		asked++
		terms[q.Terms] = true
		return &access.Pending{ID: 1}
	}}
	admin := pkitest.Workload(pkitest.Scope("demo"), "boss")
	admin.Grants = identity.NewGrants(identity.Grant{Role: "admin", At: pkitest.Scope("demo"), Mask: ^uint64(0)})
	for name, c := range map[string]struct {
		who   identity.Caller
		scope identity.Scope
	}{
		"the tenant's own admin": {admin, pkitest.Scope("demo")}, "nobody": {identity.Caller{}, pkitest.Scope("demo")}, "a project": {operator, pkitest.Scope("demo/shop")},
		"the platform": {operator, identity.Platform}, "no scope": {operator, identity.Scope{}}, "none that is there": {operator, pkitest.Scope("nobody")},
	} {
		if _, err := d.Delete(t.Context(), c.who, c.scope, ""); err == nil || errors.Is(err, access.ErrPending) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Preview(t.Context(), c.who, c.scope); err == nil {
			t.Errorf("%s: shown", name)
		}
	}
	if _, err := d.Delete(t.Context(), operator, pkitest.Scope("demo"), ""); !errors.Is(err, access.ErrPending) || asked != 1 {
		t.Errorf("one operator deletes a tenant: %v", err)
	}
	exec(t, db, `UPDATE scope SET created_at = created_at + interval '2 days' WHERE path = 'demo'`)
	must(t, r.Reload(t.Context()))
	if _, err := d.Delete(t.Context(), operator, pkitest.Scope("demo"), ""); !errors.Is(err, access.ErrPending) || len(terms) != 2 {
		t.Errorf("what was confirmed of one tenant is of the next of its name: %v, %v", err, terms)
	}
	must(t, d.RunOnce(t.Context()))
	if r.State(pkitest.Scope("demo")) != tenancy.Active || number(t, db, "demo") == 0 {
		t.Errorf("it is %s", r.State(pkitest.Scope("demo")))
	}
	refuses(t, r, "deleted-1", "names of deleted tenants")
}

func TestATenantsAdminDoesNotWidenWhatItMay(t *testing.T) {
	r, _ := opened(t)
	admin := pkitest.Workload(pkitest.Scope("demo"), "boss")
	admin.Grants = identity.NewGrants(identity.Grant{Role: "admin", At: pkitest.Scope("demo"), Mask: ^uint64(0)})
	for name, do := range map[string]func() error{
		"its own rights": func() error {
			_, err := r.SetRights(t.Context(), admin, pkitest.Scope("demo"), policy.Rights{})
			return err
		},
		"another's": func() error {
			_, err := r.SetRights(t.Context(), admin, pkitest.Scope("other"), policy.Rights{})
			return err
		},
		"the platform's": func() error {
			_, err := r.SetRights(t.Context(), admin, identity.Platform, policy.Rights{})
			return err
		},
		"another tenant": func() error {
			_, err := r.Create(t.Context(), admin, pkitest.Scope("more"), policy.Rights{})
			return err
		},
		"resuming itself":    func() error { _, err := r.Resume(t.Context(), admin, pkitest.Scope("demo"), ""); return err },
		"suspending another": func() error { _, err := r.Suspend(t.Context(), admin, pkitest.Scope("other"), ""); return err },
	} {
		if _, ok := errors.AsType[*policy.Refusal](do()); !ok {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, err := r.SetRights(t.Context(), admin, pkitest.Scope("demo/shop"), policy.Rights{DNS: []string{}}); err != nil {
		t.Errorf("narrowing its own project: %v", err)
	}
}
