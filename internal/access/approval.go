package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Kind is what two may have to agree on.
type Kind string

// The kinds.
const (
	RevokeMany        Kind = "revoke-many"
	DeleteTenant      Kind = "tenant.delete"
	ActivateAuthority Kind = "authority.activate"
	RetireAuthority   Kind = "authority.retire"
	AcceptGap         Kind = "gap.accept"
	WidenPlatform     Kind = "platform.widen"
)

// Kinds returns every kind.
func Kinds() []Kind {
	return []Kind{RevokeMany, DeleteTenant, ActivateAuthority, RetireAuthority, AcceptGap, WidenPlatform}
}

// A Rule says what two have to agree on. The zero Rule is nothing.
type Rule struct {
	For        []Kind
	RevokeMany int           // RevokeMany is of more certificates than this
	Within     time.Duration // after which a request that is not confirmed is forgotten, and a confirmation that was not used
}

// Check refuses a rule that protects nothing: whoever can widen the platform's rights could make the second operator.
func (r Rule) Check() error {
	for _, k := range r.For {
		if !slices.Contains(Kinds(), k) {
			return fmt.Errorf("%q: want one of %q", k, Kinds())
		}
	}
	if len(r.For) > 0 && !slices.Contains(r.For, WidenPlatform) {
		return fmt.Errorf("add %q: else one operator could make the second", WidenPlatform)
	}
	if r.RevokeMany < 0 {
		return errors.New("want a number of certificates, 0 or more")
	}
	if len(r.For) > 0 && (r.Within < time.Minute || r.Within > 30*24*time.Hour) { //nolint:mnd // a month
		return errors.New("want a time from 1m to 720h")
	}
	return nil
}

// Needs reports whether r is about k.
func (r Rule) Needs(k Kind) bool { return slices.Contains(r.For, k) }

// A Request is what somebody asks for, in words that say all of it: the second operator confirms the words, and what is then
// done is what they say.
type Request struct {
	Kind  Kind
	Scope identity.Scope
	Terms string
	Count int // of certificates, for RevokeMany
}

// A Guard is asked last before something is done that two may have to agree on: nil lets it be done, once. A *Pending says
// that a second operator has not confirmed it yet; another error, that this could not be found out. Whoever is guarded has
// decided before that who may do it at all. A nil Guard lets everything be done.
type Guard func(ctx context.Context, who identity.Caller, r Request) error

// Pass asks g.
func (g Guard) Pass(ctx context.Context, who identity.Caller, r Request) error {
	if g == nil {
		return nil
	}
	return g(ctx, who, r)
}

// Errors that doors decide upon.
var (
	ErrPending  = errors.New("a second operator has to confirm this")
	ErrNotFound = errors.New("there is no such thing, or not for this caller")
	ErrExists   = errors.New("that binding is there")
	ErrOver     = errors.New("it was decided, has expired, or was used")
)

// A Pending says which request waits for a second operator.
type Pending struct {
	ID      int64
	Expires time.Time
}

// Error implements error.
func (p *Pending) Error() string {
	return fmt.Sprintf("%s: request %d, until %s", ErrPending, p.ID, p.Expires.UTC().Format(time.RFC3339))
}

// Unwrap lets doors know what it is.
func (p *Pending) Unwrap() error { return ErrPending }

// An Approval is a request as it stands.
type Approval struct {
	ID        int64
	Kind      Kind
	Scope     identity.Scope
	Terms     string
	AskedAt   time.Time
	AskedBy   string
	AskedAct  string
	Expires   time.Time
	DecidedAt time.Time // zero while it waits
	DecidedBy string
	Approved  bool
	UsedAt    time.Time // zero while it was not done
}

// State is where a is, in a word.
func (a Approval) State(now time.Time) string {
	switch {
	case !a.UsedAt.IsZero():
		return "done"
	case !a.DecidedAt.IsZero() && !a.Approved:
		return "rejected"
	case !now.Before(a.Expires):
		return "expired"
	case a.Approved:
		return "approved"
	}
	return "pending"
}

// MayDecide refuses who is not another operator than the one who asked: neither is it, nor does one of the two act for the
// other. Whoever asked may take it back, which is to reject it.
func (a Approval) MayDecide(who identity.Caller, approve bool) error {
	if !approve && who.Actor == a.AskedBy && who.Actor != "" {
		return nil
	}
	if err := Check(who, Approve, identity.Platform); err != nil {
		return err
	}
	same := func(x, y string) bool { return x != "" && x == y }
	if approve && (who.Actor == "" || same(who.Actor, a.AskedBy) || same(who.Actor, a.AskedAct) || same(who.Act, a.AskedBy) || same(who.Act, a.AskedAct)) {
		return &policy.Refusal{
			What: fmt.Sprintf("request %d, confirmed by %s", a.ID, name(who)), Rule: "two operators agree",
			Remedy: "have somebody confirm it who neither asked for it nor acts for whom did",
		}
	}
	return nil
}
