package api

import (
	"bytes"
	"encoding/json"
	"errors"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
)

// proof reads the externalAccountBinding of a newAccount request; nil is none. RFC 8555 §7.3.4: "The "url" field MUST be set
// to the same value as the outer JWS", and "Verify that the payload of the JWS represents the same key as was used to verify
// the outer JWS". The MAC is checked by who knows the key.
func (r *request) proof(raw json.RawMessage) (*acme.Proof, error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil //nolint:nilnil // no proof is no proof
	}
	malformed := func(format string, args ...any) error { return acme.NewProblem(acme.Malformed, format, args...) }
	b, err := jws.ParseBinding(raw)
	if err != nil {
		return nil, malformed(`"externalAccountBinding": %s`, err)
	}
	if b.URL != r.jws.URL {
		return nil, malformed(`"externalAccountBinding" is for %.200q, the request for %.200q (RFC 8555 §7.3.4)`, b.URL, r.jws.URL)
	}
	inner, err := jws.Thumbprint(b.Key)
	outer, err2 := jws.Thumbprint(r.jws.Key)
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	if inner != outer {
		return nil, malformed(`"externalAccountBinding" binds another key than the one that signed the request (RFC 8555 §7.3.4)`)
	}
	return &acme.Proof{KeyID: b.KeyID, Verify: b.Verify}, nil
}

// point adds to a refusal for a limit where the limits are explained.
func (p places) point(err error) error {
	var refusal *acme.Problem
	if !errors.As(err, &refusal) || refusal.Limit == "" {
		return err
	}
	with := *refusal
	with.Help = p.of(limitsAt)
	return &with
}
