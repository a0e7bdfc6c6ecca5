package incident_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

const day = 24 * time.Hour

var operator = identity.Caller{Actor: "operator", Scope: identity.Platform, Operator: true}

// An office is a house with a desk.
type office struct {
	*pkitest.House
	*incident.Desk
	t *testing.T
}

func open(t *testing.T) office {
	t.Helper()
	h := pkitest.New(t)
	return office{h, desk(h, h.Ledger), t}
}

func desk(h *pkitest.House, b incident.Book) *incident.Desk {
	return incident.New(incident.Config{Site: 1, Book: b, Profiles: h.ProfileNames, Longest: ca.LongestLife, Now: h.Now})
}

// issue makes a certificate, changed by each of change.
func (o office) issue(name string, change ...func(*ca.Request)) ca.Certificate {
	o.t.Helper()
	req := ca.Request{Scope: pkitest.Demo, Profile: "server"}
	if name != "" {
		req.CSR = pkitest.CSR(o.t, pkitest.Key(o.t), "dns:"+name)
	}
	for _, f := range change {
		f(&req)
	}
	c, err := o.Issue(o.t.Context(), operator, req)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o office) create(ask incident.Ask) incident.Incident {
	o.t.Helper()
	i, err := o.Create(o.t.Context(), operator, ask)
	if err != nil {
		o.t.Fatal(err)
	}
	return i
}

func (o office) tally(i incident.Incident) incident.Tally {
	o.t.Helper()
	_, got, err := o.Show(o.t.Context(), operator, i.ID)
	if err != nil || !got.Complete {
		o.t.Fatalf("%+v, %v", got, err)
	}
	return got
}

func (o office) starts(c ca.Certificate) time.Time {
	o.t.Helper()
	o.Advance(3 * time.Second)
	info, err := o.RenewalInfo(o.t.Context(), c.Serial)
	if err != nil {
		o.t.Fatal(err)
	}
	return info.Window.Start
}

// status is what OCSP would say.
func (o office) status(c ca.Certificate) ocsp.State {
	o.t.Helper()
	got, err := o.Ledger.Status(o.t.Context(), []cert.Serial{c.Serial})
	if err != nil {
		o.t.Fatal(err)
	}
	return got[c.Serial].State
}

func (o office) run() {
	o.t.Helper()
	if err := o.RunOnce(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
}

func choice(f func(*incident.Choice)) incident.Choice {
	var c incident.Choice
	f(&c)
	return c
}

func scope(s string) incident.Choice {
	return incident.Choice{Scope: pkitest.Scope(s)}
}

func names(t *testing.T, s string) incident.Choice {
	t.Helper()
	var c incident.Choice
	if err := c.ParseNames(s); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAChoiceIsOfWhatItSaysAndNothingElse(t *testing.T) {
	o := open(t)
	a := o.issue("a.demo.test")
	b := o.issue("b.demo.test", func(r *ca.Request) { r.CSR = pkitest.CSR(t, pkitest.Key(t), "dns:x.localhost", "dns:b.demo.test") })
	c := o.issue("c.other.test", func(r *ca.Request) { r.Scope = pkitest.Scope("other") })
	d := o.issue("", func(r *ca.Request) {
		r.Profile, r.CSR, r.Identity = "workload", pkitest.CSR(t, pkitest.Key(t)), pkitest.Workload(pkitest.Demo, "web").ID
	})
	o.Advance(2 * time.Second)
	since := o.Now()
	e := o.issue("e.demo.test")
	o.Advance(time.Second)
	all := map[string]ca.Certificate{"a": a, "b": b, "c": c, "d": d, "e": e}
	for name, test := range map[string]struct {
		choice incident.Choice
		want   string
	}{
		"authority":            {incident.Choice{Authority: "workloads-1-1"}, "d"},
		"another authority":    {incident.Choice{Authority: "servers-1-1"}, "abce"},
		"a root":               {incident.Choice{Authority: "root-1-1"}, ""},
		"profile":              {incident.Choice{Profile: "server"}, "abce"},
		"scope":                {scope("other"), "c"},
		"scope and below":      {scope("demo"), "abde"},
		"name":                 {names(t, "dns:a.demo.test"), "a"},
		"second name":          {names(t, "dns:b.demo.test"), "b"},
		"identity":             {names(t, "uri:"+d.Identity().String()), "d"},
		"name of nobody":       {names(t, "dns:nobody.demo.test"), ""},
		"name below":           {names(t, ".demo.test"), "abe"},
		"name below, no label": {names(t, ".mo.test"), ""},
		"key":                  {incident.Choice{Key: a.Key}, "a"},
		"since":                {incident.Choice{From: since}, "e"},
		"until":                {incident.Choice{To: since}, "abcd"},
		"all of it":            {choice(func(c *incident.Choice) { c.Scope, c.Profile, c.To = pkitest.Scope("demo"), "server", since }), "ab"},
		"name elsewhere":       {choice(func(c *incident.Choice) { *c = names(t, "dns:a.demo.test"); c.Scope = pkitest.Scope("other") }), ""},
		"name below elsewhere": {choice(func(c *incident.Choice) { *c = names(t, ".demo.test"); c.Scope = pkitest.Scope("other") }), ""},
	} {
		ask := incident.Ask{Choice: test.choice, Why: name, Spread: time.Minute}
		tally, err := o.Preview(t.Context(), operator, ask)
		if err != nil || tally.Chosen != len(test.want) || !tally.Complete {
			t.Errorf("%s: previewed %+v, %v; want %d", name, tally, err, len(test.want))
		}
		i := o.create(ask)
		for n, c := range all { // the window says for each what the count says of all
			moved := o.starts(c).Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2))
			if moved != strings.Contains(test.want, n) {
				t.Errorf("%s: the window of %s moved: %t", name, n, moved)
			}
		}
		var found string
		members, err := o.Members(t.Context(), operator, i.ID, "", incident.Page{Limit: 10})
		for _, m := range members {
			for n, c := range all {
				if c.Serial == m.Serial {
					found += n
				}
			}
		}
		if err != nil || len(found) != len(test.want) {
			t.Errorf("%s: its members are %q, %v; want %q", name, found, err, test.want)
		}
		if _, err := o.Cancel(t.Context(), operator, i.ID); err != nil {
			t.Fatal(err)
		}
	}
	if started := o.starts(a); started.Before(a.NotBefore.Add(10 * day)) {
		t.Errorf("after every incident was cancelled the window begins %s", started)
	}
}

func TestWhoObeysIsSpared(t *testing.T) {
	o := open(t)
	said, renewed, waiting, ended, later := o.issue("a.demo.test"), o.issue("b.demo.test"), o.issue("c.demo.test"), o.issue("d.demo.test"), time.Time{}
	o.Advance(2 * time.Second)
	i := o.create(incident.Ask{Choice: scope("demo"), Why: "test", Spread: time.Hour, Deadline: o.Now().Add(3 * time.Hour), Reason: cert.Superseded})
	o.Advance(2 * time.Second)
	o.issue("a.demo.test", func(r *ca.Request) { r.Replaces = said.Serial })
	if _, err := o.Renew(t.Context(), identity.Caller{Actor: "b", Scope: pkitest.Demo, Serial: renewed.Serial}, pkitest.CSR(t, pkitest.Key(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Revoke(t.Context(), operator, ended.Serial, cert.CessationOfOperation); err != nil {
		t.Fatal(err)
	}
	after := o.issue("e.demo.test")
	if got := o.tally(i); got != (incident.Tally{Chosen: 4, Waiting: 1, Replaced: 2, Revoked: 1, Complete: true}) {
		t.Errorf("before the deadline: %+v", got)
	}
	o.run()
	if o.status(waiting) != ocsp.Good {
		t.Error("revoked before the deadline")
	}
	o.Advance(3*time.Hour + time.Second)
	o.run()
	for name, c := range map[string]struct {
		c    ca.Certificate
		want ocsp.State
	}{"said": {said, ocsp.Good}, "renewed": {renewed, ocsp.Good}, "waiting": {waiting, ocsp.Revoked}, "ended": {ended, ocsp.Revoked}, "after": {after, ocsp.Good}} {
		if got := o.status(c.c); got != c.want {
			t.Errorf("%s is %d after the deadline, want %d", name, got, c.want)
		}
	}
	if c, err := o.Certificate(t.Context(), waiting.Serial); err != nil || c.Revoked == nil || c.Revoked.Reason != cert.Superseded {
		t.Errorf("%+v, %v", c.Revoked, err)
	}
	if _, err := o.Cancel(t.Context(), operator, i.ID); !errors.Is(err, incident.ErrOver) {
		t.Errorf("cancelled while it revokes: %v", err)
	}
	o.Advance(2 * time.Minute)
	o.run()
	got, tally, err := o.Show(t.Context(), operator, i.ID)
	if err != nil || got.State(o.Now()) != incident.Finished || got.Revoked != 1 || tally.Revoked != 2 || tally.Waiting != 0 {
		t.Errorf("%+v, %+v, %v", got, tally, err)
	}
	later = got.Finished
	o.run()
	if again, err := o.Ledger.Incident(t.Context(), i.ID); err != nil || !again.Finished.Equal(later) {
		t.Errorf("finished again: %+v, %v", again, err)
	}
}

func TestARevocationOfManyCountsFromItsAnswerOn(t *testing.T) {
	o := open(t)
	other := pkitest.On(t, o.DB)
	a, b := o.issue("a.demo.test"), o.issue("c.other.test", func(r *ca.Request) { r.Scope = pkitest.Scope("other") })
	o.issue("a.demo.test", func(r *ca.Request) { r.Replaces = a.Serial }) // spares it nothing
	o.Advance(time.Second)
	held := begun(t, o, "late.demo.test")
	i := o.create(incident.Ask{Choice: scope("demo"), Why: "test", Reason: cert.PrivilegeWithdrawn, Everything: true})
	// 1. Nobody has revoked a row yet, and everybody says so.
	if n := revocations(t, o); n != 0 {
		t.Fatalf("%d rows", n)
	}
	if o.status(a) != ocsp.Revoked || o.status(b) != ocsp.Good {
		t.Errorf("OCSP says %d of one chosen and %d of another", o.status(a), o.status(b))
	}
	if err := other.Ledger.Stands(t.Context(), a.Serial); !errors.Is(err, ca.ErrCallerRevoked) {
		t.Errorf("another replica lets it act: %v", err)
	}
	who := pkitest.Workload(pkitest.Demo, "a")
	who.Serial = a.Serial
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:z.demo.test")}
	if _, err := o.Issue(t.Context(), who, req); !errors.Is(err, ca.ErrCallerRevoked) {
		t.Errorf("a revoked caller issues: %v", err)
	}
	if err := o.Ledger.Complete(t.Context(), held); !errors.Is(err, ca.ErrSettled) {
		t.Errorf("an intent of before was completed: %v", err)
	}
	if c, err := o.Certificate(t.Context(), a.Serial); err != nil || c.Revoked == nil || c.Revoked.Reason != cert.PrivilegeWithdrawn {
		t.Errorf("%+v, %v", c.Revoked, err)
	}
	// 2. Two replicas revoke at once; each certificate is revoked once, with one fact.
	var wait sync.WaitGroup
	for _, d := range []*incident.Desk{o.Desk, desk(o.House, other.Ledger)} {
		wait.Go(func() {
			if err := d.RunOnce(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := revocations(t, o); n != 3 { // two and the open intent
		t.Errorf("%d rows, want three", n)
	}
	if n := facts(t, o, "certificate.revoke"); n != 3 {
		t.Errorf("%d facts, want three", n)
	}
	// 3. What is made after is not touched.
	o.Advance(2 * time.Second)
	if c := o.issue("new.demo.test"); o.status(c) != ocsp.Good {
		t.Error("a certificate made after is revoked")
	}
	o.Advance(2 * time.Minute)
	o.run()
	if got, err := o.Ledger.Incident(t.Context(), i.ID); err != nil || got.Finished.IsZero() || got.Revoked != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if o.status(a) != ocsp.Revoked {
		t.Error("finished, it stands again")
	}
}

// begun begins an issuance and returns the completion that would end it.
func begun(t *testing.T, o office, name string) ca.Completion {
	t.Helper()
	h := &holding{Ledger: o.Ledger}
	again := *o.House
	house := pkitest.With(t, &again, h)
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:"+name)}
	if _, err := house.Issue(t.Context(), operator, req); err == nil {
		t.Fatal("completed")
	}
	return h.held
}

func revocations(t *testing.T, o office) (n int) {
	t.Helper()
	if err := o.DB.QueryRow(t.Context(), `SELECT count(*) FROM revocation`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func facts(t *testing.T, o office, what string) (n int) {
	t.Helper()
	if err := o.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = $1`, what).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRevokingByKeyBarsTheKey(t *testing.T) {
	o := open(t)
	key := pkitest.Key(t)
	ask := func(r *ca.Request) { r.CSR = pkitest.CSR(t, key, "dns:a.demo.test") }
	c := o.issue("", ask)
	o.Advance(time.Second)
	o.create(incident.Ask{Choice: incident.Choice{Key: c.Key}, Why: "leaked", Reason: cert.KeyCompromise, Everything: true})
	req := ca.Request{Scope: pkitest.Demo, Profile: "server"}
	ask(&req)
	if _, err := o.Issue(t.Context(), operator, req); !errors.Is(err, ca.ErrKeyBlocked) {
		t.Errorf("the key is certified again: %v", err)
	}
}

// A key is known to everybody who has seen a certificate of it.
func TestARevokerOfATenantBlocksNobodysKeyByNamingIt(t *testing.T) {
	o := open(t)
	_, err := o.Access.Grant(t.Context(), operator, access.Binding{Role: access.Revoker, Scope: pkitest.Scope("demo"), Subject: access.Subject{Identity: "spiffe://segl.test/tenant/demo/oncall"}})
	if err != nil {
		t.Fatal(err)
	}
	oncall := o.Access.Name(pkitest.Workload(pkitest.Scope("demo"), "oncall"))
	key := pkitest.Key(t)
	server := func(r *ca.Request) { r.Scope, r.CSR = identity.Platform, pkitest.CSR(t, key, "dns:localhost") }
	c := o.issue("", server)
	o.Advance(time.Second)
	for rule, ask := range map[string]incident.Ask{
		"a blocked key is blocked for everybody": {Choice: incident.Choice{Scope: pkitest.Scope("demo"), Key: c.Key}, Reason: cert.KeyCompromise},
		"reasons a holder may give":              {Choice: scope("demo"), Reason: cert.CACompromise},
	} {
		ask.Why, ask.Everything = "test", true
		_, err := o.Create(t.Context(), oncall, ask)
		if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Rule != rule {
			t.Errorf("%v, want a refusal by: %s", err, rule)
		}
	}
	o.issue("", server)
	ask := incident.Ask{Choice: scope("demo"), Why: "test", Reason: cert.Superseded, Everything: true}
	if _, err := o.Create(t.Context(), oncall, ask); err != nil {
		t.Errorf("within its own: %v", err)
	}
}

func TestWhatIsAskedAgainLaterIsWhatWasConfirmed(t *testing.T) {
	o := open(t)
	o.issue("a.demo.test")
	var terms []string
	o.Guard = func(_ context.Context, _ identity.Caller, q access.Request) error {
		terms = append(terms, q.Terms)
		return &access.Pending{ID: 1}
	}
	ask := incident.Ask{Choice: scope("demo"), Why: "test", Reason: cert.Superseded, Everything: true}
	for range 2 {
		o.Advance(time.Minute)
		if _, err := o.Create(t.Context(), operator, ask); !errors.Is(err, access.ErrPending) {
			t.Fatal(err)
		}
	}
	if len(terms) != 2 || terms[0] != terms[1] {
		t.Errorf("a minute later it is another thing: %q", terms)
	}
}

func TestTheDeskRefuses(t *testing.T) {
	o := open(t)
	now := o.Now()
	good := incident.Ask{Choice: scope("demo"), Why: "test", Spread: time.Hour}
	for name, change := range map[string]func(*incident.Ask){
		"choosing everything":         func(a *incident.Ask) { a.Choice = incident.Choice{} },
		"an unknown profile":          func(a *incident.Ask) { a.Choice.Profile = "nobody" },
		"a time to come":              func(a *incident.Ask) { a.Choice.From = now.Add(time.Hour) },
		"a span that is none":         func(a *incident.Ask) { a.Choice.From, a.Choice.To = now.Add(-time.Hour), now.Add(-2*time.Hour) },
		"no reason":                   func(a *incident.Ask) { a.Why = "" },
		"a long reason":               func(a *incident.Ask) { a.Why = strings.Repeat("a", 201) },
		"an explanation that is none": func(a *incident.Ask) { a.Explanation = "see the wiki" },
		"an explanation with a login": func(a *incident.Ask) { a.Explanation = "https://a:b@c.test/" },
		"a script":                    func(a *incident.Ask) { a.Explanation = "javascript:alert(1)" },
		"nothing to do":               func(a *incident.Ask) { a.Spread = 0 },
		"a short spread":              func(a *incident.Ask) { a.Spread = time.Second },
		"a long spread":               func(a *incident.Ask) { a.Spread = 91 * day },
		"a negative spread":           func(a *incident.Ask) { a.Spread = -time.Hour },
		"a deadline gone by":          func(a *incident.Ask) { a.Deadline = now.Add(-time.Second) },
		"a deadline far away":         func(a *incident.Ask) { a.Deadline = now.Add(91 * day) },
		"a deadline within":           func(a *incident.Ask) { a.Deadline = now.Add(59 * time.Minute) },
		"a reason for nothing":        func(a *incident.Ask) { a.Reason = cert.Superseded },
		"keyCompromise of a scope":    func(a *incident.Ask) { a.Deadline, a.Reason = now.Add(2*time.Hour), cert.KeyCompromise },
		"everything, over a time":     func(a *incident.Ask) { a.Everything = true },
		"everything of all": func(a *incident.Ask) {
			*a = incident.Ask{Why: "test", Everything: true}
		},
	} {
		ask, was := good, facts(t, o, "incident.create")
		change(&ask)
		for how, try := range map[string]func() error{
			"create":  func() error { _, err := o.Create(t.Context(), operator, ask); return err },
			"preview": func() error { _, err := o.Preview(t.Context(), operator, ask); return err },
		} {
			err := try()
			if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Remedy == "" {
				t.Errorf("%s: %s: %v, want a refusal", name, how, err)
			}
		}
		if n := facts(t, o, "incident.create") - was; n != 2 {
			t.Errorf("%s: %d facts of two refusals", name, n)
		}
	}
	tenant := pkitest.Workload(pkitest.Demo, "web")
	for how, try := range map[string]func() error{
		"create":  func() error { _, err := o.Create(t.Context(), tenant, good); return err },
		"preview": func() error { _, err := o.Preview(t.Context(), tenant, good); return err },
		"cancel":  func() error { _, err := o.Cancel(t.Context(), tenant, uid.New(uid.Incident, 1, now)); return err },
	} {
		if r, ok := errors.AsType[*policy.Refusal](try()); !ok || r.Remedy == "" {
			t.Errorf("a tenant may %s", how)
		}
	}
	for how, try := range map[string]func() error{
		"list": func() error { _, err := o.List(t.Context(), tenant, incident.Page{Limit: 1}); return err },
		"show": func() error { _, _, err := o.Show(t.Context(), tenant, uid.New(uid.Incident, 1, now)); return err },
		"members": func() error {
			_, err := o.Members(t.Context(), tenant, uid.New(uid.Incident, 1, now), "", incident.Page{})
			return err
		},
		"nobody's": func() error {
			_, _, err := o.Show(t.Context(), operator, uid.New(uid.Incident, 1, now))
			return err
		},
		"cancel nobody's": func() error { _, err := o.Cancel(t.Context(), operator, uid.New(uid.Incident, 1, now)); return err },
	} {
		if err := try(); !errors.Is(err, incident.ErrNotFound) {
			t.Errorf("%s: %v", how, err)
		}
	}
	for name, c := range map[string]incident.Choice{"authority": {Authority: "nobody"}, "scope": scope("nobody")} {
		ask := good
		ask.Choice = c
		if _, err := o.Create(t.Context(), operator, ask); !errors.Is(err, incident.ErrNothing) {
			t.Errorf("an unknown %s: %v", name, err)
		}
	}
	if n := revocations(t, o); n != 0 {
		t.Errorf("%d revocations by what was refused", n)
	}
}

func TestAnIncidentAskedTwiceIsOne(t *testing.T) {
	o := open(t)
	ask := incident.Ask{ID: incident.Origin(1, operator, "key"), Choice: scope("demo"), Why: "test", Spread: time.Hour}
	first := o.create(ask)
	o.Advance(3 * time.Second)
	if again := o.create(ask); again.ID != first.ID || !again.At.Equal(first.At) {
		t.Errorf("%+v, then %+v", first, again)
	}
	ask.Spread = 2 * time.Hour
	if _, err := o.Create(t.Context(), operator, ask); !errors.Is(err, incident.ErrConflict) {
		t.Errorf("another under the same key: %v", err)
	}
	if list, err := o.List(t.Context(), operator, incident.Page{Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("%d incidents, %v", len(list), err)
	}
}
