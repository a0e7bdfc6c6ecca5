package acme

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Finalize asks for the certificate of h's order id with a PKCS #10 request in DER (RFC 8555 §7.4). The order returned is
// valid, or processing when the certificate will come later. The same key asked again gets the same order.
//
// The order is the certificate's origin, and an origin has one certificate (package ca): that is what makes many finalizations
// one, wherever they come in. Only what cannot be issued at once is written down here, for Recover.
func (s *Server) Finalize(ctx context.Context, h Holder, id uid.UID, csr []byte) (Order, error) {
	o, known := s.memory.proved(id, h.ID) // what happened to it meanwhile, the steps below find out
	if !known {
		var err error
		if o, err = s.Order(ctx, h, id); err != nil {
			return Order{}, err
		}
	}
	req, err := s.request(o, h, csr)
	if err != nil {
		return Order{}, s.turnedAway(ctx, h, audit.Fact{What: audit.Issue, Subject: "order " + o.ID.String()}, err)
	}
	if o.Finalization != nil || !o.Certificate.IsZero() {
		return s.again(ctx, o, req)
	}
	if status := o.Status(s.Now()); status != Ready {
		return Order{}, notReady(status)
	}
	if err := s.offered(ctx, o); err != nil {
		return Order{}, err
	}
	if err := s.approvalStands(ctx, h, o); err != nil {
		return Order{}, err
	}
	if err := s.permit(ctx, h, o); err != nil {
		return Order{}, err
	}
	// 1. Count, and see what other replicas may have been told, in one trip. Nothing is durable yet.
	examined := make(chan error, 1)
	go func() { examined <- s.examine(ctx, o, req) }()
	err = s.limitNames(ctx, h, o)
	if stands := <-examined; err == nil {
		err = stands
	}
	if err != nil {
		return Order{}, err
	}
	o.Finalization = &Finalization{At: s.Now().UTC().Truncate(time.Microsecond), Key: req.Key, SPKI: req.SPKI, KeyID: req.KeyID}
	// 2. Issue, even if the client has gone: it will come back for the certificate. From the intent on, the order is this key's.
	ctx = context.WithoutCancel(ctx)
	done, err := s.certify(ctx, h.Caller(), o)
	p := refusal(err)
	switch {
	case err == nil:
		return done, nil
	case p != nil:
		return s.fail(ctx, o, p)
	case errors.Is(err, ca.ErrConflict):
		return Order{}, otherKey()
	case errors.Is(err, ca.ErrInProgress):
		if c, ok := s.awaited(ctx, o); ok {
			return s.issued(o, req, c)
		}
	default:
		s.Log.Error("order not issued at once", "order", o.ID.String(), "err", err)
	}
	// 3. Claim what will be issued later. From here the order is processing, for this key, whatever we return.
	return s.claim(ctx, h, o, req)
}

// turnedAway writes f down, within bounds, as refused by why, and returns why.
func (s *Server) turnedAway(ctx context.Context, h Holder, f audit.Fact, why error) error {
	p, ok := errors.AsType[*Problem](why)
	if !ok || !s.doorstep.Tell(h.Caller().Actor, s.Now()) {
		return why
	}
	f.At, f.Who, f.Scope, f.Refused, f.Why = s.Now(), h.Caller(), h.Scope, true, p.Detail
	if err := s.Store.Note(ctx, f); err != nil {
		return fmt.Errorf("recording a refusal: %w", err)
	}
	return why
}

// notReady: RFC 8555 §7.4: "A request to finalize an order will result in error if the order is not in the "ready" state."
func notReady(status Status) *Problem {
	return problem(OrderNotReady, "the order is %s, not ready: see its authorizations", status)
}

func otherKey() *Problem {
	return problem(OrderNotReady, "the order was finalized with another key: make a new order (RFC 8555 §7.4)")
}

// examine refuses a key that is an account's, and an order that has failed, or rests on what was given up, since it was
// remembered.
func (s *Server) examine(ctx context.Context, o Order, req cert.Request) error {
	claims := make([]uid.UID, 0, len(o.Authorizations))
	for _, a := range o.Authorizations {
		claims = append(claims, a.ID)
	}
	found, err := s.Store.Examine(ctx, o.ID, req.KeyID, claims)
	switch {
	case err != nil:
		return fmt.Errorf("finalizing order %s: %w", o.ID, err)
	case found.KeyOfAccount:
		return accountKey()
	case found.Deactivated, found.Failed:
		return notReady(Invalid)
	}
	return nil
}

// claim records that o is to be issued for req's key.
func (s *Server) claim(ctx context.Context, h Holder, o Order, req cert.Request) (Order, error) {
	did, err := s.Store.Finalize(ctx, o.ID, *o.Finalization)
	switch {
	case err != nil:
		return Order{}, fmt.Errorf("finalizing order %s: %w", o.ID, err)
	case did.KeyOfAccount:
		return Order{}, accountKey()
	case did.Claimed:
		return o, nil
	}
	if o, err = s.Order(ctx, h, o.ID); err != nil { // somebody else did
		return Order{}, err
	}
	return s.again(ctx, o, req)
}

// Bounds of waiting for another finalization of the same order.
const (
	awaitTimeout = 3 * time.Second
	awaitEvery   = 20 * time.Millisecond
)

// awaited waits a little for the certificate that another request is getting for o at this moment. False: it is not there
// yet, or never will be.
func (s *Server) awaited(ctx context.Context, o Order) (ca.Certificate, bool) {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for {
		c, err := s.Issuer.ByOrigin(ctx, ca.Origin{ID: o.ID})
		if err == nil || !errors.Is(err, ca.ErrInProgress) {
			return c, err == nil
		}
		select {
		case <-ctx.Done():
			return ca.Certificate{}, false
		case <-tick.C:
		}
	}
}

// again answers a finalization that is not the first: the same to the same key, nothing to another.
func (s *Server) again(ctx context.Context, o Order, req cert.Request) (Order, error) {
	switch {
	case o.Certificate.IsZero() && (o.Finalization == nil || !bytes.Equal(o.Finalization.SPKI, req.SPKI)):
		return Order{}, otherKey()
	case o.Certificate.IsZero():
		return o, nil
	}
	c, err := s.Issuer.ByOrigin(ctx, ca.Origin{ID: o.ID})
	if err != nil {
		return Order{}, fmt.Errorf("reading the certificate of order %s: %w", o.ID, err)
	}
	return s.issued(o, req, c)
}

// issued answers with o, whose certificate is c, if that is for req's key.
func (s *Server) issued(o Order, req cert.Request, c ca.Certificate) (Order, error) {
	if c.Key != req.KeyID {
		return Order{}, otherKey()
	}
	s.recent.put(o.ID, o.Account, c)
	o.Certificate = c.Serial
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
	if isDevice(o.Names) { // draft-ietf-acme-device-attest-09 §3.2: "Clients MAY omit this identifier"
		if p := o.attested(req.KeyID); p != nil {
			return cert.Request{}, p
		}
		return req, s.deviceNames(o, req)
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

// certify makes the certificate of o.
func (s *Server) certify(ctx context.Context, who identity.Caller, o Order) (Order, error) {
	f := o.Finalization
	names, err := s.certified(o)
	if err != nil {
		return Order{}, err
	}
	if o, err = s.begin(ctx, o); err != nil {
		return Order{}, err
	}
	c, err := s.Issuer.Issue(ctx, who, ca.Request{
		Scope: o.Scope, Profile: o.Profile, Origin: ca.Origin{ID: o.ID}, Replaces: o.Replaces.Serial,
		NotBefore: o.NotBefore, NotAfter: o.NotAfter,
		CSR: cert.Request{Key: f.Key, KeyID: f.KeyID, SPKI: f.SPKI, Names: names},
	})
	if err != nil {
		return Order{}, err
	}
	s.recent.put(o.ID, o.Account, c)
	o.Certificate = c.Serial
	return o, nil
}

// issue makes the certificate of a claimed order. What will never succeed fails the order; what may is left processing,
// for the next pass.
func (s *Server) issue(ctx context.Context, who identity.Caller, o Order) error {
	_, err := s.certify(ctx, who, o)
	p := refusal(err)
	switch {
	case err == nil, errors.Is(err, ca.ErrInProgress), errors.Is(err, ca.ErrConflict): // another request's certificate is the order's
		return nil
	case p == nil && s.Now().Before(o.Expires):
		s.Log.Error("order not issued yet", "order", o.ID.String(), "err", err)
		return nil
	case p == nil:
		s.Log.Error("order given up", "order", o.ID.String(), "err", err)
		p = problem(ServerInternal, "the certificate could not be made before the order expired: make a new order")
	}
	_, err = s.fail(ctx, o, p)
	return err
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
	const page = 100
	err := s.Store.Unissued(ctx, s.Now().Add(-ca.DefaultAbandonAfter), page, func(o Order) error { return s.issueLate(ctx, o) })
	if err != nil {
		return fmt.Errorf("issuing orders without a certificate: %w", err)
	}
	return nil
}

// issueLate issues an order that was finalized and not issued at once, if nothing has come to stand against it since.
func (s *Server) issueLate(ctx context.Context, o Order) error {
	if o.Orphan {
		_, err := s.fail(ctx, o, deactivated())
		return err
	}
	a, err := s.Store.Account(ctx, o.Account)
	if err != nil {
		return fmt.Errorf("reading account %s: %w", o.Account, err)
	}
	h := Holder{Account: a}
	err = s.approvalStands(ctx, h, o)
	if p, ok := errors.AsType[*Problem](err); ok {
		_, err = s.fail(ctx, o, p)
		return err
	}
	if err != nil {
		return err
	}
	if ok, err := s.permitLate(ctx, h, o); err != nil || !ok {
		return err
	}
	return s.issue(ctx, h.Caller(), o)
}

// Sweep removes what is of no use any more. It is a duty's work.
func (s *Server) Sweep(ctx context.Context) error {
	if err := s.Store.Sweep(ctx); err != nil {
		return fmt.Errorf("sweeping spent nonces: %w", err)
	}
	if err := s.Store.Drop(ctx, uid.EpochOf(s.Now().Add(-s.Keep))-1); err != nil {
		return fmt.Errorf("dropping orders of long ago: %w", err)
	}
	return nil
}
