package acme

import (
	"context"
	"errors"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// ErrNotFound is what a Store says of something that is not there.
var ErrNotFound = errors.New("not found")

// ErrQueueFull is what a Store says to an account that has too many validations waiting.
var ErrQueueFull = errors.New("too many validations of the account wait")

// A Store keeps facts. A method that writes is durable when it returns nil; its error leaves open whether it happened, and
// calling it again is harmless. Implementations are safe for concurrent use.
type Store interface {
	// Nonce returns a fresh nonce. It writes nothing.
	Nonce(ctx context.Context) (string, error)
	// Admit spends nonce and says how account stands now. A zero account is none. Of all calls with one nonce, on all
	// replicas and across crashes, at most one is told that it was fresh. A claim that is not zero is an authorization that
	// will be asked for next: reading it here spares a round trip.
	Admit(ctx context.Context, nonce string, account, claim uid.UID) (Standing, error)

	// CreateAccount records a and f, unless its scope has an account of that key: that one is returned, and false.
	CreateAccount(ctx context.Context, a Account, f audit.Fact) (Account, bool, error)
	// ChangeKey gives a its Key, KeyID and Thumbprint in place of the key old, and records f. ErrKeyTaken: another account of
	// the scope has that key. ErrNotFound: the account no longer has the key old, or no longer stands.
	ChangeKey(ctx context.Context, a Account, old cert.KeyID, f audit.Fact) error
	// Account returns an account, or ErrNotFound.
	Account(ctx context.Context, id uid.UID) (Account, error)
	// AccountByKey returns the account of a key in a scope, or ErrNotFound.
	AccountByKey(ctx context.Context, scope identity.Scope, key cert.KeyID) (Account, error)
	// UpdateAccount records a's contacts and deactivation, and f.
	UpdateAccount(ctx context.Context, a Account, f audit.Fact) error

	// CreateOrder records o and those of its authorizations that have no validation yet: the others are there.
	CreateOrder(ctx context.Context, o Order) error
	// Order returns an order with its authorizations, or ErrNotFound.
	Order(ctx context.Context, id uid.UID) (Order, error)
	// OrderAccount returns whose an order is, or ErrNotFound.
	OrderAccount(ctx context.Context, id uid.UID) (uid.UID, error)
	// Orders returns at most limit orders of an account, the newest first, of those older than below if it is not zero. They
	// have what Status wants, and no more.
	Orders(ctx context.Context, account, below uid.UID, limit int) ([]Order, error)
	// CreateAuthorization records a, which belongs to no order.
	CreateAuthorization(ctx context.Context, a Authorization) error
	// Proofs returns, for each that is wanted, the newest valid authorization if there is one, in no particular order.
	Proofs(ctx context.Context, wanted []Wanted) ([]Authorization, error)
	// Deactivate records that a was given up at a.Deactivated, and f, unless it was before.
	Deactivate(ctx context.Context, a Authorization, f audit.Fact) error
	// Authorization returns an authorization, or ErrNotFound.
	Authorization(ctx context.Context, id uid.UID) (Authorization, error)

	// Attempt records what was asked and leases the validation to the caller, unless it was recorded before, has ended or
	// expired. It returns the authorization, and whether the caller has the lease. A lease of zero is free to be taken over.
	// ErrQueueFull: ask.Most of the account are recorded, and this one is not.
	Attempt(ctx context.Context, ask Ask) (Authorization, bool, error)
	// Retry records that try number tries found what t says, and when the next is due, whether ask was recorded before or
	// not; the lease is given back. If the authorization has ended, nothing changes.
	Retry(ctx context.Context, ask Ask, tries int, t Attempt) error
	// TakeOver leases to the caller, for lease, up to limit validations that are due at now and whose lease has run out. It
	// begins no try. Scopes take turns, and in each its accounts: none is served a second one while another has none.
	TakeOver(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]Task, error)
	// Begin records that t's try begins now, if it is recorded and the caller still has it, and leases it for lease from now
	// on. False: somebody else has it, or it has ended.
	Begin(ctx context.Context, t Task, lease time.Duration) (bool, error)
	// Release gives a lease back before it runs out.
	Release(ctx context.Context, id uid.UID) error
	// Settle records how a validation ended, and facts, and takes it off the queue if queued says that it is there. If it
	// ended before, nothing else changes, and it returns false.
	Settle(ctx context.Context, id uid.UID, queued Queued, v Validation, facts ...audit.Fact) (bool, error)

	// Examine tells what stands against finalizing order, which rests on claims, with key.
	Examine(ctx context.Context, order uid.UID, key cert.KeyID, claims []uid.UID) (Examination, error)
	// Finalize records the key of an order. Claimed: it was the first. KeyOfAccount: the key is some account's, and nothing
	// was recorded.
	Finalize(ctx context.Context, order uid.UID, f Finalization) (FinalizeResult, error)
	// Fail records that a finalized order will have no certificate.
	Fail(ctx context.Context, order uid.UID, at time.Time, p *Problem) error
	// Unissued gives each the orders finalized before a time that have neither a certificate nor a failure, the oldest first,
	// until one fails; it reads so many at once. It need not look at older ones again. One that cannot be read keeps no other:
	// it is an error once the others were given.
	Unissued(ctx context.Context, before time.Time, page int, each func(Order) error) error

	Replacements
	Bindings
	Settings
	Agreements
	Stars

	// Note records facts that belong to nothing else.
	Note(ctx context.Context, facts ...audit.Fact) error
	// Drop removes all orders and authorizations made in epoch last or before, with what became of them: as a whole, at no cost
	// by row. It fails rather than wait long for whoever reads them; the next call tries again.
	Drop(ctx context.Context, last uid.Epoch) error
	// Sweep removes what is of no use any more: spent nonces too old to be taken.
	Sweep(ctx context.Context) error
}

// A Standing is what an admission found out.
type Standing struct {
	Fresh       bool // the nonce was ours, not too old, and is now spent
	Known       bool // the account is there
	KeyID       cert.KeyID
	Deactivated bool
	Claim       *Authorization // nil when it was not asked for or not found: ask again by itself
}

// An Ask is an account's word that one of its challenges is ready.
type Ask struct {
	Account       uid.UID
	Authorization uid.UID
	Method        Method
	At            time.Time
	Payload       []byte
	Lease         time.Duration // by the database's clock
	Most          int           // how many attempts the account may have recorded
}

// A Task is a validation somebody asked for.
type Task struct {
	Authorization Authorization // its Attempt says by which method
	Scope         identity.Scope
	Thumbprint    string // of the account's key
	Payload       []byte
	Tries         int       // how many were begun, this one counted
	Leased        time.Time // until when, as TakeOver said; zero: it was not taken over
}

// An Examination says what stands against a finalization: its key is some account's, an authorization was given up, or the
// order has failed before.
type Examination struct{ KeyOfAccount, Deactivated, Failed bool }

// A FinalizeResult says what Finalize did.
type FinalizeResult struct{ Claimed, KeyOfAccount bool }
