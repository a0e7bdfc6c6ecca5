package ca

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Standing tells at each request whether the caller's certificate still stands. What the ledger said is believed for a
// moment only, and no longer than until Drop: writes ask the ledger again in their own transaction. A certificate that
// the ledger does not know is no good, however well its chain verifies. It is safe for concurrent use.
type Standing struct {
	ledger   Ledger
	now      func() time.Time
	doorstep Doorstep

	mu    sync.Mutex // guards below
	good  map[cert.Serial]time.Time
	drops uint64 // counts Drop, so that an answer read before one is not kept after it
}

// believed is how long an answer may be old when a notice was lost; believedMost bounds memory.
const (
	believed     = time.Second
	believedMost = 10_000
)

// NewStanding returns a Standing that knows nothing yet.
func NewStanding(l Ledger, now func() time.Time) *Standing {
	return &Standing{ledger: l, now: now, good: make(map[cert.Serial]time.Time)}
}

// Admit returns nil if who's certificate stands.
func (s *Standing) Admit(ctx context.Context, who identity.Caller) error {
	now := s.now()
	s.mu.Lock()
	until, ok := s.good[who.Serial]
	drops := s.drops
	s.mu.Unlock()
	if ok && now.Before(until) {
		return nil
	}
	err := s.ledger.Stands(ctx, who.Serial)
	switch {
	case err == nil:
		s.keep(who.Serial, now, drops)
		return nil
	case errors.Is(err, ErrCallerRevoked):
		if s.doorstep.Tell(who.Actor, now) {
			f := audit.Fact{At: now, Who: who, Scope: who.Scope, What: audit.Admit, Refused: true, Serial: who.Serial, Why: "revocation"}
			if err := s.ledger.Refuse(context.WithoutCancel(ctx), f); err != nil {
				return fmt.Errorf("%w: recording that certificate %s was refused: %w", ErrUnavailable, who.Serial, err)
			}
		}
		return &policy.Refusal{What: "certificate " + who.Serial.String(), Rule: "revocation", Remedy: "it is revoked: enrol again"}
	case errors.Is(err, ErrNotFound):
		return &policy.Refusal{What: "certificate " + who.Serial.String(), Rule: "the ledger", Remedy: "it was never issued as far as the ledger knows: enrol again"}
	}
	return fmt.Errorf("%w: asking about certificate %s: %w", ErrUnavailable, who.Serial, err)
}

func (s *Standing) keep(serial cert.Serial, now time.Time, drops uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drops != drops {
		return
	}
	if len(s.good) >= believedMost {
		clear(s.good)
	}
	s.good[serial] = now.Add(believed)
}

// Drop forgets what is believed of serial: it has been revoked. The zero Serial forgets everything: notices may have been
// missed.
func (s *Standing) Drop(serial cert.Serial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drops++
	if serial.IsZero() {
		clear(s.good)
	} else {
		delete(s.good, serial)
	}
}
