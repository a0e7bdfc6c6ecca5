package token

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Grant types.
const (
	ClientCredentials = "client_credentials"                              // RFC 6749 §4.4
	TokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 §2.1
)

// Token types (RFC 8693 §3).
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt" // asked for: a JWT-SVID
)

// An Answer is a successful one (RFC 6749 §5.1, RFC 8693 §2.2.1).
type Answer struct {
	Token   string `json:"access_token"`
	Issued  string `json:"issued_token_type,omitempty"`
	Type    string `json:"token_type"`
	Expires int64  `json:"expires_in"` // seconds
	Scope   string `json:"scope,omitempty"`
}

// A wish is what a client may have, decided.
type wish struct {
	client   client
	binding  credentials.Binding
	audience string
	scopes   []string
	life     time.Duration
	svid     bool // a JWT-SVID in place of an access token
	key      string
	subject  subject
}

// A subject is whom the token is about: the client itself, unless it exchanges somebody's token.
type subject struct {
	name         string
	act          *verify.Actor
	certificates []string
	from         []string  // as verify.Claims has it
	expires      time.Time // zero: no bound of its own
	exchanged    bool
}

// Issue answers a token request: form is its content, proofs its DPoP header fields.
func (s *Server) Issue(ctx context.Context, p Peer, form Form, proofs []string) (Answer, error) {
	c, err := s.authenticate(ctx, p, form)
	if err != nil {
		return Answer{}, err
	}
	w, err := s.decide(ctx, c, form, proofs)
	var e *Error
	if errors.As(err, &e) && e.Status < http.StatusInternalServerError && e.Code != UseNonce {
		f := audit.Fact{Who: c.who, Scope: c.who.Scope, What: audit.TokenIssued, Serial: c.who.Serial, Subject: form.Get("audience")}
		if err := s.cfg.Ledger.Refuse(ctx, f, e.Code+": "+e.Description); err != nil {
			return Answer{}, unavailable(err)
		}
	}
	if err != nil {
		return Answer{}, err
	}
	return s.issue(ctx, w)
}

// decide finds out what a client may have, without I/O but for what only the ledger can say: that something was not used before.
func (s *Server) decide(ctx context.Context, c client, form Form, proofs []string) (wish, error) {
	w := wish{client: c, subject: subject{name: c.who.ID.String()}}
	var err error
	switch grant := form.Get("grant_type"); grant {
	case ClientCredentials:
	case TokenExchange:
		if w.subject, err = s.exchange(ctx, c, form); err != nil {
			return w, err
		}
	case "":
		return w, refused(InvalidRequest, "grant_type is missing: want client_credentials or %s", TokenExchange)
	default:
		return w, refused(UnsupportedGrant, "grant_type %.80q: want client_credentials or %s", grant, TokenExchange)
	}
	switch want := form.Get("requested_token_type"); want {
	case "", TypeAccessToken:
	case TypeJWT:
		w.svid = true
	default:
		return w, refused(InvalidRequest, "requested_token_type %.80q: want %s or %s", want, TypeAccessToken, TypeJWT)
	}
	if by := s.cfg.Scopes.Suspended(c.who.Scope); !by.IsZero() {
		return w, refused(UnauthorizedClient, "%s is suspended: ask an operator to resume it", by)
	}
	if err := s.choose(&w, form); err != nil {
		return w, err
	}
	if err := s.limit(&w, form); err != nil {
		return w, err
	}
	return w, s.prove(ctx, &w, proofs) // last: a proof counts once, and what is refused before leaves it unused
}

// choose finds the binding: for the audience asked, or the only one there is, that has every scope asked for.
func (s *Server) choose(w *wish, form Form) error {
	all := s.cfg.Bindings.Tokens(w.client.who.ID)
	if len(all) == 0 {
		return refused(UnauthorizedClient, "no binding gives %s tokens: ask an admin of %s for one", w.client.who.ID, w.client.who.Scope)
	}
	asked := form.All("audience", "resource")
	if len(asked) > 1 {
		return refused(InvalidTarget, "%d audiences asked for: a token has one; ask once for each", len(asked))
	}
	var audiences []string
	for _, b := range all {
		for _, a := range b.Audiences {
			if !slices.Contains(audiences, a) {
				audiences = append(audiences, a)
			}
		}
	}
	switch {
	case len(asked) == 1:
		w.audience = asked[0]
	case len(audiences) == 1:
		w.audience = audiences[0]
	default: // RFC 8707 §2: "invalid_target: The requested resource is invalid, missing, unknown, or malformed"
		return refused(InvalidTarget, "audience is missing, and there are several: want one of %s", few(audiences))
	}
	if !slices.Contains(audiences, w.audience) {
		return refused(InvalidTarget, "no binding gives %s tokens for %.200q: want one of %s", w.client.who.ID, w.audience, few(audiences))
	}
	scopes := strings.Fields(form.Get("scope"))
	for _, b := range all {
		if !slices.Contains(b.Audiences, w.audience) || slices.ContainsFunc(scopes, func(v string) bool { return !slices.Contains(b.Scopes, v) }) {
			continue
		}
		if w.binding, w.scopes = b, scopes; len(scopes) == 0 {
			w.scopes = b.Scopes // RFC 6749 §3.3: where the client asks for none, "using a pre-defined default value"
		}
		return nil
	}
	return refused(InvalidScope, "no binding for %.200q has all of the scopes asked for", w.audience)
}

func few(list []string) string {
	const most = 8
	if len(list) > most {
		return strings.Join(list[:most], ", ") + ", …"
	}
	return strings.Join(list, ", ")
}

// limit decides how long the token lives. A wish beyond what the binding allows is refused; the certificate's end, and that of the
// subject's token, are kept to without a word.
func (s *Server) limit(w *wish, form Form) error {
	now := s.cfg.Now()
	w.life = min(w.binding.Life, s.cfg.Life)
	if text := form.Get("expires_in"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil || seconds < 1 {
			return refused(InvalidRequest, "expires_in %.20q: want seconds, at least 1", text)
		}
		if time.Duration(seconds)*time.Second > w.life {
			return refused(InvalidRequest, "expires_in %d: binding %s allows %d at most", seconds, w.binding.Name, int(w.life.Seconds()))
		}
		w.life = time.Duration(seconds) * time.Second
	}
	w.life = min(w.life, w.client.leaf.NotAfter.Sub(now))
	if !w.subject.expires.IsZero() {
		w.life = min(w.life, w.subject.expires.Sub(now))
	}
	if w.life < time.Second {
		return refused(InvalidGrant, "the certificate or the subject's token is at its end: renew it")
	}
	return nil
}

// prove binds the token: to the certificate, or to the key of a DPoP proof.
func (s *Server) prove(ctx context.Context, w *wish, proofs []string) error {
	switch {
	case len(proofs) > 1: // RFC 9449 §4.3: "There is not more than one DPoP HTTP request header field"
		return refused(InvalidProof, "there are %d DPoP header fields, want one (RFC 9449 §4.3)", len(proofs))
	case len(proofs) == 0 && !w.client.tls:
		return refused(InvalidRequest, "a token must be bound: connect with the certificate, or send a DPoP proof (RFC 9449 §5)")
	case len(proofs) == 0:
		return nil
	}
	p, err := verify.ParseProof(proofs[0])
	if err == nil {
		err = p.Check(http.MethodPost, s.cfg.Issuer+"/oauth2/token", s.cfg.Now())
	}
	if err != nil {
		return refused(InvalidProof, "%s", err)
	}
	if !s.fresh(ctx, p.Nonce) {
		return refused(UseNonce, "the proof lacks a nonce of ours that is not too old (RFC 9449 §8)")
	}
	switch err := s.once(ctx, "dpop "+p.Replay(), p.Until()); {
	case errors.Is(err, errRepeated):
		return refused(InvalidProof, "the proof was used before (RFC 9449 §11.1)")
	case err != nil:
		return unavailable(err)
	}
	w.key = p.Thumbprint
	return nil
}

// issue makes the token of a wish.
func (s *Server) issue(ctx context.Context, w wish) (Answer, error) {
	now := s.cfg.Now()
	c := s.claims(w, now)
	typ, algorithm := verify.TypeAccessToken, s.cfg.Algorithms[0]
	if w.svid {
		typ, algorithm = verify.TypeSVID, ES256
	}
	key, ok := s.keys.Load().signer(algorithm, now)
	if !ok {
		return Answer{}, unavailable(fmt.Errorf("no token key for %s signs now", algorithm))
	}
	// 1. Sign. The token is in our memory alone.
	text, err := sign(ctx, key, typ, c)
	if err != nil {
		return Answer{}, unavailable(err)
	}
	// 2. Write down that it is issued, where all it hangs on still stands. From here it may be used.
	if err := s.vouch(ctx, w, c, now); err != nil {
		return Answer{}, err
	}
	c.Type = typ
	s.read.keepOf(s.keys.Load(), text, c)
	a := Answer{Token: text, Type: "Bearer", Expires: c.Expires - now.Unix(), Scope: c.Scope}
	if w.key != "" {
		a.Type = "DPoP" // RFC 9449 §5
	}
	if w.subject.exchanged || w.svid { // RFC 8693 §2.2.1: issued_token_type is REQUIRED in an exchange
		a.Issued = TypeAccessToken
		if w.svid {
			a.Issued = TypeJWT
		}
	}
	return a, nil
}

// claims are those of RFC 9068 §2.2, or of JWT-SVID §3, with what the token hangs on.
func (s *Server) claims(w wish, now time.Time) verify.Claims {
	c := verify.Claims{
		Issuer: s.cfg.Issuer, Subject: w.subject.name, Audience: verify.Audience{w.audience}, ClientID: w.client.who.ID.String(), ID: rand.Text(),
		IssuedAt: now.Unix(), Expires: now.Add(w.life).Unix(), Scope: strings.Join(w.scopes, " "), Act: w.subject.act,
		Certificates: append([]string{w.client.who.Serial.String()}, w.subject.certificates...), Binding: bindingName(w.binding.ID), From: w.subject.from,
	}
	if c.Bound.Key = w.key; w.key == "" {
		c.Bound.Certificate = verify.Thumbprint(w.client.leaf.Raw)
	}
	return c
}

// bindingName is how tokens call a binding.
func bindingName(id int64) string { return strconv.FormatInt(id, 10) }

// vouch writes the fact of a token.
func (s *Server) vouch(ctx context.Context, w wish, c verify.Claims, now time.Time) error {
	who := w.client.who
	if w.subject.exchanged {
		who.Act, who.Actor = who.Actor, w.subject.name
	}
	serials := make([]cert.Serial, 0, len(c.Certificates))
	for _, text := range c.Certificates {
		serial, err := cert.ParseSerial(text)
		if err != nil {
			return &Error{Code: ServerError, Status: http.StatusInternalServerError, Description: "something went wrong here", Cause: err}
		}
		serials = append(serials, serial)
	}
	f := audit.Fact{At: now, Who: who, Scope: w.client.who.Scope, What: audit.TokenIssued, Serial: w.client.who.Serial, Subject: c.ID + " " + w.audience}
	switch err := s.cfg.Ledger.Vouch(ctx, f, serials...); {
	case errors.Is(err, ErrEnded) && w.subject.exchanged:
		return refused(InvalidGrant, "a certificate that this hangs on has been revoked")
	case errors.Is(err, ErrEnded):
		return refused(InvalidClient, "the certificate has been revoked: enrol again")
	case errors.Is(err, ErrSuspended):
		return refused(UnauthorizedClient, "%s is suspended: ask an operator to resume it", w.client.who.Scope)
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// nonceLife is how long a DPoP nonce is taken.
const nonceLife = 5 * time.Minute

// noncePurpose is what nonces are sealed for.
const noncePurpose = "dpop-nonce"

// Nonce returns one for a DPoP proof (RFC 9449 §8): when it was made, sealed, so that every replica opens it and none keeps it.
func (s *Server) Nonce(ctx context.Context) (string, error) {
	sealed, err := s.cfg.Keyring.Seal(ctx, noncePurpose, []byte(strconv.FormatInt(s.cfg.Now().Unix(), 10)))
	if err != nil {
		return "", unavailable(err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

func (s *Server) fresh(ctx context.Context, nonce string) bool {
	const longest = 512
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(sealed) == 0 || len(sealed) > longest {
		return false
	}
	text, err := s.cfg.Keyring.Open(ctx, noncePurpose, sealed)
	if err != nil {
		return false
	}
	second, err := strconv.ParseInt(string(text), 10, 64)
	return err == nil && s.cfg.Now().Sub(time.Unix(second, 0)).Abs() < nonceLife
}

// scopeOf returns where a SPIFFE ID belongs, or the zero Scope.
func scopeOf(id string) identity.Scope {
	v, err := identity.ParseID(id)
	if err != nil {
		return identity.Scope{}
	}
	return v.Scope()
}
