package api

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/internal/uid"
)

// pollAfter is what clients are told to wait while something is being done for them.
const pollAfter = time.Second

// identifier reads the id of the URL.
func identifier(r *request) (uid.UID, error) {
	id, err := uid.Parse(r.PathValue("id"))
	if err != nil {
		p := acme.NewProblem(acme.Malformed, "no such resource: check the URL")
		p.Status = http.StatusNotFound
		return uid.UID{}, p
	}
	return id, nil
}

// order is RFC 8555 §7.1.3.
type order struct {
	Status          acme.Status       `json:"status"`
	Expires         string            `json:"expires"`
	Identifiers     []acme.Identifier `json:"identifiers"`
	Authorizations  []string          `json:"authorizations"`
	Finalize        string            `json:"finalize"`
	Certificate     string            `json:"certificate,omitempty"`
	Profile         string            `json:"profile,omitempty"`          // draft-ietf-acme-profiles §4
	Replaces        string            `json:"replaces,omitempty"`         // RFC 9773 §5
	AutoRenewal     *acme.AutoRenewal `json:"auto-renewal,omitempty"`     // RFC 8739 §3.1.1
	StarCertificate string            `json:"star-certificate,omitempty"` // RFC 8739 §3.3: in place of certificate
	NotBefore       string            `json:"notBefore,omitempty"`
	NotAfter        string            `json:"notAfter,omitempty"`
	Error           *acme.Problem     `json:"error,omitempty"`
}

// showOrder answers with o. Every answer about an order says where it is.
func (d *door) showOrder(r *request, o acme.Order) answer {
	out := order{Status: o.Status(d.Server.Now()), Expires: date(o.Expires), Finalize: r.at.order(o.ID) + "/finalize", Error: o.Problem(), Profile: o.Profile}
	if !o.Replaces.IsZero() {
		out.Replaces = o.Replaces.String()
	}
	for _, n := range o.Names {
		out.Identifiers = append(out.Identifiers, acme.IdentifierOf(n))
	}
	for _, a := range o.Authorizations {
		if u := r.at.authz(a.ID); !slices.Contains(out.Authorizations, u) { // one may cover several names (RFC 9444)
			out.Authorizations = append(out.Authorizations, u)
		}
	}
	out.NotBefore, out.NotAfter = dateOrNone(o.NotBefore), dateOrNone(o.NotAfter)
	a := answer{location: r.at.order(o.ID)}
	out.AutoRenewal = o.AutoRenewal
	switch {
	case o.AutoRenewal != nil && out.Status == acme.Valid:
		out.StarCertificate = r.at.star(o.ID)
	case out.Status == acme.Valid:
		out.Certificate = r.at.cert(o.ID)
	case out.Status == acme.Processing:
		a.retryAfter = pollAfter // RFC 8555 §7.4: "The server … MAY include a Retry-After header field"
	}
	a.body = out
	return a
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func dateOrNone(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return date(t)
}

// parseDate reads a date that may be absent (RFC 8555 §7.4: "in the date format defined in [RFC3339]").
func parseDate(member, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, acme.NewProblem(acme.Malformed, "%q is no date of RFC 3339, such as 2026-01-02T15:04:05Z", member)
	}
	return t, nil
}

// wanted is an identifier of a new order: RFC 8555 §7.4, with RFC 9444 §4.3's member.
type wanted struct {
	acme.Identifier
	AncestorDomain string `json:"ancestorDomain"`
}

func (d *door) newOrder(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	var in struct {
		Identifiers []wanted          `json:"identifiers"`
		NotBefore   string            `json:"notBefore"`
		NotAfter    string            `json:"notAfter"`
		Profile     string            `json:"profile"`
		Replaces    string            `json:"replaces"`
		AutoRenewal *acme.AutoRenewal `json:"auto-renewal"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	from, err1 := parseDate("notBefore", in.NotBefore)
	to, err2 := parseDate("notAfter", in.NotAfter)
	if err := errors.Join(err1, err2); err != nil {
		return answer{}, err
	}
	ask := acme.NewOrder{Profile: in.Profile, Replaces: in.Replaces, AutoRenewal: in.AutoRenewal, NotBefore: from, NotAfter: to}
	for _, w := range in.Identifiers {
		ask.Identifiers, ask.Ancestors = append(ask.Identifiers, w.Identifier), append(ask.Ancestors, w.AncestorDomain)
	}
	o, err := d.Server.NewOrder(ctx, r.holder(), ask)
	if err != nil {
		return answer{}, err
	}
	a := d.showOrder(r, o)
	a.status = http.StatusCreated // RFC 8555 §7.4
	return a, nil
}

// reading admits a POST-as-GET and reads the id of its URL.
func (d *door) reading(ctx context.Context, r *request) (uid.UID, error) {
	if err := d.admit(ctx, r); err != nil {
		return uid.UID{}, err
	}
	if err := r.empty(); err != nil {
		return uid.UID{}, err
	}
	return identifier(r)
}

func (d *door) order(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	id, err := identifier(r)
	if err != nil {
		return answer{}, err
	}
	if len(r.jws.Payload) > 0 {
		return d.cancel(ctx, r, id)
	}
	o, err := d.Server.Order(ctx, r.holder(), id)
	if err != nil {
		return answer{}, err
	}
	return d.showOrder(r, o), nil
}

func (d *door) finalize(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	id, err := identifier(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		CSR string `json:"csr"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	der, err := decode("csr", in.CSR)
	if err != nil {
		return answer{}, err
	}
	o, err := d.Server.Finalize(ctx, r.holder(), id, der)
	if err != nil {
		return answer{}, err
	}
	return d.showOrder(r, o), nil
}

// decode reads a base64url member (RFC 8555 §6.1: no padding).
func decode(member, text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || text == "" || strings.ContainsAny(text, "\r\n") {
		return nil, acme.NewProblem(acme.Malformed, "%q is missing or not base64url without padding (RFC 8555 §6.1)", member)
	}
	return b, nil
}

// certificate is RFC 8555 §7.4.2: the end-entity certificate first, each next one certifying the one before.
func (d *door) certificate(ctx context.Context, r *request) (answer, error) {
	id, err := d.reading(ctx, r)
	if err != nil {
		return answer{}, err
	}
	c, err := d.Server.Certificate(ctx, r.holder(), id)
	if err != nil {
		return answer{}, err
	}
	chains := c.Chains()
	n, err := r.chain(len(chains))
	if err != nil {
		return answer{}, err
	}
	out := answer{pem: encode(c.DER, chains[n])}
	for i := range chains {
		if i != n { // RFC 8555 §7.4.2: "The server MAY provide one or more link relation header fields … "alternate""
			out.alternates = append(out.alternates, r.at.chain(id, i))
		}
	}
	return out, nil
}

// chain reads which chain the URL names: the first when it names none.
func (r *request) chain(of int) (int, error) {
	text := r.PathValue("chain")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n >= of || strconv.Itoa(n) != text {
		p := acme.NewProblem(acme.Malformed, "no such chain: see the links of the certificate")
		p.Status = http.StatusNotFound
		return 0, p
	}
	return n, nil
}

func encode(leaf []byte, above [][]byte) []byte {
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})
	for _, der := range above {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func (d *door) revokeCert(ctx context.Context, r *request) (answer, error) {
	byKey := r.jws.Key != nil
	admit := d.admit
	if byKey {
		admit = d.admitKey
	}
	if err := admit(ctx, r); err != nil {
		return answer{}, err
	}
	var in struct {
		Certificate string `json:"certificate"`
		Reason      int    `json:"reason"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	der, err := decode("certificate", in.Certificate)
	if err != nil {
		return answer{}, err
	}
	ask := acme.Revocation{Certificate: der, Reason: in.Reason}
	if byKey {
		return answer{}, d.Server.RevokeByKey(ctx, r.who, r.jws.Key, ask)
	}
	return answer{}, d.Server.RevokeByAccount(ctx, r.holder(), ask)
}
