package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A NewAuthorization is what newAuthz asks (RFC 8555 §7.4.1).
type NewAuthorization struct {
	Identifier Identifier
	Subdomains bool // RFC 9444 §4.2
}

// NewAuthorization records a claim of h to a name before there is an order for it.
func (s *Server) NewAuthorization(ctx context.Context, h Holder, ask NewAuthorization) (Authorization, error) {
	rights, err := s.Scopes.Chain(ctx, h.Scope)
	if err != nil {
		return Authorization{}, s.noScope(h.Scope, err)
	}
	n, p := ask.name(rights)
	if p != nil {
		sub := *p
		p.Subproblems = []*Problem{sub.about(ask.Identifier)}
		return Authorization{}, s.refused(ctx, h, p)
	}
	if err := s.mayClaim(ctx, h, n); err != nil {
		return Authorization{}, err
	}
	a := s.makeAuthorization(h, n, s.Now().UTC())
	a.Subdomains = ask.Subdomains
	if err := s.Store.CreateAuthorization(ctx, a); err != nil {
		return Authorization{}, fmt.Errorf("recording authorization %s: %w", a.ID, err)
	}
	return a, nil
}

// name reads the name asked for. What covers the names below it may be asked by whoever may have those.
func (ask NewAuthorization) name(rights policy.Chain) (cert.Name, *Problem) {
	n, p := ask.Identifier.parse()
	switch {
	case p != nil:
		return cert.Name{}, p
	case n.Kind() == cert.Device:
		return cert.Name{}, problem(UnsupportedIdentifier, "a device is proved in an order alone: its statement is about the key of one certificate")
	case n.Wildcard():
		// RFC 8555 §7.4.1: "pre-authorization cannot be used to authorize issuance of certificates containing wildcard domain
		// names."
		return cert.Name{}, problem(RejectedIdentifier, "%s is a wildcard: it is authorized in an order alone (RFC 8555 §7.4.1)", n)
	case ask.Subdomains && n.Kind() != cert.DNS:
		return cert.Name{}, problem(RejectedIdentifier, "%s has no subdomains (RFC 9444 §4.2)", n)
	}
	p = allowed(rights, n)
	if wild, err := cert.ParseDNS("*." + n.Value()); p != nil && ask.Subdomains && err == nil && allowed(rights, wild) == nil {
		p = nil
	}
	return n, p
}

func (s *Server) makeAuthorization(h Holder, n cert.Name, now time.Time) Authorization {
	a := Authorization{ID: uid.New(uid.Authorization, s.Site, now), Account: h.ID, Name: n, Expires: now.Add(authorizationLife)}
	if _, err := rand.Read(a.Token[:]); err != nil {
		panic("acme: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
	}
	return a
}

// Deactivate gives authorization id of h up (RFC 8555 §7.5.2): no order may rest on it from then on.
func (s *Server) Deactivate(ctx context.Context, h Holder, id uid.UID) (Authorization, error) {
	a, err := s.stored(ctx, h, id)
	if err != nil {
		return Authorization{}, err
	}
	switch status := a.Status(s.Now()); status {
	case Deactivated:
		return a, nil
	case Pending, Valid:
	default:
		return Authorization{}, problem(Malformed, "the authorization is %s: only a pending or valid one is deactivated (RFC 8555 §7.5.2)", status)
	}
	a.Deactivated = s.Now().UTC().Truncate(time.Microsecond)
	f := audit.Fact{
		At: a.Deactivated, Who: h.Caller(), Scope: h.Scope, What: audit.AuthorizationEnded, Subject: a.Name.String(), Why: "deactivated by its holder",
	}
	if err := s.Store.Deactivate(ctx, a, f); err != nil {
		return Authorization{}, fmt.Errorf("deactivating authorization %s: %w", a.ID, err)
	}
	s.memory.forget(a.ID)
	return a, nil
}

// stored reads an authorization of h from the Store, whatever is remembered.
func (s *Server) stored(ctx context.Context, h Holder, id uid.UID) (Authorization, error) {
	if id.Kind() != uid.Authorization {
		return Authorization{}, notFound("authorization")
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
