package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A CertID names a certificate as its holders can tell it without asking anybody (RFC 9773 §4.1).
type CertID struct {
	KeyID  []byte // the keyIdentifier of its authority key identifier
	Serial cert.Serial
}

// ParseCertID reads the text form: the key identifier in base64url, a period, and the octets of the serial number in
// base64url, neither padded (RFC 9773 §4.1). It has one spelling.
func ParseCertID(s string) (CertID, error) {
	refuse := fmt.Errorf("certificate identifier %.80q: want base64url(key identifier of its issuer) . base64url(serial), unpadded (RFC 9773 §4.1)", s)
	left, right, ok := strings.Cut(s, ".")
	key, err := base64.RawURLEncoding.Strict().DecodeString(left)
	if err != nil || !ok || len(key) == 0 || strings.ContainsAny(s, "\r\n") {
		return CertID{}, refuse
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(right)
	if err != nil {
		return CertID{}, refuse
	}
	// Our serials begin 10 (hex), so DER puts no octet before them (RFC 5280 §4.1.2.2).
	serial, err := cert.SerialFromBytes(raw)
	if err != nil {
		return CertID{}, fmt.Errorf("certificate identifier %.80q: not of a certificate of this service", s)
	}
	return CertID{key, serial}, nil
}

// IsZero reports whether id names nothing.
func (id CertID) IsZero() bool { return id.Serial.IsZero() }

// String returns what ParseCertID reads.
func (id CertID) String() string {
	return base64.RawURLEncoding.EncodeToString(id.KeyID) + "." + base64.RawURLEncoding.EncodeToString(id.Serial.Bytes())
}

// RenewalInfo returns when the certificate of scope that id names is best renewed (RFC 9773 §4.2). Anybody may ask: it says
// little more than who sees the certificate can compute, and what we want all holders to know.
func (s *Server) RenewalInfo(ctx context.Context, scope identity.Scope, id string) (ca.RenewalInfo, error) {
	c, err := s.named(ctx, scope, id)
	if err != nil {
		return ca.RenewalInfo{}, err
	}
	info, err := s.Issuer.RenewalInfo(ctx, c.Serial)
	if errors.Is(err, ca.ErrNotFound) {
		return ca.RenewalInfo{}, notFound("certificate")
	}
	if err != nil {
		return ca.RenewalInfo{}, fmt.Errorf("computing when to renew %s: %w", c.Serial, err)
	}
	return info, nil
}

// named finds the certificate of scope that text names.
func (s *Server) named(ctx context.Context, scope identity.Scope, text string) (ca.Certificate, error) {
	id, err := ParseCertID(text)
	if err != nil {
		return ca.Certificate{}, problem(Malformed, "%s", err)
	}
	c, err := s.Issuer.Certificate(ctx, id.Serial)
	if errors.Is(err, ca.ErrNotFound) || err == nil && c.Scope != scope {
		return ca.Certificate{}, notFound("certificate")
	}
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading certificate %s: %w", id.Serial, err)
	}
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading certificate %s: %w", id.Serial, err)
	}
	if !bytes.Equal(leaf.AuthorityKeyId, id.KeyID) {
		return ca.Certificate{}, notFound("certificate")
	}
	return c, nil
}

// Replacements keeps which order may replace which certificate.
type Replacements interface {
	// Replace gives certificate s to order if no order or only was has it, and returns which one has it then.
	Replace(ctx context.Context, s cert.Serial, order, was uid.UID) (uid.UID, error)
}

// predecessor returns the certificate that a new order of h for names says it replaces (RFC 9773 §5).
func (s *Server) predecessor(ctx context.Context, h Holder, text string, names []cert.Name) (CertID, error) {
	if text == "" {
		return CertID{}, nil
	}
	c, err := s.named(ctx, h.Scope, text)
	if err == nil {
		err = s.own(ctx, h, c)
	}
	var p *Problem
	if errors.As(err, &p) {
		return CertID{}, problem(Malformed, `"replaces": %s`, p.Detail)
	}
	if err != nil {
		return CertID{}, err
	}
	// RFC 9773 §5 lets servers check that both are of one account and share an identifier. We always do.
	if !slices.ContainsFunc(names, func(n cert.Name) bool { return slices.Contains(c.Names, n) }) {
		return CertID{}, problem(Malformed, `"replaces": certificate %s has none of the order's identifiers: name the one it succeeds, or leave it out (RFC 9773 §5)`, c.Serial)
	}
	return ParseCertID(text)
}

// own refuses a certificate that another account ordered, as if it were not there.
func (s *Server) own(ctx context.Context, h Holder, c ca.Certificate) error {
	order := c.Origin
	if order.Kind() != uid.Order {
		return notFound("certificate")
	}
	owner, err := s.Store.OrderAccount(ctx, order)
	if errors.Is(err, ErrNotFound) || err == nil && owner != h.ID {
		return notFound("certificate")
	}
	if err != nil {
		return fmt.Errorf("reading order %s: %w", order, err)
	}
	return nil
}

// An order claims its predecessor before it is recorded itself. One that was not recorded this long after it was named never
// will be: no request takes that long.
const unrecorded = 5 * time.Minute

// replace claims certificate c for order, which is about to be recorded: RFC 9773 §5 has no other order that is not invalid
// replace it.
func (s *Server) replace(ctx context.Context, c cert.Serial, order uid.UID) error {
	const tries = 3 // each after another order lost its claim to somebody else meanwhile
	var was uid.UID
	for range tries {
		has, err := s.Store.Replace(ctx, c, order, was)
		if err != nil {
			return fmt.Errorf("recording that order %s replaces %s: %w", order, c, err)
		}
		if has == order {
			return nil
		}
		given, err := s.givenUp(ctx, has)
		if err != nil {
			return err
		}
		if !given {
			break
		}
		was = has
	}
	return problem(AlreadyReplaced, "another order replaces certificate %s: use that one, or order without \"replaces\" (RFC 9773 §5)", c)
}

// givenUp reports whether an order will never have a certificate.
func (s *Server) givenUp(ctx context.Context, order uid.UID) (bool, error) {
	o, err := s.Store.Order(ctx, order)
	if errors.Is(err, ErrNotFound) {
		return s.Now().Sub(order.Time()) > unrecorded, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading order %s: %w", order, err)
	}
	return o.Status(s.Now()) == Invalid, nil
}
