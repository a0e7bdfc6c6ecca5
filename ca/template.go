package ca

import (
	"crypto/x509"
	"fmt"
	"sync"

	"codeberg.org/dataverket/segl/ca/tbs"
)

// A shape is what profiles have in common whose certificates by one authority share their bytes.
type shape struct {
	usage                  tbs.Usage
	noRevAvail, mustStaple bool
	crls, ocsp, issuers    bool
}

func (p *Profile) shape() shape {
	return shape{usage: p.usage, noRevAvail: p.NoRevAvail, mustStaple: p.MustStaple, crls: p.CRLs, ocsp: p.OCSP, issuers: p.Issuers}
}

// templates are the prepared bytes of an authority's certificates, of each shape that was asked for.
type templates struct {
	auth *Authority
	url  string // of the public listener

	mu   sync.RWMutex // guards below
	made map[shape]*tbs.Template
}

// template prepares the bytes that every certificate of an authority and a profile shares.
func (a *Authority) template(p *Profile) (*tbs.Template, error) {
	t, s := a.templates, p.shape()
	t.mu.RLock()
	had, ok := t.made[s]
	t.mu.RUnlock()
	if ok {
		return had, nil
	}
	made, err := tbs.Compile(t.spec(s))
	if err != nil {
		return nil, fmt.Errorf("compiling profile %s for %s: %w", p.Name, a.Name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made[s] = made
	return made, nil
}

// spec is what certificates of a shape have in common. They claim the policies that the authority's own certificate allows them
// (RFC 5280 §6.1.3 (d)), and no others.
func (t *templates) spec(s shape) tbs.Spec {
	spec := tbs.Spec{Usage: s.usage, Issuer: t.auth.Certificate, NoRevAvail: s.noRevAvail, MustStaple: s.mustStaple, Policies: t.policies(s)}
	if s.crls {
		spec.CRLs = t.url + "/crl/" + t.auth.Name + "/"
	}
	if s.ocsp {
		spec.OCSP = t.url + "/ocsp"
	}
	if s.issuers {
		spec.Issuers = t.url + "/issuers/" + t.auth.Name + ".cer"
	}
	return spec
}

func (t *templates) policies(s shape) []x509.OID {
	if s.usage == tbs.OCSPResponder {
		return nil
	}
	return t.auth.Certificate.Policies
}
