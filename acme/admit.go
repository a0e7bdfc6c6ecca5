package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An Admission is a signed request at the door: whose it says it is, its nonce, and how to check its signature.
type Admission struct {
	Scope   identity.Scope
	Account uid.UID
	Nonce   string
	Claim   uid.UID                      // the authorization it asks for, if any
	Verify  func(crypto.PublicKey) error // its error is returned as it is
}

// Nonce returns a fresh nonce.
func (s *Server) Nonce(ctx context.Context) (string, error) {
	n, err := s.Store.Nonce(ctx)
	if err != nil {
		return "", fmt.Errorf("making a nonce: %w", err)
	}
	return n, nil
}

// Admit checks that a's account exists in a's scope and signed the request, spends the nonce, and sees that the account
// still stands. The signature comes first: what anybody could have written costs us no write. With the account it returns
// a.Claim if it is the account's and was read on the way; nil says nothing about it.
func (s *Server) Admit(ctx context.Context, a Admission) (Account, *Authorization, error) {
	acct, err := s.signer(ctx, a)
	if err != nil {
		return Account{}, nil, err
	}
	claim := a.Claim
	if claim.Kind() != uid.Authorization {
		claim = uid.UID{}
	}
	now, err := s.admit(ctx, a.Nonce, a.Account, claim)
	switch {
	case err != nil:
		return Account{}, nil, err
	case !now.Known:
		return Account{}, nil, noAccount()
	case now.Deactivated:
		// RFC 8555 §7.3.6: "If a server receives a POST or POST-as-GET from a deactivated account, it MUST return an error
		// response with status code 401 (Unauthorized) and type "urn:ietf:params:acme:error:unauthorized"."
		return Account{}, nil, deactivated()
	case now.KeyID != acct.KeyID: // the key was changed since we remembered it
		acct, err := s.readmit(ctx, a)
		return acct, nil, err
	case now.Claim != nil && now.Claim.Account != acct.ID:
		return acct, nil, nil
	}
	return acct, now.Claim, nil
}

// signer returns the account that signed a. A signature that the remembered key did not make may be that of one which another
// replica was told of since (RFC 8555 §7.3.5), so that it is checked by the recorded key too.
func (s *Server) signer(ctx context.Context, a Admission) (Account, error) {
	acct, known := s.accounts.get(a.Account)
	if !known {
		return s.verified(ctx, a)
	}
	if acct.Scope != a.Scope { // an account of another scope is nobody here
		return Account{}, noAccount()
	}
	err := a.Verify(acct.Key)
	if err == nil {
		return acct, nil
	}
	now, rerr := s.read(ctx, a.Account)
	if rerr != nil {
		return Account{}, rerr
	}
	if now.KeyID == acct.KeyID {
		return Account{}, err
	}
	return now, a.Verify(now.Key)
}

// verified reads the account of a and checks that it signed.
func (s *Server) verified(ctx context.Context, a Admission) (Account, error) {
	acct, err := s.read(ctx, a.Account)
	if err != nil {
		return Account{}, err
	}
	if acct.Scope != a.Scope {
		return Account{}, noAccount()
	}
	return acct, a.Verify(acct.Key)
}

// readmit decides by the account's new key about a request that its old one signed. The nonce is spent.
func (s *Server) readmit(ctx context.Context, a Admission) (Account, error) {
	acct, err := s.verified(ctx, a)
	if err == nil && acct.Status() == Deactivated { // since its standing was told
		err = deactivated()
	}
	return acct, err
}

// AdmitKey spends the nonce of a request that is signed with the key in its own header. The caller has verified it.
func (s *Server) AdmitKey(ctx context.Context, nonce string) error {
	_, err := s.admit(ctx, nonce, uid.UID{}, uid.UID{})
	return err
}

func (s *Server) admit(ctx context.Context, nonce string, account, claim uid.UID) (Standing, error) {
	if nonce == "" {
		return Standing{}, problem(BadNonce, "the request has no nonce: sign it with the one in Replay-Nonce (RFC 8555 §6.5)")
	}
	st, err := s.Store.Admit(ctx, nonce, account, claim)
	if err != nil {
		return Standing{}, fmt.Errorf("spending a nonce: %w", err)
	}
	if !st.Fresh {
		return Standing{}, problem(BadNonce, "the nonce is not one of ours, too old, or was used: sign again with the one in Replay-Nonce (RFC 8555 §6.5)")
	}
	return st, nil
}

func (s *Server) read(ctx context.Context, id uid.UID) (Account, error) {
	if id.Kind() != uid.Account {
		return Account{}, noAccount()
	}
	a, err := s.Store.Account(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Account{}, noAccount()
	}
	if err != nil {
		return Account{}, fmt.Errorf("reading account %s: %w", id, err)
	}
	s.accounts.put(a)
	return a, nil
}

func noAccount() *Problem {
	return problem(AccountDoesNotExist, "no such account at this directory: make one with newAccount (RFC 8555 §7.3)")
}

func deactivated() *Problem {
	p := problem(Unauthorized, "the account was deactivated (RFC 8555 §7.3.6): make one with another key")
	p.Status = 401
	return p
}
