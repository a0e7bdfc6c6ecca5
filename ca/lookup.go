package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Certificate returns an issued certificate, or ErrNotFound: an intent that was never signed is no certificate.
func (a *CA) Certificate(ctx context.Context, s cert.Serial) (Certificate, error) {
	rec, err := a.Ledger.BySerial(ctx, s)
	if err != nil {
		return Certificate{}, err
	}
	if rec.Signature == nil {
		return Certificate{}, ErrNotFound
	}
	return a.certificate(rec)
}

// ByOrigin returns the certificate of an origin. ErrNotFound: it has none and none is coming. ErrInProgress: it is being made.
func (a *CA) ByOrigin(ctx context.Context, o Origin) (Certificate, error) {
	rec, err := a.Ledger.ByOrigin(ctx, o.ID)
	switch {
	case err != nil:
		return Certificate{}, err
	case rec.Abandoned:
		return Certificate{}, ErrNotFound
	case rec.Signature == nil:
		return Certificate{}, ErrInProgress
	}
	return a.certificate(rec)
}

// A Selection is a page of certificates: see Page.
type Selection struct {
	Certificates []Certificate
	Next         Cursor
	More         bool
}

// Select returns issued certificates for who: those of its own scope and below, or anywhere for an operator.
func (a *CA) Select(ctx context.Context, who identity.Caller, q Query) (Selection, error) {
	at := q.Scope
	if at.IsZero() {
		at = identity.Platform
	}
	if !access.May(who, access.ReadCertificates, at) {
		return Selection{}, ErrNotFound
	}
	p, err := a.Ledger.Select(ctx, q)
	if err != nil {
		return Selection{}, fmt.Errorf("listing certificates of %s: %w", q.Scope, err)
	}
	out := Selection{Certificates: make([]Certificate, 0, len(p.Records)), Next: p.Next, More: p.More}
	for _, rec := range p.Records {
		c, err := a.certificate(rec)
		if err != nil {
			return Selection{}, err
		}
		out.Certificates = append(out.Certificates, c)
	}
	return out, nil
}

// AuthorityNamed returns the number of the authority called name, or ErrNotFound.
func (a *CA) AuthorityNamed(name string) (int, error) {
	for _, v := range a.Authorities() {
		if v.Name == name {
			return v.ID, nil
		}
	}
	return 0, ErrNotFound
}

// certificate puts a completed record together again: a certificate is its TBS bytes plus its signature.
func (a *CA) certificate(rec Record) (Certificate, error) {
	auth, ok := a.authorities.Load().byID[rec.Authority]
	if !ok {
		return Certificate{}, fmt.Errorf("certificate %s: its authority %d is not loaded", rec.Serial, rec.Authority)
	}
	der, err := tbs.Assemble(rec.TBS, auth.algorithm, rec.Signature)
	if err != nil {
		return Certificate{}, fmt.Errorf("assembling certificate %s: %w", rec.Serial, err)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fmt.Errorf("reading certificate %s from the ledger: %w", rec.Serial, err)
	}
	return Certificate{
		Serial: rec.Serial, Scope: rec.Scope, Profile: rec.Profile, Authority: auth.Name, NotBefore: x.NotBefore, NotAfter: x.NotAfter,
		Names: namesOf(x), Role: x.Subject.CommonName, Key: sha256.Sum256(x.RawSubjectPublicKeyInfo), IssuedAt: rec.At,
		DER: der, Chain: auth.chain, Root: auth.root, Crosses: auth.crosses, Origin: rec.Origin.ID, Revoked: rec.Revoked,
	}, nil
}

// namesOf reads back the names of a certificate we made. Their spelling was checked before they were signed.
func namesOf(x *x509.Certificate) []cert.Name {
	var names []cert.Name
	add := func(n cert.Name, err error) {
		if err == nil {
			names = append(names, n)
		}
	}
	for _, u := range x.URIs {
		add(cert.ParseURI(u.String()))
	}
	for _, d := range x.DNSNames {
		add(cert.ParseDNS(d))
	}
	for _, ip := range x.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			add(cert.IPName(addr), nil)
		}
	}
	return names
}

// fresh is the certificate just issued, without reading it back.
func (a *CA) fresh(pl plan, v tbs.Values, in Intent, done Completion) (Certificate, error) {
	der, err := tbs.Assemble(in.TBS, pl.authority.algorithm, done.Signature)
	if err != nil {
		return Certificate{}, fmt.Errorf("assembling certificate %s: %w", in.Serial, err)
	}
	return Certificate{
		Serial: in.Serial, Scope: in.Scope, Profile: in.Profile, Authority: pl.authority.Name, NotBefore: v.NotBefore.UTC(), NotAfter: v.NotAfter.UTC(),
		Names: pl.names, Role: pl.role, Key: in.Key, IssuedAt: done.At.Truncate(time.Microsecond), DER: der, Chain: pl.authority.chain, Root: pl.authority.root, Crosses: pl.authority.crosses, Origin: in.Origin.ID,
	}, nil
}
