package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
)

// An Introspection is what is told of a token (RFC 7662 §2.2). Of one that is not active, nothing but that.
type Introspection struct {
	Active bool `json:"active"`
	*verify.Claims
	Type string `json:"token_type,omitempty"`
}

// Introspect says what a token is worth now. Who may ask: the token's holder, who it is for (its audience is its SPIFFE ID), whoever
// belongs to the holder's tenant or to the platform, and who may read credentials where the holder is. To others it is inactive:
// they learn nothing.
func (s *Server) Introspect(ctx context.Context, p Peer, form Form) (Introspection, error) {
	if p.Leaf == nil || p.Who.ID.IsZero() { // RFC 7662 §2.1: "the endpoint MUST also require some form of authorization"
		return Introspection{}, refused(InvalidClient, "connect with a current client certificate of this service, with its chain (RFC 7662 §2.1)")
	}
	text := form.Get("token")
	if text == "" {
		return Introspection{}, refused(InvalidRequest, "token is missing (RFC 7662 §2.1)")
	}
	c, err := s.readToken(ctx, text)
	if errors.Is(err, verify.ErrUnavailable) {
		return Introspection{}, unavailable(err)
	}
	if err != nil || c.Check(s.cfg.Issuer, "", s.cfg.Now()) != nil || !s.mayLook(p.Who, c) {
		return Introspection{}, nil //nolint:nilerr // RFC 7662 §2.2: "the authorization server MUST return ... active ... false"
	}
	active, err := s.active(ctx, c)
	if err != nil {
		return Introspection{}, unavailable(err)
	}
	if !active {
		return Introspection{}, nil
	}
	out := Introspection{Active: true, Claims: &c, Type: "Bearer"}
	if c.Bound.Key != "" {
		out.Type = "DPoP"
	}
	return out, nil
}

// Judge returns what a token says that is shown to this service itself, whose audience is the issuer's own name. One that was
// exchanged is no evidence here: its actor would have every right of its subject, whatever the subject meant it for.
func (s *Server) Judge(ctx context.Context, text string, shown verify.Shown) (verify.Claims, error) {
	v, err := verify.New(verify.Config{
		Issuer: s.cfg.Issuer, Audience: s.cfg.Issuer, Keys: s.keys.Load(), Ended: standing{ctx, s}, Seen: spending{s.cfg.Store}, Now: s.cfg.Now,
	})
	if err != nil {
		return verify.Claims{}, err
	}
	c, err := v.Verify(ctx, text, shown)
	if err == nil && c.Act != nil {
		return verify.Claims{}, fmt.Errorf("%w: it was exchanged: ask here as yourself", verify.ErrToken)
	}
	return c, err
}

// standing asks about one token as introspection does. It lives for one request.
type standing struct {
	ctx    context.Context //nolint:containedctx // see above
	server *Server
}

// Has implements verify.Ended.
func (s standing) Has(c verify.Claims) (bool, error) {
	active, err := s.server.active(s.ctx, c)
	if err != nil {
		return false, fmt.Errorf("%w: %w", verify.ErrUnavailable, err)
	}
	return !active, nil
}

// spending remembers proofs for all replicas.
type spending struct{ store Store }

// First implements verify.Seen.
func (s spending) First(ctx context.Context, id string, until time.Time) (bool, error) {
	return s.store.Spend(ctx, "dpop "+id, until)
}

func (s *Server) mayLook(who identity.Caller, c verify.Claims) bool {
	holder := scopeOf(c.ClientID)
	return c.ClientID == who.ID.String() || slices.Contains(c.Audience, who.ID.String()) ||
		who.Scope.IsPlatform() || who.Scope.Tenant() == holder.Tenant() && !holder.IsPlatform() ||
		access.May(who, access.ReadCredentials, holder)
}

// Revoke ends a token (RFC 7009): its holder may, and who may revoke credentials where the holder is. A token that is not good is
// over already: "invalid tokens do not cause an error response" (§2.2).
func (s *Server) Revoke(ctx context.Context, p Peer, form Form) error {
	c, err := s.authenticate(ctx, p, form)
	if err != nil {
		return err
	}
	text := form.Get("token")
	if text == "" {
		return refused(InvalidRequest, "token is missing (RFC 7009 §2.1)")
	}
	claims, err := s.readToken(ctx, text)
	if errors.Is(err, verify.ErrUnavailable) {
		return unavailable(err)
	}
	if err != nil || claims.Check(s.cfg.Issuer, "", s.cfg.Now()) != nil {
		return nil //nolint:nilerr // see above
	}
	f := audit.Fact{At: s.cfg.Now(), Who: c.who, Scope: scopeOf(claims.ClientID), What: audit.TokenRevoked, Subject: claims.ID}
	if claims.ClientID != c.who.ID.String() && !access.May(c.who, access.RevokeCredentials, f.Scope) {
		// RFC 7009 §2.1: "verifies whether the token was issued to the client making the revocation request. If this validation fails,
		// the request is refused"
		if err := s.cfg.Ledger.Refuse(ctx, f, "tokens are their holder's"); err != nil {
			return unavailable(err)
		}
		return refused(UnauthorizedClient, "the token is another client's (RFC 7009 §2.1)")
	}
	if over, _, err := s.ended.has(claims); err == nil && over {
		return nil
	}
	if err := s.cfg.Store.Revoke(ctx, f); err != nil {
		return unavailable(err)
	}
	s.ended.add("jti", claims.ID, s.cfg.Now().Add(s.cfg.Life+keep))
	return nil
}

// readToken is verify.Read with our own keys. That a token's signature is good does not change, so it is remembered for a while; whether the
// token is, is asked each time. A key that was revoked takes its readings with it.
func (s *Server) readToken(ctx context.Context, text string) (verify.Claims, error) {
	keys := s.keys.Load()
	if c, ok := s.read.find(keys, text); ok {
		return c, nil
	}
	c, err := verify.Read(ctx, text, keys)
	if err == nil {
		s.read.keepOf(keys, text, c)
	}
	return c, err
}

// readings remember tokens that were read, by their hash.
type readings struct {
	mu   sync.RWMutex // guards below
	keys *keyset      // that they were read with
	of   map[[sha256.Size]byte]verify.Claims
}

// readingsMost bounds them: some 16 MB.
const readingsMost = 16384

func newReadings() *readings { return &readings{of: make(map[[sha256.Size]byte]verify.Claims)} }

func (r *readings) find(keys *keyset, text string) (verify.Claims, bool) {
	sum := sha256.Sum256([]byte(text))
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, ok := r.of[sum]
	return c, ok && r.keys == keys
}

func (r *readings) keepOf(keys *keyset, text string, c verify.Claims) {
	sum := sha256.Sum256([]byte(text))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys != keys || len(r.of) >= readingsMost {
		clear(r.of)
		r.keys = keys
	}
	r.of[sum] = c
}
