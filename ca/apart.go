package ca

import (
	"crypto/x509"
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
)

// apart refuses an authority that touches an emergency CA, by itself or by what is above it. Whatever is prepared, imported,
// cross-signed or read at start is loaded, and nothing is published that is not.
func (a *CA) apart(auth *Authority) error {
	chain := []*x509.Certificate{auth.Certificate}
	for up := auth.parent; up != nil; up = up.parent {
		chain = append(chain, up.Certificate)
	}
	return a.BreakGlass.Chain("authority "+auth.Name, chain...)
}

// apartKey refuses to certify an emergency CA's key, by whichever of its fingerprints that is named.
func (a *CA) apartKey(csr cert.Request) error {
	const what = "a request's key"
	if a.BreakGlass == nil {
		return nil
	}
	if err := a.BreakGlass.KeyID(what, csr.KeyID); err != nil {
		return err
	}
	pub := csr.Key
	if pub == nil {
		var err error
		if pub, err = x509.ParsePKIXPublicKey(csr.SPKI); err != nil {
			return fmt.Errorf("%w: %w", cert.ErrBadKey, err)
		}
	}
	return a.BreakGlass.Key(what, pub)
}

// apartFrom turns what touches an emergency CA into the refusal that a door shows.
func apartFrom(err error) error {
	if touch := (*breakglass.Touch)(nil); errors.As(err, &touch) {
		return &policy.Refusal{
			What: touch.What + ", which " + touch.How + ",", Rule: "the wall between the daily CA and break-glass CA " + touch.Name,
			Remedy: "use a key and a chain that emergency access does not know",
		}
	}
	if errors.Is(err, breakglass.ErrNoAnchor) {
		return &policy.Refusal{
			What: "a certificate whose root is not with it", Rule: "the wall between the daily CA and break-glass",
			Remedy: "give the root that signed it: what is above it may be an emergency CA",
		}
	}
	return err
}
