package api

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"net/http"
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
	Status         acme.Status       `json:"status"`
	Expires        string            `json:"expires"`
	Identifiers    []acme.Identifier `json:"identifiers"`
	Authorizations []string          `json:"authorizations"`
	Finalize       string            `json:"finalize"`
	Certificate    string            `json:"certificate,omitempty"`
	Error          *acme.Problem     `json:"error,omitempty"`
}

// showOrder answers with o. Every answer about an order says where it is.
func (d *door) showOrder(r *request, o acme.Order) answer {
	out := order{Status: o.Status(d.Server.Now()), Expires: date(o.Expires), Finalize: r.at.order(o.ID) + "/finalize", Error: o.Problem()}
	for _, n := range o.Names {
		out.Identifiers = append(out.Identifiers, acme.IdentifierOf(n))
	}
	for _, a := range o.Authorizations {
		out.Authorizations = append(out.Authorizations, r.at.authz(a.ID))
	}
	a := answer{location: r.at.order(o.ID)}
	switch out.Status {
	case acme.Valid:
		out.Certificate = r.at.cert(o.ID)
	case acme.Processing:
		a.retryAfter = pollAfter // RFC 8555 §7.4: "The server … MAY include a Retry-After header field"
	}
	a.body = out
	return a
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (d *door) newOrder(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	var in struct {
		Identifiers []acme.Identifier `json:"identifiers"`
		NotBefore   string            `json:"notBefore"`
		NotAfter    string            `json:"notAfter"`
		Profile     string            `json:"profile"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	o, err := d.Server.NewOrder(ctx, r.holder(), acme.NewOrder{
		Identifiers: in.Identifiers, Profile: in.Profile, Dated: in.NotBefore != "" || in.NotAfter != "",
	})
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
	id, err := d.reading(ctx, r)
	if err != nil {
		return answer{}, err
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
	var chain []byte
	for _, der := range append([][]byte{c.DER}, c.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return answer{pem: chain}, nil
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
