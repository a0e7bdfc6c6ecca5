package kms

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits bound what a key may cost those who wait for it.
type Limits struct {
	// Workers is how many signatures run at once. Zero: 8.
	Workers int
	// Queue is how many more callers may wait for a worker; the rest are refused at once. Zero: 64 a worker.
	Queue int
	// Deadline bounds waiting and bounds signing, each. Zero: 5 s.
	Deadline time.Duration
	// Cooldown is how long a key that hung is left alone before one call tries it again; it doubles, up to a minute, while
	// the key stays hung. Zero: 1 s.
	Cooldown time.Duration
}

const (
	defaultWorkers  = 8
	defaultQueue    = 64 // a worker
	defaultDeadline = 5 * time.Second
	defaultCooldown = time.Second
	maxCooldown     = time.Minute
	// maxLost is how many calls may be given up without their having returned: each holds a goroutine, and with PKCS #11 a
	// thread. Beyond it the key stays refused until one comes back.
	maxLost = 32
)

// A Pool is a Key that never keeps its callers waiting, in front of one that may hang: an HSM, or a KMS over a network.
//
//	          a call misses its deadline,
//	          or answers ErrUnavailable
//	closed ───────────────────────────────► open ◄────────┐
//	  ▲                                      │ cooldown   │ so does that call
//	  │ any call ends well                   ▼            │
//	  └───────────────────────────────── one call ────────┘
//	                                     tries the key
//
// While open, every other call is refused at once with ErrUnavailable, for which RetryAfter says how long. A call that is
// given up goes on in its own goroutine until the provider lets go of it; nobody waits for it, and its signature is thrown
// away. What a caller's context ends counts neither for nor against the key.
type Pool struct {
	key    Key
	limits Limits
	line   chan struct{} // one for each caller inside
	slots  chan struct{} // one for each running call

	mu       sync.Mutex
	open     bool
	until    time.Time // while open: no call before this
	trying   bool      // while open: one call is trying the key
	cooldown time.Duration
	lost     int
}

// NewPool puts limits before key.
func NewPool(key Key, limits Limits) *Pool {
	l := limits
	if l.Workers <= 0 {
		l.Workers = defaultWorkers
	}
	if l.Queue <= 0 {
		l.Queue = l.Workers * defaultQueue
	}
	if l.Deadline <= 0 {
		l.Deadline = defaultDeadline
	}
	if l.Cooldown <= 0 {
		l.Cooldown = defaultCooldown
	}
	return &Pool{
		key: key, limits: l, cooldown: l.Cooldown,
		line: make(chan struct{}, l.Workers+l.Queue), slots: make(chan struct{}, l.Workers),
	}
}

// Name implements Key.
func (p *Pool) Name() string { return p.key.Name() }

// Public implements Key.
func (p *Pool) Public() crypto.PublicKey { return p.key.Public() }

// Sign implements Key. It returns within twice the deadline, whatever the key does.
func (p *Pool) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", p.Name(), err)
	}
	select {
	case p.line <- struct{}{}:
		defer func() { <-p.line }()
	default:
		return nil, p.refusal(p.limits.Deadline, "too many signatures are waiting")
	}
	if wait := p.closedFor(); wait > 0 {
		return nil, p.refusal(wait, "it did not answer")
	}
	if err := p.slot(ctx); err != nil {
		return nil, err
	}
	c, err := p.start(ctx, bytes.Clone(digest), opts) // a call that is given up still reads its digest
	if err != nil {
		<-p.slots
		return nil, err
	}
	select {
	case <-c.done:
		return c.signature, c.err
	case <-c.missed:
		return nil, p.refusal(p.closedFor(), fmt.Sprintf("it did not answer within %s", p.limits.Deadline))
	case <-ctx.Done():
		return nil, fmt.Errorf("signing with key %s: %w", p.Name(), ctx.Err())
	}
}

// slot waits for a worker's place.
func (p *Pool) slot(ctx context.Context) error {
	timer := time.NewTimer(p.limits.Deadline)
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return p.refusal(p.limits.Deadline, "no worker was free in time")
	case <-ctx.Done():
		return fmt.Errorf("waiting for key %s: %w", p.Name(), ctx.Err())
	}
}

// A call is one signature on its way.
type call struct {
	done, missed chan struct{}
	signature    []byte // once done
	err          error  // once done

	timer *time.Timer
	// Below, Pool.mu.
	ended, lost, keepsSlot bool
}

// start sends a call to the key, whose slot the caller holds, unless the key is to be left alone. From here the slot is
// the call's.
func (p *Pool) start(ctx context.Context, digest []byte, opts crypto.SignerOpts) (*call, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		if wait := p.waitLocked(); wait > 0 {
			return nil, p.refusal(wait, "it did not answer")
		}
		p.trying = true
	}
	c := &call{done: make(chan struct{}), missed: make(chan struct{})}
	c.timer = time.AfterFunc(p.limits.Deadline, func() { p.miss(c) })
	go p.run(context.WithoutCancel(ctx), c, digest, opts)
	return c, nil
}

// run outlives its caller on purpose: only the key's own answer says how the key is.
func (p *Pool) run(ctx context.Context, c *call, digest []byte, opts crypto.SignerOpts) {
	ctx, cancel := context.WithTimeout(ctx, p.limits.Deadline)
	defer cancel()
	c.signature, c.err = p.key.Sign(ctx, digest, opts)
	p.end(c)
	close(c.done)
}

func (p *Pool) end(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.timer.Stop()
	c.ended = true
	if c.lost {
		p.lost--
	}
	if !c.lost || c.keepsSlot {
		<-p.slots
	}
	switch {
	case errors.Is(c.err, ErrUnavailable), errors.Is(c.err, context.DeadlineExceeded):
		wait := p.waitLocked()
		if !c.lost { // else it has tripped already
			wait = p.tripLocked()
		}
		c.err = &unavailable{wait, c.err}
	default: // a signature, or a refusal: somebody is there
		p.open, p.trying, p.cooldown = false, false, p.limits.Cooldown
	}
}

// miss gives a call up. Its slot is free again, unless too many are lost already.
func (p *Pool) miss(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.ended {
		return
	}
	c.lost = true
	p.lost++
	if c.keepsSlot = p.lost >= maxLost; !c.keepsSlot {
		<-p.slots
	}
	p.tripLocked()
	close(c.missed)
}

// tripLocked leaves the key alone for a while, longer each time it was tried in vain.
func (p *Pool) tripLocked() time.Duration {
	if p.open && p.trying {
		p.cooldown = min(2*p.cooldown, maxCooldown)
	}
	if !p.open || p.trying {
		p.until = time.Now().Add(p.cooldown) // a stopwatch, not the process's clock
	}
	p.open, p.trying = true, false
	return p.waitLocked()
}

// closedFor is how long the key is to be left alone, 0 when it may be asked.
func (p *Pool) closedFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open {
		return 0
	}
	return p.waitLocked()
}

func (p *Pool) waitLocked() time.Duration {
	if p.trying {
		return p.limits.Deadline
	}
	return max(0, time.Until(p.until))
}

// Ready returns why a signature would be refused at once, or nil. It asks nothing of the key: whoever writes down what it is about to
// sign asks this before.
func (p *Pool) Ready() error {
	if wait := p.closedFor(); wait > 0 {
		return p.refusal(wait, "it did not answer")
	}
	if len(p.line) == cap(p.line) {
		return p.refusal(p.limits.Deadline, "too many signatures are waiting")
	}
	return nil
}

func (p *Pool) refusal(wait time.Duration, why string) error {
	return fmt.Errorf("signing with key %s: %w", p.Name(), &unavailable{wait, fmt.Errorf("%w: %s", ErrUnavailable, why)})
}

// An unavailable is an ErrUnavailable that says when to come back.
type unavailable struct {
	after time.Duration
	cause error
}

func (u *unavailable) Error() string        { return u.cause.Error() }
func (u *unavailable) Is(target error) bool { return target == ErrUnavailable }
func (u *unavailable) Unwrap() error        { return u.cause }

// RetryAfter is what doors look for in an error before they answer 503.
func (u *unavailable) RetryAfter() time.Duration { return RetryAfter(u) }

// RetryAfter returns how long to wait before trying again what failed with err: whole seconds, at least one. It is for
// errors that are ErrUnavailable.
func RetryAfter(err error) time.Duration {
	var u *unavailable
	if !errors.As(err, &u) {
		return time.Second
	}
	return max(time.Second, (u.after + time.Second - 1).Truncate(time.Second))
}
