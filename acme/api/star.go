package api

import (
	"context"
	"encoding/pem"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// autoRenewal is the directory's word on automatic renewal (RFC 8739 §3.2).
type autoRenewal struct {
	MinLifetime int64 `json:"min-lifetime"`
	MaxDuration int64 `json:"max-duration"`
	AllowGet    bool  `json:"allow-certificate-get"`
}

func (d *door) renews() *autoRenewal {
	return &autoRenewal{int64(d.Server.MinLifetime / time.Second), int64(acme.MaxDuration / time.Second), true}
}

// cancel takes the one change that an order knows, "status": "canceled" (RFC 8739 §3.1.2).
func (d *door) cancel(ctx context.Context, r *request, id uid.UID) (answer, error) {
	var in struct {
		Status acme.Status `json:"status"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	if in.Status != acme.Canceled {
		return answer{}, acme.NewProblem(acme.Malformed, `an order takes no change but "status": "canceled" (RFC 8739 §3.1.2); to read it send an empty payload (RFC 8555 §6.3)`)
	}
	o, err := d.Server.Cancel(ctx, r.holder(), id)
	if err != nil {
		return answer{}, err
	}
	return d.showOrder(r, o), nil
}

// starCertificate is RFC 8739 §3.3, asked for by POST-as-GET.
func (d *door) starCertificate(ctx context.Context, r *request) (answer, error) {
	id, err := d.reading(ctx, r)
	if err != nil {
		return answer{}, err
	}
	c, err := d.Server.StarCertificate(ctx, r.acct.ID, id)
	if err != nil {
		return answer{}, err
	}
	return answer{pem: chainOf(c), current: &c}, nil
}

// getStarCertificate is RFC 8739 §3.4: GET and HEAD by anybody, where the order allows it.
func (d *door) getStarCertificate(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	scope, err := d.parse(r.PathValue("scope"), ".")
	if err != nil {
		return fail(w, err)
	}
	w.Header().Set("Link", link(d.at(scope).directory(), "index"))
	id, err := uid.Parse(r.PathValue("id"))
	var c ca.Certificate
	if err == nil {
		c, err = d.Server.StarCertificate(r.Context(), uid.UID{}, id)
	} else {
		err = acme.NewProblem(acme.Malformed, "no such resource: check the URL")
	}
	if err == nil && c.Scope != scope {
		err = acme.NewProblem(acme.Malformed, "no such resource: check the URL")
	}
	if err != nil {
		return fail(w, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer{pem: chainOf(c), current: &c}.write(w)
}

// chainOf is a certificate and those above it, each certifying the one before (RFC 8555 §7.4.2).
func chainOf(c ca.Certificate) []byte {
	var chain []byte
	for _, der := range append([][]byte{c.DER}, c.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return chain
}

// current says how long a certificate that is replaced by itself is good: RFC 8739 §3.3: "The Server SHOULD include the
// "Cert-Not-Before" and "Cert-Not-After" HTTP header fields in the response."
func current(h http.Header, c ca.Certificate) {
	h.Set("Cert-Not-Before", c.NotBefore.UTC().Format(http.TimeFormat))
	h.Set("Cert-Not-After", c.NotAfter.UTC().Format(http.TimeFormat))
}
