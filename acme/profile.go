package acme

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Setting is what a scope's directory asks and offers. What is nil is as the scope above says.
type Setting struct {
	BindingRequired *bool    // a new account needs an external account key (RFC 8555 §7.3.4)
	Profiles        []string // that may be ordered; the first is what an order gets that names none
}

// Settings keeps them.
type Settings interface {
	// Settings returns what each of scopes declares; one that declares nothing is left out.
	Settings(ctx context.Context, scopes ...identity.Scope) (map[identity.Scope]Setting, error)
	// Set replaces what scope declares, and records f. ErrNotFound: there is no such scope.
	Set(ctx context.Context, scope identity.Scope, v Setting, f audit.Fact) error
}

// defaultProfile is what a scope offers where nobody says otherwise.
const defaultProfile = "server"

// settingsFor is how long a replica believes what it read of a scope's settings: so late it may heed a change.
const settingsFor = 5 * time.Second

// settings remembers what scopes declare, those above counted in.
type settings struct {
	mu  sync.Mutex
	all map[identity.Scope]remembered
}

type remembered struct {
	Setting
	until time.Time
}

const rememberedSettings = 4096

func newSettings() *settings { return &settings{all: make(map[identity.Scope]remembered)} }

func (c *settings) get(scope identity.Scope, now time.Time) (Setting, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.all[scope]
	return r.Setting, ok && now.Before(r.until)
}

func (c *settings) put(scope identity.Scope, v Setting, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= rememberedSettings {
		clear(c.all)
	}
	c.all[scope] = remembered{v, until}
}

func (c *settings) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.all)
}

// Setting returns what holds in scope, nothing left open.
func (s *Server) Setting(ctx context.Context, scope identity.Scope) (Setting, error) {
	now := s.Now()
	if v, ok := s.settings.get(scope, now); ok {
		return v, nil
	}
	chain := []identity.Scope{scope}
	for at, ok := scope.Parent(); ok; at, ok = at.Parent() {
		chain = append(chain, at)
	}
	declared, err := s.Store.Settings(ctx, chain...)
	if err != nil {
		return Setting{}, fmt.Errorf("reading the ACME settings of %s: %w", scope, err)
	}
	no := false
	v := Setting{}
	for _, at := range chain {
		d := declared[at]
		if v.BindingRequired == nil {
			v.BindingRequired = d.BindingRequired
		}
		if v.Profiles == nil {
			v.Profiles = d.Profiles
		}
	}
	if v.BindingRequired == nil {
		v.BindingRequired = &no
	}
	if v.Profiles == nil {
		v.Profiles = []string{defaultProfile}
	}
	s.settings.put(scope, v, now.Add(settingsFor))
	return v, nil
}

// Declared returns what scope itself declares.
func (s *Server) Declared(ctx context.Context, scope identity.Scope) (Setting, error) {
	all, err := s.Store.Settings(ctx, scope)
	if err != nil {
		return Setting{}, fmt.Errorf("reading the ACME settings of %s: %w", scope, err)
	}
	return all[scope], nil
}

// Set replaces what scope declares. It takes access.ChangeScopes above it. Other replicas heed it within settingsFor.
func (s *Server) Set(ctx context.Context, who identity.Caller, scope identity.Scope, v Setting) error {
	if err := access.Check(who, access.ChangeScopes, access.Above(scope)); err != nil {
		return err
	}
	for _, name := range v.Profiles {
		if err := s.orderable(scope, name); err != nil {
			return err
		}
	}
	f := audit.Fact{At: s.Now(), Who: who, Scope: scope, What: audit.ACMEChanged, Why: v.String()}
	if err := s.Store.Set(ctx, scope, v, f); err != nil {
		return fmt.Errorf("changing the ACME settings of %s: %w", scope, err)
	}
	s.settings.drop()
	return nil
}

// String spells v for facts.
func (v Setting) String() string {
	binding, profiles := "inherited", "inherited"
	if v.BindingRequired != nil {
		binding = fmt.Sprint(*v.BindingRequired)
	}
	if v.Profiles != nil {
		profiles = strings.Join(v.Profiles, ",")
	}
	return "external account required: " + binding + "; profiles: " + profiles
}

// orderable refuses profiles whose names ACME cannot prove: an order has host names and nothing else.
func (s *Server) orderable(scope identity.Scope, name string) error {
	p, err := s.Issuer.Profile(scope, name)
	if err != nil {
		return err
	}
	if p.Hosts != ca.Required || p.Identity != ca.Refused {
		return &policy.Refusal{What: "profile " + name, Rule: "what ACME can prove", Remedy: "offer profiles whose certificates have host names and no identity, such as " + defaultProfile}
	}
	return nil
}

// choose returns the profile of an order in scope that asks for one, or for none.
func (s *Server) choose(ctx context.Context, scope identity.Scope, asked string) (string, error) {
	v, err := s.Setting(ctx, scope)
	if err != nil {
		return "", err
	}
	if asked == "" {
		return v.Profiles[0], nil
	}
	if !slices.Contains(v.Profiles, asked) {
		// draft-ietf-acme-profiles §4: "If the server receives a newOrder request specifying a profile that it is not
		// advertising … it MUST reject the request with a problem document of type "invalidProfile"".
		return "", problem(InvalidProfile, "profile %.40q: choose one of %s, or leave it out", asked, strings.Join(v.Profiles, ", "))
	}
	return asked, nil
}

// offered refuses to finalize an order whose profile its scope offers no more: draft-ietf-acme-profiles §4: "it MUST respond
// with a problem document of type "invalidProfile"".
func (s *Server) offered(ctx context.Context, o Order) error {
	if isDevice(o.Names) {
		return nil
	}
	_, err := s.choose(ctx, o.Scope, o.Profile)
	return err
}

// Profiles returns what may be ordered in scope, each with a sentence for people (draft-ietf-acme-profiles §3).
func (s *Server) Profiles(ctx context.Context, scope identity.Scope) (map[string]string, error) {
	v, err := s.Setting(ctx, scope)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(v.Profiles))
	for _, name := range v.Profiles {
		p, err := s.Issuer.Profile(scope, name)
		if err != nil || p.Withdrawn {
			continue // it was withdrawn since it was offered; to order it is refused
		}
		if out[name] = p.Summary; p.Summary == "" {
			out[name] = fmt.Sprintf("certificates of %s, good for %s", p.Purpose, p.Default)
		}
	}
	return out, nil
}
