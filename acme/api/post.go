package api

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// A request is a POST whose JWS has been read.
type request struct {
	*http.Request
	who  identity.Caller // where it came from, and the directory's scope
	at   places
	jws  *jws.Message
	acct acme.Account // once admitted
	// claim is the authorization asked for, when it was read on admission.
	claim *acme.Authorization
}

// holder returns the account that signed.
func (r *request) holder() acme.Holder {
	return acme.Holder{Account: r.acct, Remote: r.who.Remote, Request: r.who.Request}
}

// An answer is what a POST brings, but for what all answers carry.
type answer struct {
	status     int // 0 is 200
	location   string
	up         string   // Link relation "up"
	next       string   // Link relation "next"
	alternates []string // Link relation "alternate"
	retryAfter time.Duration
	body       any             // JSON
	pem        []byte          // or a certificate chain
	current    *ca.Certificate // that the chain is of, where its URL will have another one later
}

// An action serves one resource for an account. Those that take a key in the header say so.
type action func(context.Context, *request) (answer, error)

// post returns the handler that reads a JWS, checks its header against the request, and runs act.
func (d *door) post(act action) web.Handler {
	return web.Raw(func(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
		scope, err := d.parse(r.PathValue("scope"), ".")
		if err != nil {
			return fail(w, err)
		}
		if err := d.prepare(w, r, scope); err != nil {
			return fail(w, err)
		}
		req, err := d.read(w, r, scope, who)
		if err != nil {
			return fail(w, err)
		}
		a, err := act(r.Context(), req)
		if taken, ok := errors.AsType[*acme.KeyTaken](err); ok {
			w.Header().Set("Location", req.at.account(taken.Account)) // RFC 8555 §7.3.5
		}
		if err != nil {
			return fail(w, req.at.point(err))
		}
		return a.write(w)
	})
}

func (d *door) read(w http.ResponseWriter, r *http.Request, scope identity.Scope, who identity.Caller) (*request, error) {
	body, err := web.ReadBody(w, r, "application/jose+json") // RFC 8555 §6.2: else 415
	if err != nil {
		return nil, err
	}
	m, err := jws.Parse(body)
	if err != nil {
		return nil, err
	}
	// RFC 8555 §6.4: "If the two do not match, then the server MUST reject the request as unauthorized."
	if m.URL != d.Base+r.URL.RequestURI() {
		return nil, acme.NewProblem(acme.Unauthorized, `"url" in the header is %.200q, but the request came to %.200q (RFC 8555 §6.4)`, m.URL, d.Base+r.URL.RequestURI())
	}
	return &request{
		Request: r, who: identity.Caller{Scope: scope, Remote: who.Remote, Request: who.Request}, at: d.at(scope), jws: m,
	}, nil
}

// admit wants the JWS of an account, and admits it.
func (d *door) admit(ctx context.Context, r *request) error { return d.admitAsking(ctx, r, uid.UID{}) }

// admitAsking is admit for a request that asks for an authorization, which is read on the way.
func (d *door) admitAsking(ctx context.Context, r *request, claim uid.UID) error {
	if r.jws.Key != nil {
		// RFC 8555 §6.2: "For all other requests, the request is signed using an existing account, and there MUST be a "kid"
		// field."
		return acme.NewProblem(acme.Malformed, `sign with "kid", the account's URL, not with "jwk" (RFC 8555 §6.2)`)
	}
	id, ok := r.at.accountOf(r.jws.KeyID)
	if !ok {
		return acme.NewProblem(acme.AccountDoesNotExist, `"kid" %.200q is no account of this directory`, r.jws.KeyID)
	}
	var err error
	r.acct, r.claim, err = d.Server.Admit(ctx, acme.Admission{
		Scope: r.who.Scope, Account: id, Nonce: r.jws.Nonce, Claim: claim, Verify: func(k crypto.PublicKey) error { return r.jws.Verify(k) },
	})
	return err
}

// admitKey wants a JWS with its key in the header, and admits it.
func (d *door) admitKey(ctx context.Context, r *request) error {
	if r.jws.Key == nil {
		return acme.NewProblem(acme.Malformed, `sign with "jwk", not with "kid" (RFC 8555 §6.2)`)
	}
	if err := r.jws.Verify(r.jws.Key); err != nil {
		return err
	}
	return d.Server.AdmitKey(ctx, r.jws.Nonce)
}

// empty wants POST-as-GET (RFC 8555 §6.3: "the "payload" field of the JWS object is present and set to the empty string").
func (r *request) empty() error {
	if len(r.jws.Payload) > 0 {
		return acme.NewProblem(acme.Malformed, "this resource is only read: send an empty payload (RFC 8555 §6.3)")
	}
	return nil
}

func (a answer) write(w http.ResponseWriter) error {
	h := w.Header()
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.up != "" {
		h.Add("Link", link(a.up, "up"))
	}
	if a.next != "" {
		h.Add("Link", link(a.next, "next"))
	}
	for _, u := range a.alternates {
		h.Add("Link", link(u, "alternate"))
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", seconds(a.retryAfter))
	}
	status := max(a.status, http.StatusOK)
	if a.current != nil {
		current(h, *a.current)
	}
	if a.pem != nil {
		h.Set("Content-Type", "application/pem-certificate-chain") // RFC 8555 §9.1
		w.WriteHeader(status)
		_, err := w.Write(a.pem)
		return err
	}
	if a.body == nil {
		h.Set("Content-Length", "0")
		w.WriteHeader(status)
		return nil
	}
	b, err := json.Marshal(a.body)
	if err != nil {
		return fail(w, err)
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))) }

// fail answers with the problem that err is. What nobody expected is returned, for the log; outside it says nothing.
func fail(w http.ResponseWriter, err error) error {
	p := explain(err)
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", seconds(p.RetryAfter))
	}
	if p.Help != "" {
		w.Header().Add("Link", link(p.Help, "help"))
	}
	if p.Terms != "" {
		w.Header().Add("Link", link(p.Terms, "terms-of-service"))
	}
	if werr := web.WriteProblem(w, p.HTTPStatus(), p); werr != nil {
		return errors.Join(err, werr)
	}
	if p.HTTPStatus() >= http.StatusInternalServerError {
		return err
	}
	return nil
}
