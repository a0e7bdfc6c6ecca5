package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// An Authority is a CA certificate and its key, of one site and one purpose. It does not change once loaded.
type Authority struct {
	ID          int
	Name        string
	Purpose     Purpose
	Site        byte
	Certificate *x509.Certificate
	Key         kms.Key
	State       AuthorityState
	Since       time.Time // when it came to be in that state

	algorithm kms.SignatureAlgorithm
	templates *templates
	chain     [][]byte // this certificate and those above it, without the root
	root      []byte   // the anchor above them
	parent    *Authority
}

// Parent returns the authority above a, or nil for a root.
func (a *Authority) Parent() *Authority { return a.parent }

// Serial returns the serial of a's own certificate in the ledger; false for a root, which has none there.
func (a *Authority) Serial() (cert.Serial, bool) {
	s, err := cert.SerialFromInt(a.Certificate.SerialNumber)
	return s, err == nil && a.parent != nil
}

// authorities are all that are loaded, with the profiles that they sign: whoever holds a set has both as they were at one time. The
// set is never changed, only replaced.
type authorities struct {
	all      []*Authority
	byID     map[int]*Authority
	byName   map[string]*Authority
	profiles *profileSet
	keyring  kms.Keyring // they were loaded from
}

// signing returns the authority that is active for a purpose: the database lets there be one.
func (s *authorities) signing(p Purpose) (*Authority, error) {
	for _, a := range s.all {
		if a.Purpose == p && a.State == Active {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: no authority for %s is active: prepare one and activate it", ErrUnavailable, p)
}

// has reports whether there is an authority for a purpose, in whatever state.
func (s *authorities) has(p Purpose) bool {
	return slices.ContainsFunc(s.all, func(a *Authority) bool { return a.Purpose == p })
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
	key, err := keyring.Key(ctx, row.Key)
	if err != nil {
		return nil, fmt.Errorf("loading key %s: %w", row.Key, err)
	}
	if same, ok := x.PublicKey.(interface{ Equal(x any) bool }); ok && !same.Equal(key.Public()) {
		return nil, errors.New("its key is not its certificate's")
	}
	alg, err := kms.SignatureAlgorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	auth := &Authority{
		ID: row.ID, Name: row.Name, Purpose: row.Purpose, Site: row.Site, Certificate: x, Key: key, algorithm: alg, parent: above.byID[row.Parent],
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
