package acme

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Finalize asks for the certificate of h's order id with a PKCS #10 request in DER (RFC 8555 §7.4). The order returned is
// valid, or processing when the certificate will come later. The same key asked again gets the same order.
func (s *Server) Finalize(ctx context.Context, h Holder, id uid.UID, csr []byte) (Order, error) {
	o, known := s.memory.proved(id, h.ID) // whether somebody finalized it meanwhile, the claim below tells
	if !known {
		var err error
		if o, err = s.Order(ctx, h, id); err != nil {
			return Order{}, err
		}
	}
	req, err := s.request(o, h, csr)
	if err != nil {
		return Order{}, err
	}
	if o.Finalization != nil {
		return again(o, req)
	}
	if status := o.Status(s.Now()); status != Ready {
		// RFC 8555 §7.4: "A request to finalize an order will result in error if the order is not in the "ready" state."
		return Order{}, problem(OrderNotReady, "the order is %s, not ready: see its authorizations", status)
	}
	if err := s.permit(ctx, h, o); err != nil {
		return Order{}, err
	}
	f := Finalization{At: s.Now().UTC().Truncate(time.Microsecond), Key: req.Key, SPKI: req.SPKI, KeyID: req.KeyID}
	// 1. Claim. From here the order is processing, for this key, whatever we return.
	did, err := s.Store.Finalize(ctx, o.ID, f)
	switch {
	case err != nil:
		return Order{}, fmt.Errorf("finalizing order %s: %w", o.ID, err)
	case did.KeyOfAccount:
		return Order{}, accountKey()
	case !did.Claimed: // somebody else did, at the same time
		if o, err = s.Order(ctx, h, id); err != nil {
			return Order{}, err
		}
		return again(o, req)
	}
	o.Finalization = &f
	// 2. Issue, even if the client has gone: it will come back for the certificate.
	return s.issue(context.WithoutCancel(ctx), h.Caller(), o)
}

// again answers a finalization that is not the first: the same to the same key, nothing to another.
func again(o Order, req cert.Request) (Order, error) {
	if o.Finalization == nil || !bytes.Equal(o.Finalization.SPKI, req.SPKI) {
		return Order{}, problem(OrderNotReady, "the order was finalized with another key: make a new order (RFC 8555 §7.4)")
	}
	return o, nil
}

// request reads a certificate request and compares it with the order.
func (s *Server) request(o Order, h Holder, csr []byte) (cert.Request, error) {
	req, err := cert.ParseRequest(csr)
	if err != nil {
		return cert.Request{}, problem(BadCSR, "%s", err)
	}
	if req.KeyID == h.KeyID {
		return cert.Request{}, accountKey()
	}
	if err := sameNames(o.Names, req); err != nil {
		return cert.Request{}, err
	}
	return req, nil
}

// accountKey: RFC 8555 §11.1 advises against one key for both, since what signs requests would also sign handshakes.
func accountKey() *Problem {
	return problem(BadCSR, "the key is an account's: make another one for the certificate (RFC 8555 §11.1)")
}

// sameNames: RFC 8555 §7.4: "The CSR MUST indicate the exact same set of requested identifiers as the initial newOrder
// request. Identifiers of type "dns" MUST appear either in the commonName portion of the requested subject name or in an
// extensionRequest attribute requesting a subjectAltName extension, or both."
func sameNames(ordered []cert.Name, req cert.Request) error {
	asked := make(map[cert.Name]bool, len(req.Names)+1)
	for _, n := range req.Names {
		asked[n] = true
	}
	if cn := req.CommonName; cn != "" {
		n, err := cert.ParseDNS(cn)
		if ip, ipErr := cert.ParseIP(cn); ipErr == nil && asked[ip] { // some clients repeat the address there
			n, err = ip, nil
		}
		if err != nil {
			return problem(BadCSR, "its common name is not one of the order's names: leave it out (RFC 8555 §7.4): %s", err)
		}
		asked[n] = true
	}
	for _, n := range ordered {
		if !asked[n] {
			return problem(BadCSR, "it lacks %s, which was ordered (RFC 8555 §7.4)", n)
		}
		delete(asked, n)
	}
	for n := range asked {
		return problem(BadCSR, "it has %s, which was not ordered (RFC 8555 §7.4)", n)
	}
	return nil
}

// issue makes the certificate of a claimed order. What will never succeed fails the order; what may is left processing,
// for Recover.
func (s *Server) issue(ctx context.Context, who identity.Caller, o Order) (Order, error) {
	f := o.Finalization
	c, err := s.Issuer.Issue(ctx, who, ca.Request{
		Scope: o.Scope, Profile: o.Profile, Origin: ca.Origin{ID: o.ID}, Replaces: o.Replaces.Serial,
		NotBefore: o.NotBefore, NotAfter: o.NotAfter,
		CSR: cert.Request{Key: f.Key, KeyID: f.KeyID, SPKI: f.SPKI, Names: o.Names},
	})
	if err == nil {
		s.recent.put(o.ID, o.Account, c)
		o.Certificate = c.Serial
		return o, nil
	}
	p := refusal(err)
	switch {
	case p == nil && errors.Is(err, ca.ErrInProgress):
		return o, nil
	case p == nil && s.Now().Before(o.Expires):
		s.Log.Error("order not issued yet", "order", o.ID.String(), "err", err)
		return o, nil
	case p == nil:
		s.Log.Error("order given up", "order", o.ID.String(), "err", err)
		p = problem(ServerInternal, "the certificate could not be made before the order expired: make a new order")
	}
	return s.fail(ctx, o, p)
}

// fail records that o will have no certificate.
func (s *Server) fail(ctx context.Context, o Order, p *Problem) (Order, error) {
	if err := s.Store.Fail(ctx, o.ID, s.Now(), p); err != nil {
		return Order{}, fmt.Errorf("recording that order %s failed: %w", o.ID, err)
	}
	o.Failure = p
	return o, nil
}

// refusal returns the problem for an error that asking again will not change, else nil.
func refusal(err error) *Problem {
	var r *policy.Refusal
	switch {
	case errors.As(err, &r):
		return problem(RejectedIdentifier, "%s", r)
	case errors.Is(err, ca.ErrKeyBlocked):
		return problem(BadCSR, "%s", ca.ErrKeyBlocked)
	}
	return nil
}

// Recover issues orders that were finalized and got neither certificate nor failure: their replica died, or issuing failed
// for a while. It is a duty's work.
func (s *Server) Recover(ctx context.Context) error {
	const limit = 100
	orders, err := s.Store.Unissued(ctx, s.Now().Add(-ca.DefaultAbandonAfter), limit)
	if err != nil {
		return fmt.Errorf("looking for orders without a certificate: %w", err)
	}
	for _, o := range orders {
		if o.Orphan {
			if _, err := s.fail(ctx, o, deactivated()); err != nil {
				return err
			}
			continue
		}
		h := Holder{Account: Account{ID: o.Account, Scope: o.Scope}}
		if ok, err := s.permitLate(ctx, h, o); err != nil {
			return err
		} else if !ok {
			continue
		}
		if _, err := s.issue(ctx, h.Caller(), o); err != nil {
			return err
		}
	}
	return nil
}

// Sweep removes what is of no use any more. It is a duty's work.
func (s *Server) Sweep(ctx context.Context) error {
	if err := s.Store.Sweep(ctx); err != nil {
		return fmt.Errorf("sweeping spent nonces: %w", err)
	}
	return nil
}
