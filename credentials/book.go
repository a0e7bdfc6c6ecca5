package credentials

import (
	"context"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Book keeps what was decided. What a method returns nil for is durable, with its fact. An error may leave open whether it
// is: everything here may be asked again.
type Book interface {
	// AddTarget and AddBinding record; the answer has its ID. ErrExists; ErrNotFound: no such scope, or target; ErrMixed; ErrOthers:
	// a target in use has that address, and its scope is not the new one's or below it.
	AddTarget(ctx context.Context, t Target, f audit.Fact) (Target, error)
	AddBinding(ctx context.Context, b Binding, f audit.Fact) (Binding, error)
	// EndTarget and EndBinding end what has that name, and with it, in that moment, all its leases. ErrNotFound.
	EndTarget(ctx context.Context, s identity.Scope, name Label, at time.Time, f audit.Fact) error
	EndBinding(ctx context.Context, s identity.Scope, name Label, at time.Time, f audit.Fact) error
	// Targets and Bindings return those in use of s and, where below, of what is below it, in the order of their scopes and
	// names; the zero Scope is everywhere.
	Targets(ctx context.Context, s identity.Scope) ([]Target, error)
	Bindings(ctx context.Context, s identity.Scope) ([]Binding, error)
	// Target returns that which is in use by that name in s, and Binding that of s or the nearest above. ErrNotFound.
	Target(ctx context.Context, s identity.Scope, name Label) (Target, error)
	Binding(ctx context.Context, s identity.Scope, name Label) (Binding, error)

	// Open records a lease before anything of it is made. ErrTooMany, ErrSuspended; ErrEnded: its binding or target has.
	Open(ctx context.Context, l Lease) error
	// Ready records that the target has it. What else has the same role, there, ends. ErrEnded: it ended meanwhile.
	Ready(ctx context.Context, l Lease, made []Receipt, f audit.Fact) error
	// Extend moves a living lease's end, and the certificate that it hangs on. ErrEnded.
	Extend(ctx context.Context, l Lease, f audit.Fact) error
	// Extended records what that did.
	Extended(ctx context.Context, id uid.UID, done []Receipt) error
	// Refuse records a refusal.
	Refuse(ctx context.Context, f audit.Fact) error

	// Lease returns one, ended or not, with all that it hangs on but its certificate looked at. ErrNotFound.
	Lease(ctx context.Context, id uid.UID) (Lease, error)
	// Leases returns a page, the newest first.
	Leases(ctx context.Context, q Query) ([]Lease, error)
	// Receipts returns those of a lease, in order.
	Receipts(ctx context.Context, id uid.UID) ([]Receipt, error)

	// End records that leases ended, those of them that had not, each with a fact, and returns them.
	End(ctx context.Context, ids []uid.UID, why Cause, at time.Time, who identity.Caller) ([]Lease, error)
	// EndOf is End for all that hang on certificates.
	EndOf(ctx context.Context, serials []cert.Serial, at time.Time, who identity.Caller) (int, error)
	// EndDue is End for up to most leases whose time has come, that never became ready by stale, or whose binding, target or
	// scope has ended or been suspended.
	EndDue(ctx context.Context, now, stale time.Time, most int, who identity.Caller) (int, error)
	// Living returns the certificates of living leases after one, in order, each once.
	Living(ctx context.Context, after cert.Serial, most int) ([]cert.Serial, error)
	// Due returns ended leases that are at their target yet and are to be tried now: up to most of each target.
	Due(ctx context.Context, now time.Time, most int) ([]Lease, error)
	// Settle records what became of tries.
	Settle(ctx context.Context, list []Settled, now time.Time) error
	// Debt returns, for each target with ended leases that are there yet, how many, since when, and how many tries failed.
	Debt(ctx context.Context) ([]Debt, error)
	// Strays returns which of principals belong to no lease that is there yet, wherever: one server may have several names.
	Strays(ctx context.Context, principals []string) ([]string, error)
	// Swept records what became of strays.
	Swept(ctx context.Context, t Target, list []Ended, now time.Time, who identity.Caller) error
	// Forget deletes up to most leases that were gone before, with their receipts: their facts stay.
	Forget(ctx context.Context, before time.Time, most int) (int, error)
}

// A Query selects leases. Zero fields select everything.
type Query struct {
	Scope    identity.Scope // and below
	Identity string
	Serial   cert.Serial
	Target   Label
	Binding  Label
	State    State
	After    uid.UID // the last of the page before
	Limit    int
}

// A Settled is what a try to end a lease came to.
type Settled struct {
	Lease    uid.UID
	Receipts []Receipt
	RetryAt  time.Time // zero: it is gone
	Trouble  string
}

// A Debt is what a target owes.
type Debt struct {
	Target Target
	Leases int
	Since  time.Time
	Tries  int
}

// An Evidence is the certificate that a lease hangs on.
type Evidence struct {
	NotAfter time.Time
	Role     string // the common name, of a database client's
	Revoked  bool
}

// Certificates answers for them, from the ledger itself and not from what somebody remembers.
type Certificates interface {
	// Certificate returns one. ErrNotFound.
	Certificate(ctx context.Context, s cert.Serial) (Evidence, error)
	// Revoked returns those of list that are, and since when.
	Revoked(ctx context.Context, list []cert.Serial) (map[cert.Serial]time.Time, error)
}
