package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/web"
)

// table says which error type a sentinel is (RFC 8555 §6.7). What is neither here nor a *acme.Problem is serverInternal.
var table = []struct {
	err  error
	kind acme.ErrorType
}{
	{jws.ErrMalformed, acme.Malformed},
	{jws.ErrAlgorithm, acme.BadSignatureAlgorithm},
	{jws.ErrKey, acme.BadPublicKey},
	{jws.ErrSignature, acme.Malformed}, // as Boulder and Pebble; RFC 8555 names no type for it
}

func explain(err error) *acme.Problem {
	var p *acme.Problem
	if errors.As(err, &p) {
		return p
	}
	for _, row := range table {
		if !errors.Is(err, row.err) {
			continue
		}
		p := acme.NewProblem(row.kind, "%s", err)
		if row.kind == acme.BadSignatureAlgorithm {
			p.Algorithms = jws.Algorithms() // RFC 8555 §6.2: "the problem document … MUST include an "algorithms" field"
		}
		return p
	}
	var f *web.Fault
	if errors.As(err, &f) { // of reading the body
		p := acme.NewProblem(acme.Malformed, "%s: %s", f.Detail, f.Remedy)
		p.Status = f.Status
		return p
	}
	p = acme.NewProblem(acme.ServerInternal, "something went wrong here: the operators' log has the cause")
	if errors.Is(err, ca.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		p = acme.NewProblem(acme.ServerInternal, "temporarily unavailable: ask again")
		p.Status, p.RetryAfter = http.StatusServiceUnavailable, time.Second
	}
	return p
}
