package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

// proves sees that a certificate by p, of each kind of key and by each authority of its purpose, keeps every rule of ca/lint: when
// profiles are read, and before a change of one is durable. (zlint judges every shape that a profile can have in the tests of
// ca/tbs: many of its rules are the public web's, and refuse what an internal authority is for.)
func (a *CA) proves(all []*Authority, p *Profile) error {
	for _, auth := range all {
		if auth.Purpose != p.Purpose || auth.State == Retired || auth.State == RevokedAuthority {
			continue
		}
		t, err := auth.template(p)
		if err != nil {
			return err
		}
		for _, k := range p.Keys {
			v, err := a.sample(p, auth, k)
			if err != nil {
				return err
			}
			if _, err := build(t, v, p); err != nil {
				return fmt.Errorf("profile %s with a key of %s, by %s: %w", p.Name, k, auth.Name, err)
			}
		}
	}
	return nil
}

// A look is what a certificate by a profile can look like, its life aside.
type look struct {
	shape
	purpose         Purpose
	hosts, identity Presence
	role            bool
	keys            string
}

// lint shuts the profiles of a set that do not prove themselves.
func (a *CA) lint(set *authorities) {
	proved := map[look]error{}
	for _, named := range set.profiles.all {
		for _, p := range named {
			if p.broken != nil {
				continue
			}
			l := look{p.shape(), p.Purpose, p.Hosts, p.Identity, p.Role, fmt.Sprint(p.Keys)}
			err, known := proved[l]
			if !known {
				err = a.proves(set.all, p)
				proved[l] = err
			}
			p.broken = err
		}
	}
}

// Shut returns why profiles are shut, each of them in each scope: nothing is issued by those.
func (a *CA) Shut() []error {
	var errs []error
	for scope, named := range a.authorities.Load().profiles.all {
		for _, p := range named {
			if p.broken != nil {
				errs = append(errs, fmt.Errorf("profile %s in %s: %w", p.Name, scope, p.broken))
			}
		}
	}
	return errs
}

// sample are the values of a certificate as long, and with as many kinds of names, as p allows.
func (a *CA) sample(p *Profile, auth *Authority, k kms.Algorithm) (tbs.Values, error) {
	spki, err := x509.MarshalPKIXPublicKey(sampleKey(k))
	if err != nil {
		return tbs.Values{}, fmt.Errorf("encoding a sample key of %s: %w", k, err)
	}
	v := tbs.Values{Serial: cert.NewSerial(a.Site, auth.Certificate.NotBefore), NotBefore: auth.Certificate.NotBefore, SPKI: spki}
	v.NotAfter = v.NotBefore.Add(p.Max - time.Second)
	if v.NotAfter.After(auth.Certificate.NotAfter) {
		v.NotAfter = auth.Certificate.NotAfter
	}
	var names []string
	if p.Identity != Refused {
		names = append(names, "uri:spiffe://"+a.TrustDomain+"/platform/sample")
	}
	if p.Hosts != Refused {
		names = append(names, "dns:sample.invalid", "ip:192.0.2.1", "ip:2001:db8::1")
	}
	for _, s := range names {
		n, err := cert.ParseName(s)
		if err != nil {
			return tbs.Values{}, fmt.Errorf("making a sample name: %w", err)
		}
		v.Names = append(v.Names, n)
	}
	if p.Role {
		v.CommonName = "sample@platform"
	}
	return v, nil
}

// sampleKey is a public key of a kind that nobody has the private half of, or needs: only its form is looked at.
func sampleKey(k kms.Algorithm) crypto.PublicKey {
	switch k {
	case kms.P256:
		return &ecdsa.PublicKey{Curve: elliptic.P256(), X: elliptic.P256().Params().Gx, Y: elliptic.P256().Params().Gy} //nolint:staticcheck // a point that is on the curve
	case kms.P384:
		return &ecdsa.PublicKey{Curve: elliptic.P384(), X: elliptic.P384().Params().Gx, Y: elliptic.P384().Params().Gy} //nolint:staticcheck // likewise
	case kms.Ed25519:
		return ed25519.PublicKey(make([]byte, ed25519.PublicKeySize))
	}
	bits, _ := k.RSA()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits)) //nolint:gosec // a few thousand
	return &rsa.PublicKey{N: n.Sub(n, big.NewInt(1)), E: 65537}
}
