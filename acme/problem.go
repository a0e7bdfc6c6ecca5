package acme

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/limit"
)

// An ErrorType is one of the error types of RFC 8555 §6.7, without its URN prefix.
type ErrorType string

// The error types of RFC 8555 §6.7 (and RFC 9773 §7.4 for alreadyReplaced, a draft for invalidProfile), in the order of its table.
const (
	AccountDoesNotExist               ErrorType = "accountDoesNotExist"
	AlreadyReplaced                   ErrorType = "alreadyReplaced"
	AlreadyRevoked                    ErrorType = "alreadyRevoked"
	BadAttestationStatement           ErrorType = "badAttestationStatement" // draft-ietf-acme-device-attest
	AutoRenewalCanceled               ErrorType = "autoRenewalCanceled"     // RFC 8739 §3.1.2, as the three below
	AutoRenewalCancellationInvalid    ErrorType = "autoRenewalCancellationInvalid"
	AutoRenewalExpired                ErrorType = "autoRenewalExpired"
	AutoRenewalRevocationNotSupported ErrorType = "autoRenewalRevocationNotSupported"
	BadCSR                            ErrorType = "badCSR"
	BadNonce                          ErrorType = "badNonce"
	BadPublicKey                      ErrorType = "badPublicKey"
	BadRevocationReason               ErrorType = "badRevocationReason"
	BadSignatureAlgorithm             ErrorType = "badSignatureAlgorithm"
	CAA                               ErrorType = "caa"
	Compound                          ErrorType = "compound"
	Connection                        ErrorType = "connection"
	DNS                               ErrorType = "dns"
	ExternalAccountRequired           ErrorType = "externalAccountRequired"
	IncorrectResponse                 ErrorType = "incorrectResponse"
	InvalidContact                    ErrorType = "invalidContact"
	InvalidProfile                    ErrorType = "invalidProfile" // draft-ietf-acme-profiles §6
	Malformed                         ErrorType = "malformed"
	OrderNotReady                     ErrorType = "orderNotReady"
	RateLimited                       ErrorType = "rateLimited"
	RejectedIdentifier                ErrorType = "rejectedIdentifier"
	ServerInternal                    ErrorType = "serverInternal"
	TLS                               ErrorType = "tls"
	Unauthorized                      ErrorType = "unauthorized"
	UnsupportedContact                ErrorType = "unsupportedContact"
	UnsupportedIdentifier             ErrorType = "unsupportedIdentifier"
	UserActionRequired                ErrorType = "userActionRequired"
)

const urn = "urn:ietf:params:acme:error:"

// statuses are the HTTP statuses that differ from 400 (RFC 8555 §6.7 leaves all but a few to the server).
var statuses = map[ErrorType]int{
	CAA:                               http.StatusForbidden,
	Unauthorized:                      http.StatusForbidden,
	UserActionRequired:                http.StatusForbidden, // RFC 8555 §7.3.3
	ExternalAccountRequired:           http.StatusForbidden,
	OrderNotReady:                     http.StatusForbidden, // RFC 8555 §7.4
	RateLimited:                       http.StatusTooManyRequests,
	AutoRenewalCanceled:               http.StatusForbidden,
	AutoRenewalExpired:                http.StatusForbidden,
	AutoRenewalRevocationNotSupported: http.StatusForbidden,
	AlreadyReplaced:                   http.StatusConflict, // RFC 9773 §5
	ServerInternal:                    http.StatusInternalServerError,
}

// A Problem is a refusal as a client sees it: RFC 9457's members, with RFC 8555 §6.7.1's subproblems. It is the error that
// methods of Server return for everything a client may be told; any other error is ours to know.
type Problem struct {
	Type        ErrorType
	Detail      string
	Status      int           // HTTP status; zero: the type's own
	Identifier  *Identifier   // what a subproblem is about
	Subproblems []*Problem    // one for each identifier refused
	Algorithms  []string      // of badSignatureAlgorithm: what would be taken (RFC 8555 §6.2)
	RetryAfter  time.Duration // zero: nothing is said
	Instance    string        // of userActionRequired: where a person is to go (RFC 8555 §7.3.3)
	Terms       string        // of userActionRequired: the terms of service as they are now
	Limit       limit.Name    // of rateLimited: which limit it was (RFC 8555 §6.6)
	Help        string        // of rateLimited: where the limits are explained, filled in by the door
}

// problem makes a Problem; detail names the rule and the remedy.
func problem(t ErrorType, format string, args ...any) *Problem {
	return &Problem{Type: t, Detail: fmt.Sprintf(format, args...)}
}

// NewProblem is for adapters and doors: a refusal of type t.
func NewProblem(t ErrorType, format string, args ...any) *Problem { return problem(t, format, args...) }

// Error implements error.
func (p *Problem) Error() string { return string(p.Type) + ": " + p.Detail }

// HTTPStatus returns the status an answer with p has.
func (p *Problem) HTTPStatus() int {
	if p.Status != 0 {
		return p.Status
	}
	if s, ok := statuses[p.Type]; ok {
		return s
	}
	return http.StatusBadRequest
}

// notFound is a refusal of something that is not there, or not the asker's to see: the two look alike.
func notFound(what string) *Problem {
	p := problem(Malformed, "no such %s for this account: check the URL", what)
	p.Status = http.StatusNotFound
	return p
}

// wireProblem is a Problem on the wire and in the database.
type wireProblem struct {
	Type        string      `json:"type"`
	Detail      string      `json:"detail,omitempty"`
	Status      int         `json:"status,omitempty"`
	Identifier  *Identifier `json:"identifier,omitempty"`
	Subproblems []*Problem  `json:"subproblems,omitempty"`
	Algorithms  []string    `json:"algorithms,omitempty"`
	Instance    string      `json:"instance,omitempty"`
	Limit       limit.Name  `json:"limit,omitempty"` // RFC 9457 §3.2: a member of ours
}

// MarshalJSON implements json.Marshaler.
func (p *Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireProblem{urn + string(p.Type), p.Detail, p.HTTPStatus(), p.Identifier, p.Subproblems, p.Algorithms, p.Instance, p.Limit})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Problem) UnmarshalJSON(b []byte) error {
	var w wireProblem
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	t, ok := strings.CutPrefix(w.Type, urn)
	if !ok {
		return fmt.Errorf("problem type %.80q: want one that begins with %s", w.Type, urn)
	}
	*p = Problem{Type: ErrorType(t), Detail: w.Detail, Status: w.Status, Identifier: w.Identifier, Subproblems: w.Subproblems, Algorithms: w.Algorithms}
	return nil
}
