package api

import (
	"context"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/internal/uid"
)

// authorization is RFC 8555 §7.1.4.
type authorization struct {
	Identifier acme.Identifier `json:"identifier"`
	Status     acme.Status     `json:"status"`
	Expires    string          `json:"expires"`
	Challenges []challenge     `json:"challenges"`
	// Wildcard: RFC 8555 §7.1.4: "This field MUST be present and true for authorizations created as a result of a newOrder
	// request containing a DNS identifier with a value that was a wildcard domain name. For other authorizations, it MUST
	// be absent."
	Wildcard bool `json:"wildcard,omitempty"`
	// SubdomainAuthAllowed: RFC 9444 §4.1: it "MUST be present and true" where the authorization covers subdomains.
	SubdomainAuthAllowed bool `json:"subdomainAuthAllowed,omitempty"`
}

// challenge is RFC 8555 §7.1.5 and §8.
type challenge struct {
	Type   acme.Method `json:"type"`
	URL    string      `json:"url"`
	Status acme.Status `json:"status"`
	Token  string      `json:"token,omitempty"`
	// Issuers are the names one of which a dns-persist-01 record begins with (draft-ietf-acme-dns-persist-01 §3.1). That
	// challenge has no token.
	Issuers   []string      `json:"issuer-domain-names,omitempty"`
	Validated string        `json:"validated,omitempty"`
	Error     *acme.Problem `json:"error,omitempty"`
}

func (d *door) show(r *request, c acme.Challenge) challenge {
	out := challenge{Type: c.Method, URL: r.at.challenge(c), Status: c.Status, Token: c.Token.String(), Error: c.Problem}
	if !c.Validated.IsZero() {
		out.Validated = date(c.Validated)
	}
	if c.Method == acme.DNSPersist01 {
		out.Token, out.Issuers = "", d.Server.Identities
	}
	return out
}

// authorization reads an authorization, or deactivates it.
func (d *door) authorization(ctx context.Context, r *request) (answer, error) {
	id, bad := identifier(r)
	if err := d.admitAsking(ctx, r, id); err != nil { // first of all: strangers are told nothing
		return answer{}, err
	}
	if bad != nil {
		return answer{}, bad
	}
	if len(r.jws.Payload) > 0 {
		return d.deactivate(ctx, r, id)
	}
	if r.claim != nil {
		return d.showAuthorization(r, *r.claim), nil
	}
	a, err := d.Server.Authorization(ctx, r.holder(), id)
	if err != nil {
		return answer{}, err
	}
	return d.showAuthorization(r, a), nil
}

// deactivate is RFC 8555 §7.5.2: "the client … sends a POST … with the static object {"status": "deactivated"}."
func (d *door) deactivate(ctx context.Context, r *request, id uid.UID) (answer, error) {
	var in struct {
		Status acme.Status `json:"status"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	if in.Status != acme.Deactivated {
		return answer{}, acme.NewProblem(acme.Malformed, `status %.40q: read with an empty payload, or ask for "deactivated" (RFC 8555 §7.5.2)`, in.Status)
	}
	a, err := d.Server.Deactivate(ctx, r.holder(), id)
	if err != nil {
		return answer{}, err
	}
	return d.showAuthorization(r, a), nil
}

func (d *door) showAuthorization(r *request, a acme.Authorization) answer {
	out := authorization{
		Identifier: acme.IdentifierOf(a.Name), Status: a.Status(d.Server.Now()), Expires: date(a.Expires), Wildcard: a.Name.Wildcard(),
		SubdomainAuthAllowed: a.Subdomains, Challenges: []challenge{}, // RFC 8555 §7.1.4: "challenges (required, array of objects)"
	}
	out.Identifier.Value = strings.TrimPrefix(out.Identifier.Value, "*.")
	for _, c := range d.Server.Challenges(a) {
		out.Challenges = append(out.Challenges, d.show(r, c))
	}
	res := answer{body: out}
	if out.Status == acme.Pending && a.Attempt != nil {
		// RFC 8555 §7.5.1: "The server SHOULD provide information about its retry state".
		res.retryAfter = max(pollAfter, a.Attempt.Next.Sub(d.Server.Now())+pollAfter)
	}
	return res
}

// newAuthz is RFC 8555 §7.4.1: "The server allocates a new URL for this authorization and returns a 201 (Created) response
// with the authorization URL in the Location header field".
func (d *door) newAuthz(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	var in struct {
		Identifier           acme.Identifier `json:"identifier"`
		SubdomainAuthAllowed bool            `json:"subdomainAuthAllowed"` // RFC 9444 §4.2
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	a, err := d.Server.NewAuthorization(ctx, r.holder(), acme.NewAuthorization{Identifier: in.Identifier, Subdomains: in.SubdomainAuthAllowed})
	if err != nil {
		return answer{}, err
	}
	out := d.showAuthorization(r, a)
	out.status, out.location = http.StatusCreated, r.at.authz(a.ID)
	return out, nil
}

func (d *door) challenge(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	id, err := identifier(r)
	if err != nil {
		return answer{}, err
	}
	m := acme.Method(r.PathValue("method"))
	var a acme.Authorization
	if len(r.jws.Payload) == 0 { // POST-as-GET reads; only an object says that the challenge is ready (RFC 8555 §7.5.1)
		a, err = d.Server.Authorization(ctx, r.holder(), id)
	} else {
		if err := jws.Decode(r.jws.Payload, &struct{}{}); err != nil {
			return answer{}, err
		}
		a, err = d.Server.Respond(ctx, r.holder(), acme.Answer{Authorization: id, Method: m, Payload: r.jws.Payload})
	}
	if err != nil {
		return answer{}, err
	}
	c, ok := a.Challenge(m)
	if !ok {
		p := acme.NewProblem(acme.Malformed, "this authorization has no challenge of that type: see the authorization")
		p.Status = http.StatusNotFound
		return answer{}, p
	}
	// RFC 8555 §7.5.1 (example) and §7.1: "up" leads to the authorization.
	out := answer{body: d.show(r, c), up: r.at.authz(a.ID)}
	if c.Status == acme.Processing {
		// RFC 8555 §8.2: "The server SHOULD set the Retry-After header field to a time after the server's next validation query".
		out.retryAfter = max(pollAfter, c.Next.Sub(d.Server.Now())+pollAfter)
	}
	return out, nil
}
