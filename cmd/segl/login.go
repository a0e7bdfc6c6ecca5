package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/login"
	"codeberg.org/dataverket/segl/cmd/segl/server"
)

// loginTime is how long a person may take.
const loginTime = 5 * time.Minute

// login is `segl login`.
func (p *program) login() *cobra.Command {
	var device, shown bool
	var issuer string
	c := p.connects(&cobra.Command{
		Use: "login", Short: "Log in as a person, by the provider that the service names", Args: exactly(),
		Long: `Opens the browser on this machine, or with --device says where another one is to go. The
token is kept in your configuration directory, mode 0600, and refreshed as long as the
provider allows. Commands use it where no certificate is given. --as operator logs in at
the operators' listener.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), loginTime)
			defer cancel()
			return p.logIn(ctx, issuer, device, shown)
		},
	})
	f := c.Flags()
	f.BoolVar(&device, "device", false, "log in by a browser elsewhere")
	f.BoolVar(&shown, "no-browser", false, "print the URL in place of opening the browser")
	f.StringVar(&issuer, "issuer", "", "log in at provider `URL`, where the service names several")
	return c
}

func (p *program) logIn(ctx context.Context, issuer string, device, shown bool) error { //nolint:revive // flags
	service, err := p.base(p.loginParty())
	if err != nil {
		return err
	}
	provider, err := p.provider(ctx, service, issuer)
	if err != nil {
		return err
	}
	var token *oauth2.Token
	if device {
		token, err = provider.Device(ctx, func(where, code string) { p.note("go to %s and enter %s", where, code) })
	} else {
		token, err = provider.Browser(ctx, func(url string) error {
			if shown || browse(ctx, url) != nil {
				p.note("open this in a browser on this machine: %s", url)
			}
			return nil
		})
	}
	if errors.Is(err, login.ErrRefused) {
		return &failure{code: exitDenied, err: err}
	}
	if err != nil {
		return err
	}
	store, err := p.logins()
	if err != nil {
		return err
	}
	if err := store.Save(service, provider, token); err != nil {
		return err
	}
	p.note("logged in at %s", service)
	return nil
}

// logout is `segl logout`.
func (p *program) logout() *cobra.Command {
	return p.connects(&cobra.Command{
		Use: "logout", Short: "Forget the token of segl login", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			service, err := p.base(p.loginParty())
			if err != nil {
				return err
			}
			store, err := p.logins()
			if err != nil {
				return err
			}
			err = store.Remove(service)
			if errors.Is(err, login.ErrNone) {
				return &failure{code: exitNotFound, err: fmt.Errorf("nobody is logged in at %s", service)}
			}
			return err
		},
	})
}

// loginParty is at whose listener a person logs in.
func (p *program) loginParty() party {
	if p.remote.as == operator {
		return operator
	}
	return workload
}

// provider asks the service where people log in.
func (p *program) provider(ctx context.Context, service, issuer string) (login.Provider, error) {
	roots, err := p.roots()
	if err != nil {
		return login.Provider{}, err
	}
	remote, err := client.New(client.Config{URL: service, Roots: roots, UserAgent: agent(), Now: p.now})
	if err != nil {
		return login.Provider{}, err
	}
	defer remote.Close()
	var out server.LoginAnswer
	if err := remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/login"}, &out); err != nil {
		return login.Provider{}, err
	}
	var found []login.Provider
	for _, l := range out.Providers {
		if issuer == "" || l.Issuer == issuer {
			found = append(found, login.Provider{Issuer: l.Issuer, ClientID: l.ClientID, Scopes: l.Scopes})
		}
	}
	switch len(found) {
	case 0:
		return login.Provider{}, &failure{code: exitNotFound, err: errors.New("the service names no provider to log in at"), hint: "operators: see oidc.client_id in the configuration; else use a client certificate"}
	case 1:
		return found[0], nil
	}
	return login.Provider{}, misuse("the service names %d providers", len(found)).hinted("choose one with --issuer, such as %s", found[0].Issuer)
}

// logins is where tokens are kept.
func (p *program) logins() (login.Store, error) {
	dir := p.env("SEGL_CONFIG_DIR")
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return login.Store{}, fmt.Errorf("finding the configuration directory: %w", err)
		}
		dir = filepath.Join(base, "segl")
	}
	return login.Store{Path: filepath.Join(dir, "logins.json"), Now: p.now}, nil
}

// browse opens the person's browser.
func browse(ctx context.Context, url string) error {
	opener := "xdg-open"
	if runtime.GOOS == "darwin" {
		opener = "open"
	}
	return exec.CommandContext(ctx, opener, url).Run()
}
