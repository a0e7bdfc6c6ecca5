package login_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"codeberg.org/dataverket/segl/cmd/segl/login"
	"codeberg.org/dataverket/segl/internal/oidc/oidctest"
)

const service = "https://segl.test:8443"

func newProvider(t *testing.T) (*oidctest.Provider, login.Provider) {
	t.Helper()
	p := oidctest.New(t)
	p.Person(time.Hour, map[string]any{"sub": "mia", "aud": "segl"})
	return p, login.Provider{Issuer: p.URL, ClientID: "segl-cli", Scopes: []string{"openid"}}
}

// visit is a browser that goes where it is shown.
func visit(t *testing.T, change func(*url.URL)) func(string) error {
	return func(shown string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, shown, nil)
		if err != nil {
			return err
		}
		go func() {
			c := &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
				change(r.URL)
				return nil
			}}
			if res, err := c.Do(req); err == nil {
				io.Copy(io.Discard, res.Body) //nolint:errcheck // a browser
				res.Body.Close()              //nolint:errcheck // likewise
			}
		}()
		return nil
	}
}

func TestABrowserOnThisMachineLogsIn(t *testing.T) {
	_, sut := newProvider(t)
	token, err := sut.Browser(t.Context(), visit(t, func(u *url.URL) {
		if u.Hostname() != "127.0.0.1" {
			t.Errorf("the answer goes to %s", u.Host)
		}
	}))
	if err != nil || strings.Count(token.AccessToken, ".") != 2 || token.RefreshToken == "" {
		t.Fatalf("%+v, %v", token, err)
	}
}

func TestAnotherAnswerThanTheLoginsIsNotTaken(t *testing.T) {
	p, sut := newProvider(t)
	for what, change := range map[string]func(*url.URL){
		"another state": func(u *url.URL) { u.RawQuery = strings.Replace(u.RawQuery, "state=", "state=x", 1) },
		"no state":      func(u *url.URL) { u.RawQuery = "code=code-1" },
		"another path":  func(u *url.URL) { u.Path = "/" },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := sut.Browser(ctx, visit(t, change)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
	if _, err := sut.Browser(t.Context(), visit(t, func(u *url.URL) {
		q := u.Query()
		q.Set("code", "code-of-somebody-else")
		u.RawQuery = q.Encode()
	})); !errors.Is(err, login.ErrRefused) {
		t.Errorf("another code: %v", err)
	}
	p.Deny(true)
	if _, err := sut.Browser(t.Context(), visit(t, func(*url.URL) {})); !errors.Is(err, login.ErrRefused) {
		t.Errorf("turned down: %v", err)
	}
}

func TestABrowserElsewhereLogsIn(t *testing.T) {
	p, sut := newProvider(t)
	var code string
	token, err := sut.Device(t.Context(), func(_, c string) { code = c })
	if err != nil || token.AccessToken == "" || code != "ABCD-EFGH" {
		t.Fatalf("%+v, %v", token, err)
	}
	p.Deny(true)
	if _, err := sut.Device(t.Context(), func(string, string) {}); !errors.Is(err, login.ErrRefused) {
		t.Errorf("turned down: %v", err)
	}
}

func TestAProviderThatRedirectsIsNotFollowed(t *testing.T) {
	p, sut := newProvider(t)
	evil, _ := newProvider(t)
	evil.CallItself(p.URL)
	p.Redirect("/.well-known/openid-configuration", evil.URL+"/.well-known/openid-configuration")
	if _, err := sut.Device(t.Context(), func(string, string) { t.Error("a code was shown") }); err == nil {
		t.Error("another provider was believed")
	}
}

func newStore(t *testing.T) login.Store {
	return login.Store{Path: filepath.Join(t.TempDir(), "segl", "logins.json"), Now: time.Now}
}

func TestTokensAreTheOwnersAlone(t *testing.T) {
	s := newStore(t)
	if err := s.Save(service, login.Provider{}, &oauth2.Token{AccessToken: "a", Expiry: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{s.Path: 0o600, filepath.Dir(s.Path): 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	if got, err := s.Token(t.Context(), service); err != nil || got != "a" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.Token(t.Context(), "https://evil.test"); !errors.Is(err, login.ErrNone) {
		t.Errorf("for another service: %v", err)
	}
	if err := os.Chmod(s.Path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Token(t.Context(), service); err == nil || errors.Is(err, login.ErrNone) {
		t.Errorf("a file that others read: %v", err)
	}
	if err := os.Chmod(s.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Remove(service)); err != nil || s.Has(service) || !errors.Is(s.Remove(service), login.ErrNone) {
		t.Errorf("logging out: %v", err)
	}
	if err := os.WriteFile(s.Path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Token(t.Context(), service); err == nil || errors.Is(err, login.ErrNone) {
		t.Errorf("a damaged file: %v", err)
	}
}

// A refresh token is good once: eight processes at the same time spend it once between them.
func TestATokenIsRefreshedOnce(t *testing.T) {
	p, sut := newProvider(t)
	s := newStore(t)
	first, err := sut.Device(t.Context(), func(string, string) {})
	if err != nil {
		t.Fatal(err)
	}
	first.Expiry = time.Now().Add(10 * time.Second)
	if err := s.Save(service, sut, first); err != nil {
		t.Fatal(err)
	}
	got := make([]string, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i], _ = s.Token(t.Context(), service) })
	}
	wg.Wait()
	for _, token := range got {
		if token == "" || token == first.AccessToken || token != got[0] {
			t.Fatalf("tokens differ, or are the old one")
		}
	}
	// What was refused is gone: log in again.
	s.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	p.Deny(true)
	if _, err := s.Token(t.Context(), service); !errors.Is(err, login.ErrNone) || strings.Contains(err.Error(), "refresh-") {
		t.Errorf("%v", err)
	}
	p.Deny(false)
	p.Away(true)
	if _, err := s.Token(t.Context(), service); err == nil || errors.Is(err, login.ErrNone) {
		t.Errorf("a provider that is away: %v", err)
	}
}
