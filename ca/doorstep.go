package ca

import (
	"context"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
)

// A Doorstep bounds how many refusals become facts that cost whoever is refused nothing: a request that cannot be read, a
// certificate that is somebody else's, a caller who is revoked. Each caller gets a few a minute, and so do all together, so
// that the ledger says who came and what for, and nobody fills it. The zero Doorstep is ready; it is safe for concurrent use.
type Doorstep struct {
	mu    sync.Mutex // guards below
	since time.Time
	told  map[string]int
	all   int
}

// Bounds of a minute.
const (
	doorstepEach = 10
	doorstepAll  = 600
)

// Tell reports whether a refusal of actor at the time now is to be written down. Nobody in particular is not written down.
func (d *Doorstep) Tell(actor string, now time.Time) bool {
	if actor == "" {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told == nil || now.Sub(d.since) >= time.Minute || now.Before(d.since) {
		d.since, d.told, d.all = now, make(map[string]int), 0
	}
	if d.all >= doorstepAll || d.told[actor] >= doorstepEach {
		return false
	}
	d.told[actor]++
	d.all++
	return true
}

// TurnedAway writes down that a door refused f by rule before any method here was asked, if the bounds allow. The refusal
// stands whether or not that works.
func (a *CA) TurnedAway(ctx context.Context, f audit.Fact, rule string) error {
	f.At = a.Now()
	if !a.doorstep.Tell(f.Who.Actor, f.At) {
		return nil
	}
	f.Refused, f.Why = true, rule
	return a.Ledger.Refuse(context.WithoutCancel(ctx), f)
}
