package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"crypto/x509"
	"net/netip"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// A Schedule rotates issuing authorities by themselves. Roots are never: who keeps trust stores has to know of them.
type Schedule struct {
	Every   time.Duration // an authority signs for so long; zero: there is no schedule
	Publish time.Duration // its successor is published for so long before
	Spread  time.Duration // what it signed is renewed over so long after; zero is DefaultSpread
}

// Rotate does what is due by a schedule: it prepares the successor of an authority that is soon to sign no more, activates it when it
// is time, and retires what has signed nothing that is valid any more. It is a duty's work and may be repeated. Under an offline root,
// successors are imported; then it activates and retires those.
func (a *CA) Rotate(ctx context.Context, s Schedule) error {
	if s.Every == 0 {
		return nil
	}
	who := identity.System("rotation")
	var errs []error
	for _, auth := range a.Authorities() {
		var err error
		switch {
		case auth.parent == nil:
		case auth.State == Active:
			err = a.succeed(ctx, who, auth, s)
		case auth.State == Retiring:
			err = a.retireIdle(ctx, who, auth)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rotating authority %s: %w", auth.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *CA) succeed(ctx context.Context, who identity.Caller, auth *Authority, s Schedule) error {
	now, ends := a.Now(), auth.Since.Add(s.Every)
	if now.Before(ends.Add(-s.Publish)) {
		return nil
	}
	next := a.prepared(auth)
	if next == nil {
		if root, err := a.authorities.Load().signing(Root, identity.Platform); err != nil || root.Offline() {
			return errors.Join(err, errors.New("its root is offline: request, sign and import its successor"))
		}
		_, err := a.PrepareFor(ctx, who, like(auth))
		return err
	}
	if now.Before(ends) || now.Before(next.Since.Add(s.Publish)) {
		return nil
	}
	_, err := a.Activate(ctx, who, next.Name, s.Spread)
	return err
}

// prepared returns an authority that may take the place of auth.
func (a *CA) prepared(auth *Authority) *Authority {
	for _, v := range a.Authorities() {
		if v.State == Prepared && v.Purpose == auth.Purpose && v.Scope == auth.Scope {
			return v
		}
	}
	return nil
}

// like asks for an authority like one that is there: its kind of key, its scope and its constraints.
func like(auth *Authority) Preparation {
	p := Preparation{Purpose: auth.Purpose, Permitted: constraintsOf(auth.Certificate)}
	if !auth.Scope.IsPlatform() {
		p.Scope = auth.Scope
	}
	if alg, err := kms.AlgorithmOf(auth.Certificate.PublicKey); err == nil {
		p.Algorithm = alg
	}
	return p
}

// constraintsOf reads name constraints back; nil is none.
func constraintsOf(x *x509.Certificate) *lint.Permitted {
	if !x.PermittedDNSDomainsCritical {
		return nil
	}
	p := &lint.Permitted{DNS: x.PermittedDNSDomains}
	for _, u := range x.PermittedURIDomains {
		if u != "invalid" { // it stands for none
			p.URI = append(p.URI, u)
		}
	}
	for _, r := range x.PermittedIPRanges {
		if addr, ok := netip.AddrFromSlice(r.IP); ok {
			ones, _ := r.Mask.Size()
			p.IP = append(p.IP, netip.PrefixFrom(addr, ones))
		}
	}
	return p
}

// retireIdle retires an authority if nothing that it signed is valid. That something is, is no refusal worth a fact.
func (a *CA) retireIdle(ctx context.Context, who identity.Caller, auth *Authority) error {
	alive, err := a.Ledger.Alive(ctx, auth.ID, a.Now())
	if err != nil || alive {
		return err
	}
	_, err = a.Retire(ctx, who, auth.Name)
	if _, refused := errors.AsType[*policy.Refusal](err); refused {
		return nil // something became valid meanwhile
	}
	return err
}
