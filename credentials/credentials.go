// Package credentials derives what an identity needs to reach databases and APIs, and ends all of it with the identity.
//
// A [Target] is a place where logins are made. A [Binding] says whose identity gets what: a login at a target, or tokens for
// an audience. A [Lease] is one login, made for one certificate: it lasts no longer than that certificate, than the binding
// allows, or than was asked. This package decides and orders; a [Book] keeps what was decided, a [Backend] makes it true at a
// target, and neither knows the other.
//
//	open     the lease is on record                durable: a login may now come to exist
//	make     at the target, no transaction open    it may exist, whatever we answer
//	ready    what was made, where and when         durable, with a look whether all it hangs on still stands
//	answer
//
// Ended is computed, never stored first: a lease is over once its certificate is revoked, its binding or target is ended, its
// scope is suspended, its holder gave it up, or its time has come. So a revocation ends in its own transaction everything that
// was derived from it. [Office.Cascade] makes that true outside: it is bounded, safe to repeat, and leaves a [Receipt] for each
// effect. A target that is away is tried again, ever later, and never forgotten.
//
// The invariant: no login exists at a target that no row names, but for one that [Office.Sweep] is about to end.
// It knows no SQL, no HTTP and no driver. An Office is safe for concurrent use.
package credentials

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that doors and callers decide upon. What a rule refuses is a *policy.Refusal instead.
var (
	ErrNotFound  = errors.New("there is no such binding, target or lease")
	ErrExists    = errors.New("that name is taken")
	ErrInUse     = errors.New("bindings name it")
	ErrEnded     = errors.New("it has ended")
	ErrSuspended = errors.New("the scope is suspended")
	ErrTooMany   = errors.New("as many leases as the binding allows are in use")
	// ErrMixed: what belongs to the platform and what belongs to a tenant, or to two tenants, cannot be bound to one another.
	ErrMixed = errors.New("the binding and the target belong to different tenants")

	// ErrOthers: a server knows us by one name, whoever's target it is, so that it is one scope's and those above.
	ErrOthers = errors.New("the server is a target of another scope")

	// What a Backend finds at a target.
	ErrUnreachable = errors.New("the target does not answer")
	ErrClock       = errors.New("the target's clock is wrong")
	ErrTooPowerful = errors.New("the login at the target may do more than it needs")
	ErrUnprepared  = errors.New("the target is not prepared")
	ErrGroup       = errors.New("the target lets nobody be given that group")
)

// A Secret prints as nothing, even inside somebody's unexported field. Reveal is the only way out.
type Secret struct{ reveal func() string }

// NewSecret keeps s.
func NewSecret(s string) Secret { return Secret{func() string { return s }} }

// Reveal returns what is kept.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// String implements fmt.Stringer.
func (Secret) String() string { return "REDACTED" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "REDACTED" }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte("REDACTED"), nil }

// A Label names a target or a binding within its scope: 1 to 63 of a-z, 0-9 and hyphen, neither first nor last a hyphen.
type Label string

// ParseLabel reads one.
func ParseLabel(s string) (Label, error) {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' || strings.Trim(s, lower+digits+"-") != "" {
		return "", fmt.Errorf("name %.70q: want 1 to 63 of a-z, 0-9 and hyphen, neither beginning nor ending with a hyphen", s)
	}
	return Label(s), nil
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
)

// A Word names something at a target: a role, a group, a database. It needs no quotes anywhere, whoever wrote it: 1 to 63 of
// a-z, 0-9 and underscore, the first no digit. Words that servers keep for themselves, and our own leases', are no words.
type Word string

// ParseWord reads one.
func ParseWord(s string) (Word, error) {
	switch {
	case s == "" || len(s) > 63 || strings.Trim(s, lower+digits+"_") != "" || strings.Contains(digits, s[:1]):
		return "", fmt.Errorf("name %.70q: want 1 to 63 of a-z, 0-9 and underscore, the first no digit: nothing else goes to a target", s)
	case strings.HasPrefix(s, "pg_"), strings.HasPrefix(s, "segl"), strings.HasPrefix(s, "mysql"), strings.HasPrefix(s, "mariadb"):
		return "", fmt.Errorf("name %q: reserved: choose one that does not begin with pg_, mysql, mariadb or segl", s)
	case s == "root" || s == "postgres" || s == "default" || s == "public":
		return "", fmt.Errorf("name %q: reserved for administrators and for everybody: choose another", s)
	}
	return Word(s), nil
}
