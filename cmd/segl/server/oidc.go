package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/web"
)

// OIDC is one provider whose access tokens name people and programs here, beside client certificates. What they may do say
// bindings (segl access).
type OIDC struct {
	// Issuer is the provider's URL, as its tokens say it (iss). It describes itself below that; a redirect is not followed.
	Issuer string `yaml:"issuer"`
	// Audience must be among those a token is for (aud): what this service is called at the provider.
	Audience string `yaml:"audience"`
	// TenantClaim is the claim whose text names a bearer's tenant. Default: Zitadel's, urn:zitadel:iam:user:resourceowner:id.
	TenantClaim string `yaml:"tenant_claim"`
	// RolesClaim is the claim with the bearer's roles: a list, a string of words, or an object whose keys are roles. Default:
	// Zitadel's, urn:zitadel:iam:org:project:roles; there a binding names the organization that gave a role, as admin@4711.
	RolesClaim string `yaml:"roles_claim"`
	// Refresh is the age at which the provider's keys are read again. Default 10m.
	Refresh time.Duration `yaml:"refresh"`
	// Keep is the age up to which keys are used while the provider is away. Default 24h.
	Keep time.Duration `yaml:"keep"`
	// CAFile has the certificates, PEM, that the provider's own chains to. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// ClientID and Scopes are what `segl login` logs in with: a public client with PKCE that may redirect to 127.0.0.1, and the
	// device flow where it is to be used. Default: nobody logs in by this provider; the scope openid.
	ClientID string   `yaml:"client_id"`
	Scopes   []string `yaml:"scopes"`
}

const providerTimeout = 10 * time.Second

// client returns what asks a provider.
func (o OIDC) client(now func() time.Time) (*http.Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, Time: now}
	if o.CAFile != "" {
		text, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading oidc.ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("reading oidc.ca_file %s: there is no certificate", o.CAFile)
		}
	}
	return &http.Client{Timeout: providerTimeout, Transport: &http.Transport{TLSClientConfig: t, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}}, nil
}

// openOIDC readies the providers. It asks none: one that is away keeps nothing from starting.
func (s *Server) openOIDC(context.Context) error {
	if s.tokens == nil {
		s.tokens = make(map[string]web.Verifier)
	}
	for _, o := range s.cfg.OIDC {
		client, err := o.client(s.now)
		if err != nil {
			return err
		}
		p, err := oidc.New(oidc.Config{
			Issuer: o.Issuer, Audience: o.Audience, TenantClaim: o.TenantClaim, RolesClaim: o.RolesClaim, Refresh: o.Refresh, Keep: o.Keep, Client: client, Now: s.now,
		})
		if err != nil {
			return fmt.Errorf("reading the configuration of providers: %w", err)
		}
		if s.tokens[o.Issuer] != nil {
			p.Close()
			return fmt.Errorf("oidc: issuer %s is there twice", o.Issuer)
		}
		s.tokens[o.Issuer] = bearers{p}
		s.providers = append(s.providers, p)
	}
	return nil
}

// bearers are a provider's.
type bearers struct{ provider *oidc.Provider }

// Verify implements web.Verifier.
func (b bearers) Verify(ctx context.Context, p web.Presented) (identity.Caller, bool, error) {
	if p.Scheme != "Bearer" {
		return identity.Caller{}, false, fmt.Errorf("%w: tokens of %s are sent as Bearer (RFC 6750 §2.1)", web.ErrToken, b.provider.Issuer())
	}
	who, err := b.provider.Verify(ctx, p.Token)
	switch {
	case errors.Is(err, oidc.ErrToken):
		return identity.Caller{}, false, fmt.Errorf("%w: %w", web.ErrToken, err)
	case err != nil:
		return identity.Caller{}, false, err
	case who.Kind != oidc.None:
		return identity.Caller{}, false, fmt.Errorf("%w: it is %s, and this takes access tokens", web.ErrToken, who.Kind)
	}
	out := identity.Caller{Actor: person(who.Issuer, who.Subject), Issuer: who.Issuer, Claims: identity.NewClaims(who.Claims)}
	if who.Act != "" { // by the name that it has when it comes itself: nobody confirms what they asked for (access.Approval)
		out.Act = person(who.ActIssuer, who.Act)
	}
	return out, false, nil
}

// person is what facts call whom an issuer calls subject.
func person(issuer, subject string) string { return "oidc:" + issuer + "#" + subject }

// LoginAnswer says how people log in here.
type LoginAnswer struct {
	Providers []LoginProvider `json:"providers" required:"true"`
}

// A LoginProvider is one that `segl login` can use.
type LoginProvider struct {
	Issuer   string   `json:"issuer" required:"true"`
	ClientID string   `json:"client_id" required:"true"`
	Scopes   []string `json:"scopes" required:"true"`
}

// loginDoor tells anybody where to log in.
func (s *Server) loginDoor() web.Door {
	out := LoginAnswer{Providers: []LoginProvider{}}
	for _, o := range s.cfg.OIDC {
		if o.ClientID != "" {
			scopes := append([]string{}, o.Scopes...)
			if len(scopes) == 0 {
				scopes = []string{"openid"}
			}
			out.Providers = append(out.Providers, LoginProvider{Issuer: o.Issuer, ClientID: o.ClientID, Scopes: scopes})
		}
	}
	return web.Door{Table: below(), Routes: []web.Route{{
		Method: http.MethodGet, Path: "/v1/login", ID: "describeLogin", Access: web.Anyone, Summary: "Where people log in",
		Handler: web.JSON(func(context.Context, identity.Caller, struct{}) (LoginAnswer, error) { return out, nil }),
	}}}
}
