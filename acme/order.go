package acme

import (
	"crypto"
	"encoding/base64"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Status is the state of an account, order, authorization or challenge (RFC 8555 §7.1.6).
type Status string

// The statuses.
const (
	Pending     Status = "pending"
	Ready       Status = "ready"
	Processing  Status = "processing"
	Valid       Status = "valid"
	Invalid     Status = "invalid"
	Deactivated Status = "deactivated"
	Canceled    Status = "canceled" // RFC 8739 §3.1.2
	Expired     Status = "expired"
)

// An Order is what an account asked for, with all that has become of it.
type Order struct {
	ID             uid.UID
	Account        uid.UID
	Scope          identity.Scope
	Profile        string
	Names          []cert.Name
	Authorizations []Authorization // one for each name, in their order
	Expires        time.Time
	NotBefore      time.Time // what was asked of the certificate (RFC 8555 §7.4); zero: the profile decides
	NotAfter       time.Time
	AutoRenewal    *AutoRenewal // how it renews itself (RFC 8739); nil: it does not
	Canceled       time.Time    // of one that renewed itself: zero while it does
	Replaces       CertID       // the certificate that its own is to succeed (RFC 9773 §5), or zero

	Orphan bool // its account was deactivated: nothing more is done for it (RFC 8555 §7.3.6)

	Finalization *Finalization // what was asked to be certified; nil until then
	Failure      *Problem      // why a finalized order will have no certificate
	Certificate  cert.Serial   // zero until there is one
}

// A Finalization is the key an order's certificate is to have.
type Finalization struct {
	At    time.Time
	Key   crypto.PublicKey
	SPKI  []byte
	KeyID cert.KeyID
}

// Status computes the order's status (RFC 8555 §7.1.6).
func (o Order) Status(now time.Time) Status {
	switch {
	case !o.Canceled.IsZero():
		return Canceled
	case !o.Certificate.IsZero():
		return Valid
	case o.Failure != nil:
		return Invalid
	case o.Finalization != nil:
		return Processing
	case !now.Before(o.Expires):
		return Invalid
	}
	status := Ready
	for _, a := range o.Authorizations {
		switch a.Status(now) {
		case Valid:
		case Pending:
			status = Pending
		default:
			// RFC 8555 §7.1.6: "… any of the authorizations … final state other than "valid" … the order moves to "invalid"".
			return Invalid
		}
	}
	return status
}

// Problem returns why the order is invalid, if it is for something that was refused.
func (o Order) Problem() *Problem {
	if o.Failure != nil {
		return o.Failure
	}
	var failed []*Problem
	for _, a := range o.Authorizations {
		if a.Validation != nil && a.Validation.Problem != nil {
			p := *a.Validation.Problem
			p.Subproblems = nil // of its tries: they are shown at the challenge
			failed = append(failed, p.about(IdentifierOf(a.Name)))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return gather(failed)
}

// An Authorization is an account's claim to a name, with all that has become of it.
type Authorization struct {
	ID      uid.UID
	Account uid.UID
	Name    cert.Name // with its "*." if it is a wildcard
	// Subdomains: it covers the names below Name too (RFC 9444 §4.1).
	Subdomains  bool
	Token       Token
	Expires     time.Time
	Deactivated time.Time // when its account gave it up (RFC 8555 §7.5.2); zero while it stands

	Attempt    *Attempt    // a validation asked for and not ended
	Validation *Validation // how it ended
}

// A Token is the random value that a challenge's holder shows: 128 bits (RFC 8555 §8.1), shared by the challenges of one
// authorization and by nothing else.
type Token [16]byte

// String returns t in base64url, as challenges carry it.
func (t Token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// An Attempt is a validation that was asked for.
type Attempt struct {
	Method  Method
	Asked   time.Time
	Problem *Problem  // what the tries so far found, the last first; nil before the first one ended
	Next    time.Time // when the next try is due; zero before the first one ended
}

// A Validation is how an authorization ended: proved when Problem is nil.
type Validation struct {
	Method   Method
	At       time.Time
	Evidence string
	Problem  *Problem
}

// Status computes the authorization's status (RFC 8555 §7.1.6).
func (a Authorization) Status(now time.Time) Status {
	switch {
	case !a.Deactivated.IsZero():
		return Deactivated
	case a.Validation != nil && a.Validation.Problem != nil:
		return Invalid
	case !now.Before(a.Expires):
		return Expired
	case a.Validation != nil:
		return Valid
	}
	return Pending
}

// A Challenge is one way to prove an authorization.
type Challenge struct {
	Authorization uid.UID
	Method        Method
	Token         Token
	Status        Status
	Validated     time.Time // when it is valid
	Problem       *Problem  // when it is invalid, or will be tried again
	Next          time.Time // when it will be tried again; zero otherwise
}

// Challenge returns the challenge of method m, and false if the name has none.
func (a Authorization) Challenge(m Method) (Challenge, bool) {
	for _, c := range a.every() {
		if c.Method == m {
			return c, true
		}
	}
	return Challenge{}, false
}

// Challenges returns what a client is shown (RFC 8555 §7.1.4): all that may be answered, or the one that decided.
func (a Authorization) Challenges() []Challenge {
	all := a.every()
	if a.Validation == nil {
		return all
	}
	if a.Validation.Method == PreApproved { // nothing was challenged
		return nil
	}
	for _, c := range all {
		if c.Method == a.Validation.Method {
			return []Challenge{c}
		}
	}
	return all
}

func (a Authorization) every() []Challenge {
	var out []Challenge
	for _, m := range a.Methods() {
		c := Challenge{Authorization: a.ID, Method: m, Token: a.Token, Status: Pending}
		switch {
		case a.Validation != nil && a.Validation.Method == m && a.Validation.Problem == nil:
			c.Status, c.Validated = Valid, a.Validation.At
		case a.Validation != nil && a.Validation.Method == m:
			c.Status, c.Problem = Invalid, a.Validation.Problem
		case a.Validation == nil && a.Attempt != nil && a.Attempt.Method == m:
			c.Status, c.Problem, c.Next = Processing, a.Attempt.Problem, a.Attempt.Next
		}
		out = append(out, c)
	}
	return out
}
