package api_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
)

// An outside answers as a test tells it.
type outside struct {
	mu        sync.Mutex
	problems  []*acme.Problem // of the next tries; after them all succeeds
	forbidden *acme.Problem
	checks    []acme.Check
	permitted []acme.Check
}

func (w *outside) Validate(_ context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checks = append(w.checks, c)
	if len(w.problems) == 0 {
		return acme.Evidence{}, nil
	}
	p := w.problems[0]
	w.problems = w.problems[1:]
	return acme.Evidence{}, p
}

func (w *outside) Permit(_ context.Context, c acme.Check) *acme.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.permitted = append(w.permitted, c)
	return w.forbidden
}

func (w *outside) forbid(p *acme.Problem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forbidden = p
}

func (w *outside) tries() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.checks)
}

func (w *outside) asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.permitted)
}

func unreachable() *acme.Problem { return acme.NewProblem(acme.Connection, "connection refused") }

// worldly returns a replica whose outside world is w.
func worldly(t *testing.T, w *outside, retries ...time.Duration) (*site, *replica) {
	t.Helper()
	return newSite(t, options{validator: w, config: func(c *acme.Config) {
		c.Permission, c.Retries, c.Patience = w, retries, 5*time.Second
	}})
}

func TestAValidationThatMaySucceedLaterIsTriedAgainOnItsSchedule(t *testing.T) {
	w := &outside{problems: []*acme.Problem{unreachable(), unreachable()}}
	s, r := worldly(t, w, 10*time.Second, time.Minute)
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	c := challengeOf(t, a.post(t, authorizations(o)[0], "").json(t), "http-01")
	reply := a.post(t, c["url"].(string), "")
	got := reply.json(t)
	if got["status"] != "processing" || !strings.Contains(string(reply.body), "connection refused") || reply.header.Get("Retry-After") == "" {
		t.Fatalf("after one failed try: %s, Retry-After %q", reply.body, reply.header.Get("Retry-After"))
	}
	must(t, r.server.TakeOver(t.Context()))
	a.post(t, c["url"].(string), "{}") // saying it again changes nothing
	if n := w.tries(); n != 1 {
		t.Fatalf("%d tries before the second is due", n)
	}
	s.Advance(11 * time.Second)
	must(t, r.server.TakeOver(t.Context()))
	waitFor(t, func() bool { return w.tries() == 2 })
	waitFor(t, func() bool { // RFC 8555 §8.2: an entry for each failed try
		return strings.Count(string(a.post(t, c["url"].(string), "").body), "connection refused") == 3
	})
	s.Advance(61 * time.Second)
	must(t, r.server.TakeOver(t.Context()))
	if got := a.wait(t, url); got["status"] != "ready" {
		t.Errorf("order %v", got)
	}
}

func TestAScheduleEnds(t *testing.T) {
	w := &outside{problems: []*acme.Problem{unreachable(), unreachable(), unreachable()}}
	s, r := worldly(t, w, time.Second, time.Second)
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	for i := range 2 {
		waitFor(t, func() bool { return w.tries() == i+1 })
		waitFor(t, func() bool {
			s.Advance(2 * time.Second)
			must(t, r.server.TakeOver(t.Context()))
			return w.tries() == i+2
		})
	}
	waitFor(t, func() bool { return a.post(t, url, "").json(t)["status"] == "invalid" })
	got := a.post(t, authorizations(o)[0], "").json(t)
	if c := challengeOf(t, got, "http-01"); c["status"] != "invalid" {
		t.Errorf("challenge %v", c)
	}
	if w.tries() != 3 {
		t.Errorf("%d tries", w.tries())
	}
}

func TestWhatWillNotChangeIsNotTriedAgain(t *testing.T) {
	for what, p := range map[string]*acme.Problem{
		"another key authorization": acme.NewProblem(acme.IncorrectResponse, "x"),
		"an owner who forbids":      acme.NewProblem(acme.CAA, "x"),
		"a check that is none":      acme.NewProblem(acme.Malformed, "x"),
	} {
		t.Run(what, func(t *testing.T) {
			w := &outside{problems: []*acme.Problem{p}}
			_, r := worldly(t, w, time.Second)
			a := r.register(t)
			_, o := a.order(t, "dns:a.demo.test")
			a.prove(t, o, "http-01")
			waitFor(t, func() bool { return a.post(t, authorizations(o)[0], "").json(t)["status"] == "invalid" })
		})
	}
}

func TestATryOfAReplicaThatDiedIsAnothers(t *testing.T) {
	w := &outside{problems: []*acme.Problem{unreachable()}}
	s, one := worldly(t, w, time.Minute)
	a := one.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	waitFor(t, func() bool { return w.tries() == 1 })
	two := s.replica(t, options{validator: yes{}, config: func(c *acme.Config) { c.Retries = []time.Duration{time.Minute} }})
	waitFor(t, func() bool {
		s.Advance(time.Minute)
		must(t, two.server.TakeOver(t.Context()))
		return a.post(t, url, "").json(t)["status"] == "ready"
	})
}

func TestPermissionIsAskedWhenANameIsValidated(t *testing.T) {
	w := &outside{forbidden: acme.NewProblem(acme.CAA, "forbidden by its owner")}
	_, r := worldly(t, w)
	a := r.register(t)
	_, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	got := a.post(t, authorizations(o)[0], "").json(t)
	if got["status"] != "invalid" || !strings.Contains(challengeOf(t, got, "http-01")["error"].(map[string]any)["type"].(string), ":caa") {
		t.Errorf("authorization %v", got)
	}
}

func TestPermissionIsAskedAgainAfterEightHours(t *testing.T) {
	w := &outside{}
	s, r := worldly(t, w)
	a := r.register(t)
	names := []string{"dns:a.demo.test", "dns:b.demo.test"}
	ready := func() (order map[string]any, url string) {
		url, o := a.order(t, names...)
		if o["status"] != "ready" { // authorizations may be another order's
			a.prove(t, o, "http-01")
		}
		return a.wait(t, url), url
	}
	early, _ := ready()
	n := w.asked()
	s.Advance(7*time.Hour + 59*time.Minute)
	a.nonce = "" // too old
	if got, _ := a.finalize(t, early, names...); got.status != 200 || w.asked() != n {
		t.Fatalf("within eight hours: %d, asked %d times more", got.status, w.asked()-n)
	}
	s.Advance(2 * time.Minute)
	late, url := ready()
	w.mu.Lock()
	w.checks, w.permitted = nil, nil
	w.mu.Unlock()
	s.Advance(8*time.Hour + time.Second)
	w.forbid(acme.NewProblem(acme.CAA, "forbidden since"))
	a.nonce = ""
	got, _ := a.finalize(t, late, names...)
	if got.status != 403 || !strings.Contains(string(got.body), "forbidden since") || !strings.Contains(string(got.body), ":caa") {
		t.Fatalf("finalize: %d %s", got.status, got.body)
	}
	if w.asked() != 2 || w.tries() != 0 {
		t.Errorf("asked for %d of 2 names, validated %d", w.asked(), w.tries())
	}
	if o := a.post(t, url, "").json(t); o["status"] != "ready" {
		t.Errorf("order %v: a refusal ended it", o["status"])
	}
	w.forbid(nil)
	if got, _ := a.finalize(t, late, names...); got.status != 200 {
		t.Errorf("once permitted: %d %s", got.status, got.body)
	}
}

func TestADraftIsOfferedOnlyWhereItIsSwitchedOn(t *testing.T) {
	w := &outside{}
	s, off := worldly(t, w)
	on := s.replica(t, options{validator: w, config: func(c *acme.Config) {
		c.Drafts, c.Identities = []acme.Method{acme.DNSPersist01}, []string{"ca.test"}
	}})
	a, b := off.register(t), on.register(t)
	_, o := a.order(t, "dns:a.demo.test")
	if z := a.post(t, authorizations(o)[0], ""); strings.Contains(string(z.body), "dns-persist-01") || strings.Contains(string(z.body), "dns-account-01") {
		t.Errorf("offered: %s", z.body)
	}
	url := strings.Replace(challengeOf(t, a.post(t, authorizations(o)[0], "").json(t), "dns-01")["url"].(string), "dns-01", "dns-persist-01", 1)
	if got := a.post(t, url, "{}"); got.status != 404 {
		t.Errorf("answered: %d %s", got.status, got.body)
	}
	_, o = b.order(t, "dns:b.demo.test")
	c := challengeOf(t, b.post(t, authorizations(o)[0], "").json(t), "dns-persist-01")
	if c["token"] != nil || c["issuer-domain-names"].([]any)[0] != "ca.test" {
		t.Errorf("challenge %v", c)
	}
	d := on.do(t, "GET", on.directory(), "", nil).json(t)["meta"].(map[string]any)
	if d["caaIdentities"].([]any)[0] != "ca.test" {
		t.Errorf("meta %v", d)
	}
}

// waitFor asks until it is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for range 1000 {
		if so() {
			return
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond): // another goroutine is at it: nothing tells us
		}
	}
	t.Fatal("it never was so")
}

func TestAnOldFinalizationIsIssuedOnlyWithPermission(t *testing.T) {
	for what, c := range map[string]struct {
		forbidden *acme.Problem
		after     time.Duration
		want      string
	}{
		"permitted":                     {nil, 9 * time.Hour, "valid"},
		"forbidden":                     {acme.NewProblem(acme.CAA, "forbidden since"), 9 * time.Hour, "invalid"},
		"not found out":                 {acme.NewProblem(acme.DNS, "no answer"), 9 * time.Hour, "processing"},
		"not found out until it is due": {acme.NewProblem(acme.DNS, "no answer"), 8 * 24 * time.Hour, "invalid"},
	} {
		t.Run(what, func(t *testing.T) {
			w := &outside{}
			s, one := newSite(t, options{
				validator: w, config: func(c *acme.Config) { c.Permission = w },
				issuer: func(i acme.Issuer) acme.Issuer { return dying{i} },
			})
			a := one.register(t)
			url, o := a.order(t, "dns:a.demo.test")
			a.prove(t, o, "http-01")
			a.finalize(t, a.wait(t, url), "dns:a.demo.test")
			s.Advance(c.after)
			w.forbid(c.forbidden)
			two := s.replica(t, options{validator: w, config: func(c *acme.Config) { c.Permission = w }})
			must(t, two.server.Recover(t.Context()))
			a.nonce = ""
			if got := a.post(t, url, "").json(t); got["status"] != c.want {
				t.Errorf("order %v, want %s", got, c.want)
			}
		})
	}
}
