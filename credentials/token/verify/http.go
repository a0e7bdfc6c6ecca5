package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

type claimsKey struct{}

// Of returns what the token of a request said that passed Handler.
func Of(r *http.Request) (Claims, bool) {
	c, ok := r.Context().Value(claimsKey{}).(Claims)
	return c, ok
}

// Request checks the token of a request. base is where clients reach this service, as https://api.example; what the Host header
// says counts for nothing.
func (v *Verifier) Request(r *http.Request, base string) (Claims, error) {
	scheme, token, err := credential(r)
	if err != nil {
		return Claims{}, err
	}
	shown := Shown{Method: r.Method, URL: strings.TrimRight(base, "/") + r.URL.EscapedPath()}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		shown.Certificate = r.TLS.PeerCertificates[0]
	}
	if proofs := r.Header.Values("DPoP"); len(proofs) == 1 {
		shown.Proof = proofs[0]
	}
	c, err := v.Verify(r.Context(), token, shown)
	// RFC 9449 §7.1: a token bound to a key comes under the scheme DPoP, and "a DPoP-bound access token MUST NOT be accepted as a
	// bearer token" (§7.2)
	if err == nil && (c.Bound.Key != "") != strings.EqualFold(scheme, "DPoP") {
		err = fmt.Errorf("%w: it came under the wrong scheme (RFC 9449 §7.2)", ErrToken)
	}
	if err != nil {
		return Claims{}, err
	}
	return c, nil
}

var errNone = errors.New("no access token was shown")

// credential takes the token out of the Authorization header (RFC 6750 §2.1, RFC 9449 §7.1): once, and nowhere else.
func credential(r *http.Request) (scheme, token string, err error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", "", errNone
	}
	scheme, token, _ = strings.Cut(values[0], " ")
	if len(values) != 1 || token == "" || strings.ContainsAny(token, " ,") || !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return "", "", fmt.Errorf("%w: want one Authorization header, Bearer or DPoP (RFC 6750 §2.1)", ErrToken)
	}
	return scheme, token, nil
}

// Handler lets requests with a good token through to next, where Of has what it says. Others are answered as RFC 6750 §3 and
// RFC 9449 §7.1 say. scopes must all have been granted.
func (v *Verifier) Handler(base string, next http.Handler, scopes ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := v.Request(r, base)
		if err != nil {
			refuse(w, err)
			return
		}
		for _, s := range scopes {
			if !c.HasScope(s) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", scope=%q`, strings.Join(scopes, " ")))
				w.WriteHeader(http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimsKey{}, c)))
	})
}

func refuse(w http.ResponseWriter, err error) {
	h := w.Header()
	switch {
	case errors.Is(err, ErrUnavailable):
		h.Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case errors.Is(err, errNone): // RFC 6750 §3.1: no error code where no token was shown
		h.Add("WWW-Authenticate", "Bearer")
		h.Add("WWW-Authenticate", `DPoP algs="ES256 ES384 EdDSA PS256 RS256"`)
	case errors.Is(err, ErrProof):
		h.Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
	default:
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	w.WriteHeader(http.StatusUnauthorized)
}
