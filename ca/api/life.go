package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// RenewRequest asks for the successor of the certificate that the connection was made with. Its names are kept.
type RenewRequest struct {
	CSR string `json:"csr" required:"true" description:"A PKCS #10 request in PEM, with the key of the successor."`
}

func (d *door) renew(ctx context.Context, who identity.Caller, in RenewRequest) (Issued, error) {
	csr, err := cert.ParseRequestPEM([]byte(in.CSR))
	if err != nil {
		return Issued{}, d.unread(ctx, audit.Fact{Who: who, Scope: who.Scope, What: audit.Renew, Serial: who.Serial}, err)
	}
	c, err := d.CA.Renew(ctx, who, csr)
	if err != nil {
		return Issued{}, err
	}
	return Issued{d.certificate(c)}, nil
}

// unread writes down, within bounds, that a certificate request could not be taken, and returns why.
func (d *door) unread(ctx context.Context, f audit.Fact, err error) error {
	f.Subject = err.Error()
	if ferr := d.CA.TurnedAway(ctx, f, "the form of certificate requests"); ferr != nil {
		return ferr
	}
	return err
}

// EnrollRequest trades a token for a certificate. The same token with the same key gets the same certificate again.
type EnrollRequest struct {
	Token  string `json:"token" required:"true" description:"A one-time token of enrollment-tokens; with method, a proof that the method takes, good once as well."`
	Method string `json:"method,omitempty" maxLength:"240" description:"SCOPE:NAME of one of enrollment-methods."`
	CSR    string `json:"csr" required:"true" description:"A PKCS #10 request in PEM, with the workload's key."`
}

func (d *door) enrol(ctx context.Context, who identity.Caller, in EnrollRequest) (Issued, error) {
	csr, err := cert.ParseRequestPEM([]byte(in.CSR))
	if err != nil {
		return Issued{}, err
	}
	if who.Actor != "" && who.Serial.IsZero() {
		return Issued{}, &policy.Refusal{What: "an access token beside an enrolment proof", Rule: "one proof a request", Remedy: "leave the Authorization field out"}
	}
	// The token alone lets in: whoever brings it along with a certificate is not that certificate's holder here.
	stranger := identity.Caller{Remote: who.Remote, Request: who.Request}
	var c ca.Certificate
	if in.Method != "" {
		c, err = d.CA.EnrolBy(ctx, stranger, in.Method, in.Token, csr)
	} else {
		c, err = d.CA.Enrol(ctx, stranger, in.Token, csr)
	}
	if err != nil {
		return Issued{}, err
	}
	return Issued{d.certificate(c)}, nil
}

// RevokeRequest ends a certificate.
type RevokeRequest struct {
	named
	Ending
}

// RevokeAnywhereRequest ends a certificate wherever it is.
type RevokeAnywhereRequest struct {
	Serial cert.Serial `json:"-" path:"serial" pattern:"^10[0-9a-f]{34}$"`
	Ending
}

// An Ending says why.
type Ending struct {
	Reason string `json:"reason" required:"true" description:"Why: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation; operators also cACompromise, privilegeWithdrawn, aACompromise (RFC 5280 §5.3.1)."`
}

// named is a certificate by its serial, in the scope of the path.
type named struct {
	place
	Serial cert.Serial `json:"-" path:"serial" pattern:"^10[0-9a-f]{34}$"`
}

func (d *door) revoke(ctx context.Context, who identity.Caller, in RevokeRequest) (Certificate, error) {
	return d.end(ctx, who, in.Scope, in.Serial, in.Ending)
}

func (d *door) revokeAnywhere(ctx context.Context, who identity.Caller, in RevokeAnywhereRequest) (Certificate, error) {
	return d.end(ctx, who, identity.Scope{}, in.Serial, in.Ending)
}

// end answers the same to the same: who asks again, because the answer was lost, is told of the revocation there is.
func (d *door) end(ctx context.Context, who identity.Caller, within identity.Scope, s cert.Serial, in Ending) (Certificate, error) {
	why, err := cert.ParseReason(in.Reason)
	if err != nil {
		return Certificate{}, &policy.Refusal{What: fmt.Sprintf("reason %.40q", in.Reason), Rule: "the list of reasons", Remedy: err.Error()}
	}
	c, err := d.find(ctx, who, within, s)
	if errors.Is(err, ca.ErrNotFound) {
		f := audit.Fact{Who: who, Scope: who.Scope, What: audit.Revoke, Serial: s, Subject: "not there, or not for this caller"}
		if err := d.CA.TurnedAway(ctx, f, "the caller's scope, "+who.Scope.String()); err != nil {
			return Certificate{}, err
		}
	}
	if err != nil {
		return Certificate{}, err
	}
	c, err = d.CA.End(ctx, who, c, why)
	if errors.Is(err, ca.ErrAlreadyRevoked) && c.Revoked != nil && c.Revoked.Reason == why {
		err = nil
	}
	if err != nil {
		return Certificate{}, err
	}
	return d.certificate(c), nil
}

// InviteRequest asks for a one-time token.
type InviteRequest struct {
	place
	Workload string       `json:"workload" required:"true" description:"The last part of the SPIFFE ID that the token gives."`
	Profile  string       `json:"profile,omitempty" description:"workload, if absent; or client."`
	Names    []string     `json:"names,omitempty" maxItems:"100" description:"Host names it may have besides, each with its kind, as in dns:a.test or ip:192.0.2.1."`
	TTL      web.Duration `json:"ttl,omitempty" description:"How long the token may be used, 1h if absent."`
}

// Invitation is a one-time token. The token is told once and kept nowhere.
type Invitation struct {
	ID       string   `json:"id" required:"true"`
	Token    string   `json:"token" required:"true"`
	Identity string   `json:"identity" required:"true"`
	Profile  string   `json:"profile" required:"true"`
	Names    []string `json:"names" required:"true"`
	Expires  web.Time `json:"expires" required:"true"`
}

func (d *door) invite(ctx context.Context, who identity.Caller, in InviteRequest) (Invitation, error) {
	ask := ca.Invitation{Scope: in.Scope, Profile: in.Profile, Workload: in.Workload, Life: time.Duration(in.TTL)}
	for _, s := range in.Names {
		n, err := cert.ParseName(s)
		if err != nil {
			return Invitation{}, &policy.Refusal{What: fmt.Sprintf("name %.80q", s), Rule: "the form of names", Remedy: err.Error()}
		}
		ask.Names = append(ask.Names, n)
	}
	token, e, err := d.CA.Invite(ctx, who, ask)
	if err != nil {
		return Invitation{}, err
	}
	out := Invitation{
		ID: e.Token.String(), Token: token, Identity: e.ID.String(), Profile: e.Profile, Names: make([]string, len(e.Names)),
		Expires: web.Time{Time: e.Expires},
	}
	for i, n := range e.Names {
		out.Names[i] = n.String()
	}
	return out, nil
}
