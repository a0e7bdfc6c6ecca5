package tenancy_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/tenancy"
)

// stopped reports by what scope a chain is refused, if it is.
func stopped(t *testing.T, r *tenancy.Registry, scope string) string {
	t.Helper()
	_, err := r.Chain(t.Context(), pkitest.Scope(scope))
	refusal, ok := errors.AsType[*policy.Refusal](err)
	if err != nil && (!ok || refusal.Remedy == "") {
		t.Fatalf("%s: %v", scope, err)
	}
	return r.Suspended(pkitest.Scope(scope)).String()
}

func TestASuspensionStopsWhatIsBelowAndNothingElse(t *testing.T) {
	r, db := opened(t)
	other, before := replica(t, db), facts(t, db)
	if s, err := r.Suspend(t.Context(), operator, pkitest.Scope("demo"), "unpaid"); err != nil || s.SuspendedAt.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := r.Suspend(t.Context(), operator, pkitest.Demo, ""); err != nil {
		t.Fatal(err)
	}
	must(t, other.Reload(t.Context()))
	for _, at := range []*tenancy.Registry{r, other} {
		for scope, want := range map[string]string{"demo": "demo", "demo/shop": "demo", "demo/shop/dev": "demo", "other": "", "platform": ""} {
			if got := stopped(t, at, scope); got != want {
				t.Errorf("%s is stopped by %q, want %q", scope, got, want)
			}
		}
	}
	if _, err := r.Resume(t.Context(), operator, pkitest.Scope("demo"), "paid"); err != nil {
		t.Fatal(err)
	}
	for scope, want := range map[string]string{"demo": "", "demo/shop": "", "demo/shop/dev": "demo/shop/dev"} {
		if got := stopped(t, r, scope); got != want {
			t.Errorf("after resuming demo, %s is stopped by %q, want %q", scope, got, want)
		}
	}
	if n := facts(t, db) - before; n != 3 {
		t.Errorf("%d facts, want three", n)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSuspendingRefuses(t *testing.T) {
	r, db := opened(t)
	before := facts(t, db)
	if _, err := r.Suspend(t.Context(), operator, identity.Platform, ""); err == nil {
		t.Error("the platform is suspended")
	}
	for name, do := range map[string]func() error{
		"nobody":        func() error { _, err := r.Suspend(t.Context(), operator, pkitest.Scope("nobody"), ""); return err },
		"no scope":      func() error { _, err := r.Suspend(t.Context(), operator, identity.Scope{}, ""); return err },
		"resume nobody": func() error { _, err := r.Resume(t.Context(), operator, pkitest.Scope("nobody"), ""); return err },
	} {
		if err := do(); !errors.Is(err, tenancy.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Resume(t.Context(), operator, pkitest.Scope("demo"), ""); !errors.Is(err, tenancy.ErrUnchanged) {
		t.Errorf("resuming what was not suspended: %v", err)
	}
	if n := facts(t, db) - before; n != 0 {
		t.Errorf("%d facts of what was not done", n)
	}
}

func TestOneOfManySuspensionsCounts(t *testing.T) {
	r, db := opened(t)
	other, before := replica(t, db), facts(t, db)
	var done, again atomic.Int32
	var wait sync.WaitGroup
	for i := range 8 {
		at := []*tenancy.Registry{r, other}[i%2]
		wait.Go(func() {
			switch _, err := at.Suspend(t.Context(), operator, pkitest.Scope("other"), ""); {
			case err == nil:
				done.Add(1)
			case errors.Is(err, tenancy.ErrUnchanged):
				again.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if done.Load() != 1 || again.Load() != 7 || facts(t, db)-before != 1 {
		t.Errorf("%d suspended it, %d found it so, %d facts", done.Load(), again.Load(), facts(t, db)-before)
	}
}
