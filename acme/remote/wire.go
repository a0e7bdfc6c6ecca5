package remote

import (
	"encoding/json"
	"fmt"
	"io"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Paths and bounds of the wire.
const (
	validatePath = "/v1/validate"
	permitPath   = "/v1/permit"
	maxMessage   = 16 << 10
)

// A question is an acme.Check on the wire. Devices' statements are judged at home: they have no payload.
type question struct {
	Scope            string `json:"scope"`
	Account          string `json:"account"`
	Name             string `json:"name"`
	Method           string `json:"method"`
	Token            string `json:"token"`
	KeyAuthorization string `json:"key_authorization"`
}

// A finding is what a perspective saw: nothing against it, or a problem.
type finding struct {
	Problem *acme.Problem `json:"problem"`
}

func ask(c acme.Check) question {
	return question{
		Scope: c.Scope.String(), Account: c.Account, Name: c.Name.String(), Method: string(c.Method), Token: c.Token,
		KeyAuthorization: c.KeyAuthorization,
	}
}

func (q question) check() (acme.Check, error) {
	s, err := identity.ParseScope(q.Scope)
	if err != nil {
		return acme.Check{}, err
	}
	n, err := cert.ParseName(q.Name)
	if err != nil {
		return acme.Check{}, err
	}
	return acme.Check{Scope: s, Account: q.Account, Name: n, Method: acme.Method(q.Method), Token: q.Token, KeyAuthorization: q.KeyAuthorization}, nil
}

// read decodes one bounded message.
func read(r io.Reader, v any) error {
	d := json.NewDecoder(io.LimitReader(r, maxMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading a message: %w", err)
	}
	return nil
}
