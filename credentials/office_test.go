package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

var admin = identity.System("test")

// A city is a target in memory: the logins there are, and what it was asked.
type city struct {
	mu     sync.Mutex
	logins map[string]bool
	away   bool
	ended  int
	before func(string) error // of a method, when it is asked
	after  func(string) error // when it has been done
}

func (c *city) do(what string, f func()) error {
	if c.before != nil {
		if err := c.before(what); err != nil {
			return err
		}
	}
	c.mu.Lock()
	if c.away {
		c.mu.Unlock()
		return credentials.ErrUnreachable
	}
	f()
	c.mu.Unlock()
	if c.after != nil {
		return c.after(what)
	}
	return nil
}

func (c *city) Check(context.Context, credentials.Target) error { return c.do("check", func() {}) }

func (c *city) Make(_ context.Context, _ credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	err := c.do("make", func() { c.logins[g.Principal] = true })
	return []credentials.Receipt{{Effect: credentials.LoginMade, At: time.Now()}}, err
}

func (c *city) Extend(context.Context, credentials.Target, credentials.Grant) ([]credentials.Receipt, error) {
	return []credentials.Receipt{{Effect: credentials.LoginExtended, At: time.Now()}}, c.do("extend", func() {})
}

func (c *city) End(_ context.Context, _ credentials.Target, list []credentials.Grant) (out []credentials.Ended, err error) {
	err = c.do("end", func() {
		for _, g := range list {
			effect := credentials.WasNotThere
			if c.logins[g.Principal] {
				effect = credentials.LoginDropped
				c.ended++
			}
			delete(c.logins, g.Principal)
			out = append(out, credentials.Ended{Principal: g.Principal, Receipts: []credentials.Receipt{{Effect: effect, At: time.Now()}}})
		}
	})
	return out, err
}

func (c *city) Principals(context.Context, credentials.Target) (list []string, err error) {
	err = c.do("principals", func() { list = slices.Collect(maps.Keys(c.logins)) })
	return list, err
}

func (c *city) has() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.logins)
}

// certificates answers from a real ledger.
type certificates struct{ h *pkitest.House }

func (c certificates) Certificate(ctx context.Context, s cert.Serial) (credentials.Evidence, error) {
	got, err := c.h.Certificate(ctx, s)
	if err != nil {
		return credentials.Evidence{}, credentials.ErrNotFound
	}
	return credentials.Evidence{NotAfter: got.NotAfter, Role: got.Role, Revoked: got.Revoked != nil}, nil
}

func (c certificates) Revoked(ctx context.Context, list []cert.Serial) (map[cert.Serial]time.Time, error) {
	all, err := c.h.Ledger.Status(ctx, list)
	out := make(map[cert.Serial]time.Time)
	for s, st := range all {
		if st.State == ocsp.Revoked {
			out[s] = st.At
		}
	}
	return out, err
}

type house struct {
	*pkitest.House
	*credentials.Office
	city *city
	book *faulty
}

// faulty loses a write before it lands or after.
type faulty struct {
	*store.Store
	before, after func(string) error
}

func lost(f func(string) error, what string) error {
	if f == nil {
		return nil
	}
	return f(what)
}

func around[T any](f *faulty, what string, do func() (T, error)) (T, error) {
	var none T
	if err := lost(f.before, what); err != nil {
		return none, err
	}
	out, err := do()
	if err == nil {
		err = lost(f.after, what)
	}
	return out, err
}

func (f *faulty) Open(ctx context.Context, l credentials.Lease) error {
	_, err := around(f, "open", func() (int, error) { return 0, f.Store.Open(ctx, l) })
	return err
}

func (f *faulty) Ready(ctx context.Context, l credentials.Lease, made []credentials.Receipt, fact audit.Fact) error {
	_, err := around(f, "ready", func() (int, error) { return 0, f.Store.Ready(ctx, l, made, fact) })
	return err
}

func (f *faulty) End(ctx context.Context, ids []uid.UID, why credentials.Cause, at time.Time, who identity.Caller) ([]credentials.Lease, error) {
	return around(f, "end", func() ([]credentials.Lease, error) { return f.Store.End(ctx, ids, why, at, who) })
}

func (f *faulty) Settle(ctx context.Context, list []credentials.Settled, now time.Time) error {
	_, err := around(f, "settle", func() (int, error) { return 0, f.Store.Settle(ctx, list, now) })
	return err
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{House: pkitest.New(t), city: &city{logins: make(map[string]bool)}}
	h.book = &faulty{Store: store.New(h.DB)}
	h.Office = credentials.New(credentials.Config{
		Site: 1, Book: h.book, Certificates: certificates{h.House}, Backends: map[credentials.Kind]credentials.Backend{credentials.PostgreSQL: h.city}, Now: h.Now,
	})
	if _, err := h.AddTarget(t.Context(), admin, target("demo", "db")); err != nil {
		t.Fatal(err)
	}
	h.bind(t, binding("demo/shop/dev", "orders"))
	return h
}

func target(scope, name string) credentials.Target {
	return credentials.Target{Name: credentials.Label(name), Scope: pkitest.Scope(scope), Kind: credentials.PostgreSQL, Address: "db." + name + ".test:5432"}
}

func binding(scope, name string) credentials.Binding {
	p, err := credentials.ParsePattern("spiffe://segl.test/tenant/demo/project/shop/environment/dev/*")
	if err != nil {
		panic(err)
	}
	return credentials.Binding{
		Name: credentials.Label(name), Scope: pkitest.Scope(scope), For: p, Target: credentials.Target{Name: "db"}, Way: credentials.Leased,
		Database: "shop", Group: "writers", Life: time.Hour, Leases: 3,
	}
}

func (h *house) bind(t *testing.T, b credentials.Binding) credentials.Binding {
	t.Helper()
	b, err := h.AddBinding(t.Context(), admin, b)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// workload is somebody with a certificate of its own.
func (h *house) workload(t *testing.T, name string) identity.Caller {
	t.Helper()
	return certified(t, h, name)
}

func (h *house) lease(t *testing.T, who identity.Caller) credentials.Lease {
	t.Helper()
	l, secret, err := h.Lease(t.Context(), who, "orders", 0)
	if err != nil || len(secret.Reveal()) < 40 || fmt.Sprintf("%v%+v%#v", secret, secret, secret) != "REDACTEDREDACTEDREDACTED" {
		t.Fatalf("%v, a secret of %d", err, len(secret.Reveal()))
	}
	return l
}

func (h *house) state(t *testing.T, id uid.UID) credentials.State {
	t.Helper()
	l, err := h.Show(t.Context(), admin, id)
	if err != nil {
		t.Fatal(err)
	}
	return l.State(h.Now())
}

func (h *house) run(t *testing.T) {
	t.Helper()
	for more, i := true, 0; more; i++ {
		var err error
		if more, err = h.Cascade(t.Context()); err != nil || i > 50 {
			t.Fatalf("run %d: %v", i, err)
		}
	}
}

func (h *house) ends(t *testing.T, l credentials.Lease, why credentials.Cause) {
	t.Helper()
	if s := h.state(t, l.ID); s != credentials.Ending && s != credentials.Gone {
		t.Errorf("before any duty ran it is %s", s)
	}
	h.run(t)
	got, err := h.Show(t.Context(), admin, l.ID)
	if err != nil || got.State(h.Now()) != credentials.Gone || got.Why != why || h.city.has() != 0 {
		t.Errorf("%s, because %q, want %q; %d logins; %v", got.State(h.Now()), got.Why, why, h.city.has(), err)
	}
	list, err := h.Receipts(t.Context(), admin, l.ID)
	if err != nil || len(list) != 2 || list[1].Effect != credentials.LoginDropped || list[1].At.IsZero() {
		t.Errorf("receipts %v, %v", list, err)
	}
}

func TestWhatALeaseHangsOnEndsItAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		end func(*testing.T, *house, identity.Caller)
		why credentials.Cause
	}{
		"its certificate is revoked": {func(t *testing.T, h *house, who identity.Caller) {
			if _, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded); err != nil {
				t.Fatal(err)
			}
		}, credentials.Revoked},
		"its binding is ended": {func(t *testing.T, h *house, _ identity.Caller) {
			if err := h.EndBinding(t.Context(), admin, pkitest.Demo, "orders"); err != nil {
				t.Fatal(err)
			}
		}, credentials.Unbound},
		"its target is ended": {func(t *testing.T, h *house, _ identity.Caller) {
			if err := h.EndTarget(t.Context(), admin, pkitest.Scope("demo"), "db"); err != nil {
				t.Fatal(err)
			}
		}, credentials.Unbound},
		"its tenant is suspended": {func(t *testing.T, h *house, _ identity.Caller) {
			if _, err := h.Scopes.Suspend(t.Context(), admin, pkitest.Scope("demo"), "test"); err != nil {
				t.Fatal(err)
			}
		}, credentials.Suspension},
		"its time has come": {func(_ *testing.T, h *house, _ identity.Caller) { h.Advance(2 * time.Hour) }, credentials.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			who := h.workload(t, "api")
			l := h.lease(t, who)
			if s := h.state(t, l.ID); s != credentials.Live || h.city.has() != 1 {
				t.Fatalf("it is %s, with %d logins", s, h.city.has())
			}
			c.end(t, h, who)
			h.ends(t, l, c.why)
		})
	}
}

func TestARevocationIsFoundWithoutNotice(t *testing.T) {
	h := newHouse(t)
	h.run(t) // the first looks at everything
	who, stays := h.workload(t, "api"), h.workload(t, "other")
	l, other := h.lease(t, who), h.lease(t, stays)
	if _, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if err := h.Review(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.run(t)
	if a, b := h.state(t, l.ID), h.state(t, other.ID); a != credentials.Gone || b != credentials.Live || h.city.has() != 1 {
		t.Errorf("%s and %s, %d logins", a, b, h.city.has())
	}
}

func TestLeaseRefuses(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api")
	elsewhere := certifiedIn(t, h, "other", "api")
	noCertificate := who
	noCertificate.Serial = cert.Serial{}
	tokens := binding("demo/shop/dev", "tokens")
	tokens.Target, tokens.Way, tokens.Database, tokens.Group, tokens.Leases, tokens.Audiences = credentials.Target{}, "", "", "", 0, []string{"https://api.test"}
	h.bind(t, tokens)
	one := binding("demo/shop/dev", "one")
	one.For, _ = credentials.ParsePattern("spiffe://segl.test/tenant/demo/project/shop/environment/dev/somebody")
	h.bind(t, one)
	byCertificate := binding("demo/shop/dev", "certified")
	byCertificate.Way, byCertificate.Role = credentials.Certificate, "app"
	h.bind(t, byCertificate)
	for name, c := range map[string]struct {
		who     identity.Caller
		binding string
		life    time.Duration
		want    error // nil: a rule's refusal
	}{
		"an unknown binding":               {who, "nothing", 0, credentials.ErrNotFound},
		"another tenant's binding":         {elsewhere, "orders", 0, credentials.ErrNotFound},
		"another's binding":                {who, "one", 0, nil},
		"a binding for tokens":             {who, "tokens", 0, nil},
		"too long a life":                  {who, "orders", 2 * time.Hour, nil},
		"too short a life":                 {who, "orders", time.Second, nil},
		"a negative life":                  {who, "orders", -time.Hour, nil},
		"nobody":                           {identity.Caller{}, "orders", 0, nil},
		"an identity without certificate":  {noCertificate, "orders", 0, nil},
		"a certificate of another profile": {who, "certified", 0, nil},
	} {
		_, secret, err := h.Lease(t.Context(), c.who, credentials.Label(c.binding), c.life)
		_, rule := errors.AsType[*policy.Refusal](err)
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !rule || secret.Reveal() != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Lease(t.Context(), who, "orders", 0); err == nil {
		t.Error("a revoked certificate got a lease")
	}
	if h.city.has() != 0 {
		t.Errorf("%d logins half made", h.city.has())
	}
}

func TestNoLeaseOutlivesItsCertificate(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api") // a day
	h.Advance(23*time.Hour + 30*time.Minute)
	l := h.lease(t, who)
	if left := l.ExpiresAt.Sub(h.Now()); left > 30*time.Minute {
		t.Errorf("it lasts %s", left)
	}
	h.Advance(30*time.Minute - 10*time.Second)
	if _, _, err := h.Lease(t.Context(), who, "orders", 0); err == nil {
		t.Error("a lease of ten seconds")
	}
}

func TestNoMoreThanTheBindingAllows(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api")
	var wait sync.WaitGroup
	var mu sync.Mutex
	got := map[bool]int{}
	for range 8 {
		wait.Go(func() {
			_, _, err := h.Lease(t.Context(), who, "orders", 0)
			if err != nil && !errors.Is(err, credentials.ErrTooMany) {
				t.Error(err)
			}
			mu.Lock()
			got[err == nil]++
			mu.Unlock()
		})
	}
	wait.Wait()
	if got[true] != 3 || h.city.has() != 3 {
		t.Errorf("%v, %d logins", got, h.city.has())
	}
	h.lease(t, h.workload(t, "other"))
}

func TestPlatformAndTenantsNeverMix(t *testing.T) {
	h := newHouse(t)
	for _, s := range []string{"platform", "other"} {
		theirs := target(s, "theirs")
		theirs.Address = s + ".test:5432"
		if _, err := h.AddTarget(t.Context(), admin, theirs); err != nil {
			t.Fatal(err)
		}
		b := binding("demo/shop/dev", "mixed")
		b.Target = credentials.Target{Name: "theirs", Scope: pkitest.Scope(s)}
		if _, err := h.AddBinding(t.Context(), admin, b); !errors.Is(err, credentials.ErrMixed) {
			t.Errorf("a target of %s: %v", s, err)
		}
		t.Run("the database refuses too", func(t *testing.T) {
			there, err := h.book.Target(t.Context(), pkitest.Scope(s), "theirs")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			b.Target = there
			if _, err := h.book.AddBinding(t.Context(), b, audit.Fact{At: h.Now(), Who: admin, Scope: b.Scope, What: audit.CredentialBound}); !errors.Is(err, credentials.ErrMixed) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Servers know us by one name, whoever's target they are: who could name another's server would be given its groups.
func TestAServerIsATargetOfWhoNamedItFirst(t *testing.T) {
	h := newHouse(t) // has db.db.test:5432 for demo
	for at, theirs := range map[string]bool{"other": false, "platform": false, "demo/shop": false, "demo/shop/dev": false, "demo": true} {
		for _, address := range []string{"db.db.test:5432", "DB.db.Test:5432", "db.db.test.:5432", "db.db.test:05432"} {
			again := target(at, "again")
			again.Address = address
			_, err := h.AddTarget(t.Context(), admin, again)
			if theirs && err != nil && !errors.Is(err, credentials.ErrExists) || !theirs && err == nil {
				t.Errorf("%s as a target of %s: %v", address, at, err)
			}
		}
	}
	project := target("demo/shop", "own")
	for _, at := range []string{"demo/shop", "demo"} { // who is above may do all that who is below may
		project.Scope = pkitest.Scope(at)
		if _, err := h.AddTarget(t.Context(), admin, project); err != nil {
			t.Errorf("of %s: %v", at, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(h.EndTarget(t.Context(), admin, pkitest.Scope("demo/shop"), "own"))
	must(h.EndTarget(t.Context(), admin, pkitest.Scope("demo"), "own"))
	project.Scope = pkitest.Scope("other")
	_, err := h.AddTarget(t.Context(), admin, project)
	must(err)
}

func TestTwoWhoNameOneServerAtOnceAreNotBothTaken(t *testing.T) {
	h := newHouse(t)
	var wait sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wait.Go(func() {
			_, errs[i] = h.AddTarget(t.Context(), admin, target([]string{"demo", "other"}[i%2], "race"))
		})
	}
	wait.Wait()
	if list, err := h.book.Targets(t.Context(), identity.Scope{}); err != nil || len(list) != 2 {
		t.Errorf("%d targets, %v, %v", len(list), errs, err)
	}
}

// Whoever had a role before has it no longer, wherever they are: their lease says so, and a fact.
func TestARoleThatIsTakenOverIsLostByWhoHadIt(t *testing.T) {
	h := newHouse(t)
	b := binding("demo", "legacy")
	var err error
	if b.For, err = credentials.ParsePattern("spiffe://segl.test/tenant/demo/**"); err != nil {
		t.Fatal(err)
	}
	b.Way, b.Role = credentials.Static, "legacy"
	h.bind(t, b)
	first, _, err := h.Lease(t.Context(), certifiedIn(t, h, "demo/shop", "api"), "legacy", 0)
	if err != nil {
		t.Fatal(err)
	}
	walled, err := h.DB.Walled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := first
	second.ID, second.MadeAt, second.ReadyAt = uid.New(uid.Lease, 1, h.Now()), h.Now(), h.Now()
	second.Scope = pkitest.Scope("demo/shop/dev")
	second.Identity = "spiffe://segl.test/tenant/demo/project/shop/environment/dev/api"
	var own, above []int32
	if err := h.DB.QueryRow(t.Context(), `
		SELECT array_agg(id) FILTER (WHERE path = 'demo/shop/dev'), array_agg(id) FILTER (WHERE path IN ('demo', 'demo/shop'))
		FROM   scope`).Scan(&own, &above); err != nil || len(own) != 1 {
		t.Fatal(own, err)
	}
	ctx, there := postgres.Within(t.Context(), own, above), store.New(walled)
	if err := there.Open(ctx, second); err != nil {
		t.Fatal(err)
	}
	f := audit.Fact{At: h.Now(), Who: identity.Caller{Actor: second.Identity}, Scope: second.Scope, What: audit.LeaseMade, Subject: second.ID.String()}
	if err := there.Ready(ctx, second, nil, f); err != nil {
		t.Fatal(err)
	}
	got, err := h.Show(t.Context(), admin, first.ID)
	if err != nil || got.Why != credentials.Superseded || got.State(h.Now()) != credentials.Ending {
		t.Errorf("the first is %s, because %q; %v", got.State(h.Now()), got.Why, err)
	}
	var facts int
	err = h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = $1 AND why = $2 AND subject = $3`, audit.LeaseEnded, credentials.Superseded, first.ID.String()).Scan(&facts)
	if err != nil || facts != 1 {
		t.Errorf("%d facts, %v", facts, err)
	}
}

func TestATargetThatIsAwayIsADebt(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api")
	l := h.lease(t, who)
	h.city.away = true
	if _, _, err := h.Lease(t.Context(), who, "orders", 0); !errors.Is(err, credentials.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if got, err := h.Release(t.Context(), who, l.ID); err != nil || got.State(h.Now()) != credentials.Overdue || got.Trouble == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	waited := time.Duration(0)
	for range 12 {
		h.run(t)
		if h.state(t, l.ID) != credentials.Overdue {
			t.Fatalf("it is %s though nobody was told", h.state(t, l.ID))
		}
		before, err := h.Show(t.Context(), admin, l.ID)
		if err != nil {
			t.Fatal(err)
		}
		step := before.RetryAt.Sub(h.Now())
		if step < waited-time.Second || step > 6*time.Minute {
			t.Errorf("tried again after %s, then %s", waited, step)
		}
		waited = step
		h.Advance(step + time.Second)
	}
	debt, err := h.book.Debt(t.Context())
	if err != nil || len(debt) != 1 || debt[0].Leases != 2 || debt[0].Tries < 12 || debt[0].Target.Name != "db" {
		t.Errorf("%+v, %v", debt, err)
	}
	h.city.away = false
	h.run(t)
	if s := h.state(t, l.ID); s != credentials.Gone || h.city.has() != 0 {
		t.Errorf("once it is back it is %s, %d logins", s, h.city.has())
	}
}

// Each write is lost twice: once before it lands, once after. Whatever happens, after the next sweep there is no login that no
// living lease names, and none of a living lease is gone.
func TestWhatIsLostLeavesNoOrphan(t *testing.T) {
	broken := errors.New("broken by a test")
	lose := func(what string) func(string) error {
		return func(is string) error {
			if is == what {
				return broken
			}
			return nil
		}
	}
	type fault struct {
		name string
		set  func(*house)
	}
	var faults []fault
	for _, w := range []string{"open", "ready", "end", "settle"} {
		faults = append(faults,
			fault{w + " lost", func(h *house) { h.book.before = lose(w) }},
			fault{w + " landed, reply lost", func(h *house) { h.book.after = lose(w) }})
	}
	for _, w := range []string{"make", "end"} {
		faults = append(faults,
			fault{"the target's " + w + " lost", func(h *house) { h.city.before = lose(w) }},
			fault{"the target's " + w + " landed, reply lost", func(h *house) { h.city.after = lose(w) }})
	}
	h := newHouse(t)
	live := h.lease(t, h.workload(t, "stays"))
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			who := h.workload(t, fmt.Sprintf("api%d", i))
			f.set(h)
			if l, _, err := h.Lease(t.Context(), who, "orders", 0); err == nil {
				h.Release(t.Context(), who, l.ID) //nolint:errcheck // it may meet the fault; then it lives on
			}
			h.Cascade(t.Context()) //nolint:errcheck // it may meet the fault too
			h.book.before, h.book.after, h.city.before, h.city.after = nil, nil, nil, nil
			h.Advance(time.Minute)
			h.run(t)
			if err := h.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !h.city.logins[live.Principal] || h.state(t, live.ID) != credentials.Live {
				t.Error("what lives is gone")
			}
			now, _, lerr := h.Leases(t.Context(), admin, credentials.Query{Scope: pkitest.Scope("demo"), State: credentials.Live, Limit: 100})
			if lerr != nil || len(now) != h.city.has() {
				t.Errorf("%d live leases, %d logins, %v", len(now), h.city.has(), lerr)
			}
		})
	}
}

func TestTheSweepEndsOrphansAndNothingElse(t *testing.T) {
	h := newHouse(t)
	l := h.lease(t, h.workload(t, "api"))
	orphan, theirs := credentials.PrincipalOf(uid.New(uid.Lease, 1, h.Now())), credentials.PrincipalOf(uid.New(uid.Lease, 2, h.Now()))
	for _, p := range []string{orphan, theirs, "segl_somebody", "app"} {
		h.city.logins[p] = true
	}
	for range 2 {
		if err := h.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if h.city.logins[orphan] || !h.city.logins[theirs] || !h.city.logins[l.Principal] || h.city.has() != 4 {
		t.Errorf("left: %v", h.city.logins)
	}
	var facts int
	if err := h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'lease.orphan'`).Scan(&facts); err != nil || facts != 1 {
		t.Errorf("%d facts, %v", facts, err)
	}
	// One server by two names: what lives at the one is no orphan at the other.
	if _, err := h.AddTarget(t.Context(), admin, target("demo", "alias")); err != nil {
		t.Fatal(err)
	}
	if err := h.Sweep(t.Context()); err != nil || !h.city.logins[l.Principal] {
		t.Errorf("a live login is swept by another name of its server: %v", err)
	}
	fenced := credentials.New(credentials.Config{Site: 1, Book: h.book, Certificates: certificates{h.House}, Now: h.Now, Fenced: func() error { return errors.New("fenced") }})
	if err := fenced.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if _, _, err := fenced.Lease(t.Context(), h.workload(t, "late"), "orders", 0); err == nil {
		t.Error("a lease behind the fence")
	}
	holder := h.workload(t, "holder")
	held := h.lease(t, holder)
	if _, err := fenced.Extend(t.Context(), holder, held.ID, time.Minute); !errors.Is(err, credentials.ErrUnreachable) {
		t.Errorf("a lease goes on behind the fence: %v", err)
	}
	if got, err := h.Show(t.Context(), admin, held.ID); err != nil || !got.ExpiresAt.Equal(held.ExpiresAt) {
		t.Errorf("it ends at %s, not %s; %v", got.ExpiresAt, held.ExpiresAt, err)
	}
}

// A revocation between the request and the answer: nothing is answered, and nothing stays.
func TestACertificateRevokedMeanwhileGetsNothing(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api")
	h.city.after = func(what string) error {
		if what != "make" {
			return nil
		}
		_, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded)
		return err
	}
	_, secret, err := h.Lease(t.Context(), who, "orders", 0)
	if _, rule := errors.AsType[*policy.Refusal](err); !rule || secret.Reveal() != "" {
		t.Errorf("%v", err)
	}
	h.city.after = nil
	h.run(t)
	if h.city.has() != 0 {
		t.Errorf("%d logins stay", h.city.has())
	}
}

func TestALeaseGoesOnWithARenewedCertificate(t *testing.T) {
	h := newHouse(t)
	who := h.workload(t, "api")
	l := h.lease(t, who)
	h.Advance(30 * time.Minute)
	next := h.workload(t, "api")
	got, err := h.Extend(t.Context(), next, l.ID, 0)
	if err != nil || got.Serial != next.Serial || !got.ExpiresAt.After(l.ExpiresAt) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	h.run(t)
	if s := h.state(t, l.ID); s != credentials.Live {
		t.Errorf("it is %s once the certificate before is revoked", s)
	}
	if _, err := h.Extend(t.Context(), h.workload(t, "other"), l.ID, 0); err == nil {
		t.Error("somebody else extended it")
	}
	if _, err := h.Extend(t.Context(), next, l.ID, 9*time.Hour); err == nil {
		t.Error("longer than the binding allows")
	}
	if _, err := h.Release(t.Context(), next, l.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Extend(t.Context(), next, l.ID, 0); !errors.Is(err, credentials.ErrEnded) {
		t.Errorf("extending what ended: %v", err)
	}
}

func TestLeasesAreListedByWhatTheyCameFrom(t *testing.T) {
	h := newHouse(t)
	who, other := h.workload(t, "api"), h.workload(t, "web")
	a, b := h.lease(t, who), h.lease(t, other)
	if _, err := h.Release(t.Context(), other, b.ID); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		q    credentials.Query
		want []uid.UID
	}{
		"scope":       {credentials.Query{Scope: pkitest.Scope("demo")}, []uid.UID{b.ID, a.ID}},
		"identity":    {credentials.Query{Scope: pkitest.Scope("demo"), Identity: who.Actor}, []uid.UID{a.ID}},
		"certificate": {credentials.Query{Scope: pkitest.Scope("demo"), Serial: other.Serial}, []uid.UID{b.ID}},
		"target":      {credentials.Query{Scope: pkitest.Scope("demo"), Target: "nothing"}, nil},
		"live":        {credentials.Query{Scope: pkitest.Scope("demo"), State: credentials.Live}, []uid.UID{a.ID}},
		"gone":        {credentials.Query{Scope: pkitest.Scope("demo"), State: credentials.Gone}, []uid.UID{b.ID}},
		"elsewhere":   {credentials.Query{Scope: pkitest.Scope("other")}, nil},
	} {
		c.q.Limit = 10
		list, _, err := h.Leases(t.Context(), admin, c.q)
		var got []uid.UID
		for _, l := range list {
			got = append(got, l.ID)
		}
		slices.SortFunc(got, func(a, b uid.UID) int { return slices.Compare(a.Bytes(), b.Bytes()) })
		slices.SortFunc(c.want, func(a, b uid.UID) int { return slices.Compare(a.Bytes(), b.Bytes()) })
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("by %s: %v, %v", name, got, err)
		}
	}
	stranger := certifiedIn(t, h, "other", "api")
	if _, err := h.Show(t.Context(), stranger, a.ID); !errors.Is(err, credentials.ErrNotFound) {
		t.Errorf("a stranger: %v", err)
	}
	if _, _, err := h.Leases(t.Context(), stranger, credentials.Query{Scope: pkitest.Scope("demo"), Limit: 10}); err == nil {
		t.Error("a stranger lists")
	}
	if _, err := h.Release(t.Context(), other, a.ID); err == nil {
		t.Error("another ended it")
	}
	if _, err := h.AddBinding(t.Context(), other, binding("demo/shop/dev", "mine")); err == nil {
		t.Error("a workload binds")
	}
}

func certified(t *testing.T, h *house, name string) identity.Caller {
	t.Helper()
	return certifiedIn(t, h, "demo/shop/dev", name)
}

func certifiedIn(t *testing.T, h *house, scope, name string) identity.Caller {
	t.Helper()
	who := pkitest.Workload(pkitest.Scope(scope), name)
	c, err := h.Issue(t.Context(), admin, ca.Request{
		Scope: who.Scope, Profile: "workload", CSR: pkitest.CSR(t, pkitest.Key(t)), Identity: who.ID, Life: 24 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	who.Serial = c.Serial
	return who
}
