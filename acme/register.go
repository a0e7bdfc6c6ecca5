package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Registration asks for an account, or for the one that a key has (RFC 8555 §7.3).
type Registration struct {
	Key          crypto.PublicKey // that signed the request
	Thumbprint   string           // RFC 7638, of Key
	Contact      []string
	TermsAgreed  bool
	OnlyExisting bool
	Proof        *Proof // of an external account key; nil: none is shown
}

// Register returns the account of r.Key in who's scope, and whether it is new.
func (s *Server) Register(ctx context.Context, who identity.Caller, r Registration) (Account, bool, error) {
	key, err := cert.KeyIDOf(r.Key)
	if err != nil {
		return Account{}, false, problem(BadPublicKey, "%s", err)
	}
	had, err := s.Store.AccountByKey(ctx, who.Scope, key)
	switch {
	case err == nil && had.Status() == Deactivated:
		return Account{}, false, deactivated()
	case err == nil:
		return had, false, nil // RFC 8555 §7.3.1: what the request says besides is not taken
	case !errors.Is(err, ErrNotFound):
		return Account{}, false, fmt.Errorf("looking for an account by its key: %w", err)
	case r.OnlyExisting:
		return Account{}, false, noAccount()
	}
	return s.register(ctx, who, r, key)
}

func (s *Server) register(ctx context.Context, who identity.Caller, r Registration, key cert.KeyID) (Account, bool, error) {
	if err := s.Open(ctx, who.Scope); err != nil {
		return Account{}, false, err
	}
	if p := checkContacts(r.Contact); p != nil {
		return Account{}, false, p
	}
	if s.Terms != "" && !r.TermsAgreed {
		return Account{}, false, problem(UserActionRequired, `agree to %s with "termsOfServiceAgreed": true (RFC 8555 §7.3)`, s.Terms)
	}
	eab, err := s.bind(ctx, who, r.Proof)
	if err != nil {
		return Account{}, false, err
	}
	if err := s.limitAccount(ctx, who); err != nil {
		return Account{}, false, err
	}
	now := s.Now()
	a := Account{
		ID: uid.New(uid.Account, s.Site, now), Scope: who.Scope, Key: r.Key, KeyID: key, Thumbprint: r.Thumbprint,
		Contact: r.Contact, TermsAgreed: r.TermsAgreed, Created: now,
	}
	if r.TermsAgreed {
		a.Terms = s.Terms
	}
	who.Actor = "acme:" + a.ID.String()
	f := audit.Fact{At: now, Who: who, Scope: who.Scope, What: audit.AccountCreated, Subject: a.ID.String()}
	var made bool
	if eab.ID.IsZero() {
		a, made, err = s.Store.CreateAccount(ctx, a, f)
	} else {
		a, made, err = s.bound(ctx, who, a, eab, f)
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		return Account{}, false, p
	}
	if err != nil {
		return Account{}, false, fmt.Errorf("recording account %s: %w", a.ID, err)
	}
	return a, made, nil
}

// A Change is what an account update asks (RFC 8555 §7.3.2, §7.3.6). Nil leaves things as they are.
type Change struct {
	Contact    *[]string
	Deactivate bool
	Agree      bool // to the terms as they are now (RFC 8555 §7.3.3)
}

// Update changes h's account.
func (s *Server) Update(ctx context.Context, h Holder, c Change) (Account, error) {
	a, err := s.read(ctx, h.ID) // what is remembered of contacts may be older than what another replica was told
	if err != nil {
		return Account{}, err
	}
	if c.Agree {
		if a, err = s.agree(ctx, h, a); err != nil {
			return Account{}, err
		}
	}
	now := s.Now()
	f := audit.Fact{At: now, Who: h.Caller(), Scope: h.Scope, What: audit.AccountChanged, Subject: a.ID.String()}
	switch {
	case c.Deactivate:
		a.Deactivated, f.Why = now.Truncate(time.Microsecond), "deactivated by its holder"
	case c.Contact != nil && !slices.Equal(*c.Contact, a.Contact):
		if p := checkContacts(*c.Contact); p != nil {
			return Account{}, p
		}
		if err := s.limitChange(ctx, h); err != nil {
			return Account{}, err
		}
		a.Contact, f.Why = *c.Contact, "contacts"
	default:
		return a, nil
	}
	if err := s.Store.UpdateAccount(ctx, a, f); err != nil {
		return Account{}, fmt.Errorf("updating account %s: %w", a.ID, err)
	}
	s.accounts.put(a)
	return a, nil
}

// Open returns nil if scope has a directory, or a not-found problem.
func (s *Server) Open(ctx context.Context, scope identity.Scope) error {
	if _, err := s.Scopes.Chain(ctx, scope); err != nil {
		return s.noScope(scope, err)
	}
	return nil
}
