// Package verify checks access tokens of Segl where they are shown: in the service that is called.
//
// It checks, without asking anybody for each request, that a token was signed by its issuer for this audience and is not over
// (RFC 9068 §4), that whoever shows it holds what it is bound to, a client certificate (RFC 8705 §3) or a DPoP key (RFC 9449 §7),
// and that what it was derived from has not ended since, by a signed list that the issuer publishes. Keys and the list are
// fetched in the background and kept.
//
// It does not decide what the bearer of a good token may do, asks no introspection endpoint, and takes no token that is bound to
// nothing. What cannot be found out is ErrUnavailable, never a yes.
//
// The package needs the standard library and go-jose alone, so that others can import it. Everything here may be used
// concurrently.
package verify

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var (
	// ErrToken: the token is not good here, whatever is tried again (RFC 6750 §3.1, invalid_token).
	ErrToken = errors.New("access token refused")
	// ErrProof: the token may be good, but its DPoP proof is not (RFC 9449 §7.1, invalid_dpop_proof).
	ErrProof = errors.New("DPoP proof refused")
	// ErrUnavailable: whether it is good could not be found out. Try again later.
	ErrUnavailable = errors.New("access token cannot be judged now")
)

// The forms of a token, as its header names them.
const (
	TypeAccessToken = "at+jwt" // RFC 9068 §2.1
	TypeSVID        = "JWT"    // JWT-SVID §2.3: "JWT" or "JOSE", where there is one
)

const (
	maxToken = 16 << 10
	// skew is how far clocks may be apart.
	skew = 30 * time.Second
)

// Algorithms are those that tokens are signed with. The list is short so that neither "none" nor a public key taken for a secret
// is ever considered (RFC 8725 §3.1).
func Algorithms() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA} }

// Claims are what a token says.
type Claims struct {
	Issuer   string       `json:"iss"`
	Subject  string       `json:"sub"`
	Audience Audience     `json:"aud"`
	ClientID string       `json:"client_id,omitempty"` // the SPIFFE ID of the holder
	ID       string       `json:"jti"`
	IssuedAt int64        `json:"iat"` // seconds since 1970 (RFC 7519 §2, NumericDate)
	Expires  int64        `json:"exp"`
	Scope    string       `json:"scope,omitempty"` // words with a space between
	Bound    Confirmation `json:"cnf"`
	Act      *Actor       `json:"act,omitempty"` // who acts for the subject (RFC 8693 §4.1)
	// Certificates are the serials of those that the token was derived from, the holder's first: when one of them ends, so does
	// the token.
	Certificates []string `json:"segl_crt,omitempty"`
	// Binding is the rule that the token was given by.
	Binding string `json:"segl_bnd,omitempty"`
	// From are the tokens that were exchanged for it and the rules that those were given by, as "jti:…" and "bnd:…": when one of them
	// ends, so does the token.
	From []string `json:"segl_from,omitempty"`

	// Type is the header's typ. It is not a claim.
	Type string `json:"-"`
}

// A Confirmation says what the holder must show (RFC 7800 §3.1): one of the two.
type Confirmation struct {
	Certificate string `json:"x5t#S256,omitempty"` // RFC 8705 §3.1
	Key         string `json:"jkt,omitempty"`      // RFC 9449 §6.1
}

// An Actor acts for somebody; Act is who did so before it.
type Actor struct {
	Subject string `json:"sub"`
	Act     *Actor `json:"act,omitempty"`
}

// An Audience is one or several strings (RFC 7519 §4.1.3).
type Audience []string

// MarshalJSON implements json.Marshaler.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *Audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = Audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// HasScope reports whether word is among the scopes granted.
func (c Claims) HasScope(word string) bool { return slices.Contains(strings.Fields(c.Scope), word) }

// Keys finds an issuer's public keys.
type Keys interface {
	// Key returns the key called id, ErrToken where the issuer has none of that name, or ErrUnavailable.
	Key(ctx context.Context, id string) (jose.JSONWebKey, error)
}

// Read returns what a token says, if a key of its issuer's signed it. It looks at nothing else: see Claims.Check.
func Read(ctx context.Context, token string, keys Keys) (Claims, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return Claims{}, fmt.Errorf("%w: it is no JWT of at most %d octets (RFC 7519 §3)", ErrToken, maxToken)
	}
	parsed, err := jose.ParseSignedCompact(token, Algorithms())
	if err != nil || len(parsed.Signatures) != 1 {
		return Claims{}, errSignature
	}
	h := parsed.Signatures[0].Header
	kind, _ := h.ExtraHeaders[jose.HeaderType].(string)
	kind, err = typeOf(kind)
	if err != nil {
		return Claims{}, err
	}
	key, err := keys.Key(ctx, h.KeyID) // a key that the token brings along counts for nothing
	if err != nil {
		return Claims{}, err
	}
	// RFC 8725 §3.1: "a key MUST be used with exactly one algorithm, and this MUST be checked"
	if key.Algorithm != h.Algorithm || !key.IsPublic() {
		return Claims{}, errSignature
	}
	payload, err := parsed.Verify(key.Key)
	if err != nil {
		return Claims{}, errSignature
	}
	c := Claims{Type: kind}
	if err := json.Unmarshal(payload, &c); err != nil {
		return Claims{}, fmt.Errorf("%w: its claims are not those of RFC 9068 §2.2", ErrToken)
	}
	return c, nil
}

var errSignature = fmt.Errorf("%w: it is malformed, or its signature does not verify (RFC 7515 §5.2)", ErrToken)

// typeOf reads a typ header. RFC 9068 §4: "The resource server MUST verify that the "typ" header value is "at+jwt" or
// "application/at+jwt" and reject tokens carrying any other value"; JWT-SVIDs are the one other form.
func typeOf(typ string) (string, error) {
	switch strings.ToLower(typ) {
	case TypeAccessToken, "application/" + TypeAccessToken:
		return TypeAccessToken, nil
	case "jwt":
		return TypeSVID, nil
	}
	return "", fmt.Errorf("%w: its type %.40q is neither at+jwt nor JWT (RFC 9068 §4)", ErrToken, typ)
}

// Check says what is wrong with claims besides their signature: issuer, audience, times.
func (c Claims) Check(issuer, audience string, now time.Time) error {
	switch at := now.Unix(); {
	case c.Issuer != issuer:
		return fmt.Errorf("%w: another issuer made it: want one of %s", ErrToken, issuer)
	case audience != "" && !slices.Contains(c.Audience, audience):
		return fmt.Errorf("%w: it is for another audience: ask for one for %s", ErrToken, audience)
	case c.Subject == "" || c.ID == "" || c.Expires == 0 || c.IssuedAt == 0:
		return fmt.Errorf("%w: it lacks sub, jti, exp or iat (RFC 9068 §2.2)", ErrToken)
	case at >= c.Expires: // RFC 7519 §4.1.4: "on or after which the JWT MUST NOT be accepted"
		return fmt.Errorf("%w: it was good until %s: ask for another", ErrToken, time.Unix(c.Expires, 0).UTC().Format(time.RFC3339))
	case c.IssuedAt > at+int64(skew/time.Second):
		return fmt.Errorf("%w: it is of the future: set the clock", ErrToken)
	}
	return nil
}

// Thumbprint returns what a token bound to a certificate says of it (RFC 8705 §3.1).
func Thumbprint(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// A Shown is what came with a token.
type Shown struct {
	// Certificate is the client's, whose key the TLS handshake proved; nil: none.
	Certificate *x509.Certificate
	// Proof is the DPoP header field; empty: none.
	Proof string
	// Method and URL are the request's: URL without query and fragment, as the client wrote it (RFC 9449 §4.2).
	Method, URL string
}

// A Config says whose tokens are taken, and for what.
type Config struct {
	// Issuer made the tokens, as iss says it.
	Issuer string
	// Audience is what this service is called in them.
	Audience string
	// Keys are the issuer's; see NewKeys.
	Keys Keys
	// Ended says what has ended before its time; see NewFeed. Nil: nobody does, and a stolen or revoked certificate's tokens are good
	// until they expire.
	Ended Ended
	// Seen remembers DPoP proofs; see NewSeen. Nil: DPoP is not taken.
	Seen Seen
	// Now is the clock. Nil: the machine's.
	Now func() time.Time
}

// Ended tells of tokens that are over before they expire.
type Ended interface {
	// Has reports whether c is over, or ErrUnavailable.
	Has(c Claims) (bool, error)
}

// Seen remembers the proofs that were shown. Replicas behind one address share one, or a proof may be shown to each of them.
type Seen interface {
	// First reports whether id was never shown before, and remembers it at least until then.
	First(ctx context.Context, id string, until time.Time) (bool, error)
}

// A Verifier checks tokens.
type Verifier struct{ cfg Config }

// New returns a Verifier.
func New(cfg Config) (*Verifier, error) {
	if cfg.Issuer == "" || cfg.Audience == "" || cfg.Keys == nil {
		return nil, errors.New("verify: want an issuer, an audience and keys: without an audience, tokens meant for others would do")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{cfg}, nil
}

// Verify returns what a token says if it is good, and who shows it holds what it is bound to.
func (v *Verifier) Verify(ctx context.Context, token string, shown Shown) (Claims, error) {
	c, err := Read(ctx, token, v.cfg.Keys)
	if err == nil {
		err = c.Check(v.cfg.Issuer, v.cfg.Audience, v.cfg.Now())
	}
	if err == nil {
		err = v.bound(ctx, c, token, shown)
	}
	if err == nil && v.cfg.Ended != nil {
		var over bool
		if over, err = v.cfg.Ended.Has(c); over {
			err = fmt.Errorf("%w: it, or what it was derived from, has ended: ask for another", ErrToken)
		}
	}
	if err != nil {
		return Claims{}, err
	}
	return c, nil
}

// bound checks that whoever shows the token holds what it names.
func (v *Verifier) bound(ctx context.Context, c Claims, token string, shown Shown) error {
	switch b := c.Bound; {
	case b.Certificate != "" && b.Key != "":
		return fmt.Errorf("%w: it is bound twice", ErrToken)
	case b.Certificate != "":
		// RFC 8705 §3: "If they do not match, the resource access attempt MUST be rejected with an error"
		if shown.Certificate == nil || subtle.ConstantTimeCompare([]byte(Thumbprint(shown.Certificate.Raw)), []byte(b.Certificate)) != 1 {
			return fmt.Errorf("%w: it is bound to a certificate that was not shown (RFC 8705 §3)", ErrToken)
		}
		return nil
	case b.Key == "":
		return fmt.Errorf("%w: it is bound to nothing", ErrToken)
	case v.cfg.Seen == nil:
		return fmt.Errorf("%w: it is bound to a DPoP key, and DPoP is not taken here", ErrToken)
	}
	p, err := ParseProof(shown.Proof)
	if err != nil {
		return err
	}
	if err := p.Check(shown.Method, shown.URL, v.cfg.Now()); err != nil {
		return err
	}
	// RFC 9449 §4.3: "the value of the ath claim equals the hash of that access token", "the public key to which the access token is
	// bound matches the public key from the DPoP proof"
	if subtle.ConstantTimeCompare([]byte(p.Token), []byte(Thumbprint([]byte(token)))) != 1 || p.Thumbprint != c.Bound.Key {
		return fmt.Errorf("%w: it is for another token, or by another key (RFC 9449 §4.3)", ErrProof)
	}
	first, err := v.cfg.Seen.First(ctx, p.Replay(), p.Until())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !first {
		return fmt.Errorf("%w: it was shown before (RFC 9449 §11.1)", ErrProof)
	}
	return nil
}
