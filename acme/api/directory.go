package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
)

// directory is RFC 8555 §7.1.1. What is not served is not listed.
type directory struct {
	NewNonce   string `json:"newNonce"`
	NewAccount string `json:"newAccount"`
	NewOrder   string `json:"newOrder"`
	NewAuthz   string `json:"newAuthz"`
	RevokeCert string `json:"revokeCert"`
	KeyChange  string `json:"keyChange"`
	// RenewalInfo: RFC 9773 §3.
	RenewalInfo string `json:"renewalInfo"`
	Meta        meta   `json:"meta"`
}

type meta struct {
	TermsOfService          string `json:"termsOfService,omitempty"`
	ExternalAccountRequired bool   `json:"externalAccountRequired"`
	SubdomainAuthAllowed    bool   `json:"subdomainAuthAllowed"` // RFC 9444 §4.4
	// CAAIdentities: RFC 8555 §7.1.1: "the ACME server recognizes as referring to itself for the purposes of CAA record
	// validation".
	CAAIdentities []string `json:"caaIdentities,omitempty"`
	// Profiles: draft-ietf-acme-profiles §3: "A map of profile names to human-readable descriptions of those profiles."
	Profiles map[string]string `json:"profiles,omitempty"`
	// AutoRenewal: RFC 8739 §3.2.
	AutoRenewal *autoRenewal `json:"auto-renewal,omitempty"`
}

func (d *door) directory(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/acme/"), "/directory")
	scope, err := d.parse(path, "/")
	if err == nil {
		err = d.Server.Open(r.Context(), scope)
	}
	if err != nil {
		return fail(w, err)
	}
	about, err := d.meta(r.Context(), scope)
	if err != nil {
		return fail(w, err)
	}
	at := d.at(scope)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	return json.NewEncoder(w).Encode(directory{
		NewNonce: at.of(newNonce), NewAccount: at.of(newAccount), NewOrder: at.of(newOrder), NewAuthz: at.of(newAuthz),
		RevokeCert: at.of(revokeCert), KeyChange: at.of(keyChange),
		RenewalInfo: at.of(renewalInfoAt), Meta: about,
	})
}

// meta says what the directory of scope asks and offers.
func (d *door) meta(ctx context.Context, scope identity.Scope) (meta, error) {
	v, err := d.Server.Setting(ctx, scope)
	if err != nil {
		return meta{}, err
	}
	out := meta{TermsOfService: d.Server.Terms, CAAIdentities: d.Server.Identities, SubdomainAuthAllowed: true, ExternalAccountRequired: *v.BindingRequired, AutoRenewal: d.renews()}
	out.Profiles, err = d.Server.Profiles(ctx, scope)
	return out, err
}

// newNonce is RFC 8555 §7.2: "The server's response MUST include a Replay-Nonce header field containing a fresh nonce and
// SHOULD have status code 200 (OK)" to HEAD, and "the server … SHOULD return a 204 (No Content)" to GET.
func (d *door) newNonce(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	scope, err := d.parse(r.PathValue("scope"), ".")
	if err != nil {
		return fail(w, err)
	}
	if err := d.prepare(w, r, scope); err != nil {
		return fail(w, err)
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// prepare sets what every answer but a directory carries.
func (d *door) prepare(w http.ResponseWriter, r *http.Request, scope identity.Scope) error {
	h := w.Header()
	// RFC 8555 §7.1: "The "index" link relation is present on all resources other than the directory".
	h.Set("Link", link(d.at(scope).directory(), "index"))
	// RFC 8555 §7.2: "The server MUST include a Cache-Control header field with the "no-store" directive in responses for
	// the newNonce resource". The others are as much one client's.
	h.Set("Cache-Control", "no-store")
	nonce, err := d.Server.Nonce(r.Context())
	if err != nil {
		return err
	}
	h.Set("Replay-Nonce", nonce)
	return nil
}

func link(to, relation string) string { return "<" + to + `>;rel="` + relation + `"` }

// refuseGet is RFC 8555 §6.3: "If the server receives a GET request [for such a resource], it MUST return an error with
// status code 405 (Method Not Allowed) and type "malformed"."
func (d *door) refuseGet(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	if scope, err := d.parse(r.PathValue("scope"), "."); err == nil {
		w.Header().Set("Link", link(d.at(scope).directory(), "index"))
	}
	w.Header().Set("Allow", http.MethodPost)
	p := acme.NewProblem(acme.Malformed, "use POST, or POST-as-GET to read (RFC 8555 §6.3)")
	p.Status = http.StatusMethodNotAllowed
	return fail(w, p)
}
