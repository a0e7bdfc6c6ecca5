package acme

import (
	"context"

	"codeberg.org/dataverket/segl/internal/cert"
)

// mayClaim sees that h may ask for an authorization by itself. Whether it may order the name is decided when it does.
func (s *Server) mayClaim(ctx context.Context, h Holder, n cert.Name) error {
	if err := s.agrees(ctx, h); err != nil {
		return err
	}
	if _, err := s.key(ctx, h); err != nil {
		return err
	}
	return s.limitClaim(ctx, h, n)
}

// extend sees that h may make order o, whose names the scope may have, and gives it what ask says besides names: from the
// reading refusals to the counting ones, and last what is recorded before the order itself. It returns which of o's
// authorizations need no proof.
func (s *Server) extend(ctx context.Context, h Holder, ask NewOrder, o *Order) ([]int, error) {
	if err := s.agrees(ctx, h); err != nil {
		return nil, err
	}
	var err error
	if isDevice(o.Names) {
		o.Profile, err = s.deviceOrder(h.Scope, o.Names, ask.Profile)
	} else {
		o.Profile, err = s.choose(ctx, h.Scope, ask.Profile)
	}
	if err != nil {
		return nil, err
	}
	if err := s.renews(o, ask); err != nil {
		return nil, err
	}
	if err := s.date(o, ask); err != nil {
		return nil, err
	}
	key, err := s.key(ctx, h)
	if err != nil {
		return nil, err
	}
	if err := s.within(ctx, h, key, *o); err != nil {
		return nil, err
	}
	if o.Replaces, err = s.predecessor(ctx, h, ask.Replaces, o.Names); err != nil {
		return nil, err
	}
	if err := s.limitOrder(ctx, h, *o); err != nil {
		return nil, err
	}
	if !o.Replaces.IsZero() {
		if err := s.replace(ctx, o.Replaces.Serial, o.ID); err != nil {
			return nil, err
		}
	}
	return key.spares(*o)
}
