package token

import (
	"errors"
	"fmt"
	"net/http"
)

// What the packages below say, and this one decides upon.
var (
	// ErrEnded: a certificate that a token would be derived from has been revoked, or is not ours.
	ErrEnded = errors.New("the certificate has ended")
	// ErrSuspended: the scope is suspended.
	ErrSuspended = errors.New("the scope is suspended")
	// ErrSubject: a subject token is not good here.
	ErrSubject = errors.New("subject token refused")
	// ErrUnavailable: something could not be found out just now.
	ErrUnavailable = errors.New("not possible just now")
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("there is no such token key")
)

// An Error is what an OAuth client is told (RFC 6749 §5.2). Its description names the rule, never a token.
type Error struct {
	Code        string
	Status      int
	Description string
	Cause       error // for the log
}

func (e *Error) Error() string { return e.Code + ": " + e.Description }

func (e *Error) Unwrap() error { return e.Cause }

// The codes, each as its specification spells it.
const (
	InvalidRequest     = "invalid_request"        // RFC 6749 §5.2
	InvalidClient      = "invalid_client"         // RFC 6749 §5.2
	InvalidGrant       = "invalid_grant"          // RFC 6749 §5.2
	UnauthorizedClient = "unauthorized_client"    // RFC 6749 §5.2
	UnsupportedGrant   = "unsupported_grant_type" // RFC 6749 §5.2
	InvalidScope       = "invalid_scope"          // RFC 6749 §5.2
	InvalidTarget      = "invalid_target"         // RFC 8693 §2.2.2, RFC 8707 §2
	InvalidProof       = "invalid_dpop_proof"     // RFC 9449 §5
	UseNonce           = "use_dpop_nonce"         // RFC 9449 §8
	Unavailable        = "temporarily_unavailable"
	ServerError        = "server_error"
)

// refused returns a refusal. RFC 6749 §5.2: "The authorization server responds with an HTTP 400 (Bad Request) status code (unless
// specified otherwise)"; invalid_client is 401.
func refused(code, format string, args ...any) *Error {
	status := http.StatusBadRequest
	if code == InvalidClient {
		status = http.StatusUnauthorized
	}
	return &Error{Code: code, Status: status, Description: fmt.Sprintf(format, args...)}
}

// unavailable says that what was asked may succeed later.
func unavailable(cause error) *Error {
	return &Error{Code: Unavailable, Status: http.StatusServiceUnavailable, Description: "not possible just now: ask again", Cause: cause}
}
