package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A NewOrder is what newOrder asks (RFC 8555 §7.4).
type NewOrder struct {
	Identifiers []Identifier
	Profile     string // empty: the server's choice
	Dated       bool   // asks for a notBefore or notAfter
}

// NewOrder records an order of h for names its scope may have, each with an authorization to be proved.
func (s *Server) NewOrder(ctx context.Context, h Holder, ask NewOrder) (Order, error) {
	if ask.Dated {
		// RFC 8555 §7.4: "If the server rejects the request because of notBefore or notAfter …"
		return Order{}, problem(Malformed, "notBefore and notAfter are not taken: leave them out, the profile decides")
	}
	if ask.Profile != "" && ask.Profile != profile {
		return Order{}, problem(InvalidProfile, "profile %.40q: there is only %q; leave it out", ask.Profile, profile)
	}
	rights, err := s.Scopes.Chain(ctx, h.Scope)
	if err != nil {
		return Order{}, s.noScope(h.Scope, err)
	}
	list, p := names(ask.Identifiers, rights)
	if p != nil {
		return Order{}, s.refused(ctx, h, p)
	}
	o := s.makeOrder(h, list)
	if err := s.Store.CreateOrder(ctx, o); err != nil {
		return Order{}, fmt.Errorf("recording order %s: %w", o.ID, err)
	}
	s.memory.made(o)
	return o, nil
}

func (s *Server) makeOrder(h Holder, list []cert.Name) Order {
	now := s.Now().UTC()
	o := Order{ID: uid.New(uid.Order, s.Site, now), Account: h.ID, Scope: h.Scope, Profile: profile, Names: list, Expires: now.Add(orderLife)}
	for _, n := range list {
		a := Authorization{ID: uid.New(uid.Authorization, s.Site, now), Account: h.ID, Name: n, Expires: now.Add(authorizationLife)}
		if _, err := rand.Read(a.Token[:]); err != nil {
			panic("acme: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
		}
		o.Authorizations = append(o.Authorizations, a)
	}
	return o
}

// refused records that names were refused, and returns the problem.
func (s *Server) refused(ctx context.Context, h Holder, p *Problem) error {
	if p.Type == Malformed {
		return p
	}
	var facts []audit.Fact
	for _, sub := range p.Subproblems {
		facts = append(facts, audit.Fact{
			At: s.Now(), Who: h.Caller(), Scope: h.Scope, What: audit.Order, Refused: true,
			Subject: sub.Identifier.Type + ":" + sub.Identifier.Value, Why: sub.Detail,
		})
	}
	if err := s.Store.Note(ctx, facts...); err != nil {
		return fmt.Errorf("recording a refusal: %w", err)
	}
	return p
}

func (s *Server) noScope(scope identity.Scope, err error) error {
	if errors.Is(err, s.NoScope) {
		p := problem(Malformed, "there is no scope %s: check the directory's URL", scope)
		p.Status = 404
		return p
	}
	return fmt.Errorf("reading scope %s: %w", scope, err)
}

// Order returns an order of h.
func (s *Server) Order(ctx context.Context, h Holder, id uid.UID) (Order, error) {
	if id.Kind() != uid.Order {
		return Order{}, notFound("order")
	}
	o, err := s.Store.Order(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && o.Account != h.ID {
		return Order{}, notFound("order")
	}
	if err != nil {
		return Order{}, fmt.Errorf("reading order %s: %w", id, err)
	}
	return o, nil
}

// Authorization returns an authorization of h.
func (s *Server) Authorization(ctx context.Context, h Holder, id uid.UID) (Authorization, error) {
	if id.Kind() != uid.Authorization {
		return Authorization{}, notFound("authorization")
	}
	if a, ok := s.memory.claim(id, h.ID); ok && a.Validation != nil {
		return a, nil
	}
	a, err := s.Store.Authorization(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && a.Account != h.ID {
		return Authorization{}, notFound("authorization")
	}
	if err != nil {
		return Authorization{}, fmt.Errorf("reading authorization %s: %w", id, err)
	}
	return a, nil
}
