package web_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

const tokenIssuer = "https://login.test"

// verifier believes what stands behind the last dot of a token.
type verifier struct{ asked int }

func (v *verifier) Verify(_ context.Context, p web.Presented) (identity.Caller, bool, error) {
	v.asked++
	switch p.Token[strings.LastIndexByte(p.Token, '.')+1:] {
	case "good":
		return identity.Caller{Actor: "oidc:mia"}, false, nil
	case "bound":
		if p.Certificate == nil {
			return identity.Caller{}, false, fmt.Errorf("%w: it is bound to a certificate", web.ErrToken)
		}
		return identity.Caller{Actor: "token:mia"}, true, nil
	case "away":
		return identity.Caller{}, false, errors.New("dial tcp 10.0.0.1: secret detail")
	}
	return identity.Caller{}, false, fmt.Errorf("%w: it was good until yesterday", web.ErrToken)
}

// jwt spells a token of an issuer.
func jwt(issuer, signature string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+issuer+`"}`)) + "." + signature
}

// whoami answers whom the request names.
func whoami() web.Door {
	h := web.Raw(func(w http.ResponseWriter, _ *http.Request, who identity.Caller) error {
		_, err := fmt.Fprintf(w, "%s|%t", who.Actor, !who.Serial.IsZero())
		return err
	})
	var routes []web.Route
	for path, a := range map[string]web.Access{"/who/holder": web.Holder, "/who/anyone": web.Anyone, "/who/operator": web.Operator, "/who/bearer": web.Bearer} {
		routes = append(routes, web.Route{Method: http.MethodGet, Path: path, Access: a, Handler: h})
	}
	return web.Door{Routes: routes}
}

type tokens struct {
	*rig
	verifier
}

func newTokens(t *testing.T) *tokens {
	r := &tokens{}
	r.rig = populated(t, func(c *web.Config) {
		c.Clients.Tokens = map[string]web.Verifier{tokenIssuer: &r.verifier}
		c.Clients.Name = func(who identity.Caller) identity.Caller {
			who.Operator = who.Operator || who.Actor == "token:mia"
			return who
		}
	}, whoami())
	return r
}

// ask returns status and body, and the challenges of a 401.
func (r *tokens) ask(t *testing.T, as, path string, authorization ...string) (int, string, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+path, nil)
	must(t, err)
	req.Header["Authorization"] = authorization
	resp, err := r.as(t, as).Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b), strings.Join(resp.Header.Values("WWW-Authenticate"), "; ")
}

func TestATokenNamesItsBearer(t *testing.T) {
	r := newTokens(t)
	for _, c := range []struct{ as, path, token, want string }{
		{"nobody", "/who/holder", "Bearer " + jwt(tokenIssuer, "good"), "oidc:mia|false"},
		{"nobody", "/who/holder", "bearer  " + jwt(tokenIssuer, "good"), "oidc:mia|false"},
		{"nobody", "/who/anyone", "Bearer " + jwt(tokenIssuer, "good"), "oidc:mia|false"},
		{"holder", "/who/holder", "Bearer " + jwt(tokenIssuer, "bound"), "token:mia|true"},
		{"holder", "/who/operator", "DPoP " + jwt(tokenIssuer, "bound"), "token:mia|true"},
		{"holder", "/who/holder", "Basic bWlhOnNlY3JldA==", holderID + "|true"}, // gives nothing, and takes nothing
		{"nobody", "/who/anyone", "Basic bWlhOnNlY3JldA==", "|false"},
	} {
		if status, body, _ := r.ask(t, c.as, c.path, c.token); status != http.StatusOK || body != c.want {
			t.Errorf("%s at %s with %.12s…: %d %s, want %s", c.as, c.path, c.token, status, body, c.want)
		}
	}
}

func TestTokensAreRefused(t *testing.T) {
	r := newTokens(t)
	good := jwt(tokenIssuer, "good")
	for what, c := range map[string]struct {
		as, path string
		tokens   []string
		status   int
		says     string
	}{
		"beside a certificate":                    {"holder", "/who/holder", []string{"Bearer " + good}, 400, "two-proofs"},
		"beside a certificate, where all may":     {"holder", "/who/anyone", []string{"Bearer " + good}, 400, "two-proofs"},
		"beside an expired certificate":           {"expired", "/who/anyone", []string{"Bearer " + good}, 400, "two-proofs"},
		"beside a stranger's certificate":         {"stranger", "/who/holder", []string{"Bearer " + good}, 400, "two-proofs"},
		"bound, beside a stranger's":              {"stranger", "/who/holder", []string{"Bearer " + jwt(tokenIssuer, "bound")}, 401, "bad-token"},
		"bound, beside none":                      {"nobody", "/who/holder", []string{"Bearer " + jwt(tokenIssuer, "bound")}, 401, "it is bound to a certificate"},
		"twice":                                   {"nobody", "/who/holder", []string{"Bearer " + good, "Bearer " + good}, 400, "two-proofs"},
		"an expired one":                          {"nobody", "/who/holder", []string{"Bearer " + jwt(tokenIssuer, "old")}, 401, "good until yesterday"},
		"an expired one, where all may":           {"nobody", "/who/anyone", []string{"Bearer " + jwt(tokenIssuer, "old")}, 401, "bad-token"},
		"another issuer's":                        {"nobody", "/who/holder", []string{"Bearer " + jwt("https://evil.test", "good")}, 401, "believed here"},
		"an issuer's with a slash":                {"nobody", "/who/holder", []string{"Bearer " + jwt(tokenIssuer+"/", "good")}, 401, "believed here"},
		"no JWT":                                  {"nobody", "/who/holder", []string{"Bearer abc"}, 401, "bad-token"},
		"none":                                    {"nobody", "/who/holder", []string{"Bearer"}, 401, "bad-token"},
		"one whose payload is no JSON":            {"nobody", "/who/holder", []string{"Bearer e30.e30x.good"}, 401, "bad-token"},
		"one-time enrolment":                      {"nobody", "/who/holder", []string{"Bearer segl_enrol_30"}, 401, "bad-token"},
		"an encrypted one":                        {"nobody", "/who/holder", []string{"Bearer a." + good + ".b"}, 401, "bad-token"},
		"another scheme":                          {"nobody", "/who/holder", []string{"Basic bWlhOnNlY3JldA=="}, 401, "certificate-required"},
		"a bearer who is no operator":             {"nobody", "/who/operator", []string{"Bearer " + good}, 403, "operator-required"},
		"one whose issuer is away":                {"nobody", "/who/holder", []string{"Bearer " + jwt(tokenIssuer, "away")}, 503, "token-not-judged"},
		"one whose issuer is away, where all may": {"nobody", "/who/anyone", []string{"Bearer " + jwt(tokenIssuer, "away")}, 503, "ask again"},
	} {
		t.Run(what, func(t *testing.T) {
			status, body, challenge := r.ask(t, c.as, c.path, c.tokens...)
			if status != c.status || !strings.Contains(body, c.says) || strings.Contains(body, "secret") {
				t.Errorf("%d %s, want %d that says %q", status, body, c.status, c.says)
			}
			if status == http.StatusUnauthorized && !strings.Contains(challenge, "Bearer") {
				t.Errorf("a 401 without the words of RFC 6750 §3: %q", challenge)
			}
			for _, token := range c.tokens {
				if _, secret, _ := strings.Cut(token, " "); len(secret) > 20 && strings.Contains(body+r.log.String(), secret) {
					t.Error("the token stands in the answer or in the log")
				}
			}
		})
	}
}

func TestABoundTokenIsNoBetterThanItsCertificate(t *testing.T) {
	r := newTokens(t)
	r.revoked["token:mia"] = true
	if status, body, _ := r.ask(t, "holder", "/who/holder", "Bearer "+jwt(tokenIssuer, "bound")); status == http.StatusOK {
		t.Errorf("taken with a revoked certificate: %s", body)
	}
	if status, body, _ := r.ask(t, "holder", "/who/anyone", "Bearer "+jwt(tokenIssuer, "bound")); status != http.StatusOK || body != "|false" {
		t.Errorf("%d %s: want what a stranger may", status, body)
	}
}

func TestTokensProveNothingWhereNoneIsBelieved(t *testing.T) {
	r := populated(t, nil, whoami())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/who/holder", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+jwt(tokenIssuer, "good"))
	resp, err := r.as(t, "nobody").Do(req)
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Error(resp.Status)
	}
}

// A token of a million dots is too long for a header; as long as one may be, it costs a look and no verifier.
func TestATokenOfAMillionDotsIsRefusedCheaply(t *testing.T) {
	r := newTokens(t)
	begun := time.Now()
	for _, dots := range []int{3, 12_000, 1_000_000} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/who/anyone", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+strings.Repeat(".", dots))
		resp, err := r.as(t, "nobody").Do(req)
		if err != nil { // the server hung up in the middle of the header
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 4 {
			t.Errorf("%d dots: %s", dots, resp.Status)
		}
	}
	if r.asked != 0 || time.Since(begun) > 5*time.Second {
		t.Errorf("the verifier was asked %d times in %s", r.asked, time.Since(begun))
	}
	most := strings.Repeat(".", 16<<10)
	if n := testing.AllocsPerRun(10, func() { _ = web.IssuerOf(most) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
