package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Bounds of what is remembered.
const (
	// endedMost is how many ends of certificates are remembered one by one, and tokensMost how many of tokens themselves. A list of
	// both is half a megabyte.
	endedMost  = 16384
	tokensMost = 16384
	// stale is how old the newest look at the ledger may be for anything to be called active.
	stale = 5 * time.Second
)

// ended is what a replica knows to be over before its time, each thing for as long as a token made before could live.
type ended struct {
	now func() time.Time

	mu      sync.RWMutex // guards below
	until   map[verify.Mark]time.Time
	tokens  map[verify.Mark]time.Time // of tokens themselves, which the ledger cannot be asked about
	floor   time.Time                 // tokens from before are doubtful: more ended than there is room for
	lost    time.Time                 // tokens from before are over: more of them were revoked than there is room for
	mass    time.Time                 // likewise, while an incident revokes everything that it touches
	looked  time.Time                 // when the ledger was last read to its end
	seq     uint64                    // counts changes
	changed chan struct{}
}

func newEnded(now func() time.Time) *ended {
	return &ended{now: now, until: make(map[verify.Mark]time.Time), tokens: make(map[verify.Mark]time.Time), changed: make(chan struct{})}
}

// add remembers an end until then. Beyond what there is room for, all from before becomes doubtful; where it is a token's own, of
// which nobody else knows, over.
func (e *ended) add(kind, value string, until time.Time) {
	m := verify.MarkOf(kind, value)
	e.mu.Lock()
	defer e.mu.Unlock()
	of, most, floor := e.until, endedMost, &e.floor
	if kind == "jti" {
		of, most, floor = e.tokens, tokensMost, &e.lost
	}
	if had, ok := of[m]; ok && !had.Before(until) {
		return
	}
	now := e.now()
	if len(of) >= most {
		maps.DeleteFunc(of, func(_ verify.Mark, end time.Time) bool { return !now.Before(end) })
	}
	if len(of) >= most {
		clear(of)
		*floor = now.Add(time.Second).Truncate(time.Second) // whatever was issued in this second too
	}
	of[m] = until
	e.moveLocked()
}

func (e *ended) moveLocked() {
	e.seq++
	close(e.changed)
	e.changed = make(chan struct{})
}

// move says that something changed that is not kept here: a scope was suspended, or goes on.
func (e *ended) move() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.moveLocked()
}

// caughtUp notes that the ledger was read to its end by a look that began at the time given.
func (e *ended) caughtUp(at, mass time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.looked = at
	if !e.mass.Equal(mass) {
		e.mass = mass
		e.moveLocked()
	}
}

// has reports whether c is over, or may be for all that is known here.
func (e *ended) has(c verify.Claims) (over, doubtful bool, err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	now := e.now()
	if now.Sub(e.looked) > stale {
		return false, false, errors.New("what has ended could not be read for a while")
	}
	for _, m := range c.Marks() {
		if now.Before(e.until[m]) || now.Before(e.tokens[m]) {
			return true, false, nil
		}
	}
	if !e.lost.IsZero() && c.IssuedAt < e.lost.Unix() {
		return true, false, nil
	}
	return false, c.IssuedAt < e.lowestLocked(), nil
}

// lowestLocked is the second before which tokens are doubtful.
func (e *ended) lowestLocked() int64 {
	at := e.floor
	if e.lost.After(at) {
		at = e.lost
	}
	if e.mass.After(at) {
		at = e.mass.Add(time.Second)
	}
	if at.IsZero() {
		return 0
	}
	return at.Unix()
}

// End has this replica know at once that a certificate is revoked; the zero Serial means many, which Follow finds.
func (s *Server) End(serial cert.Serial) {
	if !serial.IsZero() {
		s.ended.add("crt", serial.String(), s.cfg.Now().Add(s.cfg.Life+keep))
	}
}

// Moved has this replica look at suspended scopes and bindings again: one has changed.
func (s *Server) Moved() { s.ended.move() }

// lookEvery is how often the ledger is read while no notice comes.
const lookEvery = 500 * time.Millisecond

// A Follower is where a replica is in the facts.
type Follower struct {
	server *Server
	at     audit.Position
}

// Catch reads all that may still matter, before anything is judged, and returns who goes on from there.
func (s *Server) Catch(ctx context.Context) (*Follower, error) {
	f := &Follower{server: s}
	return f, f.look(ctx)
}

// Run reads on until ctx ends: every half second, and when wake says so.
func (f *Follower) Run(ctx context.Context, wake <-chan struct{}, failed func(error)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-wake:
		}
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

// look reads to the end of what is known.
func (f *Follower) look(ctx context.Context) error {
	s := f.server
	began := s.cfg.Now()
	for {
		asking, cancel := context.WithTimeout(ctx, stale)
		page, err := s.cfg.Store.Ended(asking, f.at, began.Add(-s.cfg.Life-keep))
		cancel()
		if err != nil {
			return fmt.Errorf("reading what ended: %w", err)
		}
		for _, end := range page.List {
			s.ended.add(end.Kind, end.Value, end.At.Add(s.cfg.Life+keep))
		}
		f.at = page.Next
		if !page.More {
			s.ended.caughtUp(began, page.Floor)
			return nil
		}
	}
}

// active reports whether a token that is signed, and in its time, still stands.
func (s *Server) active(ctx context.Context, c verify.Claims) (bool, error) {
	over, doubtful, err := s.ended.has(c)
	if err != nil || over {
		return false, err
	}
	for _, id := range []string{c.ClientID, c.Subject} {
		if at := scopeOf(id); !at.IsZero() && !s.cfg.Scopes.Suspended(at).IsZero() {
			return false, nil
		}
	}
	if !s.bindingsHold(c) {
		return false, nil
	}
	if !doubtful {
		return true, nil
	}
	for _, text := range c.Certificates {
		serial, err := cert.ParseSerial(text)
		if err != nil {
			return false, nil //nolint:nilerr // likewise
		}
		if err := s.cfg.Ledger.Stands(ctx, serial); errors.Is(err, ErrEnded) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// bindingsHold reports whether none has ended that c was given by, or what was exchanged for it. A token of none is not ours.
func (s *Server) bindingsHold(c verify.Claims) bool {
	holds := func(name string) bool {
		id, err := strconv.ParseInt(name, 10, 64)
		return err == nil && s.cfg.Bindings.Holds(id)
	}
	for _, from := range c.From {
		if name, ok := strings.CutPrefix(from, "bnd:"); ok && !holds(name) {
			return false
		}
	}
	return holds(c.Binding)
}
