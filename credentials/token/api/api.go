// Package api is the OAuth door of the service listener: tokens, keys, introspection, revocation, and what describes them.
//
// Requests are forms and errors are OAuth's (RFC 6749 §5.2), not problems: clients are other people's libraries. A handler reads,
// calls one method of token and encodes. Addresses come from the configured issuer, never from Host. The door keeps no state
// and is safe for concurrent use.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

type door struct {
	server *token.Server
	log    *slog.Logger
	about  []byte
}

// Service returns the door. log is told why something could not be answered.
func Service(s *token.Server, log *slog.Logger) (web.Door, error) {
	about, err := json.Marshal(describe(s))
	if err != nil {
		return web.Door{}, fmt.Errorf("describing the authorization server: %w", err)
	}
	d := &door{s, log, about}
	post := func(path, id, summary string, h web.Handler) web.Route {
		return web.Route{Method: http.MethodPost, Path: path, ID: id, Summary: summary, Access: web.Anyone, MaxBody: token.MaxForm, Handler: h}
	}
	get := func(path, id, summary string, h web.Handler) web.Route {
		return web.Route{Method: http.MethodGet, Path: path, ID: id, Summary: summary, Access: web.Anyone, Handler: h}
	}
	return web.Door{Routes: []web.Route{
		post("/oauth2/token", "issueToken", "An access token (RFC 6749 §3.2)", web.Raw(d.issue)),
		post("/oauth2/introspect", "introspectToken", "What a token is worth now (RFC 7662)", web.Raw(d.introspect)),
		post("/oauth2/revoke", "revokeToken", "End a token (RFC 7009)", web.Raw(d.revoke)),
		get("/oauth2/jwks", "fetchTokenKeys", "The keys that verify tokens (RFC 7517 §5)", web.Raw(d.keys)),
		get("/oauth2/revocations", "fetchEndedTokens", "What has ended before its time, signed", web.Raw(d.ended)),
		get("/.well-known/oauth-authorization-server", "describeAuthorizationServer", "RFC 8414", web.Raw(d.metadata)),
		get("/.well-known/openid-configuration", "describeIssuer", "OpenID Connect Discovery 1.0 §4", web.Raw(d.metadata)),
	}}, nil
}

// peer names who asks, and the certificate it was named by. A certificate that is not of ours, or not for clients, names nobody.
func peer(r *http.Request, who identity.Caller) token.Peer {
	p := token.Peer{Who: who}
	if !who.ID.IsZero() && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && len(r.Header["Authorization"]) == 0 {
		p.Leaf = r.TLS.PeerCertificates[0]
	}
	return p
}

// form reads the content of a request.
func form(w http.ResponseWriter, r *http.Request) (token.Form, error) {
	if r.URL.RawQuery != "" { // RFC 6749 §2.3.1: "The parameters can only be transmitted in the request-body and MUST NOT be included in the request URI."
		return token.Form{}, &token.Error{Code: token.InvalidRequest, Status: http.StatusBadRequest, Description: "parameters go into the content, not into the address"}
	}
	body, err := web.ReadBody(w, r, "application/x-www-form-urlencoded")
	if f, ok := errors.AsType[*web.Fault](err); ok {
		return token.Form{}, &token.Error{Code: token.InvalidRequest, Status: f.Status, Description: f.Detail}
	}
	if err != nil {
		return token.Form{}, err
	}
	// RFC 6749 §2.3.1 names HTTP Basic for client passwords, of which there are none here.
	if strings.HasPrefix(strings.ToLower(r.Header.Get("Authorization")), "basic ") {
		return token.Form{}, &token.Error{Code: token.InvalidClient, Status: http.StatusUnauthorized, Description: "there are no client secrets: connect with a certificate, and say client_id in the form (RFC 8705 §2)"}
	}
	return token.ParseForm(body)
}

func (d *door) issue(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
	f, err := form(w, r)
	var a token.Answer
	if err == nil {
		a, err = d.server.Issue(r.Context(), peer(r, who), f, r.Header["Dpop"])
	}
	if err != nil {
		return d.fail(w, r, err)
	}
	return answer(w, http.StatusOK, a)
}

func (d *door) introspect(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
	f, err := form(w, r)
	var a token.Introspection
	if err == nil {
		a, err = d.server.Introspect(r.Context(), peer(r, who), f)
	}
	if err != nil {
		return d.fail(w, r, err)
	}
	return answer(w, http.StatusOK, a)
}

func (d *door) revoke(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
	f, err := form(w, r)
	if err == nil {
		err = d.server.Revoke(r.Context(), peer(r, who), f)
	}
	if err != nil {
		return d.fail(w, r, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK) // RFC 7009 §2.2
	return nil
}

// answer encodes v. RFC 6749 §5.1: "The authorization server MUST include the HTTP "Cache-Control" response header field with a
// value of "no-store" in any response containing tokens".
func answer(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Content-Type"], h["Cache-Control"], h["Pragma"] = []string{"application/json"}, []string{"no-store"}, []string{"no-cache"}
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

// An ErrorAnswer is a refusal (RFC 6749 §5.2).
type ErrorAnswer struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// fail answers with an error. What is not OAuth's becomes a problem, as everywhere else.
func (d *door) fail(w http.ResponseWriter, r *http.Request, err error) error {
	e, ok := errors.AsType[*token.Error](err)
	if !ok {
		return err
	}
	h := w.Header()
	switch {
	case e.Code == token.InvalidClient: // RFC 9110 §15.5.2: a 401 MUST carry a challenge
		h.Set("WWW-Authenticate", `TLS-Client-Certificate realm="segl"`)
	case e.Code == token.UseNonce: // RFC 9449 §8
		nonce, err := d.server.Nonce(r.Context())
		if err != nil {
			return err
		}
		h["Dpop-Nonce"] = []string{nonce}
	case e.Status >= http.StatusInternalServerError:
		h.Set("Retry-After", "1")
		d.log.Error("token request not answered", "err", e.Cause)
	}
	return answer(w, e.Status, ErrorAnswer{e.Code, ascii(e.Description)})
}

// ascii leaves what error_description may have. RFC 6749 §5.2: "MUST NOT include characters outside the set %x20-21 / %x23-5B /
// %x5D-7E".
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '§':
			return 'S'
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}

func (d *door) keys(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
	keys, _ := d.server.Keys()
	b, err := json.Marshal(struct {
		Keys []token.JWK `json:"keys"`
	}{keys})
	if err != nil {
		return err
	}
	return public(w, b, "application/jwk-set+json", token.KeysAge)
}

func (d *door) metadata(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
	return public(w, d.about, "application/json", time.Hour)
}

func public(w http.ResponseWriter, body []byte, media string, age time.Duration) error {
	h := w.Header()
	h["Content-Type"] = []string{media}
	h["Cache-Control"] = []string{"public, max-age=" + strconv.Itoa(int(age.Seconds()))}
	_, err := w.Write(body)
	return err
}

// longestWait bounds how long a request for the list waits, well below a handler's deadline.
const longestWait = 20 * time.Second

// ended serves the signed list. Who has it already, and says so, may wait for the next: Prefer: wait=20 (RFC 7240 §4.3).
func (d *door) ended(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	has := r.Header.Get("If-None-Match")
	text, tag, err := d.server.List(r.Context(), has, waiting(r, has))
	if err != nil {
		return d.fail(w, r, err)
	}
	h := w.Header()
	h["Etag"], h["Cache-Control"] = []string{tag}, []string{"no-cache"}
	if text == "" || tag == has {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h["Content-Type"] = []string{"application/jwt"}
	_, err = w.Write([]byte(text))
	return err
}

func waiting(r *http.Request, has string) time.Duration {
	text, ok := strings.CutPrefix(r.Header.Get("Prefer"), "wait=")
	seconds, err := strconv.Atoi(text)
	if !ok || err != nil || has == "" || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 60))*time.Second, longestWait) //nolint:mnd // bounded before it is multiplied
}
