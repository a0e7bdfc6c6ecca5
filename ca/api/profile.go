package api

import (
	"context"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// profileRoutes are those of what certificates may be in a scope: to read for whoever is in it, to change for operators.
func (d *door) profileRoutes(who web.Access, at depth) []web.Route {
	many, one := at.path+"/profiles", at.path+"/profiles/{profile}"
	routes := []web.Route{
		{Method: http.MethodGet, Path: many, ID: "listProfilesIn" + at.name, Access: who, Summary: "What certificates may be in the scope", Handler: web.JSON(d.listProfiles)},
		{Method: http.MethodGet, Path: one, ID: "showProfileIn" + at.name, Access: who, Summary: "One profile as it holds in the scope, and what the scope itself declares", Handler: web.JSON(d.showProfile)},
	}
	if who != web.Operator {
		return routes
	}
	return append(routes,
		web.Route{
			Method: http.MethodPut, Path: one, ID: "setProfileIn" + at.name, Access: who, Handler: web.JSON(d.setProfile),
			Summary: "Declare a profile, or narrow it below the platform, from the next certificate on",
		},
		web.Route{
			Method: http.MethodPost, Path: one + ":preview", ID: "previewProfileIn" + at.name, Access: who, Handler: web.JSON(d.previewProfile),
			Summary: "Which live certificates would not be renewed if the profile were so",
		})
}

// A Profile is what a certificate may be in a scope.
type Profile struct {
	Name       string           `json:"name" required:"true"`
	Scope      string           `json:"scope" required:"true" description:"Where it holds so."`
	Revision   int              `json:"revision" required:"true" description:"The newest change that it is made of; facts of issuance name it."`
	Purpose    string           `json:"purpose" required:"true" description:"Which authorities sign it."`
	Summary    string           `json:"summary,omitempty"`
	Life       web.Duration     `json:"life" required:"true" description:"How long a certificate lives that is asked for without a time."`
	MaxLife    web.Duration     `json:"max_life" required:"true"`
	Hosts      string           `json:"hosts" required:"true" enum:"refused,allowed,required"`
	Identity   string           `json:"identity" required:"true" enum:"refused,allowed,required"`
	Role       bool             `json:"role" required:"true" description:"The common name is a database role."`
	Usage      []string         `json:"usage" required:"true" description:"Extended key usage."`
	Keys       []string         `json:"keys" required:"true" description:"Kinds of keys; RSA of that size and above."`
	NoRevAvail bool             `json:"no_rev_avail" required:"true" description:"Certificates say that nobody tells of their end (RFC 9608)."`
	MustStaple bool             `json:"must_staple" required:"true" description:"Certificates say that their server staples its status (RFC 7633)."`
	Addresses  []string         `json:"addresses" required:"true" description:"Which addresses stand in a certificate: crl, ocsp, issuers."`
	Withdrawn  bool             `json:"withdrawn" required:"true" description:"Nothing more is issued by it."`
	Declared   *DeclaredProfile `json:"declared,omitempty" description:"What the scope itself declares, where one profile is asked for."`
}

// DeclaredProfile is what a scope itself says of a profile.
type DeclaredProfile struct {
	ProfileSpec
	Revision int      `json:"revision" required:"true"`
	At       web.Time `json:"at" required:"true"`
	By       string   `json:"by" required:"true"`
}

// ProfileSpec is what may be declared. Below the platform only what narrows: life, max_life, keys, must_staple, withdrawn.
type ProfileSpec struct {
	Summary    string       `json:"summary,omitempty" maxLength:"200" description:"A sentence for people."`
	Purpose    string       `json:"purpose,omitempty" description:"servers, workloads or databases."`
	Life       web.Duration `json:"life,omitempty" description:"24h if absent."`
	MaxLife    web.Duration `json:"max_life,omitempty" description:"At most 90d; as life if absent."`
	Hosts      string       `json:"hosts,omitempty" description:"refused, allowed or required; refused if absent."`
	Identity   string       `json:"identity,omitempty" description:"refused, allowed or required; refused if absent."`
	Role       bool         `json:"role,omitempty"`
	Usage      []string     `json:"usage,omitempty" maxItems:"2" description:"server, client or both."`
	Keys       []string     `json:"keys,omitempty" maxItems:"16" description:"Of p256, p384, ed25519, rsa2048, rsa3072 and rsa4096; all but rsa2048 if absent."`
	NoRevAvail bool         `json:"no_rev_avail,omitempty"`
	MustStaple bool         `json:"must_staple,omitempty"`
	Addresses  []string     `json:"addresses,omitempty" maxItems:"3" description:"Of crl, ocsp and issuers; all if absent, with no_rev_avail issuers alone."`
	Withdrawn  bool         `json:"withdrawn,omitempty"`
}

func (s ProfileSpec) spec() ca.Spec {
	return ca.Spec{
		Summary: s.Summary, Purpose: ca.Purpose(s.Purpose), Life: ca.Span(s.Life), MaxLife: ca.Span(s.MaxLife), Hosts: s.Hosts, Identity: s.Identity, Role: s.Role,
		Usage: s.Usage, Keys: s.Keys, NoRevAvail: s.NoRevAvail, MustStaple: s.MustStaple, Addresses: s.Addresses, Withdrawn: s.Withdrawn,
	}
}

func wireSpec(s ca.Spec) ProfileSpec {
	return ProfileSpec{
		Summary: s.Summary, Purpose: string(s.Purpose), Life: web.Duration(s.Life), MaxLife: web.Duration(s.MaxLife), Hosts: s.Hosts, Identity: s.Identity, Role: s.Role,
		Usage: s.Usage, Keys: s.Keys, NoRevAvail: s.NoRevAvail, MustStaple: s.MustStaple, Addresses: s.Addresses, Withdrawn: s.Withdrawn,
	}
}

func wireProfile(p *ca.Profile, at identity.Scope) Profile {
	out := Profile{
		Name: p.Name, Scope: at.String(), Revision: p.Revision, Purpose: string(p.Purpose), Summary: p.Summary, Life: web.Duration(p.Default), MaxLife: web.Duration(p.Max),
		Hosts: p.Hosts.String(), Identity: p.Identity.String(), Role: p.Role, Usage: p.Usage(), Keys: []string{}, NoRevAvail: p.NoRevAvail,
		MustStaple: p.MustStaple, Addresses: []string{}, Withdrawn: p.Withdrawn,
	}
	for _, k := range p.Keys {
		out.Keys = append(out.Keys, string(k))
	}
	for _, a := range []struct {
		name string
		on   bool
	}{{"crl", p.CRLs}, {"ocsp", p.OCSP}, {"issuers", p.Issuers}} {
		if a.on {
			out.Addresses = append(out.Addresses, a.name)
		}
	}
	return out
}

// ListProfilesRequest asks what certificates may be in a scope.
type ListProfilesRequest struct{ place }

// ProfileList is all of them: they are few, and come on one page.
type ProfileList struct {
	Profiles []Profile `json:"profiles" required:"true"`
}

func (d *door) listProfiles(_ context.Context, who identity.Caller, in ListProfilesRequest) (ProfileList, error) {
	if !access.May(who, access.ReadCertificates, in.Scope) {
		return ProfileList{}, ca.ErrNotFound
	}
	out := ProfileList{Profiles: []Profile{}}
	for _, p := range d.CA.Profiles(in.Scope) {
		out.Profiles = append(out.Profiles, wireProfile(p, in.Scope))
	}
	return out, nil
}

// A NamedProfile is one by its name.
type NamedProfile struct {
	place
	Name string `json:"-" path:"profile" pattern:"^[a-z][a-z0-9-]{0,39}$"`
}

// ShowProfileRequest names a profile.
type ShowProfileRequest struct{ NamedProfile }

func (d *door) showProfile(_ context.Context, who identity.Caller, in ShowProfileRequest) (Profile, error) {
	if !access.May(who, access.ReadCertificates, in.Scope) {
		return Profile{}, ca.ErrNotFound
	}
	p, err := d.CA.Profile(in.Scope, in.Name)
	if err != nil {
		return Profile{}, ca.ErrNotFound
	}
	out := wireProfile(p, in.Scope)
	said, err := d.CA.Declared(in.Scope, in.Name)
	if err == nil && said.Revision > 0 {
		out.Declared = &DeclaredProfile{ProfileSpec: wireSpec(said.Spec), Revision: said.Revision, At: web.Time{Time: said.At}, By: said.Actor}
	}
	return out, nil
}

// SetProfileRequest declares a profile.
type SetProfileRequest struct {
	NamedProfile
	ProfileSpec
	After *int `json:"after,omitempty" minimum:"0" description:"The revision of the scope's own declaration that this was made from, 0 where there was none: if it is another by now, nothing is changed. Whatever there is, if absent."`
}

func (in SetProfileRequest) change() ca.ProfileChange {
	c := ca.ProfileChange{Scope: in.Scope, Name: in.Name, Spec: in.spec(), After: -1}
	if in.After != nil {
		c.After = *in.After
	}
	return c
}

func (d *door) setProfile(ctx context.Context, who identity.Caller, in SetProfileRequest) (Profile, error) {
	p, err := d.CA.SetProfile(ctx, who, in.change())
	if err != nil {
		return Profile{}, err
	}
	return wireProfile(p, in.Scope), nil
}

// ProfileImpact is what a change would do to the certificates that are there.
type ProfileImpact struct {
	Live     int                   `json:"live" required:"true" description:"Valid certificates that the change touches."`
	Refused  int                   `json:"refused" required:"true" description:"How many of them would not be renewed."`
	Shorter  int                   `json:"shorter" required:"true" description:"How many others would be renewed for a shorter life."`
	Complete bool                  `json:"complete" required:"true" description:"Every certificate was looked at; else there were too many."`
	First    []AffectedCertificate `json:"first" required:"true" description:"Up to 100 that would not be renewed, those that expire first."`
}

// AffectedCertificate is a certificate that would not be renewed.
type AffectedCertificate struct {
	Serial   string   `json:"serial" required:"true"`
	Scope    string   `json:"scope" required:"true"`
	Names    []string `json:"names" required:"true"`
	NotAfter web.Time `json:"not_after" required:"true"`
	Rule     string   `json:"rule" required:"true"`
	Remedy   string   `json:"remedy,omitempty"`
}

func (d *door) previewProfile(ctx context.Context, who identity.Caller, in SetProfileRequest) (ProfileImpact, error) {
	v, err := d.CA.PreviewProfile(ctx, who, in.change())
	if err != nil {
		return ProfileImpact{}, err
	}
	out := ProfileImpact{Live: v.Live, Refused: v.Refused, Shorter: v.Shorter, Complete: v.All, First: []AffectedCertificate{}}
	for _, c := range v.First {
		a := AffectedCertificate{Serial: c.Serial.String(), Scope: c.Scope.String(), Names: []string{}, NotAfter: web.Time{Time: c.NotAfter.Truncate(time.Second)}, Rule: c.Rule, Remedy: c.Remedy}
		for _, n := range c.Names {
			a.Names = append(a.Names, n.String())
		}
		out.First = append(out.First, a)
	}
	return out, nil
}
