package token

import (
	"context"
	"errors"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/identity"
)

// longestChain is how many certificates a token may hang on: each exchange adds one.
const longestChain = 4

// exchange finds out whose token a client shows, and may show (RFC 8693 §2.1). The client is the actor: no actor_token is taken.
//
// A subject token is of a configured provider, and its subject in the client's tenant; or it is of ours, of a holder in the
// client's tenant, and was issued for the client, whose SPIFFE ID is its audience. It need not be bound to the client: its holder
// gave it to its audience. What the new one is for is said by the client's binding, so by an admin of the client's tenant: nobody of
// another tenant is put into those hands.
func (s *Server) exchange(ctx context.Context, c client, form Form) (subject, error) {
	text := form.Get("subject_token")
	switch {
	case text == "":
		return subject{}, refused(InvalidRequest, "subject_token is missing (RFC 8693 §2.1)")
	case form.Get("actor_token") != "" || form.Get("actor_token_type") != "":
		return subject{}, refused(InvalidRequest, "actor_token is not taken: who connects is the actor")
	}
	switch kind := form.Get("subject_token_type"); kind {
	case TypeAccessToken, TypeJWT, TypeIDToken:
	case "":
		return subject{}, refused(InvalidRequest, "subject_token_type is missing (RFC 8693 §2.1)")
	default:
		return subject{}, refused(InvalidRequest, "subject_token_type %.80q: want %s, %s or %s", kind, TypeAccessToken, TypeJWT, TypeIDToken)
	}
	out, err := s.ours(ctx, c, text)
	if errors.Is(err, errForeign) {
		out, err = s.foreign(ctx, c, text)
	}
	if err != nil {
		return subject{}, err
	}
	out.exchanged = true
	out.act = &verify.Actor{Subject: c.who.ID.String(), Act: out.act}
	if out.name == c.who.ID.String() {
		return subject{}, refused(InvalidRequest, "the subject is the client itself: ask by client_credentials")
	}
	return out, nil
}

// akin reports whether both belong to one tenant, or both to the platform.
func akin(a, b identity.Scope) bool {
	return !a.IsZero() && a.Tenant() == b.Tenant() && a.IsPlatform() == b.IsPlatform()
}

// errForeign: the token is none of ours.
var errForeign = errors.New("another issuer's")

// ours reads a token of our own.
func (s *Server) ours(ctx context.Context, c client, text string) (subject, error) {
	claims, err := s.readToken(ctx, text)
	if err != nil {
		return subject{}, errForeign // whoever's it is, that one decides
	}
	if err := claims.Check(s.cfg.Issuer, c.who.ID.String(), s.cfg.Now()); err != nil {
		return subject{}, refused(InvalidGrant, "subject_token: %s", err) // RFC 8693 §2.2.2, RFC 6749 §5.2
	}
	if !akin(scopeOf(claims.ClientID), c.who.Scope) { // whoever it names besides was in its holder's tenant, or it would not exist
		return subject{}, refused(InvalidGrant, "subject_token: its holder is not of the client's tenant")
	}
	active, err := s.active(ctx, claims)
	switch {
	case err != nil:
		return subject{}, unavailable(err)
	case !active:
		return subject{}, refused(InvalidGrant, "subject_token: it has ended")
	case len(claims.Certificates) >= longestChain:
		return subject{}, refused(InvalidGrant, "subject_token: it was exchanged %d times already: at most %d", len(claims.Certificates)-1, longestChain-1)
	case slices.Contains(claims.Certificates, c.who.Serial.String()):
		return subject{}, refused(InvalidGrant, "subject_token: this client has exchanged it before")
	}
	from := append(slices.Clone(claims.From), "jti:"+claims.ID, "bnd:"+claims.Binding)
	return subject{name: claims.Subject, act: claims.Act, certificates: claims.Certificates, from: from, expires: time.Unix(claims.Expires, 0)}, nil
}

// foreign has another provider's token judged.
func (s *Server) foreign(ctx context.Context, c client, text string) (subject, error) {
	if s.cfg.Subjects == nil {
		return subject{}, refused(InvalidGrant, "subject_token: no OpenID provider is configured here")
	}
	v, err := s.cfg.Subjects.Subject(ctx, text)
	switch {
	case errors.Is(err, ErrSubject):
		return subject{}, refused(InvalidGrant, "subject_token: %s", err)
	case err != nil:
		return subject{}, unavailable(err)
	case !akin(v.Scope, c.who.Scope):
		return subject{}, refused(InvalidGrant, "subject_token: its subject is not of the client's tenant")
	case !scopeOf(v.Actor).IsZero(): // a provider that lets somebody choose that name would speak for our workloads
		return subject{}, refused(InvalidGrant, "subject_token: a provider's subject is no SPIFFE ID of ours")
	}
	out := subject{name: v.Actor, expires: v.Expires}
	if v.Act != "" {
		out.act = &verify.Actor{Subject: v.Act}
	}
	return out, nil
}
