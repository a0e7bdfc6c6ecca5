package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A KeyChange is what keyChange asks (RFC 8555 §7.3.5): both signatures have been checked, the inner one under New.
type KeyChange struct {
	Old        crypto.PublicKey // as the inner payload has it
	New        crypto.PublicKey
	Thumbprint string // RFC 7638, of New
}

// A KeyTaken is the refusal of a key that an account of the scope has.
type KeyTaken struct {
	*Problem
	Account uid.UID
}

// Unwrap lets doors see the Problem.
func (k *KeyTaken) Unwrap() error { return k.Problem }

// ErrKeyTaken is what a Store says of a key that another account of the scope has.
var ErrKeyTaken = errors.New("another account has this key")

// ChangeKey gives h's account another key. From the moment it is recorded the old one is refused by every replica: each asks
// the Store for the account's key in the round trip that spends a request's nonce (Admit).
func (s *Server) ChangeKey(ctx context.Context, h Holder, c KeyChange) (Account, error) {
	if old, err := cert.KeyIDOf(c.Old); err != nil || old != h.KeyID {
		return Account{}, problem(Malformed, `"oldKey" is not the account's key (RFC 8555 §7.3.5)`)
	}
	key, err := cert.KeyIDOf(c.New)
	if err != nil {
		return Account{}, problem(BadPublicKey, "%s", err)
	}
	if key == h.KeyID {
		return Account{}, taken(h.ID)
	}
	if err := s.limitChange(ctx, h); err != nil {
		return Account{}, err
	}
	a := h.Account
	a.Key, a.KeyID, a.Thumbprint = c.New, key, c.Thumbprint
	f := audit.Fact{
		At: s.Now(), Who: h.Caller(), Scope: h.Scope, What: audit.AccountChanged, Subject: a.ID.String(), Why: "key changed to " + key.String(),
	}
	err = s.Store.ChangeKey(ctx, a, h.KeyID, f)
	switch {
	case errors.Is(err, ErrKeyTaken):
		had, err := s.Store.AccountByKey(ctx, h.Scope, key)
		if err != nil {
			return Account{}, fmt.Errorf("looking for the account of a key: %w", err)
		}
		return Account{}, taken(had.ID)
	case errors.Is(err, ErrNotFound): // another request changed the key or ended the account since this one was admitted
		return Account{}, problem(Unauthorized, "the account's key was changed meanwhile, or the account deactivated: sign with its present key")
	case err != nil:
		return Account{}, fmt.Errorf("changing the key of account %s: %w", a.ID, err)
	}
	s.accounts.put(a)
	return a, nil
}

// taken: RFC 8555 §7.3.5: "If there is an existing account with the new key provided, then the server SHOULD use status code
// 409 (Conflict) and provide the URL of that account in the Location header field."
func taken(by uid.UID) error {
	p := problem(Malformed, "the new key is an account's already: make another one (RFC 8555 §7.3.5)")
	p.Status = 409
	return &KeyTaken{p, by}
}
