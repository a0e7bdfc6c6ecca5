package api

import (
	"bytes"
	"context"
	"encoding/pem"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
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
}

func (d *door) prepare(ctx context.Context, who identity.Caller, in PrepareRequest) (Authority, error) {
	return wired(d.CA.Prepare(ctx, who, ca.Purpose(in.Purpose), in.Name))
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
