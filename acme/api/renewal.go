package api

import (
	"encoding/json"
	"net/http"
	"sort"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
)

// renewalInfo is RFC 9773 §4.2. It is read with GET, by anybody (§4.1).
type renewalInfo struct {
	Window struct {
		Start string `json:"start"`
		End   string `json:"end"`
	} `json:"suggestedWindow"`
	Explanation string `json:"explanationURL,omitempty"`
}

func (d *door) renewalInfo(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	scope, err := d.parse(r.PathValue("scope"), ".")
	if err != nil {
		return fail(w, err)
	}
	w.Header().Set("Link", link(d.at(scope).directory(), "index"))
	info, err := d.Server.RenewalInfo(r.Context(), scope, r.PathValue("certid"))
	if err != nil {
		return fail(w, err)
	}
	var out renewalInfo
	out.Window.Start, out.Window.End, out.Explanation = date(info.Window.Start), date(info.Window.End), info.Explanation
	h := w.Header()
	// RFC 9773 §4.3: when to ask again.
	h.Set("Retry-After", seconds(info.RetryAfter))
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // an incident moves the window for all at once
	return json.NewEncoder(w).Encode(out)
}

// limits explains the limits of a scope: what an answer of type rateLimited points at (RFC 8555 §6.6: "Link header fields
// pointing to documentation about the specific rate limit that was hit, using the "help" link relation type"). It says how
// much is allowed, and nothing of what was used.
func (d *door) limits(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	scope, err := d.parse(r.PathValue("scope"), ".")
	if err == nil {
		err = d.Server.Open(r.Context(), scope)
	}
	if err != nil {
		return fail(w, err)
	}
	type one struct {
		Name  limit.Name `json:"name"`
		Rate  limit.Rate `json:"rate"`
		About string     `json:"about"`
	}
	out := struct {
		Limits []one `json:"limits"`
	}{Limits: []one{}}
	for _, l := range acme.LimitsDefined() {
		rate := limit.Rate{}
		if d.Server.Limits != nil {
			if rate, err = d.Server.Limits.Rate(r.Context(), l.Name, scope); err != nil {
				return fail(w, err)
			}
		}
		out.Limits = append(out.Limits, one{l.Name, rate, l.About})
	}
	sort.Slice(out.Limits, func(i, j int) bool { return out.Limits[i].Name < out.Limits[j].Name })
	h := w.Header()
	h.Set("Link", link(d.at(scope).directory(), "index"))
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=60")
	return json.NewEncoder(w).Encode(out)
}
