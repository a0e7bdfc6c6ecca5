// Package oidc tells who bears an access token of a configured OpenID provider: a person, or a machine known elsewhere.
//
// It verifies JWT access tokens (RFC 9068, and those that differ from it only in their type, as Zitadel's do) against the keys
// the provider publishes (OpenID Connect Discovery 1.0 §4, RFC 7517). Keys are read again when they are older than Refresh, and used
// for as long as Keep while the provider is away. What a bearer may do is decided elsewhere: this package names who it is, which
// tenant and roles the provider gave, and on whose behalf (RFC 8693 §4.1). It keeps no session and no password.
//
// The invariant: no claim leaves here before the signature, the issuer, the audience and the times were found good.
//
// A Provider may be used concurrently. Nobody waits for the provider but those whose key is not known yet.
package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	oidclib "github.com/coreos/go-oidc/v3/oidc"
)

var (
	// ErrToken: the token is not good here, whatever is tried again. The text says what is wrong and what to do.
	ErrToken = errors.New("access token refused")
	// ErrUnavailable: whether it is good could not be found out. Try again later.
	ErrUnavailable = errors.New("identity provider cannot be asked")
)

// Zitadel's claims, and the bounds unless others are configured.
const (
	DefaultTenantClaim = "urn:zitadel:iam:user:resourceowner:id"
	DefaultRolesClaim  = "urn:zitadel:iam:org:project:roles"

	defaultRefresh = 10 * time.Minute
	defaultKeep    = 24 * time.Hour
	maxToken       = 16 << 10
	maxClaim       = 1024 // octets of a name: subject, tenant, role
	maxRoles       = 256
)

// algorithms are those a provider may sign with. The short list leaves out all that are symmetric, where the provider's public key
// would pass for a secret, and "none" (RFC 8725 §3.1).
var algorithms = []string{"ES256", "ES384", "EdDSA", "PS256", "RS256"}

// Config says which provider is believed, and about what.
type Config struct {
	// Issuer is the provider's URL, as its tokens say it (iss) and below which it describes itself.
	Issuer string
	// Audience must be among those a token is for (aud): what this service is called at the provider.
	Audience string
	// TenantClaim is the claim whose text names the bearer's tenant. Empty: Zitadel's.
	TenantClaim string
	// RolesClaim is the claim with the bearer's roles: a list, a string of words, or an object whose keys are roles, as Zitadel's.
	// Empty: Zitadel's.
	RolesClaim string
	// Refresh is the age at which keys are read again. Zero: 10 minutes.
	Refresh time.Duration
	// Keep is the age up to which keys are used while the provider is away. Zero: 24 hours.
	Keep time.Duration
	// Client asks the provider. Its timeout bounds how long a token with an unknown key can wait. No redirect is followed, whatever
	// it says: the issuer is a name, and whoever it sent us to would be believed in its place.
	Client *http.Client
	// Keys, where there, are the issuer's, a JWK set (RFC 7517 §5): nobody is asked then, and no Client is needed.
	Keys []byte
	// Now is the process's clock.
	Now func() time.Time
}

// A Bearer is whom a token names.
type Bearer struct {
	Issuer, Subject string
	Tenant          string    // what the tenant claim says; empty where there is none
	Roles           []Role    // what the roles claim says
	Act             string    // the party that really acts, where Subject delegated to it (RFC 8693 §4.1)
	ActIssuer       string    // whose subject that is: its own iss, else Issuer
	ID              string    // the token's own (jti), where it has one
	Expires         time.Time // it names nobody after that
	Issued          time.Time // zero where it does not say
	// Claims are those that are text, lists of text, or objects by their keys; an unverified address is left out. role and
	// tenant are what Roles and Tenant say, a role that organizations gave as role@organization.
	Claims map[string][]string
	// Kind is what the token's other claims and its header show it to be, where that is no access token.
	Kind Kind
}

// A Kind is what else a token may be.
type Kind string

// The kinds. Whoever takes access tokens takes None.
const (
	None   Kind = ""
	Login  Kind = "an ID token"                    // OpenID Connect Core 1.0 §2: for a client, about a login
	Logout Kind = "a logout token"                 // OpenID Connect Back-Channel Logout 1.0 §2.4
	Bound  Kind = "bound to a key (RFC 7800 §3.1)" // whoever cannot check that must not take it
)

// A Role is one the provider gave.
type Role struct {
	Name string
	// Organizations are those that gave it, in Zitadel's form; nil where the provider does not say.
	Organizations []string
}

// A Provider knows an issuer's bearers.
type Provider struct {
	cfg    Config
	keys   *keys
	checks *oidclib.Config
}

// New checks a configuration. It asks nobody: a provider that is away keeps no service from starting.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.Issuer)
	asked := len(cfg.Keys) == 0 // with keys at hand, an issuer is a name and need not be a URL
	switch {
	case !asked && (cfg.Issuer == "" || len(cfg.Issuer) > maxClaim):
		return nil, errors.New("oidc issuer: want what the tokens call it (iss)")
	case asked && (err != nil || u.Scheme != "https" && u.Hostname() != "127.0.0.1" || u.Host == "" || u.RawQuery != "" || u.Fragment != ""):
		return nil, fmt.Errorf("oidc issuer %q: want https://host[/path] (OpenID Connect Discovery 1.0 §3)", cfg.Issuer)
	case cfg.Audience == "":
		return nil, errors.New("oidc audience: want what this service is called at the provider: without it, tokens meant for others would do")
	case cfg.Now == nil || len(cfg.Keys) == 0 && (cfg.Client == nil || cfg.Client.Timeout <= 0):
		return nil, errors.New("oidc: want a clock, and a client with a timeout")
	case cfg.Keep != 0 && cfg.Keep < cfg.Refresh:
		return nil, fmt.Errorf("oidc: keys are to be kept for %s and read again after %s: want the first to be the longer", cfg.Keep, cfg.Refresh)
	}
	orElse(&cfg.TenantClaim, DefaultTenantClaim)
	orElse(&cfg.RolesClaim, DefaultRolesClaim)
	orElse(&cfg.Refresh, defaultRefresh)
	orElse(&cfg.Keep, max(defaultKeep, cfg.Refresh))
	checks := &oidclib.Config{ClientID: cfg.Audience, SupportedSigningAlgs: algorithms, Now: cfg.Now}
	if asked {
		cfg.Client = careful(cfg.Client)
		return &Provider{cfg: cfg, keys: newKeys(cfg), checks: checks}, nil
	}
	keys := newKeys(cfg)
	if keys.set, err = decode(bytes.NewReader(cfg.Keys)); err != nil {
		return nil, err
	}
	keys.fixed = true
	return &Provider{cfg: cfg, keys: keys, checks: checks}, nil
}

// careful returns c without redirects, and with answers of bounded length.
func careful(c *http.Client) *http.Client {
	bounded := *c
	bounded.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	inner := c.Transport
	if inner == nil {
		inner = http.DefaultTransport
	}
	bounded.Transport = short{inner}
	return &bounded
}

// short cuts answers off.
type short struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s short) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.inner.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxKeySet), res.Body}
	}
	return res, err
}

func orElse[T comparable](v *T, other T) {
	var zero T
	if *v == zero {
		*v = other
	}
}

// Issuer returns whose tokens these are.
func (p *Provider) Issuer() string { return p.cfg.Issuer }

// Close waits for a reading of keys that may be under way.
func (p *Provider) Close() { p.keys.close() }

// Verify returns who bears a token, or ErrToken or ErrUnavailable.
func (p *Provider) Verify(ctx context.Context, token string) (Bearer, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return Bearer{}, fmt.Errorf("%w: it is no JWT of at most %d octets (RFC 7519 §3): ask %s for a JWT access token", ErrToken, maxToken, p.cfg.Issuer)
	}
	signed := &signature{keys: p.keys}
	t, err := oidclib.NewVerifier(p.cfg.Issuer, signed, p.checks).Verify(ctx, token)
	switch {
	case signed.err != nil: // the verifier keeps of it only the words
		return Bearer{}, signed.err
	case err != nil:
		return Bearer{}, p.refusal(err)
	}
	var claims map[string]json.RawMessage
	if err := t.Claims(&claims); err != nil {
		return Bearer{}, fmt.Errorf("%w: its claims are no JSON object (RFC 7519 §7.2)", ErrToken)
	}
	b := Bearer{Issuer: t.Issuer, Subject: t.Subject, Expires: t.Expiry, Issued: t.IssuedAt}
	if claims["iat"] == nil {
		b.Issued = time.Time{}
	}
	if err := p.read(claims, &b); err != nil {
		return Bearer{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return b, nil
}

// refusal says what was wrong, without repeating the token.
func (p *Provider) refusal(err error) error {
	if expired, ok := errors.AsType[*oidclib.TokenExpiredError](err); ok {
		return fmt.Errorf("%w: it was good until %s: log in again", ErrToken, expired.Expiry.UTC().Format(time.RFC3339))
	}
	switch text := err.Error(); {
	case strings.Contains(text, "issued by a different provider"):
		return fmt.Errorf("%w: another provider issued it: want one of %s", ErrToken, p.cfg.Issuer)
	case strings.Contains(text, "expected audience"):
		return fmt.Errorf("%w: it is for another audience: ask for one for %s", ErrToken, p.cfg.Audience)
	case strings.Contains(text, "before the nbf"):
		return fmt.Errorf("%w: it is not good yet: wait, or set the clock", ErrToken)
	case strings.Contains(text, "signed with unsupported algorithm"):
		return fmt.Errorf("%w: its algorithm is none of %s", ErrToken, strings.Join(algorithms, ", "))
	}
	return errSignature
}
