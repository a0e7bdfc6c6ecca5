package store_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/access/store"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
)

var system = identity.System("test")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A house has admins ann and bob of the platform, a second replica, and a rule that everything needs two.
type house struct {
	*pkitest.House
	r, other *store.Registry
}

func opened(t *testing.T) house {
	t.Helper()
	h := house{House: pkitest.New(t)}
	rule := access.Rule{For: access.Kinds(), RevokeMany: 10, Within: time.Hour}
	for _, at := range []**store.Registry{&h.r, &h.other} {
		var err error
		*at, err = store.Open(t.Context(), h.DB, rule, h.Now)
		must(t, err)
	}
	for _, name := range []string{"ann", "bob"} {
		h.grant(t, access.Admin, "platform", "spiffe://segl.test/platform/"+name)
	}
	return h
}

func (h house) grant(t *testing.T, role access.Role, scope, id string) access.Binding {
	t.Helper()
	b, err := h.r.Grant(t.Context(), system, access.Binding{Role: role, Scope: pkitest.Scope(scope), Subject: access.Subject{Identity: id}})
	must(t, err)
	must(t, h.other.Reload(t.Context()))
	return b
}

func (h house) admin(name string) identity.Caller {
	return h.r.Name(pkitest.Workload(identity.Platform, name))
}

func (h house) facts(t *testing.T, what string, allowed bool) (n int) {
	t.Helper()
	must(t, h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = $1 AND allowed = $2`, what, allowed).Scan(&n))
	return n
}

func TestABindingHoldsAtOnceAndEndsAtOnce(t *testing.T) {
	h := opened(t)
	who := pkitest.Workload(pkitest.Scope("other"), "reader")
	b := h.grant(t, access.Reader, "demo", who.ID.String())
	for _, at := range []*store.Registry{h.r, h.other} {
		if !access.May(at.Name(who), access.ReadFacts, pkitest.Demo) {
			t.Error("a binding does not hold")
		}
	}
	if _, err := h.r.Grant(t.Context(), h.admin("ann"), b); !errors.Is(err, access.ErrExists) {
		t.Errorf("the same again: %v", err)
	}
	_, err := h.r.End(t.Context(), h.admin("ann"), b.ID, "done")
	must(t, err)
	must(t, h.other.Reload(t.Context()))
	for _, at := range []*store.Registry{h.r, h.other} {
		if access.May(at.Name(who), access.ReadFacts, pkitest.Demo) {
			t.Error("a binding that ended holds")
		}
	}
	if _, err := h.r.End(t.Context(), h.admin("ann"), b.ID, ""); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("ended twice: %v", err)
	}
	h.grant(t, access.Reader, "demo", who.ID.String()) // given again
	if granted, ended := h.facts(t, "role.grant", true), h.facts(t, "role.end", true); granted != 4 || ended != 1 {
		t.Errorf("%d facts of grants and %d of ends", granted, ended)
	}
}

func TestGrantingRefuses(t *testing.T) {
	h := opened(t)
	boss := pkitest.Workload(pkitest.Scope("demo"), "boss")
	h.grant(t, access.Admin, "demo", boss.ID.String())
	boss = h.r.Name(boss)
	to := access.Subject{Identity: "spiffe://segl.test/tenant/other/friend"}
	for name, c := range map[string]struct {
		who identity.Caller
		b   access.Binding
	}{
		"nobody":                           {identity.Caller{}, access.Binding{Role: access.Reader, Scope: pkitest.Demo, Subject: to}},
		"a workload":                       {pkitest.Workload(pkitest.Demo, "web"), access.Binding{Role: access.Reader, Scope: pkitest.Demo, Subject: to}},
		"an admin elsewhere":               {boss, access.Binding{Role: access.Reader, Scope: pkitest.Scope("other"), Subject: to}},
		"a tenant's admin of the platform": {boss, access.Binding{Role: access.Reader, Scope: identity.Platform, Subject: access.Subject{Identity: "spiffe://segl.test/platform/x"}}},
		"a tenant's workload at platform":  {h.admin("ann"), access.Binding{Role: access.Reader, Scope: identity.Platform, Subject: to}},
		"no role":                          {h.admin("ann"), access.Binding{Role: "owner", Scope: pkitest.Demo, Subject: to}},
	} {
		_, err := h.r.Grant(t.Context(), c.who, c.b)
		if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Remedy == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.r.Grant(t.Context(), h.admin("ann"), access.Binding{Role: access.Reader, Scope: pkitest.Scope("nobody"), Subject: to}); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("at a scope that is not there: %v", err)
	}
	if n := h.facts(t, "role.grant", false); n != 6 {
		t.Errorf("%d facts of refusals, want 6", n)
	}
	if list, err := h.r.Bindings(boss, pkitest.Scope("demo")); err != nil || len(list) != 1 {
		t.Errorf("a tenant's admin sees %v, %v", list, err)
	}
	if _, err := h.r.Bindings(boss, identity.Platform); err == nil {
		t.Error("a tenant's admin sees the platform's")
	}
}

func TestTheLastAdminStays(t *testing.T) {
	h := opened(t)
	list, err := h.r.Bindings(h.admin("ann"), identity.Platform)
	must(t, err)
	_, err = h.r.End(t.Context(), h.admin("ann"), list[0].ID, "")
	must(t, err)
	if _, err := h.r.End(t.Context(), system, list[1].ID, ""); err == nil {
		t.Error("the platform has no admin any more")
	}
	if access.May(h.admin("ann"), access.Grant, identity.Platform) {
		t.Error("who is no admin any more grants")
	}
}

func TestOfTwoAdminsTakenAwayAtOnceOneStays(t *testing.T) {
	h := opened(t)
	list, err := h.r.Bindings(h.admin("ann"), identity.Platform)
	must(t, err)
	must(t, h.other.Reload(t.Context()))
	_, err = h.r.End(t.Context(), system, list[0].ID, "")
	must(t, err)
	_, err = h.other.End(t.Context(), system, list[1].ID, "") // it has not heard of that yet
	if v, ok := errors.AsType[*policy.Refusal](err); !ok || v.Rule != "the platform has an admin" {
		t.Errorf("the platform has no admin any more: %v", err)
	}
	if n := h.facts(t, "role.end", true); n != 1 {
		t.Errorf("%d facts of ends", n)
	}
}

func TestOnTheTenantsSideThePlatformsRolesCountForNothing(t *testing.T) {
	h := opened(t)
	ann := h.r.NameTenant(pkitest.Workload(identity.Platform, "ann"))
	for _, a := range access.Actions() {
		if access.May(ann, a, pkitest.Demo) || access.May(ann, a, identity.Platform) {
			t.Errorf("an operator may %s", a)
		}
	}
}

var many = access.Request{Kind: access.RevokeMany, Scope: identity.Platform, Terms: "revoke demo", Count: 11}

// pending asks, and returns the request that has to be confirmed.
func (h house) pending(t *testing.T, who identity.Caller, q access.Request) int64 {
	t.Helper()
	p, ok := errors.AsType[*access.Pending](h.r.Guard(t.Context(), who, q))
	if !ok || p.ID == 0 || !p.Expires.After(h.Now()) {
		t.Fatalf("not held up: %+v", p)
	}
	return p.ID
}

func TestWhatASecondConfirmedIsDoneOnce(t *testing.T) {
	h := opened(t)
	ann, bob := h.admin("ann"), h.admin("bob")
	id := h.pending(t, ann, many)
	if again := h.pending(t, ann, many); again != id {
		t.Errorf("asked again it is request %d, not %d", again, id)
	}
	a, err := h.r.Decide(t.Context(), bob, id, true)
	if err != nil || a.State(h.Now()) != "approved" {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := h.r.Decide(t.Context(), bob, id, false); !errors.Is(err, access.ErrOver) {
		t.Errorf("decided twice: %v", err)
	}
	for name, q := range map[string]access.Request{ // what was confirmed is that, and nothing like it
		"other terms":  {Kind: many.Kind, Scope: many.Scope, Terms: "revoke demo/shop", Count: 11},
		"another kind": {Kind: access.DeleteTenant, Scope: many.Scope, Terms: many.Terms, Count: 11},
	} {
		if got := h.pending(t, ann, q); got == id {
			t.Errorf("%s: the same request", name)
		}
	}
	h.pending(t, bob, many) // nor is it anybody else's
	var done atomic.Int32
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			if []*store.Registry{h.r, h.other}[i%2].Guard(t.Context(), ann, many) == nil {
				done.Add(1)
			}
		})
	}
	wait.Wait()
	if done.Load() != 1 || h.facts(t, "approval.use", true) != 1 {
		t.Errorf("done %d times, %d facts", done.Load(), h.facts(t, "approval.use", true))
	}
}

func TestNobodyConfirmsForThemselves(t *testing.T) {
	h := opened(t)
	ann, bob := h.admin("ann"), h.admin("bob")
	asking := ann
	asking.Act = bob.Actor // bob acts for ann
	id := h.pending(t, asking, many)
	acting := bob
	acting.Actor, acting.Act = "spiffe://segl.test/platform/carol", ann.Actor
	reader := pkitest.Workload(identity.Platform, "reader")
	h.grant(t, access.Auditor, "platform", reader.ID.String())
	boss := pkitest.Workload(pkitest.Scope("demo"), "boss")
	h.grant(t, access.Admin, "demo", boss.ID.String())
	for name, who := range map[string]identity.Caller{
		"who asked": ann, "who acts for who asked": bob, "for whom who asked acts": acting, "an auditor": h.r.Name(reader), "a tenant's admin": h.r.Name(boss), "nobody": {},
	} {
		if _, err := h.r.Decide(t.Context(), who, id, true); err == nil {
			t.Errorf("%s confirmed it", name)
		}
	}
	if h.pending(t, asking, many) != id {
		t.Error("it is not what it was")
	}
	if a, err := h.r.Decide(t.Context(), ann, id, false); err != nil || a.State(h.Now()) != "rejected" {
		t.Errorf("who asked may not take it back: %v", err)
	}
	if h.pending(t, asking, many) == id {
		t.Error("what was turned down is asked anew under the same number")
	}
}

func TestConfirmationsExpire(t *testing.T) {
	h := opened(t)
	ann, bob := h.admin("ann"), h.admin("bob")
	id := h.pending(t, ann, many)
	h.Advance(time.Hour)
	if _, err := h.r.Decide(t.Context(), bob, id, true); !errors.Is(err, access.ErrOver) {
		t.Errorf("confirmed after its time: %v", err)
	}
	id = h.pending(t, ann, many)
	_, err := h.r.Decide(t.Context(), bob, id, true)
	must(t, err)
	h.Advance(time.Hour)
	if h.pending(t, ann, many); h.facts(t, "approval.use", true) != 0 {
		t.Error("a confirmation is used after its time")
	}
	list, err := h.r.Approvals(t.Context(), ann, 0, 10)
	if err != nil || len(list) != 1 || list[0].State(h.Now()) != "pending" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestOneSufficesWhereNoRuleSaysOtherwise(t *testing.T) {
	h := opened(t)
	ann := h.admin("ann")
	few := many
	few.Count = 10
	must(t, h.r.Guard(t.Context(), ann, few))
	must(t, h.Access.Guard(t.Context(), ann, many)) // a registry without a rule
	must(t, h.r.Guard(t.Context(), system, many))   // our own duties go on
	_, err := h.r.Grant(t.Context(), ann, access.Binding{Role: access.Admin, Scope: identity.Platform, Subject: access.Subject{Identity: "spiffe://segl.test/platform/puppet"}})
	if !errors.Is(err, access.ErrPending) {
		t.Errorf("one operator makes the second: %v", err)
	}
	for name, bad := range map[string]access.Rule{
		"an unknown kind": {For: []access.Kind{"x", access.WidenPlatform}, Within: time.Hour}, "a second anybody can make": {For: []access.Kind{access.DeleteTenant}, Within: time.Hour},
		"no time": {For: access.Kinds()}, "a year": {For: access.Kinds(), Within: 9000 * time.Hour}, "less than none": {RevokeMany: -1},
	} {
		if _, err := store.Open(t.Context(), h.DB, bad, h.Now); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
