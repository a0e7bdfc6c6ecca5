package ocsp

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Responder answers for a set of authorities. RunOnce gives it its keys; until then every answer is tryLater.
type Responder struct {
	Config
	table   atomic.Pointer[table]
	cache   *cache
	running sync.Mutex // held by RunOnce
}

// A table is who answers for whom. It is never changed, only replaced.
type table struct {
	byHash map[issuerHash]int // authority's ID
	byID   map[int]*delegate  // usable or not; an authority without one has nil
}

// New returns a Responder without keys.
func New(c Config) *Responder {
	r := &Responder{Config: c, cache: newCache()}
	r.table.Store(&table{})
	return r
}

// RunOnce enrols a delegate for each authority that has none, or whose delegate has lived half its life; it is to be called
// at start, when authorities change, and every few minutes. Keys belong to a process: each replica runs it. An authority
// that cannot be enrolled keeps the delegate it has, and does not keep the others from theirs.
func (r *Responder) RunOnce(ctx context.Context) error {
	r.running.Lock()
	defer r.running.Unlock()
	had := r.table.Load()
	next := &table{byHash: make(map[issuerHash]int), byID: make(map[int]*delegate)}
	var failed []error
	for _, a := range r.Authorities() {
		hashes, err := a.issuerHashes()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		next.byHash[hashes[0]], next.byHash[hashes[1]] = a.ID, a.ID
		next.byID[a.ID] = had.byID[a.ID]
		if !had.byID[a.ID].due(r.Now()) {
			continue
		}
		d, err := r.enrol(ctx, a)
		if err != nil {
			failed = append(failed, fmt.Errorf("enrolling an OCSP responder of %s: %w", a.Name, err))
			continue
		}
		next.byID[a.ID] = d
	}
	r.table.Store(next)
	return errors.Join(failed...)
}

// Ready returns nil if every authority has a delegate that can sign, else an error that names one that has not. One that was
// prepared since RunOnce last looked has signed nothing yet: it takes no replica out of service.
func (r *Responder) Ready() error {
	t, now := r.table.Load(), r.Now()
	for _, a := range r.Authorities() {
		if d, looked := t.byID[a.ID]; (looked || len(t.byID) == 0) && !d.usable(now) {
			return fmt.Errorf("no usable OCSP responder for %s", a.Name)
		}
	}
	return nil
}

// Drop forgets what is kept about serial: it has been revoked. The zero Serial forgets everything: notices may have been
// missed. Once Drop has returned, no answer from before is given any more, nor one that was being made meanwhile.
func (r *Responder) Drop(serial cert.Serial) { r.cache.drop(serial) }

// Deafen says that notices of other replicas' revocations may be missed from now on: every answer is made live until
// Listening.
func (r *Responder) Deafen() { r.cache.hear(false) }

// Listening says that notices arrive again, and forgets what may have been missed.
func (r *Responder) Listening() {
	r.cache.drop(cert.Serial{})
	r.cache.hear(true)
}

// answer answers one request. A refusal other than zero comes without an answer.
func (r *Responder) answer(ctx context.Context, der []byte) (*answer, refusal) {
	q, ok := parse(der)
	if !ok {
		return nil, malformedRequest
	}
	d, refused := r.delegate(q)
	if refused != 0 {
		return nil, refused
	}
	var key cacheKey // stays zero for what is answered live
	if serial, err := cert.SerialFromBytes(q.certs[0].serial); err == nil && len(q.certs) == 1 && q.nonce == nil {
		key = cacheKey{serial, q.certs[0].hash}
		if kept := r.cache.get(key, d.authority.ID, r.Now()); kept != nil {
			return kept, 0
		}
	}
	return r.fresh(ctx, d, q, key)
}

// freshTries is how often an answer is made anew because a revocation came while it was being made. A certificate is revoked
// once, so a second time means that everything is being dropped over and over.
const freshTries = 3

// fresh makes an answer that no notice has overtaken, and keeps it under key.
func (r *Responder) fresh(ctx context.Context, d *delegate, q request, key cacheKey) (*answer, refusal) {
	serials := ours(q.certs)
	for range freshTries {
		f := r.cache.begin(serials)
		a, refused := r.live(ctx, d, q, serials)
		var keep *answer
		if refused == 0 && !a.until.IsZero() {
			keep = a
		}
		if r.cache.land(f, key, keep) {
			if r.Told != nil && a != nil && a.revoked && len(serials) == 1 {
				r.Told(Receipt{serials[0], r.Now(), a.sum})
			}
			return a, refused
		}
	}
	return nil, tryLater
}

// delegate returns who answers for the issuer of every certificate asked about. An answer has one signature, and a delegate
// may speak for its own authority only, so a request that mixes authorities is not answered.
func (r *Responder) delegate(q request) (*delegate, refusal) {
	t := r.table.Load()
	id, ok := t.byHash[q.certs[0].issuer]
	for _, c := range q.certs {
		if other, known := t.byHash[c.issuer]; c.hash == numHashes || !known || other != id {
			ok = false
		}
	}
	switch d := t.byID[id]; {
	case len(t.byHash) == 0:
		return nil, tryLater // not started yet
	case !ok:
		return nil, unauthorized
	case !d.usable(r.Now()):
		return nil, tryLater
	default:
		return d, 0
	}
}

// live asks the ledger and signs.
func (r *Responder) live(ctx context.Context, d *delegate, q request, serials []cert.Serial) (*answer, refusal) {
	now := r.Now()
	known, err := r.Ledger.Status(ctx, serials)
	if err != nil {
		return nil, tryLater // nobody knows: never good on doubt
	}
	singles := make([]single, 0, len(q.certs))
	keep := true
	for _, c := range q.certs {
		s := status(known, c, d.authority.ID)
		if s.State == Open {
			return nil, tryLater // it is being decided: neither good nor unknown
		}
		keep = keep && s.State != Unknown
		singles = append(singles, single{c.der, s})
	}
	a, err := d.answer(now, singles, q.nonce)
	if err != nil {
		return nil, internalError
	}
	if !keep {
		a.until, a.tag = time.Time{}, ""
	}
	return a, 0
}

// answer signs one and says how long it may be given again: not at all with a nonce.
func (d *delegate) answer(now time.Time, singles []single, nonce []byte) (*answer, error) {
	der, err := d.sign(now, singles, nonce)
	if err != nil {
		return nil, err
	}
	a := &answer{der: der, authority: d.authority.ID, thisUpdate: now.Add(-backdate), sum: sha256.Sum256(der)}
	for _, s := range singles {
		if s.status.State == Revoked {
			a.revoked = true
		}
	}
	if nonce != nil {
		return a, nil
	}
	a.until = now.Add(CacheLife)
	if next := d.nextUpdate(now); next.Before(a.until) {
		a.until = next
	}
	a.tag = `"` + base64.RawURLEncoding.EncodeToString(a.sum[:16]) + `"`
	return a, nil
}

// ours returns the serials that may be this service's.
func ours(certs []certID) []cert.Serial {
	serials := make([]cert.Serial, 0, len(certs))
	for _, c := range certs {
		if s, err := cert.SerialFromBytes(c.serial); err == nil {
			serials = append(serials, s)
		}
	}
	return serials
}

// status returns what to say about c: a serial that another authority was to sign is unknown to this one.
func status(known map[cert.Serial]Status, c certID, authority int) Status {
	serial, err := cert.SerialFromBytes(c.serial)
	if s := known[serial]; err == nil && s.Authority == authority {
		return s
	}
	return Status{}
}

// remaining is how long a may still be given again, in whole seconds.
func (a *answer) remaining(now time.Time) int { return max(0, int(a.until.Sub(now)/time.Second)) }
