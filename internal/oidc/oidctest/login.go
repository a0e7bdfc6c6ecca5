package oidctest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// logins are people on their way in.
type logins struct {
	claims  func() map[string]any // of access tokens
	life    time.Duration
	given   int
	codes   map[string]challenge // authorization codes
	refresh map[string]bool
	devices map[string]int // device codes, and how often each is told to wait
	denied  bool
}

// A challenge is what a code is redeemed with (RFC 7636 §4.2).
type challenge struct{ s256, redirect string }

// Person says what access tokens of a login say, besides iss, iat, exp and jti, and for how long they are good.
func (p *Provider) Person(life time.Duration, claims map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life, p.claims = life, func() map[string]any {
		now := time.Now()
		out := map[string]any{"iss": p.issuer, "iat": now.Unix(), "exp": now.Add(p.life).Unix(), "jti": "login-" + strconv.Itoa(p.given)}
		for k, v := range claims {
			out[k] = v
		}
		return out
	}
}

// Deny makes it let nobody in, or people again.
func (p *Provider) Deny(denied bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.denied = denied
}

// authorize is a browser that says yes at once.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.Hostname() != "127.0.0.1" || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("client_id") == "" {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	answer := url.Values{"state": {q.Get("state")}}
	if p.denied {
		answer.Set("error", "access_denied")
	} else {
		p.given++
		code := "code-" + strconv.Itoa(p.given)
		if p.codes == nil {
			p.codes = map[string]challenge{}
		}
		p.codes[code] = challenge{q.Get("code_challenge"), q.Get("redirect_uri")}
		answer.Set("code", code)
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// device begins a login from elsewhere (RFC 8628 §3.1), which waits once before it is let in.
func (p *Provider) device(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given++
	code := "device-" + strconv.Itoa(p.given)
	if p.devices == nil {
		p.devices = map[string]int{}
	}
	p.devices[code] = 1
	reply(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": "ABCD-EFGH", "verification_uri": p.URL + "/activate", "verification_uri_complete": p.URL + "/activate?user_code=ABCD-EFGH",
		"expires_in": 60, "interval": 1,
	})
}

// token trades a code or a refresh token, each of them once.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	refuse := func(why string) { reply(w, http.StatusBadRequest, map[string]any{"error": why}) }
	if p.away || p.claims == nil || r.ParseForm() != nil {
		http.Error(w, "away", http.StatusBadGateway)
		return
	}
	switch r.PostForm.Get("grant_type") {
	case "authorization_code":
		code := r.PostForm.Get("code")
		want, ok := p.codes[code]
		delete(p.codes, code)
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != want.s256 || r.PostForm.Get("redirect_uri") != want.redirect {
			refuse("invalid_grant")
			return
		}
	case "urn:ietf:params:oauth:grant-type:device_code":
		code := r.PostForm.Get("device_code")
		left, ok := p.devices[code]
		switch {
		case !ok:
			refuse("expired_token")
			return
		case p.denied:
			refuse("access_denied")
			return
		case left > 0:
			p.devices[code]--
			refuse("authorization_pending")
			return
		}
		delete(p.devices, code)
	case "refresh_token":
		token := r.PostForm.Get("refresh_token")
		if !p.refresh[token] || p.denied {
			refuse("invalid_grant")
			return
		}
		delete(p.refresh, token)
	default:
		refuse("unsupported_grant_type")
		return
	}
	p.grant(w)
}

func (p *Provider) grant(w http.ResponseWriter) {
	p.given++
	access, err := sign(p.keys[len(p.keys)-1], p.claims(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	again := "refresh-" + strconv.Itoa(p.given)
	if p.refresh == nil {
		p.refresh = map[string]bool{}
	}
	p.refresh[again] = true
	reply(w, http.StatusOK, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": int(p.life.Seconds()), "refresh_token": again})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client has gone
}
