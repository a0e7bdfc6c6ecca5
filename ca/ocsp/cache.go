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
}

// cacheMost bounds each generation; an answer is about 1 kB.
const cacheMost = 20_000

// A cache keeps answers in two generations: when the younger is full it becomes the older, and the older is forgotten. So
// it is bounded, nothing in it is ever scanned, and what is asked often stays.
type cache struct {
	mu         sync.Mutex // guards below
	young, old map[cacheKey]*answer
	drops      uint64 // counts drop, so that an answer made before one is not kept after it
}

func newCache() *cache { return &cache{young: make(map[cacheKey]*answer)} }

// get returns the answer kept for k, if it still holds, and the count of drops for put.
func (c *cache) get(k cacheKey, authority int, now time.Time) (a *answer, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a = c.young[k]
	if a == nil {
		if a = c.old[k]; a != nil {
			c.keep(k, a)
		}
	}
	if a == nil || a.authority != authority || !now.Before(a.until) {
		return nil, c.drops
	}
	return a, c.drops
}

// put keeps a unless something was dropped since get said drops: the status it was made from may be the dropped one.
func (c *cache) put(k cacheKey, a *answer, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drops == drops {
		c.keep(k, a)
	}
}

func (c *cache) keep(k cacheKey, a *answer) {
	if len(c.young) >= cacheMost {
		c.old, c.young = c.young, make(map[cacheKey]*answer)
	}
	c.young[k] = a
}

// drop forgets every answer about serial, or everything for the zero Serial.
func (c *cache) drop(serial cert.Serial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	if serial.IsZero() {
		clear(c.young)
		c.old = nil
		return
	}
	for h := range numHashes {
		delete(c.young, cacheKey{serial, h})
		delete(c.old, cacheKey{serial, h})
	}
}
