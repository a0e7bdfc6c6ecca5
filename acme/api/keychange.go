package api

import (
	"context"
	"encoding/json"
	"fmt"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
)

// keyChange is RFC 8555 §7.3.5. Its numbers are those of the checks that the server "MUST perform … in addition to the
// typical JWS validation".
func (d *door) keyChange(ctx context.Context, r *request) (answer, error) {
	// 1. "Validate the POST request belongs to a currently active account".
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	// 2. "Check that the payload of the JWS is a well-formed JWS object (the "inner JWS")".
	inner, err := jws.Parse(r.jws.Payload)
	if err != nil {
		return answer{}, fmt.Errorf("inner %w", err)
	}
	ask, err := r.keyChange(inner)
	if err != nil {
		return answer{}, err
	}
	a, err := d.Server.ChangeKey(ctx, r.holder(), ask)
	if err != nil {
		return answer{}, err
	}
	return answer{location: r.at.account(a.ID), body: r.showAccount(a)}, nil
}

func (r *request) keyChange(inner *jws.Message) (acme.KeyChange, error) {
	refuse := func(why string) (acme.KeyChange, error) {
		return acme.KeyChange{}, acme.NewProblem(acme.Malformed, "%s (RFC 8555 §7.3.5)", why)
	}
	// 3. "Check that the JWS protected header of the inner JWS has a "jwk" field."
	if inner.Key == nil {
		return refuse(`the inner JWS must have the new key as "jwk"`)
	}
	if inner.Nonce != "" { // "The inner JWS MUST omit the "nonce" header parameter."
		return refuse("the inner JWS must have no nonce")
	}
	// 4. "Check that the inner JWS verifies using the key in its "jwk" field."
	if err := inner.Verify(inner.Key); err != nil {
		return acme.KeyChange{}, fmt.Errorf("inner JWS: %w", err)
	}
	// 5. "Check that the payload of the inner JWS is a well-formed keyChange object".
	var in struct {
		Account string          `json:"account"`
		OldKey  json.RawMessage `json:"oldKey"`
	}
	if err := jws.Decode(inner.Payload, &in); err != nil {
		return acme.KeyChange{}, err
	}
	// 6. "Check that the "url" parameters of the inner and outer JWSs are the same."
	if inner.URL != r.jws.URL {
		return refuse(`the inner "url" is not the outer one`)
	}
	// 7. "Check that the "account" field of the keyChange object contains the URL for the account matching the old key".
	if in.Account != r.jws.KeyID {
		return refuse(`"account" is not the account that signed`)
	}
	// 8. "Check that the "oldKey" field of the keyChange object is the same as the account key": ChangeKey does, and 9.
	old, err := jws.ParseKey(in.OldKey)
	if err != nil {
		return refuse(`"oldKey" is not the account's key as a JWK`)
	}
	thumbprint, err := jws.Thumbprint(inner.Key)
	if err != nil {
		return acme.KeyChange{}, err
	}
	return acme.KeyChange{Old: old, New: inner.Key, Thumbprint: thumbprint}, nil
}
