package ocsp

import (
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A key names an answer: which certificate, asked in which spelling.
type cacheKey struct {
	serial cert.Serial
	hash   hash
}

// An answer is a signed response that may be given again.
type answer struct {
	der        []byte
	authority  int
	thisUpdate time.Time
	until      time.Time // when it is no longer given again
	tag        string
	sum        [32]byte // SHA-256 of der
	revoked    bool     // it says so of one
}

// cacheMost bounds each generation; an answer is about 1 kB.
const cacheMost = 20_000

// A cache keeps answers in two generations: when the younger is full it becomes the older, and the older is forgotten. So
// it is bounded, nothing in it is ever scanned, and what is asked often stays.
//
// It also knows which serials are being answered about, so that a notice reaches an answer that is still being made: the
// status it was made from may be the one the notice ends.
type cache struct {
	mu         sync.Mutex // guards below
	young, old map[cacheKey]*answer
	flights    map[cert.Serial][]*flight
	deaf       bool // notices may be missed: nothing is kept
}

// A flight is one answer being made.
type flight struct {
	serials []cert.Serial
	stale   bool // guarded by the cache: a notice came for one of them
}

func newCache() *cache {
	return &cache{young: make(map[cacheKey]*answer), flights: make(map[cert.Serial][]*flight)}
}

// get returns the answer kept for k, if it still holds.
func (c *cache) get(k cacheKey, authority int, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.young[k]
	if a == nil {
		if a = c.old[k]; a != nil {
			c.keepLocked(k, a)
		}
	}
	if a == nil || c.deaf || a.authority != authority || !now.Before(a.until) {
		return nil
	}
	return a
}

// begin notes that an answer about serials is being made. It is to be called before the ledger is read; land ends it.
func (c *cache) begin(serials []cert.Serial) *flight {
	f := &flight{serials: serials}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range serials {
		c.flights[s] = append(c.flights[s], f)
	}
	return f
}

// land ends f and reports whether its answer may be given: false when a notice came meanwhile. An answer with a key is
// kept, if there is one.
func (c *cache) land(f *flight, k cacheKey, a *answer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range f.serials {
		c.leaveLocked(s, f)
	}
	if f.stale {
		return false
	}
	if a != nil && !c.deaf && !k.serial.IsZero() {
		c.keepLocked(k, a)
	}
	return true
}

// put keeps a, which no notice can make untrue.
func (c *cache) put(k cacheKey, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deaf {
		c.keepLocked(k, a)
	}
}

func (c *cache) leaveLocked(s cert.Serial, f *flight) {
	under := c.flights[s]
	for i, other := range under {
		if other == f {
			under[i] = under[len(under)-1]
			under = under[:len(under)-1]
			break
		}
	}
	if len(under) == 0 {
		delete(c.flights, s)
	} else {
		c.flights[s] = under
	}
}

func (c *cache) keepLocked(k cacheKey, a *answer) {
	if len(c.young) >= cacheMost {
		c.old, c.young = c.young, make(map[cacheKey]*answer)
	}
	c.young[k] = a
}

// drop forgets every answer about serial, or everything for the zero Serial, and calls back those being made.
func (c *cache) drop(serial cert.Serial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if serial.IsZero() {
		clear(c.young)
		c.old = nil
		for s := range c.flights {
			c.callLocked(s)
		}
		return
	}
	for h := range numHashes {
		delete(c.young, cacheKey{serial, h})
		delete(c.old, cacheKey{serial, h})
	}
	c.callLocked(serial)
}

func (c *cache) callLocked(s cert.Serial) {
	for _, f := range c.flights[s] {
		f.stale = true
	}
}

// hear says whether notices arrive. While they may not, nothing is kept and nothing that was kept is given.
func (c *cache) hear(arrive bool) { //nolint:revive // it is the state, not a choice
	c.mu.Lock()
	c.deaf = !arrive
	c.mu.Unlock()
}
