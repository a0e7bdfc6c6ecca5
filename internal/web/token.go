package web

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/internal/identity"
)

// ErrToken is wrapped by a Verifier's refusal of a token. The text says what is wrong and what to do, and never the token.
var ErrToken = errors.New("access token refused")

// A Presented token is one that came with a request.
type Presented struct {
	Scheme string // Bearer (RFC 6750 §2.1) or DPoP (RFC 9449 §7.1)
	Token  string
	// Certificate is what the connection was made with: of ours and valid, for tokens that are bound to it (RFC 8705 §3). Nil:
	// none was shown.
	Certificate *x509.Certificate
	Request     *http.Request // for tokens that are bound to a key and a request (RFC 9449 §4.3); its body is not read
}

// A Verifier tells who bears the tokens of one issuer. It may be called concurrently.
type Verifier interface {
	// Verify returns who bears a token, and whether the token is bound to the certificate that was shown. An error that is no
	// ErrToken says that this could not be found out.
	Verify(ctx context.Context, p Presented) (who identity.Caller, bound bool, err error)
}

// maxToken bounds what is looked at before a signature is.
const maxToken = 16 << 10

// presented returns the token that a request carries; ok is false where there is none.
func presented(r *http.Request) (p Presented, ok bool, err error) {
	fields := r.Header["Authorization"]
	if len(fields) == 0 {
		return p, false, nil
	}
	scheme, token, _ := strings.Cut(fields[0], " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"): // RFC 9110 §11.1: schemes are case-insensitive
		scheme = "Bearer"
	case strings.EqualFold(scheme, "DPoP"):
		scheme = "DPoP"
	default:
		return p, false, nil // other schemes prove nothing here, and give nothing
	}
	if len(fields) != 1 {
		return p, false, twoProofs("there are several Authorization fields")
	}
	return Presented{Scheme: scheme, Token: strings.TrimLeft(token, " "), Request: r}, true, nil
}

// issuer reads who a token says it is from, unverified: whose verifier is to judge it. It costs little, whatever was sent.
func issuer(token string) string {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return ""
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// bearer returns who bears a token. leaf is the certificate that was shown with it, if any; good says that it is one of ours.
func (k *Clients) bearer(ctx context.Context, p Presented, leaf *x509.Certificate, good bool) (identity.Caller, error) {
	v := k.Tokens[issuer(p.Token)]
	if v == nil {
		return identity.Caller{}, badToken("it is no access token of an issuer that is believed here")
	}
	if good {
		p.Certificate = leaf
	}
	who, bound, err := v.Verify(ctx, p)
	switch {
	case errors.Is(err, ErrToken):
		return identity.Caller{}, badToken(err.Error())
	case err != nil:
		return identity.Caller{}, &Fault{
			Status: http.StatusServiceUnavailable, Name: "token-not-judged", Title: "Whether the token is good cannot be found out just now",
			Detail: "the token's issuer does not answer", Remedy: "ask again, or show a client certificate", Cause: err,
		}
	case who.Actor == "":
		panic("web: internal error: a verifier found a token good and names nobody")
	case leaf != nil && !bound:
		return identity.Caller{}, twoProofs("a client certificate and a token that is not bound to it")
	}
	return who, nil
}

func badToken(detail string) error {
	return &Fault{
		Status: http.StatusUnauthorized, Name: "bad-token", Title: "The access token is not good here",
		Detail: detail, Remedy: "log in again, or ask the issuer for a token for this service",
	}
}

// twoProofs refuses a request that says twice who asks: whichever was believed, it might be the wrong one (RFC 6750 §2: "Clients
// MUST NOT use more than one method to transmit the token in each request").
func twoProofs(detail string) error {
	return &Fault{
		Status: http.StatusBadRequest, Name: "two-proofs", Title: "The request says twice who asks",
		Detail: detail, Rule: "one proof a request", Remedy: "show a client certificate or a token, not both",
	}
}
