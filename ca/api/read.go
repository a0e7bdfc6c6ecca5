package api

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
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
	own := who.Serial == c.Serial && !who.Serial.IsZero()
	if !own && !access.May(who, access.ReadCertificates, c.Scope) || !within.IsZero() && !within.Contains(c.Scope) {
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
	out := d.certificate(c)
	if c.Revoked != nil {
		all, err := d.CA.Receipts(ctx, s)
		if err != nil {
			return Certificate{}, err
		}
		out.Receipts = receipts(all)
	}
	return out, nil
}

// A Filter narrows a list of certificates.
type Filter struct {
	ExpiresBefore web.Time `json:"-" query:"expires_before" description:"Only those that end before this."`
	ExpiresAfter  web.Time `json:"-" query:"expires_after" description:"Only those that end at this or after."`
	Revoked       bool     `json:"-" query:"revoked" description:"Only revoked ones, in the order of their making."`
	Overdue       bool     `json:"-" query:"overdue" description:"Only valid ones that should have a successor by now and have none."`
	Profile       string   `json:"-" query:"profile" description:"Only those of this profile."`
	Authority     string   `json:"-" query:"authority" description:"Only those that this authority issued."`
	Name          string   `json:"-" query:"name" description:"Only those that bear this name, with its kind, as in dns:a.test."`
	Identity      string   `json:"-" query:"identity" description:"Only those of this SPIFFE ID."`
	Key           string   `json:"-" query:"key" pattern:"^[0-9a-f]{64}$" description:"Only those of this key: the SHA-256 of its SubjectPublicKeyInfo, in hex."`
	Requester     string   `json:"-" query:"requester" description:"Only those that this actor asked for, the newest first."`
}

// narrow puts f into q.
func (d *door) narrow(f Filter, q *ca.Query) error {
	q.ExpiringBefore, q.ExpiringAfter, q.Revoked, q.Profile, q.Requester = f.ExpiresBefore.Time, f.ExpiresAfter.Time, f.Revoked, f.Profile, f.Requester
	if f.Overdue {
		q.Overdue = d.CA.Now()
	}
	var err error
	if f.Profile != "" {
		if _, err = d.CA.Profile(identity.Platform, f.Profile); err != nil {
			return badParameter("profile", err)
		}
	}
	if f.Authority != "" {
		if q.Authority, err = d.CA.AuthorityNamed(f.Authority); err != nil {
			return badParameter("authority", fmt.Errorf("%.70q: %w", f.Authority, err))
		}
	}
	if f.Name != "" && f.Identity != "" {
		return badParameter("identity", errors.New("is a name: leave name out"))
	}
	if f.Name != "" {
		if q.Name, err = cert.ParseName(f.Name); err != nil {
			return badParameter("name", err)
		}
	}
	if f.Identity != "" {
		if q.Name, err = cert.ParseURI(f.Identity); err != nil {
			return badParameter("identity", err)
		}
	}
	if f.Key != "" {
		b, err := hex.DecodeString(f.Key)
		if err != nil || len(b) != len(q.Key) {
			return badParameter("key", errors.New("want 64 hex digits"))
		}
		q.Key = cert.KeyID(b)
	}
	return nil
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

// CertificateList is a part of a list. There is more while it has a next_page_token. A page looks at a bounded number of
// certificates, so it may hold few, or none, while there is more.
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
	q := ca.Query{Scope: s, Limit: p.Size}
	err := d.narrow(f, &q)
	if err != nil {
		return CertificateList{}, err
	}
	if q.After, err = readCursor(p.Token, f.Requester != ""); err != nil {
		return CertificateList{}, err
	}
	found, err := d.CA.Select(ctx, who, q)
	if err != nil {
		return CertificateList{}, err
	}
	out := CertificateList{Certificates: make([]Summary, 0, len(found.Certificates))}
	for _, c := range found.Certificates {
		out.Certificates = append(out.Certificates, d.summary(c))
	}
	if found.More {
		next := cursorAt(found.Next)
		out.NextPageToken = &next
	}
	return out, nil
}

// cursorAt is where a list goes on: after the instant of an end and a serial, or after a fact.
func cursorAt(c ca.Cursor) web.Cursor {
	if !c.Fact.IsZero() {
		return web.CursorAt([]byte(c.Fact.String()))
	}
	return web.CursorAt(append(binary.BigEndian.AppendUint64(nil, uint64(c.NotAfter.Unix())), c.Serial.Bytes()...)) //nolint:gosec // after 1970
}

// readCursor reads what cursorAt wrote, of a list by facts or of another.
func readCursor(c web.Cursor, byFacts bool) (ca.Cursor, error) {
	at := c.At()
	if len(at) == 0 {
		return ca.Cursor{}, nil
	}
	if byFacts {
		p, err := readPosition(c)
		return ca.Cursor{Fact: p}, err
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
