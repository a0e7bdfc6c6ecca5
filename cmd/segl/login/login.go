// Package login gets a person an access token and keeps it: by the browser on this machine (RFC 8252: a loopback redirect, with
// PKCE, RFC 7636), or by a browser elsewhere (RFC 8628). It knows no password, and listens on loopback alone, for one answer.
//
// Tokens are kept in one file, mode 0600, which appears whole or not at all. A refresh token is spent once: processes that
// refresh at the same time take turns, and who comes second uses what the first one got.
package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	oidclib "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// A Provider is where to log in, and as which client.
type Provider struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}

// timeout bounds each question to the provider.
const timeout = 20 * time.Second

// careful returns a client that follows no redirect: what is asked of the issuer is answered by the issuer.
func careful(ctx context.Context) context.Context {
	return oidclib.ClientContext(ctx, &http.Client{
		Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
}

// config asks the provider where its endpoints are.
func (p Provider) config(ctx context.Context) (oauth2.Config, error) {
	found, err := oidclib.NewProvider(ctx, p.Issuer)
	if err != nil {
		return oauth2.Config{}, fmt.Errorf("asking %s where to log in: %w", p.Issuer, err)
	}
	endpoint := found.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has nothing to authenticate with (RFC 6749 §2.1)
	scopes := append([]string{}, p.Scopes...)
	// OpenID Connect Core 1.0 §11: for a refresh token
	return oauth2.Config{ClientID: p.ClientID, Endpoint: endpoint, Scopes: append(scopes, "offline_access")}, nil
}

// Browser logs in by the browser on this machine: open shows it a URL. It waits until ctx ends.
func (p Provider) Browser(ctx context.Context, open func(url string) error) (*oauth2.Token, error) {
	ctx = careful(ctx)
	cfg, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	// RFC 8252 §8.3: "Use of localhost is NOT RECOMMENDED": 127.0.0.1 is this machine whatever its names are.
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the browser's answer: %w", err)
	}
	defer ln.Close() //nolint:errcheck // closed by its server already
	cfg.RedirectURL = "http://" + ln.Addr().String() + "/callback"
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	if err := open(cfg.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))); err != nil {
		return nil, err
	}
	code, err := answer(ctx, ln, state)
	if err != nil {
		return nil, err
	}
	token, err := cfg.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, refused("trading the browser's code", err)
	}
	return token, nil
}

// answer waits for the one request that a login sends back.
func answer(ctx context.Context, ln net.Listener, state string) (string, error) {
	type said struct {
		code string
		err  error
	}
	heard := make(chan said, 1)
	server := &http.Server{ReadHeaderTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		// Whoever does not know the state is not the browser that was shown the URL (RFC 6749 §10.12).
		if r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "this is not the login that was begun", http.StatusBadRequest)
			return
		}
		s := said{code: q.Get("code")}
		if e := q.Get("error"); e != "" || s.code == "" {
			s = said{err: fmt.Errorf("%w: the provider says %.100q", ErrRefused, e)}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "segl has what it needs; this page can be closed.") //nolint:errcheck // the browser has gone
		select {
		case heard <- s:
		default: // a second answer
		}
	})}
	go server.Serve(ln) //nolint:errcheck // ends with Shutdown
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		server.Shutdown(ending) //nolint:errcheck // the process needs it no more
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the browser: %w", context.Cause(ctx))
	case s := <-heard:
		return s.code, s.err
	}
}

// Device logs in by a browser elsewhere: show tells the person where to go, and which code to enter there.
func (p Provider) Device(ctx context.Context, show func(where, code string)) (*oauth2.Token, error) {
	ctx = careful(ctx)
	cfg, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Endpoint.DeviceAuthURL == "" {
		return nil, fmt.Errorf("%w: %s has no login for devices (RFC 8628): log in without --device", ErrRefused, p.Issuer)
	}
	begun, err := cfg.DeviceAuth(ctx)
	if err != nil {
		return nil, refused("beginning a login", err)
	}
	show(begun.VerificationURI, begun.UserCode)
	token, err := cfg.DeviceAccessToken(ctx, begun)
	if err != nil {
		return nil, refused("waiting for the login", err)
	}
	return token, nil
}

// refresh trades a refresh token for new ones.
func (p Provider) refresh(ctx context.Context, token string) (*oauth2.Token, error) {
	ctx = careful(ctx)
	cfg, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	fresh, err := cfg.TokenSource(ctx, &oauth2.Token{RefreshToken: token}).Token()
	if err != nil {
		return nil, refused("refreshing the login", err)
	}
	return fresh, nil
}

// ErrRefused: the provider lets the person not in. Trying the same again is of no use.
var ErrRefused = errors.New("the login was refused")

// refused keeps of the provider's answer its word, and none of what was sent or got.
func refused(doing string, err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		if e.ErrorCode != "" {
			return fmt.Errorf("%s: %w: the provider says %.100q", doing, ErrRefused, e.ErrorCode)
		}
		return fmt.Errorf("%s: the provider answers %s", doing, e.Response.Status)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
