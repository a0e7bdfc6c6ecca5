package api

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// find returns a certificate that who may see: its own, one of its scope or below, or any for an operator. Of others it
// says that they are not there, and of those outside the scope within, unless that is zero.
func (d *door) find(ctx context.Context, who identity.Caller, within identity.Scope, s cert.Serial) (ca.Certificate, error) {
	c, err := d.CA.Certificate(ctx, s)
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading certificate %s: %w", s, err)
	}
	own := who.Serial == c.Serial
	if !own && !who.May(c.Scope) || !within.IsZero() && !within.Contains(c.Scope) {
		return ca.Certificate{}, fmt.Errorf("reading certificate %s: %w", s, ca.ErrNotFound)
	}
	return c, nil
}

// ShowRequest names a certificate of a scope.
type ShowRequest struct{ named }

// ShowAnywhereRequest names a certificate.
type ShowAnywhereRequest struct {
	Serial cert.Serial `json:"-" path:"serial" pattern:"^10[0-9a-f]{34}$"`
}

func (d *door) show(ctx context.Context, who identity.Caller, in ShowRequest) (Certificate, error) {
	return d.shown(ctx, who, in.Scope, in.Serial)
}

func (d *door) showAnywhere(ctx context.Context, who identity.Caller, in ShowAnywhereRequest) (Certificate, error) {
	return d.shown(ctx, who, identity.Scope{}, in.Serial)
}

func (d *door) shown(ctx context.Context, who identity.Caller, within identity.Scope, s cert.Serial) (Certificate, error) {
	c, err := d.find(ctx, who, within, s)
	if err != nil {
		return Certificate{}, err
	}
	return d.certificate(c), nil
}

// A Filter narrows a list of certificates.
type Filter struct {
	ExpiresBefore web.Time `json:"-" query:"expires_before" description:"Only those that end before this."`
	ExpiresAfter  web.Time `json:"-" query:"expires_after" description:"Only those that end at this or after."`
	Revoked       bool     `json:"-" query:"revoked" description:"Only revoked ones."`
}

// ListRequest asks for the certificates of a scope.
type ListRequest struct {
	place
	Filter
	web.Page
}

// ListAllRequest asks for the certificates of all scopes.
type ListAllRequest struct {
	Filter
	web.Page
}

// CertificateList is a part of a list. There is more while it has a next_page_token.
type CertificateList struct {
	Certificates  []Summary   `json:"certificates" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) list(ctx context.Context, who identity.Caller, in ListRequest) (CertificateList, error) {
	return d.selected(ctx, who, in.Scope, in.Filter, in.Page)
}

func (d *door) listAll(ctx context.Context, who identity.Caller, in ListAllRequest) (CertificateList, error) {
	return d.selected(ctx, who, identity.Scope{}, in.Filter, in.Page)
}

func (d *door) selected(ctx context.Context, who identity.Caller, s identity.Scope, f Filter, p web.Page) (CertificateList, error) {
	q := ca.Query{
		Scope: s, ExpiringBefore: f.ExpiresBefore.Time, ExpiringAfter: f.ExpiresAfter.Time, Revoked: f.Revoked, Limit: p.Size + 1,
	}
	var err error
	if q.After, err = readCursor(p.Token); err != nil {
		return CertificateList{}, err
	}
	found, err := d.CA.Select(ctx, who, q)
	if err != nil {
		return CertificateList{}, err
	}
	out := CertificateList{Certificates: make([]Summary, 0, len(found))}
	for i, c := range found {
		if i == p.Size {
			next := cursorAt(found[i-1])
			out.NextPageToken = &next
			break
		}
		out.Certificates = append(out.Certificates, d.summary(c))
	}
	return out, nil
}

// cursorAt is where a list goes on after c: the instant of its end and its serial.
func cursorAt(c ca.Certificate) web.Cursor {
	return web.CursorAt(append(binary.BigEndian.AppendUint64(nil, uint64(c.NotAfter.Unix())), c.Serial.Bytes()...)) //nolint:gosec // after 1970
}

func readCursor(c web.Cursor) (ca.Cursor, error) {
	at := c.At()
	if len(at) == 0 {
		return ca.Cursor{}, nil
	}
	const instant = 8
	if len(at) < instant {
		return ca.Cursor{}, errToken()
	}
	serial, err := cert.SerialFromBytes(at[instant:])
	if err != nil {
		return ca.Cursor{}, errToken()
	}
	return ca.Cursor{NotAfter: time.Unix(int64(binary.BigEndian.Uint64(at)), 0).UTC(), Serial: serial}, nil //nolint:gosec // the database refuses what no year holds
}

func errToken() error {
	return &web.Fault{
		Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read",
		Detail: "query parameter page_token: not one of this list", Remedy: "begin again without it",
	}
}

func badParameter(name string, err error) error {
	return &web.Fault{
		Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read",
		Detail: "query parameter " + name + ": " + err.Error(), Remedy: "see /openapi.json",
	}
}
