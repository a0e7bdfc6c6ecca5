package api

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// A Summary is a certificate in a list.
type Summary struct {
	Serial    string      `json:"serial" required:"true" pattern:"^10[0-9a-f]{34}$"`
	Scope     string      `json:"scope" required:"true"`
	Profile   string      `json:"profile" required:"true"`
	Authority string      `json:"authority" required:"true"`
	Identity  string      `json:"identity,omitempty" description:"The SPIFFE ID, if it has one."`
	Names     []string    `json:"names" required:"true" description:"Subject alternative names, each with its kind, as in dns:a.test."`
	Role      string      `json:"role,omitempty" description:"The common name of a database client."`
	NotBefore web.Time    `json:"not_before" required:"true"`
	NotAfter  web.Time    `json:"not_after" required:"true"`
	IssuedAt  web.Time    `json:"issued_at" required:"true"`
	Revoked   *Revocation `json:"revoked,omitempty"`
	StatusURL string      `json:"status_url" required:"true" description:"Where this certificate can be looked up."`
}

// A Revocation says when and why a certificate ended.
type Revocation struct {
	At     web.Time `json:"at" required:"true"`
	Reason string   `json:"reason" required:"true"`
}

// A Certificate is a Summary with the certificate itself.
type Certificate struct {
	Summary
	Receipts    []Receipt `json:"receipts,omitempty" description:"What first told relying parties of its revocation. What has not yet is not here."`
	Certificate string    `json:"certificate" required:"true" description:"PEM: the certificate and the authorities above it, without the root (RFC 8555 §9.1)."`
}

// A Receipt is the first list of its kind, or the first OCSP answer of a site, that told of a revocation.
type Receipt struct {
	Medium string   `json:"medium" required:"true" enum:"crl,ocsp" description:"crl or ocsp."`
	Site   int      `json:"site" required:"true"`
	At     web.Time `json:"at" required:"true"`
	List   string   `json:"list,omitempty" description:"Name of the list: its epoch, and its part where there are several; 0 is the list of all epochs."`
	Number int64    `json:"number,omitempty" description:"The list's number (RFC 5280 §5.2.3)."`
	Answer string   `json:"answer,omitempty" description:"SHA-256 of the OCSP answer in DER, in hex."`
}

func receipts(all []ca.Receipt) []Receipt {
	out := make([]Receipt, len(all))
	for i, r := range all {
		out[i] = Receipt{Medium: "ocsp", Site: int(r.Site), At: web.Time{Time: r.At}}
		if r.List == nil {
			out[i].Answer = hex.EncodeToString(r.Answer[:])
			continue
		}
		out[i].Medium, out[i].Number, out[i].List = "crl", r.List.Number, strconv.Itoa(int(r.List.Epoch))
		if r.List.Parts > 1 {
			out[i].List += fmt.Sprintf("-%02x", r.List.Part)
		}
	}
	return out
}

// Issued is a Certificate that was just made.
type Issued struct{ Certificate }

// Header says where the certificate can be looked up.
func (i Issued) Header(h http.Header) { h.Set("Location", i.StatusURL) }

func (d *door) summary(c ca.Certificate) Summary {
	s := Summary{
		Serial: c.Serial.String(), Scope: c.Scope.String(), Profile: c.Profile, Authority: c.Authority,
		Identity: c.Identity().String(), Names: make([]string, len(c.Names)), Role: c.Role,
		NotBefore: web.Time{Time: c.NotBefore}, NotAfter: web.Time{Time: c.NotAfter}, IssuedAt: web.Time{Time: c.IssuedAt},
		StatusURL: d.URL + pathOf(c.Scope) + "/certificates/" + c.Serial.String(),
	}
	for i, n := range c.Names {
		s.Names[i] = n.String()
	}
	if c.Revoked != nil {
		s.Revoked = &Revocation{web.Time{Time: c.Revoked.At}, c.Revoked.Reason.String()}
	}
	return s
}

func (d *door) certificate(c ca.Certificate) Certificate {
	return Certificate{Summary: d.summary(c), Certificate: chainPEM(c)}
}

// chainPEM is c and what is above it, each certifying the one before (RFC 8446 §4.4.2).
func chainPEM(c ca.Certificate) string {
	var b bytes.Buffer
	for _, der := range append([][]byte{c.DER}, c.Chain...) {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			panic("api: internal error: a buffer refused a write: " + err.Error())
		}
	}
	return b.String()
}

// pathOf returns where the resources of s are.
func pathOf(s identity.Scope) string {
	if s.IsPlatform() {
		return platform.path
	}
	var b strings.Builder
	b.WriteString("/v1/tenants/" + s.Tenant())
	if s.Project() != "" {
		b.WriteString("/projects/" + s.Project())
	}
	if s.Environment() != "" {
		b.WriteString("/environments/" + s.Environment())
	}
	return b.String()
}
