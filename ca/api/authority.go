package api

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/kms"
)

// authorities are the routes of an authority's life.
func (d *door) authorities() []web.Route {
	const many, one = "/v1/authorities", "/v1/authorities/{authority}"
	post := func(path, id, summary string, status int, h web.Handler) web.Route {
		return web.Route{Method: http.MethodPost, Path: path, ID: id, Access: web.Operator, Summary: summary, Status: status, Handler: h}
	}
	return []web.Route{
		{Method: http.MethodGet, Path: many, ID: "listAuthorities", Access: web.Operator, Summary: "The authorities, parents first", Handler: web.JSON(d.listAuthorities)},
		{Method: http.MethodGet, Path: one, ID: "showAuthority", Access: web.Operator, Summary: "One authority", Handler: web.JSON(d.showAuthority)},
		post(many, "prepareAuthority", "Make an authority that is published and does not sign yet", http.StatusCreated, web.JSON(d.prepare)),
		post(many+":request", "requestAuthority", "Make the key of an authority that an offline root is to certify, and its request", 0, web.JSON(d.requestAuthority)),
		post(many+":import", "importAuthority", "Take in an offline root, or an authority that one certified", http.StatusCreated, web.JSON(d.importAuthority)),
		post(many+":import-cross", "importCrossCertificate", "Take in a certificate by which one root vouches for another", 0, web.JSON(d.importCross)),
		post(one+":import-list", "importList", "Take in the next list of an offline root", 0, web.JSON(d.importList)),
		post(one+":activate", "activateAuthority", "Have a prepared authority sign; the one that did retires, and what it signed is renewed", 0, web.JSON(d.activate)),
		post(one+":retire", "retireAuthority", "End an authority none of whose certificates is valid", 0, web.JSON(d.retire)),
		post(one+":revoke", "revokeAuthority", "Revoke everything that an authority signed, and its own certificate, for ever", 0, web.JSON(d.revokeAuthority)),
	}
}

// Authority is a CA certificate and where it is in its life.
type Authority struct {
	Name        string   `json:"name" required:"true"`
	Purpose     string   `json:"purpose" required:"true" enum:"root,servers,workloads,databases"`
	State       string   `json:"state" required:"true" enum:"prepared,active,retiring,retired,revoked"`
	Since       web.Time `json:"since" required:"true" description:"When it came to be so."`
	Parent      string   `json:"parent,omitempty"`
	Scope       string   `json:"scope,omitempty" description:"For whom it signs, that scope and below; everybody if absent."`
	Offline     bool     `json:"offline,omitempty" description:"Its key is nowhere here: what it signs comes from a ceremony."`
	NotBefore   web.Time `json:"not_before" required:"true"`
	NotAfter    web.Time `json:"not_after" required:"true"`
	Certificate string   `json:"certificate" required:"true" description:"PEM."`
}

func wireAuthority(a *ca.Authority) Authority {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw}); err != nil {
		panic("api: internal error: a buffer refused a write: " + err.Error())
	}
	out := Authority{
		Name: a.Name, Purpose: string(a.Purpose), State: string(a.State), Since: web.Time{Time: a.Since},
		NotBefore: web.Time{Time: a.Certificate.NotBefore}, NotAfter: web.Time{Time: a.Certificate.NotAfter}, Certificate: b.String(),
	}
	if !a.Scope.IsPlatform() {
		out.Scope = a.Scope.String()
	}
	out.Offline = a.Offline()
	if p := a.Parent(); p != nil {
		out.Parent = p.Name
	}
	return out
}

func wired(a *ca.Authority, err error) (Authority, error) {
	if err != nil {
		return Authority{}, err
	}
	return wireAuthority(a), nil
}

// ListAuthoritiesRequest asks for authorities.
type ListAuthoritiesRequest struct{ web.Page }

// AuthorityList is a part of a list. There is more while it has a next_page_token.
type AuthorityList struct {
	Authorities   []Authority `json:"authorities" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) listAuthorities(_ context.Context, _ identity.Caller, in ListAuthoritiesRequest) (AuthorityList, error) {
	out := AuthorityList{Authorities: []Authority{}}
	after := string(in.Token.At())
	for _, a := range d.CA.Authorities() {
		switch {
		case after != "": // it was answered before
			if a.Name == after {
				after = ""
			}
		case len(out.Authorities) == in.Size:
			next := web.CursorAt([]byte(out.Authorities[in.Size-1].Name))
			out.NextPageToken = &next
			return out, nil
		default:
			out.Authorities = append(out.Authorities, wireAuthority(a))
		}
	}
	return out, nil
}

// A NamedAuthority is one by its name.
type NamedAuthority struct {
	Name string `json:"-" path:"authority" pattern:"^[a-z0-9-]{1,63}$"`
}

// ShowAuthorityRequest names an authority.
type ShowAuthorityRequest struct{ NamedAuthority }

func (d *door) showAuthority(_ context.Context, _ identity.Caller, in ShowAuthorityRequest) (Authority, error) {
	return wired(d.CA.Authority(in.Name))
}

// PrepareRequest asks for an authority.
type PrepareRequest struct {
	Purpose string `json:"purpose" required:"true" description:"What it is for: root, servers, workloads or databases."`
	Name    string `json:"name,omitempty" maxLength:"63" description:"The next number of its purpose if absent. Asking again for the same name gives the same."`
	Preparing
}

// Preparing is what else may be said of an authority that is to be made.
type Preparing struct {
	Scope     string     `json:"scope,omitempty" description:"For whom it signs, that scope and below; everybody if absent."`
	Algorithm string     `json:"algorithm,omitempty" description:"Its kind of key: p256, p384, ed25519, rsa2048, rsa3072 or rsa4096; p256 if absent."`
	Permitted *Permitted `json:"permitted,omitempty" description:"Required with a scope: the only names that stand below it."`
}

// Permitted are the name constraints of an authority (RFC 5280 §4.2.1.10). A kind that is left out is shut.
type Permitted struct {
	DNS []string `json:"dns,omitempty" maxItems:"100" description:"Names, each with those below it."`
	IP  []string `json:"ip,omitempty" maxItems:"100" description:"Ranges, as in 10.0.0.0/8."`
	URI []string `json:"uri,omitempty" maxItems:"100" description:"Trust domains of SPIFFE IDs."`
}

func (in Preparing) preparation(purpose, name string) (p ca.Preparation, err error) {
	p = ca.Preparation{Purpose: ca.Purpose(purpose), Name: name, Algorithm: kms.Algorithm(in.Algorithm)}
	if in.Scope != "" {
		if p.Scope, err = identity.ParseScope(in.Scope); err != nil {
			return p, &policy.Refusal{What: "that scope", Rule: "the form of scopes", Remedy: err.Error()}
		}
	}
	if in.Permitted == nil {
		return p, nil
	}
	p.Permitted = &lint.Permitted{DNS: in.Permitted.DNS, URI: in.Permitted.URI}
	for _, s := range in.Permitted.IP {
		r, err := netip.ParsePrefix(s)
		if err != nil {
			return p, &policy.Refusal{What: fmt.Sprintf("the range %.50q", s), Rule: "the form of ranges", Remedy: "give an address and a length, as in 10.0.0.0/8"}
		}
		p.Permitted.IP = append(p.Permitted.IP, r.Masked())
	}
	return p, nil
}

func (d *door) prepare(ctx context.Context, who identity.Caller, in PrepareRequest) (Authority, error) {
	ask, err := in.preparation(in.Purpose, in.Name)
	if err != nil {
		return Authority{}, err
	}
	return wired(d.CA.PrepareFor(ctx, who, ask))
}

// ActivateRequest names an authority that is prepared.
type ActivateRequest struct {
	NamedAuthority
	Spread web.Duration `json:"spread,omitempty" description:"Over how long what the former one signed is renewed, 7d if absent."`
}

func (d *door) activate(ctx context.Context, who identity.Caller, in ActivateRequest) (Authority, error) {
	return wired(d.CA.Activate(ctx, who, in.Name, time.Duration(in.Spread)))
}

// RetireRequest names an authority.
type RetireRequest struct{ NamedAuthority }

func (d *door) retire(ctx context.Context, who identity.Caller, in RetireRequest) (Authority, error) {
	return wired(d.CA.Retire(ctx, who, in.Name))
}

// RevokeAuthorityRequest names an authority.
type RevokeAuthorityRequest struct {
	NamedAuthority
	Ending
}

func (d *door) revokeAuthority(ctx context.Context, who identity.Caller, in RevokeAuthorityRequest) (Authority, error) {
	why, err := reason(in.Reason)
	if err != nil {
		return Authority{}, err
	}
	return wired(d.CA.RevokeAuthority(ctx, who, in.Name, why))
}
