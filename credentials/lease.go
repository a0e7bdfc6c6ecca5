package credentials

import (
	"encoding/base32"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Lease is one login, and what it came from. Its fields are facts; its State is computed.
type Lease struct {
	ID        uid.UID
	Binding   Binding
	Scope     identity.Scope // of who holds it
	Identity  string
	Serial    cert.Serial // the certificate it hangs on
	Principal string      // as whom it logs in

	MadeAt    time.Time
	ExpiresAt time.Time
	ReadyAt   time.Time // since when the target has it
	EndedAt   time.Time // when it ended; its time may come before
	Why       Cause
	GoneAt    time.Time // since when the target no longer has it

	Tries   int       // to make it gone that failed
	RetryAt time.Time // of the next
	Trouble string    // why the last failed
}

// A Cause is why a lease ended. The words are stored.
type Cause string

// The causes.
const (
	Expired    Cause = "expired"
	Released   Cause = "released"   // by who held it, or who may
	Revoked    Cause = "revoked"    // its certificate was
	Unbound    Cause = "unbound"    // its binding or target was ended
	Suspension Cause = "suspended"  // its scope, or one above
	Incomplete Cause = "incomplete" // it never became ready
	Superseded Cause = "superseded" // a newer one has the same role
	Orphan     Cause = "orphan"     // a login that no lease names
)

// A State is what a lease is at a moment.
type State string

// The states.
//
//	open --> live --> ending --> gone
//	  \________________^   \
//	                        overdue: the target could not be asked
const (
	Open    State = "open"    // on record, and perhaps at the target
	Live    State = "live"    // good
	Ending  State = "ending"  // no longer good; the target still has it for a moment
	Overdue State = "overdue" // as ending, and a try to end it failed
	Gone    State = "gone"    // the target no longer has it
)

// State returns what l is at now, as far as its own facts go: the Book has looked at those it hangs on.
func (l *Lease) State(now time.Time) State {
	ended := !l.EndedAt.IsZero() || !now.Before(l.ExpiresAt)
	switch {
	case !l.GoneAt.IsZero():
		return Gone
	case ended && l.Tries > 0:
		return Overdue
	case ended:
		return Ending
	case l.ReadyAt.IsZero():
		return Open
	}
	return Live
}

// Prefix begins the name of every login that a lease made. Nothing else at a target may begin so.
const Prefix = "segl_"

var spelling = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// PrincipalOf names the login of a lease: Prefix, and its site and 96 random bits in 21 letters and digits. So it needs no quotes,
// fits every kind of target, nobody guesses it, and no site takes another's for an orphan.
func PrincipalOf(id uid.UID) string {
	b := id.Bytes()
	return Prefix + spelling.EncodeToString(append([]byte{id.Site()}, b[uid.Size-12:]...))
}

// siteOf returns which site made a principal.
func siteOf(principal string) (site byte, ok bool) {
	text, ok := strings.CutPrefix(principal, Prefix)
	b, err := spelling.DecodeString(text)
	if !ok || err != nil || len(b) != 13 {
		return 0, false
	}
	return b[0], true
}

// A Receipt says what was done at a target, and when by our clock.
type Receipt struct {
	Effect Effect
	Count  int // of sessions or objects, where that is what it is about
	At     time.Time
}

// An Effect is something done at a target. The words are stored.
type Effect string

// The effects.
const (
	LoginMade       Effect = "login made"
	LoginExtended   Effect = "login extended"
	PasswordChanged Effect = "password changed"
	LoginClosed     Effect = "login closed" // no new session begins
	SessionsEnded   Effect = "sessions ended"
	OwnedReassigned Effect = "owned reassigned"
	LoginDropped    Effect = "login dropped"
	WasNotThere     Effect = "was not there"
)
