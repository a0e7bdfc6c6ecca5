package server

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca"
	caapi "codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/credentials/token"
	tokenapi "codeberg.org/dataverket/segl/credentials/token/api"
	tokenstore "codeberg.org/dataverket/segl/credentials/token/store"
	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// Tokens says how access tokens are made. Their issuer is urls.service.
type Tokens struct {
	// Algorithms are ES256 and EdDSA, or ES256 alone; access tokens are signed with the first. Default: [ES256, EdDSA].
	Algorithms []string `yaml:"algorithms"`
	// Life is the longest of any token, whatever a binding says. Default 24h, at most 168h.
	Life time.Duration `yaml:"life"`
	// Rotation is how long a key signs. Default 720h.
	Rotation time.Duration `yaml:"rotation"`
	// Lead is how long a key is published before it signs. Default 1h.
	Lead time.Duration `yaml:"lead"`
}

// oauth is what gives and judges access tokens.
type oauth struct {
	server   *token.Server
	bindings *tokenstore.Bindings
	follower *token.Follower
	door     web.Door
	wake     chan struct{}
}

// openTokens makes the keys where there are none, and reads what has ended before anything is judged.
func (s *Server) openTokens(ctx context.Context) error {
	c, store := s.cfg.Tokens, tokenstore.New(s.db)
	o := &oauth{wake: make(chan struct{}, 1)}
	life := c.Life
	if life == 0 {
		life = 24 * time.Hour
	}
	o.bindings = tokenstore.NewBindings(s.db, life+time.Hour, s.now)
	if _, err := o.bindings.Reload(ctx); err != nil {
		return err
	}
	var err error
	o.server, err = token.New(token.Config{
		Issuer: s.cfg.URLs.Service, Domain: s.cfg.TrustDomain, Algorithms: c.Algorithms, Life: life, Rotation: c.Rotation, Lead: c.Lead,
		Store: store, Ledger: vouching{s}, Bindings: o.bindings, Scopes: s.scopes, Subjects: subjects{s}, Chains: chains{s},
		Keyring: tokenKeyring{s.keyring, s.databaseKeyring}, Now: s.now,
	})
	if err != nil {
		return err
	}
	if err := s.ledger.Alone(ctx, "tokens", func(ctx context.Context) error { return o.server.Rotate(ctx) }); err != nil {
		return fmt.Errorf("making the keys of tokens: %w", err)
	}
	if err := o.server.Reload(ctx); err != nil {
		return err
	}
	if o.follower, err = o.server.Catch(ctx); err != nil {
		return err
	}
	if o.door, err = tokenapi.Service(o.server, s.log); err != nil {
		return err
	}
	s.duties = append(s.duties,
		duty.Duty{Name: "token-keys", Every: time.Minute, Once: func(ctx context.Context, _ int64) error { return o.server.Rotate(ctx) }},
		duty.Duty{Name: "token-sweep", Every: time.Minute, Once: func(ctx context.Context, _ int64) error { return store.Sweep(ctx, s.now()) }},
	)
	if s.tokens == nil {
		s.tokens = make(map[string]web.Verifier)
	}
	s.tokens[o.server.Issuer()] = ownTokens{o.server}
	s.oauth = o
	return nil
}

// run keeps what this replica knows of tokens up to date until ctx ends.
func (o *oauth) run(ctx context.Context, s *Server, wait *sync.WaitGroup) {
	wait.Go(func() {
		o.follower.Run(ctx, o.wake, func(err error) { s.log.Error("ends of tokens not read", "err", err) })
	})
	wait.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			o.reload(ctx, s, n%10 == 0)
		}
	})
}

// reload reads bindings again, and keys too where asked.
func (o *oauth) reload(ctx context.Context, s *Server, keys bool) {
	changed, err := o.bindings.Reload(ctx)
	if keys && err == nil {
		err = o.server.Reload(ctx)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Error("bindings or keys of tokens not read", "err", err)
	}
	if changed {
		o.server.Moved()
	}
}

// vouching is the ledger as tokens want it.
type vouching struct{ s *Server }

// Vouch implements token.Ledger.
func (v vouching) Vouch(ctx context.Context, f audit.Fact, serials ...cert.Serial) error {
	if why := v.s.fence.Fenced(); why != nil { // nothing is good that the ledger may not know
		return fmt.Errorf("%w: %w", token.ErrUnavailable, why)
	}
	switch err := v.s.ledger.Vouch(ctx, f, serials...); {
	case errors.Is(err, ca.ErrCallerRevoked):
		return token.ErrEnded
	case errors.Is(err, ca.ErrSuspended):
		return token.ErrSuspended
	default:
		return err
	}
}

// Stands implements token.Ledger.
func (v vouching) Stands(ctx context.Context, serial cert.Serial) error {
	err := v.s.ledger.Stands(postgres.AsOwner(ctx), serial) // of whichever tenant; whether it stands is published to everybody
	if errors.Is(err, ca.ErrCallerRevoked) || errors.Is(err, ca.ErrNotFound) {
		return token.ErrEnded
	}
	return err
}

// Refuse implements token.Ledger.
func (v vouching) Refuse(ctx context.Context, f audit.Fact, rule string) error {
	return v.s.ca.TurnedAway(ctx, f, rule)
}

// chains judge a certificate that a client brings along, as the handshake would.
type chains struct{ s *Server }

// Holder implements token.Chains.
func (c chains) Holder(ctx context.Context, chain []*x509.Certificate) (identity.Caller, error) {
	between := x509.NewCertPool()
	for _, other := range chain[1:] {
		between.AddCert(other)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: c.s.roots.Load(), Intermediates: between, CurrentTime: c.s.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return identity.Caller{}, token.ErrEnded
	}
	who, err := identity.FromCertificate(chain[0], c.s.cfg.TrustDomain)
	if err != nil {
		return identity.Caller{}, token.ErrEnded
	}
	switch err := c.s.standing.Admit(postgres.AsOwner(ctx), who); {
	case errors.Is(err, ca.ErrUnavailable):
		return identity.Caller{}, fmt.Errorf("%w: %w", token.ErrUnavailable, err)
	case err != nil:
		return identity.Caller{}, token.ErrEnded
	}
	return c.s.access.NameTenant(who), nil
}

// subjects judge the tokens of configured providers.
type subjects struct{ s *Server }

// Subject implements token.Subjects. A subject belongs to the tenant that the provider's tenant claim names.
func (v subjects) Subject(ctx context.Context, text string) (token.Subject, error) {
	for _, p := range v.s.providers {
		if p.Issuer() != unverifiedIssuer(text) {
			continue
		}
		b, err := p.Verify(ctx, text)
		switch {
		case errors.Is(err, oidc.ErrToken):
			return token.Subject{}, fmt.Errorf("%w: %w", token.ErrSubject, err)
		case err != nil:
			return token.Subject{}, fmt.Errorf("%w: %w", token.ErrUnavailable, err)
		case b.Kind != oidc.None && b.Kind != oidc.Login:
			return token.Subject{}, fmt.Errorf("%w: it is %s", token.ErrSubject, b.Kind)
		}
		at, err := identity.ParseScope(b.Tenant)
		if err != nil || at.IsPlatform() || at.Project() != "" {
			return token.Subject{}, fmt.Errorf("%w: its tenant is none of this service", token.ErrSubject)
		}
		return token.Subject{Actor: person(b.Issuer, b.Subject), Scope: at, Act: b.Act, Expires: b.Expires}, nil
	}
	return token.Subject{}, fmt.Errorf("%w: its issuer is not configured here", token.ErrSubject)
}

// unverifiedIssuer reads who a token says it is from: whose keys are to judge it.
func unverifiedIssuer(text string) string {
	_, rest, _ := strings.Cut(text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// tokenKeyring makes keys where others are made, or in the database where a provider lacks the algorithm.
type tokenKeyring struct {
	kms.Keyring
	other func(context.Context) (kms.Keyring, error)
}

// Create implements kms.Keyring.
func (k tokenKeyring) Create(ctx context.Context, name string, alg kms.Algorithm) (kms.Key, error) {
	key, err := k.Keyring.Create(ctx, name, alg)
	if !errors.Is(err, kms.ErrUnsupported) {
		return key, err
	}
	other, err := k.other(ctx)
	if err != nil {
		return nil, err
	}
	return other.Create(ctx, name, alg)
}

// tokenKeys are what the SPIFFE bundle says of tokens.
func (s *Server) tokenKeys() (keys []caapi.TokenKey, sequence int64) {
	list, sequence := s.oauth.server.Keys()
	for _, k := range list {
		if k.Alg == token.ES256 { // JWT-SVID §2.1 has no EdDSA
			keys = append(keys, caapi.TokenKey{ID: k.Kid, Kty: k.Kty, Crv: k.Crv, X: k.X, Y: k.Y})
		}
	}
	return keys, sequence
}

// databaseKeyring keeps keys in the database, whatever provider keeps the others.
func (s *Server) databaseKeyring(ctx context.Context) (kms.Keyring, error) {
	pass, err := softkms.ReadPassphrase(s.cfg.PassphraseFile)
	if err != nil {
		return nil, err
	}
	return softkms.Open(ctx, softkms.Config{DB: s.db, Passphrase: pass, Now: s.now})
}

// ownTokens judge our own tokens where they are shown to us.
type ownTokens struct{ server *token.Server }

// Verify implements web.Verifier.
func (o ownTokens) Verify(ctx context.Context, p web.Presented) (identity.Caller, bool, error) {
	shown := verify.Shown{Certificate: p.Certificate, Method: p.Request.Method, URL: o.server.Issuer() + p.Request.URL.EscapedPath()}
	if proofs := p.Request.Header["Dpop"]; len(proofs) == 1 {
		shown.Proof = proofs[0]
	}
	c, err := o.server.Judge(ctx, p.Token, shown)
	switch {
	case errors.Is(err, verify.ErrToken), errors.Is(err, verify.ErrProof):
		return identity.Caller{}, false, fmt.Errorf("%w: %w", web.ErrToken, err)
	case err != nil:
		return identity.Caller{}, false, err
	case (c.Bound.Key != "") != (p.Scheme == "DPoP"):
		return identity.Caller{}, false, fmt.Errorf("%w: it came under the wrong scheme (RFC 9449 §7.2)", web.ErrToken)
	}
	who := identity.Caller{Actor: c.Subject}
	if id, err := identity.ParseID(c.Subject); err == nil {
		who.ID, who.Scope = id, id.Scope()
	}
	if c.Act != nil {
		who.Act = c.Act.Subject
	}
	return who, c.Bound.Certificate != "", nil
}
