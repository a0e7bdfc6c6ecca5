package credentials

import (
	"context"
	"time"
)

// A Backend makes leases true at one kind of target, and untrue again. It keeps nothing about them. credentialstest has the
// test that every Backend must pass.
type Backend interface {
	// Check returns nil if target can be used as it is now. ErrUnreachable, ErrClock, ErrTooPowerful, ErrUnprepared.
	Check(ctx context.Context, t Target) error
	// Make lets a principal log in. It is safe to repeat, with another password too. On an error nothing is known: End is
	// safe. ErrGroup, and those of Check.
	Make(ctx context.Context, t Target, g Grant) ([]Receipt, error)
	// Extend moves the time until which a principal may log in. ErrNotFound: it is not there.
	Extend(ctx context.Context, t Target, g Grant) ([]Receipt, error)
	// End closes logins, ends their sessions, gives what they own to their group, and drops them. It is safe to repeat, and
	// for what never was. One that fails keeps none of the others from ending; at the least it is closed. An error: nothing is
	// known of any.
	End(ctx context.Context, t Target, list []Grant) ([]Ended, error)
	// Principals returns every login there is that a lease made: those whose names begin with Prefix.
	Principals(ctx context.Context, t Target) ([]string, error)
}

// A Grant is what a target is told of a lease. Every word in it has been parsed.
type Grant struct {
	Way         Way
	Lease       string // which lease it is of
	Principal   string
	Password    Secret // empty where Way is Certificate
	Group       string
	Database    string
	Until       time.Time
	Connections int
	Serial      string // the certificate's, in decimal
	Subject     string // its common name, where Way is Certificate
}

// Ended is what became of one of many.
type Ended struct {
	Principal string
	Lease     string // where several leases have one principal
	Receipts  []Receipt
	Err       error // nil: it is gone
}
