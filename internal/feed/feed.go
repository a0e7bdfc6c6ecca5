// Package feed hands facts to whoever follows them, as they become known.
//
// One reader a replica reads the ledger and keeps the newest facts in memory; followers read them there, each from its own
// position, so that a hundred of them cost the database what one does. Who comes from further back reads pages of the
// ledger until it has caught up. Positions are those of the ledger's reader, which stops short of transactions in flight:
// nobody misses a fact that was committed late, and nobody gets one twice.
//
// A follower that takes facts more slowly than they come falls out of memory and is told so (ErrSlow): it may come again
// with its last position. Followers are bounded, overall and for each caller. Nobody is woken by the ledger's hot path: the
// reader looks every half second, while there is anybody to read for, and when Wake says that something happened.
//
// A Hub is safe for concurrent use. It decides nothing about who may see what: the Query says that.
package feed

import (
	"context"
	"errors"
	"log/slog"
	"sort"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Why following ends, other than by its context.
var (
	ErrSlow    = errors.New("facts came faster than they were taken")
	ErrFull    = errors.New("too many follow the facts already")
	ErrAhead   = errors.New("the position is ahead of all facts: it is of another ledger")
	ErrRevoked = errors.New("the follower's certificate was revoked")
)

// Facts reads the ledger.
type Facts interface {
	// Read returns the page of facts after q.After, never passing a transaction that may yet commit.
	Read(ctx context.Context, q audit.Query) (audit.Page, error)
	// Edge returns the position of the newest fact that Read would return.
	Edge(ctx context.Context) (audit.Position, error)
}

// A Config says what a Hub reads and how much it allows. The zero value of a bound is the default beside it.
type Config struct {
	Facts     Facts
	Log       *slog.Logger
	Every     time.Duration // how often the ledger is read while somebody follows: 500 ms
	Beat      time.Duration // how often a follower without facts is sent its position: 15 s
	Keep      int           // how many facts are kept in memory: 16384
	Followers int           // at once: 256
	PerCaller int           // of them, for one caller: 8
	Catching  int           // how many may read the ledger at once to catch up: 4
}

// pageSize is how many facts are read at once.
const pageSize = 1000

// A Hub is a replica's reader with its followers.
type Hub struct {
	cfg      Config
	wake     chan struct{}
	catching chan struct{}

	mu        sync.Mutex // guards below
	live      bool       // recent goes on from start without a gap
	start     audit.Position
	end       audit.Position
	recent    []audit.Entry
	moved     chan struct{} // closed when end moves or live changes
	followers int
	callers   map[string]int
	cut       uint64
}

// New returns a Hub that reads nothing before Run.
func New(c Config) *Hub {
	orElse(&c.Every, 500*time.Millisecond)
	orElse(&c.Beat, 15*time.Second)
	orElse(&c.Keep, 16384)
	orElse(&c.Followers, 256)
	orElse(&c.PerCaller, 8)
	orElse(&c.Catching, 4)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Hub{
		cfg: c, wake: make(chan struct{}, 1), catching: make(chan struct{}, c.Catching), moved: make(chan struct{}), callers: make(map[string]int),
	}
}

func orElse[T comparable](v *T, other T) {
	var zero T
	if *v == zero {
		*v = other
	}
}

// Wake says that there may be something new.
func (h *Hub) Wake() {
	select {
	case h.wake <- struct{}{}:
	default: // already woken
	}
}

// Stats says how many follow, and how many were cut off for being slow.
func (h *Hub) Stats() (followers int, cut uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.followers, h.cut
}

// Run reads until ctx ends. Without a follower it reads nothing.
func (h *Hub) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := time.Duration(0)
	for {
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-timer.C:
		}
		more, err := h.read(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			h.cfg.Log.Error("facts not read", "err", err)
			wait = 4 * h.cfg.Every
		case more:
			wait = 0
		default:
			wait = h.cfg.Every
		}
	}
}

// read takes the next page into memory, if anybody follows, and reports whether there is more.
func (h *Hub) read(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	h.mu.Lock()
	live, end := h.live, h.end
	if h.followers == 0 {
		h.live, h.recent = false, nil
		h.mu.Unlock()
		return false, nil
	}
	h.mu.Unlock()
	if !live {
		edge, err := h.cfg.Facts.Edge(ctx)
		if err != nil {
			return false, err
		}
		h.move(edge, nil)
		return true, nil
	}
	p, err := h.cfg.Facts.Read(ctx, audit.Query{After: end, Limit: pageSize})
	if err != nil {
		return false, err
	}
	if end.Before(p.Next) {
		h.move(p.Next, p.Entries)
	}
	return p.More, nil
}

// move puts facts into memory, up to end, and wakes those who wait for them.
func (h *Hub) move(end audit.Position, facts []audit.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.live {
		h.live, h.start, h.recent = true, end, nil
	}
	h.end = end
	h.recent = append(h.recent, facts...)
	if over := len(h.recent) - h.cfg.Keep; over > 0 {
		h.start = h.recent[over-1].Position
		h.recent = append([]audit.Entry(nil), h.recent[over:]...)
	}
	close(h.moved)
	h.moved = make(chan struct{})
}

// A Follower says who follows what, from where.
type Follower struct {
	Caller string      // by which followers are bounded
	Serial cert.Serial // of the caller's certificate: its revocation ends following
	Query  audit.Query // After, Limit and Newest are not used
	After  *audit.Position
	// Deliver is handed the facts that Query selects, in order, and the position that they end at. No facts is a heartbeat.
	// Its error ends following.
	Deliver func(facts []audit.Entry, at audit.Position) error
}

// Follow hands facts to f until ctx ends, f fails, or one of the errors above. Without After it begins now.
func (h *Hub) Follow(ctx context.Context, f Follower) error {
	if err := h.enter(f.Caller); err != nil {
		return err
	}
	defer h.leave(f.Caller)
	h.Wake()
	edge, err := h.cfg.Facts.Edge(ctx)
	if err != nil {
		return err
	}
	at := edge
	if f.After != nil {
		if at = *f.After; edge.Before(at) {
			return ErrAhead
		}
	}
	if err := f.Deliver(nil, at); err != nil {
		return err
	}
	if at, err = h.catchUp(ctx, f, at); err != nil {
		return err
	}
	err = h.follow(ctx, f, at)
	if errors.Is(err, ErrSlow) {
		h.mu.Lock()
		h.cut++
		h.mu.Unlock()
	}
	return err
}

func (h *Hub) enter(caller string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.followers >= h.cfg.Followers || h.callers[caller] >= h.cfg.PerCaller {
		return ErrFull
	}
	h.followers++
	h.callers[caller]++
	return nil
}

func (h *Hub) leave(caller string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.followers--
	if h.callers[caller]--; h.callers[caller] == 0 {
		delete(h.callers, caller)
	}
}

// catchUp reads the ledger from at on until what follows is in memory.
func (h *Hub) catchUp(ctx context.Context, f Follower, at audit.Position) (audit.Position, error) {
	for {
		h.mu.Lock()
		ready, moved := h.live && !at.Before(h.start), h.moved
		h.mu.Unlock()
		if ready {
			return at, nil
		}
		// What is read after the edge was asked for lacks nothing up to it.
		edge, err := h.cfg.Facts.Edge(ctx)
		if err != nil {
			return at, err
		}
		p, err := h.older(ctx, f.Query, at)
		if err != nil {
			return at, err
		}
		if len(p.Entries) > 0 || p.Next != at {
			if err := f.Deliver(p.Entries, p.Next); err != nil {
				return at, err
			}
		}
		at = p.Next
		if p.More {
			continue
		}
		if at.Before(edge) { // all there was has been read, and nothing of it was left to be chosen
			at = edge
		}
		select {
		case <-ctx.Done():
			return at, context.Cause(ctx)
		case <-moved:
		case <-time.After(h.cfg.Every):
		}
	}
}

func (h *Hub) older(ctx context.Context, q audit.Query, at audit.Position) (audit.Page, error) {
	select {
	case <-ctx.Done():
		return audit.Page{}, context.Cause(ctx)
	case h.catching <- struct{}{}:
		defer func() { <-h.catching }()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q.After, q.Limit, q.Newest = at, pageSize, false
	return h.cfg.Facts.Read(ctx, q)
}

// follow hands out what is in memory.
func (h *Hub) follow(ctx context.Context, f Follower, at audit.Position) error {
	beat := time.NewTicker(h.cfg.Beat)
	defer beat.Stop()
	for {
		facts, end, moved, err := h.after(at)
		if err != nil {
			return err
		}
		chosen := facts[:0:0]
		for _, e := range facts {
			if e.What == audit.Revoke && !e.Refused && !f.Serial.IsZero() && e.Serial == f.Serial {
				return ErrRevoked
			}
			if f.Query.Matches(e) {
				chosen = append(chosen, e)
			}
		}
		if at.Before(end) {
			at = end
		}
		if len(chosen) > 0 {
			if err := f.Deliver(chosen, at); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-moved:
		case <-beat.C:
			if err := f.Deliver(nil, at); err != nil {
				return err
			}
		}
	}
}

// after returns the facts in memory after at, where they end, and what is closed when there are more.
func (h *Hub) after(at audit.Position) (facts []audit.Entry, end audit.Position, moved <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.live || at.Before(h.start) {
		return nil, at, nil, ErrSlow
	}
	i := sort.Search(len(h.recent), func(i int) bool { return at.Before(h.recent[i].Position) })
	return h.recent[i:len(h.recent):len(h.recent)], h.end, h.moved, nil
}
