package acme

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// What is limited (RFC 8555 §6.6).
const (
	AccountsPerAddress limit.Name = "acme-accounts-per-address"
	AccountsPerScope   limit.Name = "acme-accounts-per-scope"
	OrdersPerAccount   limit.Name = "acme-orders-per-account"
	OrdersPerScope     limit.Name = "acme-orders-per-scope"
	OrdersPerName      limit.Name = "acme-orders-per-name"
	ClaimsPerAccount   limit.Name = "acme-authorizations-per-account"
	ChangesPerAccount  limit.Name = "acme-changes-per-account"
	FailuresPerName    limit.Name = "acme-failures-per-name"
)

// LimitsDefined returns the limits of ACME with the rates that hold where no scope has its own. They are generous: they stop
// a client gone wild, and are not meant to be met by one that works.
func LimitsDefined() []limit.Definition {
	return []limit.Definition{
		{Name: AccountsPerAddress, Rate: limit.Rate{Count: 500, Per: time.Hour}, About: "new accounts from one address (of IPv6: one /64) in one scope"},
		{Name: AccountsPerScope, Rate: limit.Rate{Count: 5000, Per: time.Hour}, About: "new accounts in one scope"},
		{Name: OrdersPerAccount, Rate: limit.Rate{Count: 20_000, Per: time.Hour}, About: "new orders of one account"},
		{Name: OrdersPerScope, Rate: limit.Rate{Count: 100_000, Per: time.Hour}, About: "new orders in one scope"},
		{Name: OrdersPerName, Rate: limit.Rate{Count: 300, Per: time.Hour}, About: "new orders of one account for one name, and finalized ones in one scope, those that replace a certificate excepted"},
		{Name: ClaimsPerAccount, Rate: limit.Rate{Count: 20_000, Per: time.Hour}, About: "authorizations that one account asks for without an order"},
		{Name: ChangesPerAccount, Rate: limit.Rate{Count: 100, Per: time.Hour}, About: "changes of one account's contacts and key"},
		{Name: FailuresPerName, Rate: limit.Rate{Count: 60, Per: time.Hour}, About: "failed validations of one name by one account"},
	}
}

// Limits counts uses of what is limited, across all replicas.
type Limits interface {
	// Take counts every charge, or returns a *limit.Exceeded: then some may have been counted. It never allows more than a
	// rate does, whichever replicas are asked.
	Take(ctx context.Context, charges ...limit.Charge) error
	// Rate returns how much of a limit scope may have.
	Rate(ctx context.Context, l limit.Name, scope identity.Scope) (limit.Rate, error)
}

// take counts charges of who. What exceeds a limit is a fact and a refusal.
func (s *Server) take(ctx context.Context, who identity.Caller, charges ...limit.Charge) error {
	if s.Limits == nil || len(charges) == 0 {
		return nil
	}
	err := s.Limits.Take(ctx, charges...)
	var e *limit.Exceeded
	if !errors.As(err, &e) {
		if err != nil {
			return fmt.Errorf("counting against limits: %w", err)
		}
		return nil
	}
	f := audit.Fact{At: s.Now(), Who: who, Scope: e.Scope, What: audit.Limited, Refused: true, Subject: e.Subject, Why: string(e.Limit) + " " + e.Rate.String()}
	if s.doorstep.Tell(cmp.Or(who.Actor, network(who.Remote).String()), s.Now()) { // whoever goes on asking writes no more
		if err := s.Store.Note(ctx, f); err != nil {
			return fmt.Errorf("recording a refusal: %w", err)
		}
	}
	p := problem(RateLimited, "%s (RFC 8555 §6.6)", e)
	p.RetryAfter, p.Limit = e.Wait, e.Limit
	return p
}

// limitAccount counts a new account.
func (s *Server) limitAccount(ctx context.Context, who identity.Caller) error {
	charges := []limit.Charge{{Limit: AccountsPerScope, Scope: who.Scope, Subject: who.Scope.String()}}
	if who.Remote.IsValid() {
		charges = append(charges, limit.Charge{Limit: AccountsPerAddress, Scope: who.Scope, Subject: who.Scope.String() + " " + network(who.Remote).String()})
	}
	return s.take(ctx, who, charges...)
}

// network is what counts as one address: of IPv6, one host has a whole /64.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}

// limitOrder counts an order of h about to be recorded, and sees that none of its names failed validation too often. What
// replaces a certificate is expected, and its names are not counted (RFC 9773 §5 lets a server favour it). Names count for h
// alone: whoever has proved nothing takes nothing from others.
func (s *Server) limitOrder(ctx context.Context, h Holder, o Order) error {
	if s.Limits == nil {
		return nil
	}
	charges := make([]limit.Charge, 0, 2+2*len(o.Names))
	charges = append(charges,
		limit.Charge{Limit: OrdersPerAccount, Scope: h.Scope, Subject: h.ID.String()},
		limit.Charge{Limit: OrdersPerScope, Scope: h.Scope, Subject: h.Scope.String()})
	for _, n := range o.Names {
		if o.Replaces.IsZero() {
			charges = append(charges, limit.Charge{Limit: OrdersPerName, Scope: h.Scope, Subject: h.ID.String() + " " + n.String()})
		}
		c := failure(h.ID, h.Scope, n)
		c.Peek = true
		charges = append(charges, c)
	}
	return s.take(ctx, h.Caller(), charges...)
}

// limitNames counts the names of o, which h has proved and finalizes, for the whole scope.
func (s *Server) limitNames(ctx context.Context, h Holder, o Order) error {
	if s.Limits == nil || !o.Replaces.IsZero() {
		return nil
	}
	charges := make([]limit.Charge, len(o.Names))
	for i, n := range o.Names {
		charges[i] = limit.Charge{Limit: OrdersPerName, Scope: h.Scope, Subject: h.Scope.String() + " " + n.String()}
	}
	return s.take(ctx, h.Caller(), charges...)
}

// limitClaim counts an authorization of h that is asked for without an order.
func (s *Server) limitClaim(ctx context.Context, h Holder, n cert.Name) error {
	c := failure(h.ID, h.Scope, n)
	c.Peek = true
	return s.take(ctx, h.Caller(), limit.Charge{Limit: ClaimsPerAccount, Scope: h.Scope, Subject: h.ID.String()}, c)
}

// limitChange counts a change of h's account: each is a fact. Deactivating is none.
func (s *Server) limitChange(ctx context.Context, h Holder) error {
	return s.take(ctx, h.Caller(), limit.Charge{Limit: ChangesPerAccount, Scope: h.Scope, Subject: h.ID.String()})
}

// limitTry sees that h did not fail to prove n too often: orders made in advance are as many tries.
func (s *Server) limitTry(ctx context.Context, h Holder, n cert.Name) error {
	c := failure(h.ID, h.Scope, n)
	c.Peek = true
	return s.take(ctx, h.Caller(), c)
}

// failure is what one failed validation of n counts against.
func failure(account uid.UID, scope identity.Scope, n cert.Name) limit.Charge {
	return limit.Charge{Limit: FailuresPerName, Scope: scope, Subject: account.String() + " " + n.String()}
}

// failed counts a failed validation. That the rate is exceeded already is told to the next order.
func (s *Server) failed(ctx context.Context, account uid.UID, scope identity.Scope, n cert.Name) error {
	if s.Limits == nil {
		return nil
	}
	err := s.Limits.Take(ctx, failure(account, scope, n))
	var e *limit.Exceeded
	if errors.As(err, &e) {
		return nil
	}
	return err
}
