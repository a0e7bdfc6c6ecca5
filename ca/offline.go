package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// A root may be offline: its certificate is imported, its key is elsewhere, and what hangs on it comes from a ceremony (ca/ceremony).
//
//	request   the key of an authority is made here, and a request that it signs       nothing is recorded but the key
//	(sign)    where the root's key is
//	import    the root, its list, and the authority's certificate: prepared, published, and from here like any other

// RequestAuthority makes the key of an authority that an offline root is to certify and returns the request (PKCS #10, DER) and the
// authority's name. It may be repeated: the name has one key.
func (a *CA) RequestAuthority(ctx context.Context, who identity.Caller, ask Preparation) (der []byte, name string, err error) {
	set := a.authorities.Load()
	if name = ask.Name; name == "" {
		name = set.next(ask.Purpose, a.Site)
	}
	fact := audit.Fact{At: a.Now(), Who: who, Scope: identity.Platform, What: audit.AuthorityMade, Subject: name}
	refused := preparable(who, ask.Purpose, name)
	if refused == nil && ask.Purpose == Root {
		refused = &policy.Refusal{What: "a request of a root", Rule: "an offline root is made where its key stays", Remedy: "segl ca init"}
	}
	if refused != nil {
		return nil, "", a.refuse(ctx, fact, refused.Rule, refused)
	}
	if _, taken := set.byName[name]; taken {
		return nil, "", a.refuse(ctx, fact, "a name is one authority", fmt.Errorf("%w: authority %s is there", ErrConflict, name))
	}
	key, err := kms.Ensure(ctx, set.keyring, name, ask.algorithm())
	if err != nil {
		return nil, "", fmt.Errorf("making the key of %s: %w", name, err)
	}
	if err := apartFrom(a.BreakGlass.Key("key "+name, key.Public())); err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return nil, "", a.refuse(ctx, fact, r.Rule, err)
		}
		return nil, "", err
	}
	algorithm, err := kms.SignatureAlgorithmOf(key.Public())
	if err != nil {
		return nil, "", err
	}
	der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: a.TrustDomain + " " + name}, SignatureAlgorithm: algorithm.X509,
	}, kms.Signer(ctx, key))
	if err != nil {
		return nil, "", fmt.Errorf("making the request of %s: %w", name, err)
	}
	return der, name, nil
}

// An Imported thing came from a ceremony.
type Imported struct {
	Purpose Purpose
	Name    string // Root: what the root is to be called; else the authority's name, as it was requested
	Scope   identity.Scope
	// Certificate and Root in DER; of a root, they are the same.
	Certificate, Root []byte
	List              []byte // the root's newest, DER; required with a root
}

// imported refuses what is not what it says.
func imported(rule, what, remedy string) error {
	return &policy.Refusal{What: what, Rule: rule, Remedy: remedy}
}

// Import takes in a root, or an authority that one certified. It is prepared then: published, and signing nothing.
func (a *CA) Import(ctx context.Context, who identity.Caller, in Imported) (*Authority, error) {
	fact := audit.Fact{At: a.Now(), Who: who, Scope: identity.Platform, What: audit.AuthorityMade, Subject: in.Name, Why: "imported"}
	if err := preparable(who, in.Purpose, in.Name); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	if err := a.Reload(ctx); err != nil {
		return nil, err
	}
	row, err := a.importable(ctx, in)
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return nil, a.refuse(ctx, fact, r.Rule, err)
	}
	if err != nil {
		return nil, err
	}
	if had, ok := a.authorities.Load().byName[in.Name]; ok {
		if !bytes.Equal(had.Certificate.Raw, in.Certificate) {
			return nil, a.refuse(ctx, fact, "a name is one authority", fmt.Errorf("%w: authority %s is there, with another certificate", ErrConflict, in.Name))
		}
		if in.Purpose == Root { // the first time may have been cut short before its list; that a later one is there is as good
			if err := a.ImportList(ctx, who, in.Name, in.List); err != nil && !errors.Is(err, ErrConflict) {
				return nil, err
			}
		}
		return had, nil
	}
	if err := a.Ledger.AddAuthority(ctx, row, fact); err != nil {
		return nil, a.conflicting(ctx, fact, fmt.Errorf("recording authority %s: %w", in.Name, err))
	}
	if in.Purpose == Root {
		if _, err := a.changed(ctx, in.Name); err != nil {
			return nil, err
		}
		if err := a.ImportList(ctx, who, in.Name, in.List); err != nil {
			return nil, err
		}
	}
	return a.changed(ctx, in.Name)
}

func (a *CA) importable(ctx context.Context, in Imported) (AuthorityRow, error) {
	const rule = "what may be imported"
	x, err := x509.ParseCertificate(in.Certificate)
	if err != nil {
		return AuthorityRow{}, imported(rule, "that certificate", "it cannot be read: "+err.Error())
	}
	row := AuthorityRow{Name: in.Name, Purpose: in.Purpose, Scope: in.Scope, Site: a.Site, Certificate: x.Raw, CreatedAt: a.Now()}
	if _, err := kms.AlgorithmOf(x.PublicKey); err != nil {
		return row, imported(rule, "its kind of key", fmt.Sprintf("choose one of %v", kms.Algorithms()))
	}
	if now := a.Now(); !x.IsCA || !x.BasicConstraintsValid || x.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || now.Before(x.NotBefore) || now.After(x.NotAfter) {
		return row, imported(rule, "a certificate that is no authority's, or not valid now", "import what segl ca init or segl ca sign made")
	}
	if err := a.BreakGlass.Chain("authority "+in.Name, in.chain(x)...); err != nil {
		return row, apartFrom(err)
	}
	if in.Purpose == Root {
		if x.CheckSignatureFrom(x) != nil {
			return row, imported(rule, "a root that has not signed itself", "import root.pem")
		}
		_, err := checkList(x, in.List, a.Now())
		return row, err
	}
	return a.importableBelow(ctx, x, in, row)
}

// chain is what is imported, which is x, and what is said to be above it.
func (in Imported) chain(x *x509.Certificate) []*x509.Certificate {
	if root, err := x509.ParseCertificate(in.Root); err == nil && in.Purpose != Root {
		return []*x509.Certificate{x, root}
	}
	return []*x509.Certificate{x}
}

// importableBelow judges an authority below an offline root that is here.
func (a *CA) importableBelow(ctx context.Context, x *x509.Certificate, in Imported, row AuthorityRow) (AuthorityRow, error) {
	const rule = "what may be imported"
	set := a.authorities.Load()
	i := slices.IndexFunc(set.all, func(r *Authority) bool { return r.parent == nil && bytes.Equal(r.Certificate.Raw, in.Root) })
	purposes := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	switch {
	case i < 0 || set.all[i].State == Retired:
		return row, imported(rule, "an authority of a root that is not here", "import the root first, and let it be published")
	case x.CheckSignatureFrom(set.all[i].Certificate) != nil:
		return row, imported(rule, "an authority that the root has not signed", "import the file that segl ca sign wrote")
	case !x.MaxPathLenZero || !slices.Equal(x.ExtKeyUsage, purposes) || len(x.UnknownExtKeyUsage) > 0 || len(x.UnhandledCriticalExtensions) > 0:
		return row, imported(rule, "an authority with other powers than an issuing one's", "sign it with segl ca sign: path length 0, serverAuth and clientAuth")
	case x.Subject.String() != (pkix.Name{CommonName: a.TrustDomain + " " + in.Name}).String():
		return row, imported(rule, "an authority of another name, "+x.Subject.String(), "import it under the name that it was requested by")
	case (!in.Scope.IsZero() && !in.Scope.IsPlatform()) != x.PermittedDNSDomainsCritical:
		return row, imported(rule, "a tenant's authority without name constraints, or constraints without a tenant", "sign it with --permit, and import it with its scope")
	}
	key, err := set.keyring.Key(ctx, in.Name)
	if errors.Is(err, kms.ErrNotFound) || err == nil && !equal(x.PublicKey, key.Public()) {
		return row, imported(rule, "an authority whose key is not here", "segl ca request "+string(in.Purpose)+" --name "+in.Name+" makes the key and the request")
	}
	row.Key, row.Parent = in.Name, set.all[i].ID
	return row, err
}

// checkList refuses what is not a root's list, or one that has ended.
func checkList(root *x509.Certificate, der []byte, now time.Time) (*x509.RevocationList, error) {
	const rule = "a root is published with its list"
	list, err := x509.ParseRevocationList(der)
	switch {
	case err != nil:
		return nil, imported(rule, "that list", "import root.crl as it is, in DER")
	case list.CheckSignatureFrom(root) != nil:
		return nil, imported(rule, "a list that the root has not signed", "import root.crl of the same directory")
	case !list.NextUpdate.After(now) || list.Number == nil || !list.Number.IsInt64():
		return nil, imported(rule, "a list that has ended, or has no number", "segl ca root-list makes the next")
	}
	return list, nil
}

// ImportList takes in the next list of an offline root. ErrConflict: a later one is there.
func (a *CA) ImportList(ctx context.Context, who identity.Caller, name string, der []byte) error {
	fact := audit.Fact{At: a.Now(), Who: who, Scope: identity.Platform, What: audit.ListImported, Subject: name}
	auth, err := a.Authority(name)
	if err != nil {
		return err
	}
	if err := preparable(who, Root, name); err != nil {
		return a.refuse(ctx, fact, err.Rule, err)
	}
	if !auth.Offline() {
		return a.refuse(ctx, fact, "who signs a list", imported("who signs a list", "a list of "+name, "its key is here, and so are its lists"))
	}
	list, err := checkList(auth.Certificate, der, a.Now())
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return a.refuse(ctx, fact, r.Rule, err)
	}
	if err != nil {
		return err
	}
	fact.Why = "list " + list.Number.String()
	row := ListRow{Authority: auth.ID, Number: list.Number.Int64(), DER: der, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, At: fact.At}
	if err := a.Ledger.AddList(ctx, row, fact); err != nil {
		return a.conflicting(ctx, fact, fmt.Errorf("recording a list of %s: %w", name, err))
	}
	return nil
}

// ImportCross takes in a certificate by which one root here vouches for another: der is of the name and key of one and signed by the
// other. Whoever trusts only the other is offered it (Certificate.Chains).
func (a *CA) ImportCross(ctx context.Context, who identity.Caller, der []byte) (of *Authority, err error) {
	fact := audit.Fact{At: a.Now(), Who: who, Scope: identity.Platform, What: audit.RootVouched}
	if err := preparable(who, Root, "root"); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, a.refuse(ctx, fact, "what may be imported", imported("what may be imported", "that certificate", "it cannot be read"))
	}
	var by *Authority
	for _, r := range a.Authorities() {
		switch {
		case r.parent != nil || r.State == Retired:
		case equal(r.Certificate.PublicKey, x.PublicKey) && bytes.Equal(r.Certificate.RawSubject, x.RawSubject):
			of = r
		case x.CheckSignatureFrom(r.Certificate) == nil:
			by = r
		}
	}
	if of == nil || by == nil || !x.IsCA || a.Now().After(x.NotAfter) {
		return nil, a.refuse(ctx, fact, "what may be imported", imported("what may be imported", "a certificate that is not by one root here for another", "import both roots first"))
	}
	if err := apartFrom(a.BreakGlass.Chain("cross-certificate of "+of.Name, x, by.Certificate)); err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return nil, a.refuse(ctx, fact, r.Rule, err)
		}
		return nil, err
	}
	fact.Subject, fact.Why = of.Name, "by "+by.Name
	if err := a.Ledger.AddCross(ctx, CrossRow{Authority: of.ID, Issuer: by.ID, Certificate: x.Raw, At: fact.At}, fact); err != nil {
		return nil, fmt.Errorf("recording that %s vouches for %s: %w", by.Name, of.Name, err)
	}
	return a.changed(ctx, of.Name)
}
