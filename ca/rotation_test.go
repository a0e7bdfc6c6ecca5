package ca_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
)

var platformOperator = identity.Caller{Actor: "operator", Scope: identity.Platform, Operator: true}

func state(t *testing.T, h *pkitest.House, name string) ca.AuthorityState {
	t.Helper()
	a, err := h.Authority(name)
	if err != nil {
		t.Fatal(err)
	}
	return a.State
}

func refusal(t *testing.T, what string, err error) {
	t.Helper()
	if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Remedy == "" {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

func TestNoAuthorityIsMadeBehindAFence(t *testing.T) {
	h := pkitest.New(t)
	before := len(h.Authorities())
	why := errors.New("forgetful")
	h.Fence = func() error { return why }
	for _, p := range []ca.Purpose{ca.Servers, ca.Root} {
		if _, err := h.Prepare(t.Context(), platformOperator, p, ""); !errors.Is(err, ca.ErrFenced) || !errors.Is(err, why) {
			t.Errorf("prepared one for %s: %v, want ErrFenced", p, err)
		}
	}
	must(t, h.Reload(t.Context()))
	if after := len(h.Authorities()); after != before {
		t.Errorf("there are %d authorities, and were %d", after, before)
	}
}

func TestAnAuthoritysLifeGoesOneWay(t *testing.T) {
	h := pkitest.New(t)
	ctx, was := t.Context(), server(t, h, "a.demo.test")
	tenant := pkitest.Workload(pkitest.Demo, "web")

	// 1. Before there is another, nothing is retired or revoked, and nobody but operators asks.
	_, err := h.Retire(ctx, platformOperator, "servers-1-1")
	refusal(t, "retiring the active one", err)
	_, err = h.RevokeAuthority(ctx, platformOperator, "servers-1-1", cert.CACompromise)
	refusal(t, "revoking the active one", err)
	_, err = h.RevokeAuthority(ctx, platformOperator, "root-1-1", cert.CACompromise)
	refusal(t, "revoking a root", err)
	for what, do := range map[string]func(identity.Caller, string) error{
		"prepare":  func(who identity.Caller, n string) error { _, err := h.Prepare(ctx, who, ca.Servers, n); return err },
		"activate": func(who identity.Caller, n string) error { _, err := h.Activate(ctx, who, n, 0); return err },
		"retire":   func(who identity.Caller, n string) error { _, err := h.Retire(ctx, who, n); return err },
		"revoke": func(who identity.Caller, n string) error {
			_, err := h.RevokeAuthority(ctx, who, n, cert.CACompromise)
			return err
		},
	} {
		refusal(t, "a tenant: "+what, do(tenant, "servers-1-1"))
		if what != "prepare" {
			if err := do(platformOperator, "nobody"); !errors.Is(err, ca.ErrNotFound) {
				t.Errorf("%s nobody: %v", what, err)
			}
		}
	}
	for _, name := range []string{"UPPER", "-a", "a_b", "a/b"} {
		_, err := h.Prepare(ctx, platformOperator, ca.Servers, name)
		refusal(t, "a name like "+name, err)
	}
	_, err = h.Prepare(ctx, platformOperator, "nothing", "")
	refusal(t, "a purpose of its own", err)
	if _, err := h.Prepare(ctx, platformOperator, ca.Servers, "workloads-1-1"); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("a name that is taken: %v", err)
	}

	// 2. Prepared, it is known to every replica and signs nothing.
	next, err := h.Prepare(ctx, platformOperator, ca.Servers, "")
	if err != nil || next.Name != "servers-1-2" || next.State != ca.Prepared {
		t.Fatalf("%+v, %v", next, err)
	}
	if again, err := h.Prepare(ctx, platformOperator, ca.Servers, "servers-1-2"); err != nil || again.ID != next.ID {
		t.Errorf("prepared twice: %v", err)
	}
	if c := server(t, h, "a.demo.test"); c.Authority != "servers-1-1" {
		t.Errorf("%s signs though it is only prepared", c.Authority)
	}
	_, err = h.Activate(ctx, platformOperator, next.Name, time.Second)
	refusal(t, "a spread too short", err)
	_, err = h.Activate(ctx, platformOperator, "servers-1-1", 0)
	refusal(t, "activating the active one", err)

	// 3. Active, it signs; what the former one signed is pulled.
	h.Advance(2 * time.Second)
	if _, err := h.Activate(ctx, platformOperator, next.Name, time.Hour); err != nil {
		t.Fatal(err)
	}
	if a, b := state(t, h, "servers-1-1"), state(t, h, "servers-1-2"); a != ca.Retiring || b != ca.Active {
		t.Errorf("%s and %s", a, b)
	}
	fresh := server(t, h, "b.demo.test")
	if fresh.Authority != "servers-1-2" {
		t.Errorf("%s signs", fresh.Authority)
	}
	if w := window(t, h, was.Serial).Window; w.End.After(h.Now().Add(time.Hour)) {
		t.Errorf("the window of what the former one signed begins %s", w.Start)
	}
	if w := window(t, h, fresh.Serial).Window; w.Start.Before(h.Now().Add(day)) {
		t.Errorf("the window of what the new one signed begins %s", w.Start)
	}
	_, err = h.Activate(ctx, platformOperator, "servers-1-1", 0)
	refusal(t, "activating a retiring one", err)
	_, err = h.Retire(ctx, platformOperator, "servers-1-1")
	refusal(t, "retiring what is alive", err)

	// 4. When all has expired it retires, for ever.
	h.Advance(31 * day)
	if _, err := h.Ledger.MakeEpochs(ctx, h.Now()); err != nil {
		t.Fatal(err)
	}
	if a, err := h.Retire(ctx, platformOperator, "servers-1-1"); err != nil || a.State != ca.Retired {
		t.Errorf("%+v, %v", a, err)
	}
	_, err = h.Retire(ctx, platformOperator, "servers-1-1")
	refusal(t, "retiring twice", err)
	_, err = h.Activate(ctx, platformOperator, "servers-1-1", 0)
	refusal(t, "activating a retired one", err)
	if c, err := h.Certificate(ctx, was.Serial); err != nil || c.Authority != "servers-1-1" {
		t.Errorf("what a retired one signed: %+v, %v", c.Authority, err)
	}
}

const day = 24 * time.Hour

func TestARootIsPublishedBeforeItSigns(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	root, err := h.Prepare(ctx, platformOperator, ca.Root, "")
	if err != nil || len(h.Roots()) != 2 {
		t.Fatalf("%d roots, %v", len(h.Roots()), err)
	}
	_, err = h.Activate(ctx, platformOperator, root.Name, 0)
	refusal(t, "a root just made", err)
	h.Advance(11 * time.Minute)
	if _, err := h.Activate(ctx, platformOperator, root.Name, 0); err != nil {
		t.Fatal(err)
	}
	below, err := h.Prepare(ctx, platformOperator, ca.Servers, "")
	if err != nil || below.Parent().Name != root.Name {
		t.Fatalf("below %s, %v", below.Parent().Name, err)
	}
	if _, err := h.Retire(ctx, platformOperator, "root-1-1"); err == nil {
		t.Error("the former root retired while authorities hang on it")
	}
	spare, err := h.Prepare(ctx, platformOperator, ca.Root, "")
	if err != nil || len(h.Roots()) != 3 {
		t.Fatalf("%d roots, %v", len(h.Roots()), err)
	}
	if a, err := h.Retire(ctx, platformOperator, spare.Name); err != nil || a.State != ca.Retired || len(h.Roots()) != 2 {
		t.Errorf("%+v, %d roots, %v", a, len(h.Roots()), err)
	}
}

func TestARevokedAuthorityTakesAllItSignedAlong(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	c, w := server(t, h, "a.demo.test"), enrolled(t, h)
	if _, err := h.Prepare(ctx, platformOperator, ca.Servers, ""); err != nil {
		t.Fatal(err)
	}
	h.Advance(time.Second)
	if _, err := h.Activate(ctx, platformOperator, "servers-1-2", 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking again changes nothing
		a, err := h.RevokeAuthority(ctx, platformOperator, "servers-1-1", cert.CACompromise)
		if err != nil || a.State != ca.RevokedAuthority {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if err := h.Ledger.Stands(ctx, c.Serial); !errors.Is(err, ca.ErrCallerRevoked) {
		t.Errorf("what it signed: %v", err)
	}
	if err := h.Ledger.Stands(ctx, w.Serial); err != nil {
		t.Errorf("what another signed: %v", err)
	}
	if c := server(t, h, "b.demo.test"); c.Authority != "servers-1-2" {
		t.Errorf("%s signs", c.Authority)
	}
}

func TestARotationUnderLoadLosesNoRequest(t *testing.T) {
	h := pkitest.New(t)
	other := pkitest.On(t, h.DB) // learns of it late, by itself
	ctx, stop := context.WithCancel(t.Context())
	signed := make(chan string)
	var wait sync.WaitGroup
	for i := range 4 {
		at := []*pkitest.House{h, other}[i%2]
		key := pkitest.Key(t)
		wait.Go(func() {
			for ctx.Err() == nil {
				c, err := at.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test")})
				if err != nil {
					t.Error(err)
				}
				select {
				case signed <- c.Authority:
				case <-ctx.Done():
				}
			}
		})
	}
	by(signed, "servers-1-1", 20)
	var done, lost atomic.Int32
	if _, err := h.Prepare(t.Context(), platformOperator, ca.Servers, ""); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for _, at := range []*pkitest.House{h, other} { // two operators at once: one does it
		both.Go(func() {
			if _, err := at.Activate(t.Context(), platformOperator, "servers-1-2", time.Hour); err == nil {
				done.Add(1)
			} else if _, ok := errors.AsType[*policy.Refusal](err); ok || errors.Is(err, ca.ErrConflict) {
				lost.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	both.Wait()
	must(t, other.Reload(t.Context()))
	if done.Load() != 1 || lost.Load() != 1 {
		t.Errorf("%d activations and %d that were late", done.Load(), lost.Load())
	}
	by(signed, "servers-1-2", 20)
	stop()
	wait.Wait()
	var active, incidents int
	err := h.DB.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM authority WHERE purpose = 'servers' AND activated_at IS NOT NULL AND retiring_at IS NULL), (SELECT count(*) FROM incident)`).
		Scan(&active, &incidents)
	if err != nil || active != 1 || incidents != 1 {
		t.Errorf("%d active, %d incidents, %v", active, incidents, err)
	}
}

// by takes what is signed until n more were signed by authority.
func by(signed <-chan string, authority string, n int) {
	for n > 0 {
		if <-signed == authority {
			n--
		}
	}
}

func TestASuspendedScopeIssuesNothingAtAll(t *testing.T) {
	h := pkitest.New(t)
	other := pkitest.On(t, h.DB) // does not know yet
	who, c := enrolled(t, h), server(t, h, "a.demo.test")
	token, _, err := h.Invite(t.Context(), demo, ca.Invitation{Scope: pkitest.Demo, Workload: "late"})
	must(t, err)
	h.Advance(time.Second)
	if _, err := h.Scopes.Suspend(t.Context(), platformOperator, pkitest.Scope("demo"), "test"); err != nil {
		t.Fatal(err)
	}
	was := count(t, h)
	for name, at := range map[string]*pkitest.House{"here": h, "on a replica that does not know": other} {
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
		_, err := at.Issue(t.Context(), demo, req)
		refusal(t, name+": issuing", err)
		_, err = at.Issue(t.Context(), platformOperator, req)
		refusal(t, name+": an operator, issuing", err)
		_, err = at.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t)))
		refusal(t, name+": renewing", err)
		_, err = at.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t)))
		refusal(t, name+": enrolling", err)
	}
	_, _, err = h.Invite(t.Context(), demo, ca.Invitation{Scope: pkitest.Demo, Workload: "later"})
	refusal(t, "inviting", err)
	if got := count(t, h).since(was); got != (tally{refused: 9}) {
		t.Errorf("%+v, want nine refusals and nothing else", got)
	}
	if w := window(t, h, c.Serial).Window; w.End.After(h.Now().Add(time.Hour)) {
		t.Errorf("the window begins %s", w.Start)
	}
	if err := h.Ledger.Stands(t.Context(), c.Serial); err != nil {
		t.Errorf("what was issued: %v", err)
	}
	if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.Superseded); err != nil {
		t.Errorf("revoking: %v", err)
	}
	if _, err := h.Scopes.Resume(t.Context(), platformOperator, pkitest.Scope("demo"), "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t))); err != nil {
		t.Errorf("renewing after it was resumed: %v", err)
	}
}
