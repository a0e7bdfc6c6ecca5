package acme

import (
	"context"
	"fmt"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Agreements keeps who agreed to which terms of service.
type Agreements interface {
	// Agree records that an account agreed to the terms at url, and f.
	Agree(ctx context.Context, account uid.UID, url string, f audit.Fact) error
}

// agreed refuses an account that has not agreed to the terms as they are now (RFC 8555 §7.3.3: "the server MUST return an
// error response with status code 403 (Forbidden) and type "urn:ietf:params:acme:error:userActionRequired". … a "Link" header
// field with link relation "terms-of-service" … "instance" … a URL that the client should direct a human user to visit").
func (s *Server) agreed(a Account) error {
	if s.Terms == "" || a.Terms == s.Terms {
		return nil
	}
	p := problem(UserActionRequired, `the terms of service changed: read %s and agree by updating the account with "termsOfServiceAgreed": true (RFC 8555 §7.3.3)`, s.Terms)
	p.Instance, p.Terms = s.Terms, s.Terms
	return p
}

// agrees is agreed of h as it is now: another replica may have been told meanwhile.
func (s *Server) agrees(ctx context.Context, h Holder) error {
	if s.agreed(h.Account) == nil {
		return nil
	}
	a, err := s.read(ctx, h.ID)
	if err != nil {
		return err
	}
	return s.agreed(a)
}

// agree records that h agrees to the present terms. It is looser than RFC 8555 §7.3.2, by which a server SHOULD ignore such
// an update: there is no page of ours where a person could agree instead.
func (s *Server) agree(ctx context.Context, h Holder, a Account) (Account, error) {
	if s.Terms == "" || a.Terms == s.Terms {
		return a, nil
	}
	f := audit.Fact{At: s.Now(), Who: h.Caller(), Scope: h.Scope, What: audit.AccountChanged, Subject: a.ID.String(), Why: "agreed to " + s.Terms}
	if err := s.Store.Agree(ctx, a.ID, s.Terms, f); err != nil {
		return Account{}, fmt.Errorf("recording that account %s agreed to the terms: %w", a.ID, err)
	}
	a.Terms, a.TermsAgreed = s.Terms, true
	s.accounts.put(a)
	return a, nil
}
