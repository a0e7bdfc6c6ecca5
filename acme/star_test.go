package acme_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A sky has orders that renew themselves and whose own rows have left. It is their Store, their Issuer and their owners.
type sky struct {
	acme.Store
	acme.Issuer
	ca.Scopes
	acme.Validator
	permit func(acme.Check) *acme.Problem

	mu     sync.Mutex
	stars  []acme.Star
	issued []acme.Star
	noted  int
}

func (s *sky) server(t *testing.T) *acme.Server {
	t.Helper()
	srv, err := acme.New(acme.Config{
		Site: 1, Store: s, Issuer: s, Scopes: s, Validator: s, Permission: s, Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// add adds an order for names whose second term is due.
func (s *sky) add(t *testing.T, in string, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now().Add(-3 * time.Hour)
	st := acme.Star{
		Order: uid.New(uid.Order, 1, begun), Account: uid.New(uid.Account, 1, begun), Scope: scope(t, in), Profile: "server", SPKI: spki, Term: 2, Next: begun.Add(2 * time.Hour),
		AutoRenewal: acme.AutoRenewal{Start: begun, End: begun.Add(40 * time.Hour), Lifetime: 7200},
	}
	for _, n := range names {
		st.Names = append(st.Names, name(t, n))
	}
	s.stars = append(s.stars, st)
}

func (s *sky) find(order uid.UID) *acme.Star {
	i := slices.IndexFunc(s.stars, func(st acme.Star) bool { return st.Order == order })
	return &s.stars[i]
}

func (s *sky) change(order uid.UID, f func(*acme.Star)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.find(order))
	return nil
}

func (s *sky) DueStars(context.Context, time.Time, int) ([]acme.Star, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stars), nil
}

func (s *sky) Star(_ context.Context, order uid.UID) (st acme.Star, err error) {
	return st, s.change(order, func(had *acme.Star) { st = *had })
}

func (s *sky) AdvanceStar(_ context.Context, st acme.Star, term int, next time.Time) error {
	return s.change(st.Order, func(had *acme.Star) { had.Term, had.Next = term, next })
}

func (s *sky) StopStar(_ context.Context, order uid.UID, p *acme.Problem) error {
	return s.change(order, func(had *acme.Star) { had.Problem, had.Next = p, time.Time{} })
}

func (*sky) SweepStars(context.Context, time.Time) error { return nil }

func (*sky) Order(context.Context, uid.UID) (acme.Order, error) {
	return acme.Order{}, acme.ErrNotFound
}

func (s *sky) Note(_ context.Context, facts ...audit.Fact) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted += len(facts)
	return nil
}

func (*sky) Account(_ context.Context, id uid.UID) (acme.Account, error) {
	return acme.Account{ID: id}, nil
}

func (*sky) ByOrigin(context.Context, ca.Origin) (ca.Certificate, error) {
	return ca.Certificate{}, ca.ErrNotFound
}

func (s *sky) Issue(_ context.Context, _ identity.Caller, req ca.Request) (ca.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, acme.Star{Scope: req.Scope})
	return ca.Certificate{Serial: cert.NewSerial(1, time.Now())}, nil
}

func (s *sky) Permit(_ context.Context, c acme.Check) *acme.Problem { return s.permit(c) }

func TestNoScopeKeepsAnothersOrdersFromRenewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{permit: func(c acme.Check) *acme.Problem {
			if c.Scope.String() == "slow" {
				time.Sleep(30 * time.Second) // its owner's servers do not answer //nolint:forbidigo // in the bubble's time
				return acme.NewProblem(acme.DNS, "no answer")
			}
			return nil
		}}
		for range 50 {
			s.add(t, "slow", "dns:a.test")
		}
		s.add(t, "quick", "dns:b.test")
		srv := s.server(t)
		begun, done := time.Now(), make(chan error)
		go func() { done <- srv.RenewStars(t.Context()) }()
		time.Sleep(time.Second) //nolint:forbidigo // in the bubble's time
		s.mu.Lock()
		n := len(s.issued)
		s.mu.Unlock()
		if n != 1 {
			t.Errorf("%d renewed in a second, want who has no slow owner", n)
		}
		if err := <-done; err == nil {
			t.Error("orders that failed are not told of")
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("a pass took %s: whoever is due meanwhile waits", took)
		}
	})
}

func TestAnOrderCanceledWhileItsOwnerIsAskedIsNotIssued(t *testing.T) {
	s := &sky{}
	s.add(t, "a", "dns:a.test")
	s.permit = func(acme.Check) *acme.Problem {
		err := s.change(s.stars[0].Order, func(st *acme.Star) { st.Canceled, st.Next = time.Now(), time.Time{} })
		if err != nil {
			t.Error(err)
		}
		return nil
	}
	if err := s.server(t).RenewStars(t.Context()); err != nil || len(s.issued) != 0 {
		t.Errorf("%d issued, %v", len(s.issued), err)
	}
}
