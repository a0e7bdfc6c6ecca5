// Package incident is the lever: certificates chosen by what they are, to be renewed soon, to be revoked, or both.
//
// An incident is a choice (authority, profile, scope, name, key, time of issue) and a bound: it touches what was issued up to
// the moment it was recorded and nothing later, so renewing is the way out of it. It moves the renewal windows of what it
// touches over a spread (RFC 9773), and at its deadline revokes what has no successor by then. A revocation of many
// certificates is an incident whose deadline is now and which spares nothing; an authority that retires makes one without a
// deadline.
//
//	recorded ──────────────► in force ── cancelled, or all it touched has expired ──► over
//	              deadline ─────┐
//	                            ▼
//	                        revoking ── every leaf of the ledger walked, and the youngest once more ──► finished
//
// Invariants: what an incident touches never grows after it is recorded; once it revokes it is not cancelled; a revocation
// of everything counts from the commit that begins it, and not from when the walk has reached a certificate. The package
// decides and computes; the ledger keeps. Values are safe for concurrent use, and so is a Desk.
package incident

import (
	"errors"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Errors that doors and callers decide upon.
var (
	ErrNotFound  = errors.New("there is no such incident")
	ErrOver      = errors.New("the incident is over, or revokes already")
	ErrTooMany   = errors.New("too many incidents are in force")
	ErrConflict  = errors.New("an incident was recorded under this key, for something else")
	ErrUncounted = errors.New("there are too many certificates to look through in the time there is")
	ErrNothing   = errors.New("there is no such authority or scope")
)

// A Cause is what made an incident.
type Cause string

// The causes. They are stored.
const (
	Operator   Cause = "incident"   // somebody asked for it
	Revocation Cause = "revocation" // somebody revoked many certificates
	Retirement Cause = "retirement" // an authority was superseded
)

// An Incident is one, as it is recorded.
type Incident struct {
	ID          uid.UID
	Cause       Cause
	Why         string
	Explanation string // an https URL for the holders of what it touches, or empty
	At          time.Time
	Actor       string
	Choice      Choice
	Spread      time.Duration // zero leaves the windows where they are
	Deadline    time.Time     // zero revokes nothing
	Reason      cert.Reason   // of the revocations
	Everything  bool          // at the deadline also what has a successor is revoked, at once
	Ends        time.Time     // when everything that it touches has expired

	Ended    time.Time // cancelled, or zero
	Revoking time.Time // since when it revokes, or zero
	Finished time.Time // since when all is revoked, or zero
	Revoked  int       // so far
}

// A State is where an incident is.
type State string

// The states.
const (
	InForce   State = "in force"
	Revoking  State = "revoking"
	Finished  State = "finished"
	Cancelled State = "cancelled"
	Over      State = "over" // everything that it touched has expired
)

// State computes where i is at the time now.
func (i Incident) State(now time.Time) State {
	switch {
	case !i.Ended.IsZero():
		return Cancelled
	case !i.Finished.IsZero():
		return Finished
	case !i.Revoking.IsZero():
		return Revoking
	case !now.Before(i.Ends):
		return Over
	}
	return InForce
}

// A Fate is what became of one certificate that an incident touches.
type Fate string

// The fates.
const (
	Waiting  Fate = "waiting"  // not replaced yet
	Replaced Fate = "replaced" // it has a successor
	Revoked  Fate = "revoked"  // since the incident was recorded
	Expired  Fate = "expired"  // without a successor
)

// A Tally is how many certificates an incident touches, by their fates. Those count that were valid when it was recorded.
type Tally struct {
	Chosen, Waiting, Replaced, Revoked, Expired int
	Complete                                    bool // false: there are more, and no time was left to count them
}

// A Member is a certificate that an incident touches.
type Member struct {
	Serial     cert.Serial
	Scope      string
	Profile    string
	NotAfter   time.Time
	Fate       Fate
	ReplacedBy cert.Serial // zero if it has no successor
}
