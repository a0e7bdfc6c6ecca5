package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// Found makes what a new site lacks: a root, and an authority below it for every purpose. What is there already stays as it
// is, so it may be repeated, also after a crash half-way; replicas run it one at a time (cmd sees to that). Keys are
// made before the certificates that name them.
func (a *CA) Found(ctx context.Context, keyring kms.Keyring) error {
	if err := a.Load(ctx, keyring); err != nil {
		return err
	}
	for _, p := range append([]Purpose{Root}, Purposes...) {
		if a.authorities.Load().has(p) {
			continue
		}
		if err := a.found(ctx, keyring, p); err != nil {
			return fmt.Errorf("founding the authority for %s: %w", p, err)
		}
		if err := a.Load(ctx, keyring); err != nil {
			return err
		}
	}
	return nil
}

func (a *CA) found(ctx context.Context, keyring kms.Keyring, p Purpose) error {
	now := a.Now()
	row := AuthorityRow{Name: fmt.Sprintf("%s-%d-1", p, a.Site), Purpose: p, Site: a.Site, CreatedAt: now, ActivatedAt: now}
	return a.establish(ctx, identity.System("found"), keyring, row, Preparation{})
}

// establish makes an authority's key, its certificate, and its row. It may be repeated after a crash half-way.
func (a *CA) establish(ctx context.Context, who identity.Caller, keyring kms.Keyring, row AuthorityRow, ask Preparation) error {
	row.Key = row.Name
	key, err := kms.Ensure(ctx, keyring, row.Key, ask.algorithm())
	if err != nil {
		return fmt.Errorf("making its key: %w", err)
	}
	if err := a.BreakGlass.Key("key "+row.Key, key.Public()); err != nil {
		return apartFrom(err)
	}
	// The name in certificates carries the trust domain, so that two installations' authorities are never mistaken.
	subject, err := asn1.Marshal(pkix.Name{CommonName: a.TrustDomain + " " + row.Name}.ToRDNSequence())
	if err != nil {
		return fmt.Errorf("encoding its name: %w", err)
	}
	if row.Purpose == Root {
		row.Certificate, err = a.selfSign(ctx, key, subject)
	} else {
		row.Certificate, row.Parent, err = a.certify(ctx, who, key.Public(), tbs.Spec{Subject: subject, Permitted: ask.Permitted, Policies: a.Policies[row.Purpose]})
	}
	if err != nil {
		return err
	}
	f := audit.Fact{At: row.CreatedAt, Who: who, Scope: identity.Platform, What: audit.AuthorityMade, Subject: row.Name}
	if err := a.Ledger.AddAuthority(ctx, row, f); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("recording it: %w", err)
	}
	return nil
}

// selfSign makes a root's certificate. A root is an anchor, not something issued: it has no intent.
func (a *CA) selfSign(ctx context.Context, key kms.Key, subject []byte) ([]byte, error) {
	t, err := tbs.Compile(tbs.Spec{Usage: anchor.usage, Key: key.Public(), Subject: subject, PathLen: -1})
	if err != nil {
		return nil, err
	}
	v, err := a.authorityValues(anchor, key.Public())
	if err != nil {
		return nil, err
	}
	body, err := build(t, v, anchor)
	if err != nil {
		return nil, err
	}
	alg, err := kms.SignatureAlgorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	sig, err := kms.SignMessage(ctx, key, body)
	if err != nil {
		return nil, fmt.Errorf("signing it: %w", err)
	}
	if err := kms.Verify(key.Public(), body, sig); err != nil {
		return nil, fmt.Errorf("verifying its signature: %w", err)
	}
	return tbs.Assemble(body, alg, sig)
}

// certify takes a subordinate authority through the cycle, under the root.
func (a *CA) certify(ctx context.Context, who identity.Caller, pub crypto.PublicKey, spec tbs.Spec) (der []byte, parent int, err error) {
	root, err := a.authorities.Load().signing(Root, identity.Platform)
	if err != nil {
		return nil, 0, err
	}
	if root.Offline() {
		return nil, 0, &policy.Refusal{
			What: "certifying an authority here", Rule: "root " + root.Name + " is offline",
			Remedy: "segl ca request, segl ca sign where the root's key is, and segl ca import",
		}
	}
	spec.Usage, spec.Issuer, spec.PathLen = subordinate.usage, root.Certificate, 0
	spec.Purposes = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	spec.CRLs, spec.OCSP, spec.Issuers = a.PublicURL+"/crl/"+root.Name+"/", a.PublicURL+"/ocsp", a.PublicURL+"/issuers/"+root.Name+".cer"
	t, err := tbs.Compile(spec)
	if err != nil {
		return nil, 0, err
	}
	v, err := a.authorityValues(subordinate, pub)
	if err != nil {
		return nil, 0, err
	}
	c, err := a.cycle(ctx, who, Request{Scope: identity.Platform, CSR: cert.Request{SPKI: v.SPKI, KeyID: sha256.Sum256(v.SPKI)}},
		plan{profile: subordinate, authority: root, template: t, life: subordinate.Default}, v)
	return c.DER, root.ID, err
}

func (a *CA) authorityValues(p *Profile, pub crypto.PublicKey) (tbs.Values, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return tbs.Values{}, err
	}
	now := a.Now().Truncate(time.Second)
	v := tbs.Values{Serial: cert.NewSerial(a.Site, now), NotBefore: now.Add(-authorityBackdate), SPKI: spki}
	v.NotAfter = v.NotBefore.Add(p.Default - time.Second)
	if p == subordinate { // made in the same minute as its root, it must not outlive it either way
		root, err := a.authorities.Load().signing(Root, identity.Platform)
		if err != nil {
			return tbs.Values{}, err
		}
		if v.NotBefore.Before(root.Certificate.NotBefore) {
			v.NotBefore = root.Certificate.NotBefore
		}
	}
	return v, nil
}

// authorityBackdate lets authorities be trusted by peers whose clocks lag by much, as machines just booted do.
const authorityBackdate = time.Hour

// EnrolResponder gives authority a delegated OCSP responder for pub (RFC 6960 §4.2.2.2): short-lived, of the authority
// itself, through the same cycle as everything else.
func (a *CA) EnrolResponder(ctx context.Context, authority string, pub crypto.PublicKey) (*x509.Certificate, error) {
	auth, err := a.Authority(authority)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the responder's key: %w", err)
	}
	req := Request{Scope: identity.Platform, CSR: cert.Request{SPKI: spki, KeyID: sha256.Sum256(spki)}}
	t, err := auth.template(responder)
	if err != nil {
		return nil, err
	}
	pl := plan{profile: responder, authority: auth, template: t, role: "OCSP " + auth.Name, life: responder.Default}
	c, err := a.attempt(ctx, identity.System("ocsp"), req, pl, 0)
	if err != nil {
		return nil, fmt.Errorf("enrolling a responder of %s: %w", authority, err)
	}
	return x509.ParseCertificate(c.DER)
}

// build makes and lints to-be-signed bytes.
func build(t *tbs.Template, v tbs.Values, p *Profile) ([]byte, error) {
	body, err := t.Build(v)
	if err != nil {
		return nil, fmt.Errorf("building certificate %s: %w", v.Serial, err)
	}
	if err := lint.Certificate(body, t.Expect(v, p.Max)); err != nil {
		return nil, fmt.Errorf("linting certificate %s: %w", v.Serial, err)
	}
	return body, nil
}
