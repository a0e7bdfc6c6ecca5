package token

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A Peer is who is at the other end of a connection.
type Peer struct {
	Who  identity.Caller
	Leaf *x509.Certificate // that Who was named by; nil: none was shown, or it is no good
}

// A client is who asks, authenticated.
type client struct {
	who  identity.Caller
	leaf *x509.Certificate
	tls  bool // proved in the handshake; else by an assertion
}

// AssertionType is how a client says that it signs (RFC 7523 §2.2).
const AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// authenticate finds out who asks. RFC 6749 §2.3: "The client MUST NOT use more than one authentication method in each request".
// An Authorization header of OAuth's is no method here, and the door refuses a secret.
func (s *Server) authenticate(ctx context.Context, p Peer, form Form) (client, error) {
	assertion, id := form.Get("client_assertion"), form.Get("client_id")
	switch {
	case form.Get("client_secret") != "":
		return client{}, refused(InvalidClient, "there are no client secrets: connect with a certificate (RFC 8705 §2.1)")
	case assertion != "" && p.Leaf != nil:
		return client{}, refused(InvalidRequest, "a certificate and an assertion both say who asks: want one (RFC 6749 §2.3)")
	case assertion != "":
		return s.assertion(ctx, p, form)
	case p.Leaf == nil || p.Who.ID.IsZero():
		return client{}, refused(InvalidClient, "connect with a current client certificate of this service, with its chain (RFC 8705 §2.1)")
	case id == "": // RFC 8705 §2: "the client MUST include the client_id parameter"
		return client{}, refused(InvalidRequest, "client_id is missing: want %s (RFC 8705 §2)", p.Who.ID)
	case id != p.Who.ID.String():
		return client{}, refused(InvalidClient, "client_id %.200q is not whose certificate was shown, %s", id, p.Who.ID)
	}
	return client{p.Who, p.Leaf, true}, nil
}

// assertionLife is how long one may last.
const assertionLife = 5 * time.Minute

// assertion authenticates a client by a JWT that its certificate's key signed, with the chain in x5c (RFC 7515 §4.1.6). It counts
// once.
func (s *Server) assertion(ctx context.Context, p Peer, form Form) (client, error) {
	if form.Get("client_assertion_type") != AssertionType || s.cfg.Chains == nil {
		return client{}, refused(InvalidClient, "client_assertion_type: want %s (RFC 7523 §2.2)", AssertionType)
	}
	chain, payload, err := signedByChain(form.Get("client_assertion"))
	if err != nil {
		return client{}, refused(InvalidClient, "client_assertion: %s", err)
	}
	who, err := s.cfg.Chains.Holder(ctx, chain)
	if errors.Is(err, ErrUnavailable) {
		return client{}, unavailable(err)
	}
	if err != nil || who.ID.IsZero() {
		return client{}, refused(InvalidClient, "client_assertion: its x5c is no current client certificate of this service")
	}
	var c struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Audience verify.Audience `json:"aud"`
		ID       string          `json:"jti"`
		Expires  int64           `json:"exp"`
	}
	now, id := s.cfg.Now(), who.ID.String()
	if err := json.Unmarshal(payload, &c); err != nil {
		return client{}, refused(InvalidClient, "client_assertion: its claims are no JSON object (RFC 7523 §3)")
	}
	switch end := time.Unix(c.Expires, 0); {
	case c.Issuer != id || c.Subject != id || form.Get("client_id") != "" && form.Get("client_id") != id:
		return client{}, refused(InvalidClient, "client_assertion: want iss, sub and client_id to be %s (RFC 7523 §3)", id)
	case !slices.Contains(c.Audience, s.cfg.Issuer) && !slices.Contains(c.Audience, s.cfg.Issuer+"/oauth2/token"):
		return client{}, refused(InvalidClient, "client_assertion: it is for another audience: want %s (RFC 7523 §3)", s.cfg.Issuer)
	case !now.Before(end) || end.Sub(now) > assertionLife:
		return client{}, refused(InvalidClient, "client_assertion: want exp ahead, by at most %s", assertionLife)
	case c.ID == "" || len(c.ID) > 256:
		return client{}, refused(InvalidClient, "client_assertion: want a jti of at most 256 octets (RFC 7523 §3)")
	}
	if err := s.once(ctx, "assertion "+id+" "+c.ID, time.Unix(c.Expires, 0)); err != nil {
		if errors.Is(err, errRepeated) {
			return client{}, refused(InvalidClient, "client_assertion: it was used before (RFC 7523 §3)")
		}
		return client{}, unavailable(err)
	}
	who.Remote, who.Request = p.Who.Remote, p.Who.Request
	return client{who, chain[0], false}, nil
}

// signedByChain returns the certificates in a JWT's header and what it says, if the first one's key signed it.
func signedByChain(text string) ([]*x509.Certificate, []byte, error) {
	algorithms := []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256}
	if len(text) > MaxForm || strings.Count(text, ".") != 2 {
		return nil, nil, errors.New("want a JWT (RFC 7519 §3)")
	}
	head, _, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		Chain [][]byte `json:"x5c"` // RFC 7515 §4.1.6: base64, "not base64url-encoded"
	}
	const longest = 5
	if err != nil || json.Unmarshal(raw, &h) != nil || len(h.Chain) == 0 || len(h.Chain) > longest {
		return nil, nil, fmt.Errorf("want the certificate and those above it, at most %d, as x5c (RFC 7515 §4.1.6)", longest)
	}
	var chain []*x509.Certificate
	for _, der := range h.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, errors.New("its x5c does not parse")
		}
		chain = append(chain, c)
	}
	parsed, err := jose.ParseSignedCompact(text, algorithms)
	if err != nil {
		return nil, nil, errors.New("it is malformed, or its algorithm is none of ES256, ES384, EdDSA, RS256, PS256")
	}
	payload, err := parsed.Verify(chain[0].PublicKey)
	if err != nil {
		return nil, nil, errors.New("the certificate's key did not sign it")
	}
	return chain, payload, nil
}

var errRepeated = errors.New("it was used before")

// once takes what may be used but once on all replicas together.
func (s *Server) once(ctx context.Context, mark string, until time.Time) error {
	first, err := s.cfg.Store.Spend(ctx, mark, until)
	if err == nil && !first {
		err = errRepeated
	}
	return err
}
