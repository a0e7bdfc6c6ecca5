package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Revocation asks that a certificate end (RFC 8555 §7.6).
type Revocation struct {
	Certificate []byte // DER
	Reason      int    // a CRLReason (RFC 5280 §5.3.1)
}

// RevokeByAccount revokes a certificate that h's account ordered, or whose names it has all proved to control.
func (s *Server) RevokeByAccount(ctx context.Context, h Holder, r Revocation) error {
	c, why, err := s.revocable(ctx, h.Scope, r)
	if err != nil {
		return err
	}
	ok, err := s.ordered(ctx, h, c)
	if err == nil && !ok {
		ok, err = s.controls(ctx, h, c)
	}
	if err != nil {
		return err
	}
	if !ok {
		return foreign()
	}
	return s.revoke(ctx, h.Caller(), c, why)
}

// ordered reports whether h's account ordered c.
func (s *Server) ordered(ctx context.Context, h Holder, c ca.Certificate) (bool, error) {
	if c.Origin.Kind() != uid.Order {
		return false, nil
	}
	owner, err := s.Store.OrderAccount(ctx, c.Origin)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading order %s: %w", c.Origin, err)
	}
	return owner == h.ID, nil
}

// controls reports whether h's account "holds authorizations for all of the identifiers in the certificate" (RFC 8555 §7.6),
// valid now.
func (s *Server) controls(ctx context.Context, h Holder, c ca.Certificate) (bool, error) {
	if len(c.Names) == 0 {
		return false, nil
	}
	for _, n := range c.Names {
		if n.Kind() != cert.DNS && n.Kind() != cert.IP { // an identity is nobody's to prove by ACME
			return false, nil
		}
	}
	found, err := s.proofs(ctx, h.ID, c.Names, s.Now())
	if err != nil {
		return false, err
	}
	for _, n := range c.Names {
		if _, ok := found[n]; !ok {
			return false, nil
		}
	}
	return true, nil
}

// RevokeByKey revokes a certificate of who's scope for whoever has its private key, shown by the signature of the request.
func (s *Server) RevokeByKey(ctx context.Context, who identity.Caller, key crypto.PublicKey, r Revocation) error {
	c, why, err := s.revocable(ctx, who.Scope, r)
	if err != nil {
		return err
	}
	if id, err := cert.KeyIDOf(key); err != nil || id != c.Key {
		return foreign()
	}
	who.Actor, who.Serial = "certificate:"+c.Serial.String(), c.Serial
	return s.revoke(ctx, who, c, why)
}

// foreign: RFC 8555 §7.6 lets the account that ordered, one that has proved all its names, and the certificate's key revoke;
// anybody else is unauthorized.
func foreign() *Problem {
	return problem(Unauthorized, "neither the account that ordered the certificate, nor one with valid authorizations for all its names, nor its key signed this: sign with one of them (RFC 8555 §7.6)")
}

// revocable finds the certificate and reads the reason.
func (s *Server) revocable(ctx context.Context, scope identity.Scope, r Revocation) (ca.Certificate, cert.Reason, error) {
	gone := notFound("certificate")
	x, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return ca.Certificate{}, 0, problem(Malformed, `"certificate" is not a certificate in DER (RFC 8555 §7.6)`)
	}
	serial, err := cert.SerialFromInt(x.SerialNumber)
	if err != nil {
		return ca.Certificate{}, 0, gone
	}
	c, err := s.Issuer.Certificate(ctx, serial)
	if errors.Is(err, ca.ErrNotFound) || err == nil && (!bytes.Equal(c.DER, r.Certificate) || c.Scope != scope) {
		return ca.Certificate{}, 0, gone // a certificate with our serial and other bytes is not ours
	}
	if err != nil {
		return ca.Certificate{}, 0, fmt.Errorf("reading certificate %s: %w", serial, err)
	}
	why, err := cert.ReasonFromCode(r.Reason)
	if err != nil {
		return ca.Certificate{}, 0, problem(BadRevocationReason, "%s", err)
	}
	if !why.Subscriber() {
		return ca.Certificate{}, 0, problem(BadRevocationReason, "reason %s is for operators: use 0, 1, 3, 4 or 5 (RFC 5280 §5.3.1)", why)
	}
	return c, why, nil
}

func (s *Server) revoke(ctx context.Context, who identity.Caller, c ca.Certificate, why cert.Reason) error {
	if err := s.revocableTerm(ctx, c); err != nil {
		return err
	}
	_, err := s.Issuer.Revoke(ctx, who, c.Serial, why)
	switch {
	case errors.Is(err, ca.ErrAlreadyRevoked):
		// RFC 8555 §7.6: "If the certificate has already been revoked, the server returns an error response with status code
		// 400 … and type "urn:ietf:params:acme:error:alreadyRevoked"."
		return problem(AlreadyRevoked, "certificate %s was revoked before", c.Serial)
	case err != nil:
		return fmt.Errorf("revoking certificate %s: %w", c.Serial, err)
	}
	return nil
}
