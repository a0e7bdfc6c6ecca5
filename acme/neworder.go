package acme

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A NewOrder is what newOrder asks (RFC 8555 §7.4).
type NewOrder struct {
	Identifiers []Identifier
	Profile     string       // empty: the scope's first
	Replaces    string       // a CertID (RFC 9773 §5); empty: nothing
	AutoRenewal *AutoRenewal // RFC 8739 §3.1.1; nil: none is asked for
	// Ancestors are the ancestorDomain of each identifier (RFC 9444 §4.3), where one is given; nil: none is.
	Ancestors           []string
	NotBefore, NotAfter time.Time // zero: the profile decides
}

// NewOrder records an order of h for names its scope may have, each with an authorization to be proved.
func (s *Server) NewOrder(ctx context.Context, h Holder, ask NewOrder) (Order, error) {
	rights, err := s.Scopes.Chain(ctx, h.Scope)
	if err != nil {
		return Order{}, s.turnedAway(ctx, h, audit.Fact{What: audit.Order}, s.noScope(h.Scope, err))
	}
	list, p := names(ask.Identifiers, rights)
	if p != nil {
		return Order{}, s.refused(ctx, h, p)
	}
	above, p := ask.above()
	if p != nil {
		return Order{}, p
	}
	now := s.Now().UTC()
	o := s.makeOrder(h, list, now)
	proofs := s.seek(ctx, h, list, now) // in one trip with what extend counts
	defer proofs()                      //nolint:errcheck // that nobody is left seeking
	approved, err := s.extend(ctx, h, ask, &o)
	if err != nil {
		return Order{}, err
	}
	for _, i := range approved { // what needs no proof is proved by nothing else: it would prove that for others
		delete(above, o.Names[i])
	}
	found, err := proofs()
	if err != nil {
		return Order{}, err
	}
	s.rest(h, &o, above, found, now)
	if err := s.Store.CreateOrder(ctx, o); err != nil {
		return Order{}, fmt.Errorf("recording order %s: %w", o.ID, err)
	}
	s.memory.made(o)
	err = s.approve(ctx, h, &o, approved)
	return o, err
}

func (s *Server) makeOrder(h Holder, list []cert.Name, now time.Time) Order {
	o := Order{ID: uid.New(uid.Order, s.Site, now), Account: h.ID, Scope: h.Scope, Names: list, Expires: now.Add(orderLife)}
	for _, n := range list {
		o.Authorizations = append(o.Authorizations, s.makeAuthorization(h, n, now))
	}
	return o
}

// refused records that names were refused, within bounds, and returns the problem.
func (s *Server) refused(ctx context.Context, h Holder, p *Problem) error {
	if p.Type == Malformed {
		return p
	}
	var facts []audit.Fact
	for _, sub := range p.Subproblems {
		if !s.doorstep.Tell(h.Caller().Actor, s.Now()) {
			break
		}
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
	if r, ok := errors.AsType[*policy.Refusal](err); ok { // it is suspended
		return problem(Unauthorized, "%s", r)
	}
	return fmt.Errorf("reading scope %s: %w", scope, err)
}

// Order returns an order of h.
func (s *Server) Order(ctx context.Context, h Holder, id uid.UID) (Order, error) {
	if id.Kind() != uid.Order {
		return Order{}, notFound("order")
	}
	o, err := s.Store.Order(ctx, id)
	if errors.Is(err, ErrNotFound) {
		o, err = s.longAgo(ctx, id)
	}
	if errors.Is(err, ErrNotFound) || err == nil && o.Account != h.ID {
		return Order{}, notFound("order")
	}
	if err != nil {
		return Order{}, fmt.Errorf("reading order %s: %w", id, err)
	}
	err = s.stars(ctx, &o)
	return o, err
}

// Authorization returns an authorization of h.
func (s *Server) Authorization(ctx context.Context, h Holder, id uid.UID) (Authorization, error) {
	return s.stored(ctx, h, id)
}
