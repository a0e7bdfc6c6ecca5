package api

import (
	"context"
	"encoding/json"
	"net/http"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
)

// account is RFC 8555 §7.1.2.
type account struct {
	Status      acme.Status `json:"status"`
	Contact     []string    `json:"contact,omitempty"`
	TermsAgreed bool        `json:"termsOfServiceAgreed,omitempty"`
	Orders      string      `json:"orders"`
}

func (r *request) showAccount(a acme.Account) account {
	return account{a.Status(), a.Contact, a.TermsAgreed, r.at.account(a.ID) + "/orders"}
}

func (d *door) newAccount(ctx context.Context, r *request) (answer, error) {
	if err := d.admitKey(ctx, r); err != nil {
		return answer{}, err
	}
	var in struct {
		Contact      []string        `json:"contact"`
		TermsAgreed  bool            `json:"termsOfServiceAgreed"`
		OnlyExisting bool            `json:"onlyReturnExisting"`
		Binding      json.RawMessage `json:"externalAccountBinding"`
	}
	if err := jws.Decode(r.jws.Payload, &in); err != nil {
		return answer{}, err
	}
	thumbprint, err := jws.Thumbprint(r.jws.Key)
	if err != nil {
		return answer{}, err
	}
	proof, err := r.proof(in.Binding)
	if err != nil {
		return answer{}, err
	}
	a, made, err := d.Server.Register(ctx, r.who, acme.Registration{
		Key: r.jws.Key, Thumbprint: thumbprint, Contact: in.Contact, TermsAgreed: in.TermsAgreed, OnlyExisting: in.OnlyExisting, Proof: proof,
	})
	if err != nil {
		return answer{}, err
	}
	out := answer{location: r.at.account(a.ID), body: r.showAccount(a)}
	if made { // RFC 8555 §7.3: "The server returns this account object in a 201 (Created) response"; §7.3.1: else 200
		out.status = http.StatusCreated
	}
	return out, nil
}

func (d *door) account(ctx context.Context, r *request) (answer, error) {
	if err := d.admit(ctx, r); err != nil {
		return answer{}, err
	}
	id, err := identifier(r)
	if err != nil {
		return answer{}, err
	}
	if id != r.acct.ID {
		return answer{}, acme.NewProblem(acme.Unauthorized, "this is another account's URL: sign with that account")
	}
	change, err := change(r.jws.Payload)
	if err != nil {
		return answer{}, err
	}
	a, err := d.Server.Update(ctx, r.holder(), change)
	if err != nil {
		return answer{}, err
	}
	return answer{location: r.at.account(a.ID), body: r.showAccount(a)}, nil
}

// change reads an account update. An empty payload changes nothing (POST-as-GET).
func change(payload []byte) (acme.Change, error) {
	if len(payload) == 0 {
		return acme.Change{}, nil
	}
	var in struct {
		Contact *[]string    `json:"contact"`
		Status  *acme.Status `json:"status"`
		Agreed  bool         `json:"termsOfServiceAgreed"`
	}
	if err := jws.Decode(payload, &in); err != nil {
		return acme.Change{}, err
	}
	if in.Status != nil && *in.Status != acme.Deactivated && *in.Status != acme.Valid {
		return acme.Change{}, acme.NewProblem(acme.Malformed, `status %.40q: only "deactivated" may be asked for (RFC 8555 §7.3.6)`, *in.Status)
	}
	return acme.Change{Contact: in.Contact, Agree: in.Agreed, Deactivate: in.Status != nil && *in.Status == acme.Deactivated}, nil
}
