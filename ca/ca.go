// Package ca decides what may be signed, and in which order things become durable.
//
// It is the issuing core: authorities, profiles, and the cycle every certificate goes through, whatever door it was asked
// at. It knows no HTTP, no SQL and no key provider; it speaks to a Ledger, to the tenants' Scopes and to kms keys.
//
// # The cycle
//
//	check     caller, scope, profile, names, key, life            a refusal is a fact
//	build     the to-be-signed bytes, under a fresh serial         (ca/tbs)
//	lint      those bytes                                          (ca/lint)
//	intend    serial, bytes, origin                                durable: the certificate may now come to exist
//	sign      with a deadline and no transaction open              it may exist, whatever we return
//	compare   the signature against bytes and authority
//	complete  the signature and the fact                           durable: now it is issued
//	answer
//
// A crash between intend and complete leaves an open intent. The recover duty abandons it: its serial goes on the CRL as if
// revoked, and its origin may be issued again under another serial. Completion and abandonment are one row's primary
// key, so exactly one of them happens. One origin has one certificate: asking again returns the same.
//
// Invariant: no certificate leaves before its signature is durable in the ledger. A CA is safe for concurrent use.
package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Errors that doors and callers decide upon. What a rule refuses is a *policy.Refusal instead.
var (
	ErrNotFound       = errors.New("not found")
	ErrOriginTaken    = errors.New("this origin already has a certificate or is getting one")
	ErrInProgress     = errors.New("the certificate is being made; ask again shortly")
	ErrConflict       = errors.New("already done with another key")
	ErrCallerRevoked  = errors.New("the caller's certificate is revoked")
	ErrKeyBlocked     = errors.New("this key was revoked as compromised and is never certified again")
	ErrSuspended      = errors.New("the scope is suspended")
	ErrAlreadyRevoked = errors.New("already revoked")
	ErrSettled        = errors.New("the intent was already completed or abandoned")
	ErrUnavailable    = errors.New("temporarily unavailable")
	// ErrFenced: the ledger has forgotten something, or may have; nothing is issued until an operator has decided.
	ErrFenced = fmt.Errorf("%w: issuing is fenced", ErrUnavailable)
)

// Scopes knows the tenants' scopes and the names each may bear.
type Scopes interface {
	// Chain returns the compiled rights of scope and everything above it, ErrNotFound, or, where it or one above it is
	// suspended, a *policy.Refusal. It may lag a change by the time a notice takes; the ledger does not.
	Chain(ctx context.Context, scope identity.Scope) (policy.Chain, error)
}

// Config is what a CA is made of.
type Config struct {
	Site        byte   // this site's number, 1 to 255; no two sites share one
	TrustDomain string // of the SPIFFE IDs it issues
	PublicURL   string // base URL of the public listener, no trailing slash; stands in every certificate
	Ledger      Ledger
	Scopes      Scopes
	Now         func() time.Time
	// Parts returns in how many lists the certificates of an authority and an epoch stand: certificates name theirs. It is
	// decided once. Nil: one.
	Parts func(ctx context.Context, authority int, e uid.Epoch) (int, error)
	// Fence returns why nothing may be issued now, or nil. The listeners' own certificates and OCSP responders are issued
	// nevertheless: status goes on. Nil: there is none.
	Fence func() error
	// Policies are what certificates of a purpose claim (RFC 5280 §4.2.1.4), from the authorities made from now on. Nil: nothing.
	Policies map[Purpose][]x509.OID
	// Published waits a while for a prepared authority to be ready to sign, as for its lists, and returns why it is not. Nil: it
	// always is.
	Published func(ctx context.Context, a *Authority) error
	// BreakGlass knows the emergency CAs, which nothing of ours may touch. Nil: none is named.
	BreakGlass *breakglass.Guard
	// Guard is asked before what two operators may have to agree on. Nil: one suffices.
	Guard access.Guard
	// Methods and Judge let in who proves to be somebody otherwise than by a one-time token. Nil: nobody.
	Methods Methods
	Judge   Judge
	// Admitted is told in which scope a caller that nobody had named proved to be at home: from then on ctx is that of one of
	// them. Nil: nobody is.
	Admitted func(ctx context.Context, scope identity.Scope)
	// AbandonAfter is how long an intent may stay open; zero means DefaultAbandonAfter. It must exceed an issuance's deadlines.
	AbandonAfter time.Duration
}

// DefaultAbandonAfter leaves room for a slow key and a slow commit.
const DefaultAbandonAfter = 30 * time.Second

// issueDeadline bounds everything up to the signature; completeDeadline bounds what then must be finished, even for a
// requester who has gone. A completion that comes after the recover duty has looked is refused, so they are kept apart.
const (
	issueDeadline    = 15 * time.Second
	completeDeadline = 10 * time.Second
)

// A CA issues, renews and revokes.
type CA struct {
	Config
	authorities atomic.Pointer[authorities]
	renewals    renewals
	doorstep    Doorstep
}

// New returns a CA with no authority yet: Found or Load gives it some.
func New(c Config) (*CA, error) {
	switch {
	case c.Site == 0:
		return nil, errors.New("site number 0: give each site its own number from 1 to 255")
	case c.Ledger == nil || c.Scopes == nil || c.Now == nil:
		panic("ca: internal error: a ledger, scopes and a clock are required")
	}
	if c.AbandonAfter == 0 {
		c.AbandonAfter = DefaultAbandonAfter
	}
	if most := issueDeadline + completeDeadline; c.AbandonAfter <= most {
		return nil, fmt.Errorf("abandoning intents after %s: must be longer than the %s an issuance may take", c.AbandonAfter, most)
	}
	a := &CA{Config: c}
	a.authorities.Store(&authorities{profiles: &profileSet{}})
	return a, nil
}
