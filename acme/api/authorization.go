package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
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
}

// challenge is RFC 8555 §7.1.5 and §8.
type challenge struct {
	Type      acme.Method   `json:"type"`
	URL       string        `json:"url"`
	Status    acme.Status   `json:"status"`
	Token     string        `json:"token"`
	Validated string        `json:"validated,omitempty"`
	Error     *acme.Problem `json:"error,omitempty"`
}

func (r *request) show(c acme.Challenge) challenge {
	out := challenge{Type: c.Method, URL: r.at.challenge(c), Status: c.Status, Token: c.Token.String(), Error: c.Problem}
	if !c.Validated.IsZero() {
		out.Validated = date(c.Validated)
	}
	return out
}

func (d *door) authorization(ctx context.Context, r *request) (answer, error) {
	a, err := d.readAuthorization(ctx, r)
	if err != nil {
		return answer{}, err
	}
	out := authorization{
		Identifier: acme.IdentifierOf(a.Name), Status: a.Status(d.Server.Now()), Expires: date(a.Expires), Wildcard: a.Name.Wildcard(),
	}
	out.Identifier.Value = strings.TrimPrefix(out.Identifier.Value, "*.")
	for _, c := range a.Challenges() {
		out.Challenges = append(out.Challenges, r.show(c))
	}
	res := answer{body: out}
	if out.Status == acme.Pending && a.Attempt != nil {
		res.retryAfter = pollAfter // RFC 8555 §7.5.1: "The server SHOULD provide information about its retry state"
	}
	return res, nil
}

func (d *door) readAuthorization(ctx context.Context, r *request) (acme.Authorization, error) {
	id, bad := identifier(r)
	if err := d.admitAsking(ctx, r, id); err != nil { // first of all: strangers are told nothing
		return acme.Authorization{}, err
	}
	if err := errors.Join(r.empty(), bad); err != nil {
		return acme.Authorization{}, err
	}
	if r.claim != nil {
		return *r.claim, nil
	}
	return d.Server.Authorization(ctx, r.holder(), id)
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
		a, err = d.Server.Respond(ctx, r.holder(), id, m)
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
	out := answer{body: r.show(c), up: r.at.authz(a.ID)}
	if c.Status == acme.Processing {
		out.retryAfter = pollAfter
	}
	return out, nil
}
