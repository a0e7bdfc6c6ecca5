package api_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// balanced returns two replicas on one database.
func balanced(t *testing.T, o options) (*site, *replica, *replica) {
	t.Helper()
	s, first := newSite(t, o)
	second := s.replica(t, o)
	return s, first, second
}

func together(n int, f func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() { <-start; f(i) })
	}
	close(start)
	all.Wait()
}

func TestANonceIsTakenOnceByAllReplicas(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	stores := []*store.Store{r.store, store.New(s.DB, s.Now), store.New(s.DB, s.Now)}
	for _, st := range stores[1:] {
		t.Cleanup(st.Close)
	}
	for range 40 {
		nonce, err := r.store.Nonce(t.Context())
		must(t, err)
		var fresh atomic.Int32
		together(12, func(i int) {
			st, err := stores[i%len(stores)].Admit(t.Context(), nonce, a0, uid.UID{})
			if err != nil {
				t.Error(err)
			}
			if st.Fresh {
				fresh.Add(1)
			}
		})
		if fresh.Load() != 1 {
			t.Fatalf("a nonce was fresh %d times", fresh.Load())
		}
	}
}

func TestReplaysAreRefusedWithAFreshNonce(t *testing.T) {
	_, r := newSite(t, options{idle: true})
	a := r.register(t)
	body := jwstest.Sign(t, a.key, a.header(t, a.kid), "")
	if res := a.send(t, a.kid, body); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	res := a.send(t, a.kid, body)
	refused(t, "a replay", res, http.StatusBadRequest, "badNonce")
	if res.header.Get("Replay-Nonce") == "" {
		t.Error("no fresh nonce")
	}
	if res = a.post(t, a.kid, ""); res.status != http.StatusOK {
		t.Errorf("the fresh nonce: %d %s", res.status, res.body)
	}
}

func TestEightFinalizesGiveOneCertificate(t *testing.T) {
	s, one, two := balanced(t, options{validator: yes{}})
	for range 5 {
		a := one.register(t)
		url, o := a.order(t, "dns:a.demo.test")
		a.prove(t, o, "http-01")
		if o = a.wait(t, url); o["status"] != "ready" {
			t.Fatalf("order %v", o)
		}
		// Each replica is asked in its own domain methods: a URL names one listener here.
		acct, err := one.store.Account(t.Context(), uidOf(t, a.kid))
		must(t, err)
		id := uidOf(t, url)
		key := pkitest.Key(t)
		csr := pkitest.CSRBytes(t, key, "dns:a.demo.test")
		results := make([]acme.Order, 8)
		together(8, func(i int) {
			srv := []*replica{one, two}[i%2].server
			o, err := srv.Finalize(t.Context(), acme.Holder{Account: acct}, id, csr)
			if err != nil {
				t.Errorf("finalizing: %v", err)
			}
			results[i] = o
		})
		serials := map[string]bool{}
		for _, o := range results {
			if st := o.Status(s.Now()); st != acme.Valid && st != acme.Processing {
				t.Errorf("an order is %s", st)
			}
			if !o.Certificate.IsZero() {
				serials[o.Certificate.String()] = true
			}
		}
		var intents int
		must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent WHERE origin = $1`, id.Bytes()).Scan(&intents))
		if len(serials) != 1 || intents != 1 {
			t.Fatalf("%d serials, %d intents", len(serials), intents)
		}
	}
}

func TestOneOfManyDifferentKeysWins(t *testing.T) {
	s, one, two := balanced(t, options{validator: yes{}})
	a := one.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	acct, err := one.store.Account(t.Context(), uidOf(t, a.kid))
	must(t, err)
	id := uidOf(t, url)
	var won, lost atomic.Int32
	together(8, func(i int) {
		csr := pkitest.CSRBytes(t, pkitest.Key(t), "dns:a.demo.test")
		_, err := []*replica{one, two}[i%2].server.Finalize(t.Context(), acme.Holder{Account: acct}, id, csr)
		var p *acme.Problem
		switch {
		case err == nil:
			won.Add(1)
		case errors.As(err, &p) && p.Type == acme.OrderNotReady:
			lost.Add(1)
		default:
			t.Error(err)
		}
	})
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	var intents int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent WHERE origin = $1`, id.Bytes()).Scan(&intents))
	if intents != 1 {
		t.Errorf("%d intents", intents)
	}
}

// counting finds every challenge answered once all of a number of validations are under way.
type counting struct {
	acme.Validator
	asked *atomic.Int32
	all   *sync.WaitGroup
}

func (v counting) Validate(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	v.asked.Add(1)
	if v.all != nil {
		v.all.Done()
		v.all.Wait()
	}
	return v.Validator.Validate(ctx, c)
}

func TestEightAnswersToOneChallengeAreValidatedOnce(t *testing.T) {
	var asked atomic.Int32
	s, r := newSite(t, options{validator: counting{yes{}, &asked, nil}})
	for n := range 5 {
		a := r.register(t) // an account proves a name once
		_, o := a.order(t, "dns:a.demo.test")
		acct, err := r.store.Account(t.Context(), uidOf(t, a.kid))
		must(t, err)
		id := uidOf(t, authorizations(o)[0])
		together(8, func(int) {
			z, err := r.server.Respond(t.Context(), acme.Holder{Account: acct}, acme.Answer{Authorization: id, Method: acme.HTTP01})
			if err != nil || z.Status(s.Now()) != acme.Valid {
				t.Errorf("answered %+v, %v", z, err)
			}
		})
		if got := int(asked.Load()); got != n+1 {
			t.Fatalf("%d validations of %d authorizations", got, n+1)
		}
	}
}

func TestReplicasThatValidateTheSameTellOneOutcome(t *testing.T) {
	var asked atomic.Int32
	var all sync.WaitGroup
	wait := func(c *acme.Config) { c.Patience = time.Minute }
	s, one := newSite(t, options{validator: counting{yes{}, &asked, &all}, config: wait})
	two := s.replica(t, options{validator: counting{no{}, &asked, &all}, config: wait})
	for range 5 {
		a := one.register(t)
		acct, err := one.store.Account(t.Context(), uidOf(t, a.kid))
		must(t, err)
		_, o := a.order(t, "dns:a.demo.test")
		id := uidOf(t, authorizations(o)[0])
		all.Add(2)
		var told [2]acme.Status
		together(2, func(i int) {
			z, err := []*replica{one, two}[i].server.Respond(t.Context(), acme.Holder{Account: acct}, acme.Answer{Authorization: id, Method: acme.HTTP01})
			if err != nil {
				t.Error(err)
			}
			told[i] = z.Status(s.Now())
		})
		if told[0] != told[1] || told[0] == acme.Pending {
			t.Errorf("told %v", told)
		}
		if z := a.post(t, authorizations(o)[0], "").json(t); z["status"] != string(told[0]) {
			t.Errorf("told %v, read %v", told, z["status"])
		}
	}
}

// forgetful is a database that takes no outcome.
type forgetful struct{ acme.Store }

func (forgetful) Settle(context.Context, uid.UID, acme.Queued, acme.Validation, ...audit.Fact) (bool, error) {
	return false, errors.New("lost")
}

func TestAValidationThatIsNotSettledIsLeftToOthers(t *testing.T) {
	s, one := newSite(t, options{validator: yes{}, config: func(c *acme.Config) { c.Store = forgetful{c.Store} }})
	a := one.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	c := challengeOf(t, a.post(t, authorizations(o)[0], "").json(t), "http-01")
	if got := a.post(t, c["url"].(string), "{}").json(t); got["status"] != "processing" {
		t.Errorf("challenge %v", got)
	}
	two := s.replica(t, options{validator: yes{}})
	must(t, two.server.TakeOver(t.Context())) // at once: nobody has its lease
	if got := a.wait(t, url); got["status"] != "ready" {
		t.Errorf("order %v", got)
	}
}

func TestNothingSaysProcessingBeforeTheAttemptIsRecorded(t *testing.T) {
	v := silent{make(chan struct{}, 1)}
	s, one := newSite(t, options{validator: v, config: func(c *acme.Config) { c.Patience = time.Millisecond }})
	a := one.register(t)
	_, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	var n int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_attempt WHERE leased_until > clock_timestamp()`).Scan(&n))
	if n != 1 {
		t.Errorf("%d attempts are recorded", n)
	}
}

// silent is a replica that dies while it validates: its validator never answers.
type silent struct{ asked chan struct{} }

func (v silent) Validate(ctx context.Context, _ acme.Check) (acme.Evidence, *acme.Problem) {
	v.asked <- struct{}{}
	<-ctx.Done()
	return acme.Evidence{}, acme.NewProblem(acme.Connection, "stopped")
}

func TestAValidationWhoseReplicaDiedIsTakenOver(t *testing.T) {
	v := silent{make(chan struct{}, 1)}
	s, one := newSite(t, options{validator: v, config: func(c *acme.Config) { c.Patience = -1 }})
	a := one.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	<-v.asked
	two := s.replica(t, options{validator: yes{}})
	must(t, two.server.TakeOver(t.Context()))
	if got := a.post(t, url, "").json(t); got["status"] != "pending" {
		t.Errorf("taken over while its lease lasts: %v", got)
	}
	// The lease runs out by the database's clock.
	_, err := s.DB.Exec(t.Context(), `UPDATE acme_attempt SET leased_until = clock_timestamp() - interval '1 s'`)
	must(t, err)
	must(t, two.server.TakeOver(t.Context()))
	if got := a.wait(t, url); got["status"] != "ready" {
		t.Errorf("order %v", got)
	}
}

func TestAStoppingReplicaGivesItsValidationsBack(t *testing.T) {
	v := silent{make(chan struct{}, 1)}
	s, one := newSite(t, options{validator: v, idle: true, config: func(c *acme.Config) { c.Patience = -1 }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); one.server.Run(ctx) }()
	a := one.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	<-v.asked
	stop()
	<-ended
	two := s.replica(t, options{validator: yes{}})
	must(t, two.server.TakeOver(t.Context())) // at once: the lease was given back
	if got := a.wait(t, url); got["status"] != "ready" {
		t.Errorf("order %v", got)
	}
}

// dying is an issuer whose replica dies before it issues.
type dying struct{ acme.Issuer }

func (dying) Issue(context.Context, identity.Caller, ca.Request) (ca.Certificate, error) {
	return ca.Certificate{}, context.DeadlineExceeded
}

func TestAFinalizedOrderIsIssuedByRecover(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}, issuer: func(i acme.Issuer) acme.Issuer { return dying{i} }})
	a := r.register(t)
	url, o := a.order(t, "dns:a.demo.test")
	a.prove(t, o, "http-01")
	a.wait(t, url)
	res, key := a.finalize(t, o, "dns:a.demo.test")
	if got := res.json(t); got["status"] != "processing" || res.header.Get("Retry-After") != "1" || res.header.Get("Location") != url {
		t.Fatalf("%d %v %v", res.status, res.header, got)
	}
	two := s.replica(t, options{validator: yes{}})
	must(t, two.server.Recover(t.Context())) // too early: whoever claimed it may be at it
	if got := a.post(t, url, "").json(t); got["status"] != "processing" {
		t.Fatalf("recovered at once: %v", got)
	}
	s.Advance(time.Minute)
	must(t, two.server.Recover(t.Context()))
	got := a.post(t, url, "").json(t)
	if got["status"] != "valid" {
		t.Fatalf("order %v", got)
	}
	leaf := verify(t, s, a.post(t, got["certificate"].(string), "").body, "a.demo.test")
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate has another key")
	}
	must(t, two.server.Recover(t.Context()))
	var intents int
	must(t, s.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent WHERE origin IS NOT NULL`).Scan(&intents))
	if intents != 1 {
		t.Errorf("%d intents", intents)
	}
}
