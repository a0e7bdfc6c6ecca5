package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// An Authority is a CA certificate and its key, of one site and one purpose. It does not change once loaded.
type Authority struct {
	ID          int
	Name        string
	Purpose     Purpose
	Scope       identity.Scope // for whom it signs: that scope and below; the platform is everybody who has none nearer
	Site        byte
	Certificate *x509.Certificate
	Key         kms.Key // nil: an offline root's, which is nowhere here
	State       AuthorityState
	Since       time.Time // when it came to be in that state

	algorithm kms.SignatureAlgorithm
	templates *templates
	chain     [][]byte // this certificate and those above it, without the root
	root      []byte   // the anchor above them
	parent    *Authority
	crosses   [][]byte // by which other roots vouch for this one: each certificate, then that root
}

// Parent returns the authority above a, or nil for a root.
func (a *Authority) Parent() *Authority { return a.parent }

// Serial returns the serial of a's own certificate in the ledger; false for a root, which has none there.
func (a *Authority) Serial() (cert.Serial, bool) {
	s, err := cert.SerialFromInt(a.Certificate.SerialNumber)
	return s, err == nil && a.parent != nil && a.parent.Key != nil
}

// Offline reports whether a is a root whose key is nowhere here: what it signs and lists is made in a ceremony.
func (a *Authority) Offline() bool { return a.Key == nil }

// authorities are all that are loaded, with the profiles that they sign: whoever holds a set has both as they were at one time. The
// set is never changed, only replaced.
type authorities struct {
	all      []*Authority
	byID     map[int]*Authority
	byName   map[string]*Authority
	profiles *profileSet
	keyring  kms.Keyring // they were loaded from
}

// signing returns the authority that is active for a purpose in a scope, the nearest one's: the database lets there be one for each.
func (s *authorities) signing(p Purpose, in identity.Scope) (*Authority, error) {
	var best *Authority
	for _, a := range s.all {
		if a.Purpose == p && a.State == Active && (a.Scope.IsPlatform() || a.Scope.Contains(in)) && (best == nil || depthOf(a.Scope) > depthOf(best.Scope)) {
			best = a
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, fmt.Errorf("%w: no authority for %s is active: prepare one and activate it", ErrUnavailable, p)
}

// has reports whether there is an authority for a purpose, in whatever state.
func (s *authorities) has(p Purpose) bool {
	return slices.ContainsFunc(s.all, func(a *Authority) bool { return a.Purpose == p })
}

// below returns an authority under root that may sign, or has signed what is still to be trusted; nil if there is none.
func (s *authorities) below(root *Authority, now time.Time) *Authority {
	for _, a := range s.all {
		if a.parent == root && a.State != Retired && a.State != RevokedAuthority && !now.After(a.Certificate.NotAfter) {
			return a
		}
	}
	return nil
}

// holds refuses a validity that is not within the authority's own: a chain ends with its first expiry.
func (a *Authority) holds(notBefore, notAfter time.Time) error {
	switch {
	case notBefore.Before(a.Certificate.NotBefore):
		return &policy.Refusal{
			What: "a certificate from " + notBefore.UTC().Format(time.RFC3339), Rule: "the validity of authority " + a.Name,
			Remedy: "it begins " + a.Certificate.NotBefore.UTC().Format(time.RFC3339) + ": check the service's clock",
		}
	case notAfter.After(a.Certificate.NotAfter):
		return &policy.Refusal{
			What: "a certificate until " + notAfter.UTC().Format(time.RFC3339), Rule: "the validity of authority " + a.Name,
			Remedy: "it ends " + a.Certificate.NotAfter.UTC().Format(time.RFC3339) + ": ask for a shorter life, or create the next authority",
		}
	}
	return nil
}

// Authorities returns all that are loaded, parents first.
func (a *CA) Authorities() []*Authority { return a.authorities.Load().all }

// Roots returns the roots, the anchors of everything issued here: also one that is prepared, so that it is trusted before
// anything hangs on it, and none that is retired.
func (a *CA) Roots() []*x509.Certificate {
	var roots []*x509.Certificate
	for _, auth := range a.Authorities() {
		if auth.parent == nil && auth.State != Retired {
			roots = append(roots, auth.Certificate)
		}
	}
	return roots
}

// Authority returns the authority called name, or ErrNotFound.
func (a *CA) Authority(name string) (*Authority, error) {
	auth, ok := a.authorities.Load().byName[name]
	if !ok {
		return nil, fmt.Errorf("authority %.70q: %w", name, ErrNotFound)
	}
	return auth, nil
}

// Load reads the authorities and the profiles from the ledger, and the authorities' keys from keyring. A key that cannot be used,
// or is not the certificate's, is an error that names it. A profile that cannot be read or does not pass lint is shut: see Shut.
func (a *CA) Load(ctx context.Context, keyring kms.Keyring) error {
	rules, err := a.Ledger.Profiles(ctx)
	if err != nil {
		return fmt.Errorf("reading profiles: %w", err)
	}
	profiles, err := compileProfiles(rules)
	if err != nil {
		return err
	}
	rows, err := a.Ledger.Authorities(ctx)
	if err != nil {
		return fmt.Errorf("reading authorities: %w", err)
	}
	set := &authorities{byID: map[int]*Authority{}, byName: map[string]*Authority{}, keyring: keyring, profiles: profiles}
	for _, row := range rows {
		auth, err := a.load(ctx, keyring, row, set)
		if err != nil {
			return fmt.Errorf("loading authority %s: %w", row.Name, err)
		}
		set.all = append(set.all, auth)
		set.byID[auth.ID], set.byName[auth.Name] = auth, auth
	}
	if err := a.vouched(ctx, set); err != nil {
		return err
	}
	a.lint(set)
	a.authorities.Store(set)
	return nil
}

func (a *CA) load(ctx context.Context, keyring kms.Keyring, row AuthorityRow, above *authorities) (*Authority, error) {
	if row.Site != a.Site {
		return nil, fmt.Errorf("it is of site %d, and this is site %d: each site has a database of its own; check the configuration", row.Site, a.Site)
	}
	x, err := x509.ParseCertificate(row.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading its certificate: %w", err)
	}
	var key kms.Key // of an offline root: none
	if row.Key != "" {
		if key, err = keyring.Key(ctx, row.Key); err != nil {
			return nil, fmt.Errorf("loading key %s: %w", row.Key, err)
		}
		if !equal(x.PublicKey, key.Public()) {
			return nil, errors.New("its key is not its certificate's")
		}
	}
	alg, err := kms.SignatureAlgorithmOf(x.PublicKey)
	if err != nil {
		return nil, err
	}
	auth := &Authority{
		ID: row.ID, Name: row.Name, Purpose: row.Purpose, Scope: row.Scope, Site: row.Site, Certificate: x, Key: key, algorithm: alg, parent: above.byID[row.Parent],
	}
	if auth.parent != nil {
		auth.chain, auth.root = append([][]byte{x.Raw}, auth.parent.chain...), auth.parent.root
	} else {
		auth.root = x.Raw
	}
	if err := a.apart(auth); err != nil {
		return nil, err
	}
	if auth.State, auth.Since, err = a.state(ctx, auth, row); err != nil {
		return nil, err
	}
	auth.templates = &templates{auth: auth, url: a.PublicURL, made: map[shape]*tbs.Template{}}
	return auth, nil
}

func equal(a, b any) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// vouched gives each root the certificates by which others vouch for it, as long as those are good.
func (a *CA) vouched(ctx context.Context, set *authorities) error {
	rows, err := a.Ledger.Crosses(ctx)
	if err != nil {
		return fmt.Errorf("reading which roots vouch for others: %w", err)
	}
	for _, row := range rows {
		root, by := set.byID[row.Authority], set.byID[row.Issuer]
		x, err := x509.ParseCertificate(row.Certificate)
		if err != nil || root == nil || by == nil {
			return fmt.Errorf("reading which roots vouch for others: a certificate for authority %d cannot be read", row.Authority)
		}
		if by.State == Retired || x.NotAfter.Before(a.Now()) {
			continue
		}
		root.crosses = append(root.crosses, row.Certificate, by.Certificate.Raw)
	}
	for _, auth := range set.all { // parents come first
		if auth.parent != nil {
			auth.crosses = auth.parent.crosses
		}
	}
	return nil
}

// permits refuses names that an authority's own constraints leave out: a chain with them would be no good.
func (a *Authority) permits(names []cert.Name) error {
	x := a.Certificate
	if !x.PermittedDNSDomainsCritical {
		return nil
	}
	for _, n := range names {
		ok := false
		switch n.Kind() {
		case cert.DNS:
			ok = slices.ContainsFunc(x.PermittedDNSDomains, func(d string) bool { return within(n.Value(), d) })
		case cert.URI:
			id, err := identity.ParseID(n.Value())
			ok = err == nil && slices.Contains(x.PermittedURIDomains, id.Domain())
		case cert.IP:
			ok = slices.ContainsFunc(x.PermittedIPRanges, func(r *net.IPNet) bool { return r.Contains(n.Addr().AsSlice()) })
		}
		if !ok {
			return &policy.Refusal{What: n.String(), Rule: "the name constraints of authority " + a.Name, Remedy: "ask an operator: the next authority can be given wider ones"}
		}
	}
	return nil
}

// within reports whether a DNS name, or what a wildcard stands for, is d or below it.
func within(name, d string) bool {
	name = strings.TrimPrefix(name, "*.")
	return name == d || strings.HasSuffix(name, "."+d)
}
