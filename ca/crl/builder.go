package crl

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// How long lists live. Relying parties such as PostgreSQL let nobody in once a list has ended, so it ends six refreshes
// after it should have been replaced: a weekend's outage shuts nobody out (docs/x509-profiles.md). Deltas live as long: who
// has a list and its delta is shut out no sooner than who has the list.
const (
	Life    = 72 * time.Hour
	Refresh = 12 * time.Hour
	// backdate lets verifiers whose clocks lag believe a list at once: OpenSSL refuses one that begins in the future.
	backdate = time.Minute
)

// Bounds of what a Builder keeps.
const (
	pendingMost = 50_000   // endings that wait for their lists; where more do, the ledger is read instead
	bodiesMost  = 64 << 20 // octets of lists kept to splice into; others are read back from what was published
	deltaMost   = 1000     // entries of a delta that is never too long; beyond, a quarter of its list is
	// A list of more than long octets is left alone for unhurried times as long as it took to make: the whole list of a
	// million takes no more than a tenth of a processor however often something ends.
	long      = 8 << 20
	unhurried = 9
)

// longestRest is how long a list that cannot be made is left alone at most. It begins with a second, and doubles.
const longestRest = time.Minute

// ErrUnmade: of some shards no list could be made. Each is tried again by itself, and the others are up to date.
var ErrUnmade = errors.New("lists were not made")

// Config is what a Builder and a Server are made of.
type Config struct {
	Shards Shards
	// Authorities returns those whose lists are signed here, with their keys.
	Authorities func() []Authority
	Now         func() time.Time
	// Published is told of each list that stands. Nil: nobody is.
	Published func(Publication)
}

// A Builder makes the lists that are due. What it remembers between two runs spares reading; it is forgotten when the duty
// was somebody else's meanwhile, and when what ended cannot be read.
type Builder struct {
	Config
	running sync.Mutex // held by RunOnce; guards below
	term    int64
	upto    Snapshot // every ending it sees is in its shard's list or pending
	shards  map[Shard]*shard
	parts   map[week]int
	byID    map[int]Authority
	bodies  int // octets kept
}

// A week is an authority's epoch.
type week struct {
	authority int
	epoch     uid.Epoch
}

// A shard is one list as the Builder knows it.
type shard struct {
	Standing
	view    view    // what Seen sees, until the first reading after it
	pending []Entry // ended, and not in the list
	doubt   bool    // what is pending is not all: the ledger is to be read
	more    int     // how many ended, where that is not in pending
	list    *body   // nil: not here
	delta   *body
	ready   time.Time // it is left alone until then
	failed  int       // how often in a row
}

// New returns a Builder.
func New(c Config) *Builder { return &Builder{Config: c} }

// RunOnce makes every list that is due and publishes it under the term of the Duty. It is safe to repeat and to run twice at
// once. What fails for one shard does not keep the others, now or in the next runs; the errors come back together as
// ErrUnmade.
func (b *Builder) RunOnce(ctx context.Context, term int64) error {
	b.running.Lock()
	defer b.running.Unlock()
	now := b.Now()
	if err := b.prepare(ctx, term, now); err != nil {
		b.forget()
		return err
	}
	return b.make(ctx, now)
}

func (b *Builder) forget() { b.shards, b.bodies = nil, 0 }

// prepare brings what is known of shards and endings up to date.
func (b *Builder) prepare(ctx context.Context, term int64, now time.Time) error {
	b.byID = map[int]Authority{}
	var ids []int
	var within []Reach
	for _, a := range b.Authorities() {
		b.byID[a.ID] = a
		ids, within = append(ids, a.ID), append(within, a.Reach(now))
	}
	if b.shards == nil || b.term != term {
		if err := b.load(ctx, ids); err != nil {
			return fmt.Errorf("reading the lists there are: %w", err)
		}
		b.term = term
	}
	if err := b.want(ctx, now); err != nil {
		return err
	}
	if err := b.gather(ctx, within); err != nil {
		return fmt.Errorf("reading what ended: %w", err)
	}
	return nil
}

// load reads which lists stand.
func (b *Builder) load(ctx context.Context, ids []int) error {
	standing, err := b.Shards.Standing(ctx, ids)
	if err != nil {
		return err
	}
	b.shards, b.parts, b.bodies = make(map[Shard]*shard, len(standing)), make(map[week]int), 0
	for i, s := range standing {
		b.shards[s.Shard] = &shard{Standing: s, view: s.Seen.view()}
		b.parts[week{s.Authority, s.Epoch}] = s.Parts
		if i == 0 {
			b.upto = s.Seen
		}
		b.upto = Earliest(b.upto, s.Seen)
	}
	if len(standing) == 0 {
		b.upto, err = b.Shards.Since(ctx, nil, "", nil) // every list will be read from the ledger after this
	}
	return err
}

// want adds the shards that are to have a list although none has ended in them: a certificate never names a list that is not
// there. Those whose certificates have all expired it lets go.
func (b *Builder) want(ctx context.Context, now time.Time) error {
	for id, a := range b.byID {
		if !a.NoWhole {
			b.add(Shard{Authority: id, Epoch: Whole}, 1)
		}
		for e := uid.EpochOf(now); e <= uid.EpochOf(now)+1; e++ {
			parts, ok := b.parts[week{id, e}]
			if !ok {
				var err error
				if parts, err = b.Shards.Parts(ctx, id, e); err != nil {
					return fmt.Errorf("deciding how many lists epoch %d of %s has: %w", e, a.Name, err)
				}
			}
			for p := range parts {
				b.add(Shard{id, e, uint8(p)}, parts) //nolint:gosec // 256 at most
			}
		}
	}
	for s := range b.shards {
		a, ours := b.byID[s.Authority]
		if ours && (a.ended(s.Epoch, now) || s.Epoch == Whole && a.NoWhole) {
			if err := b.Shards.Withdraw(ctx, s); err != nil {
				return fmt.Errorf("withdrawing the list of epoch %d of %s: %w", s.Epoch, a.Name, err)
			}
			delete(b.shards, s)
		}
	}
	return nil
}

func (b *Builder) add(s Shard, parts int) {
	if b.shards[s] == nil {
		b.shards[s] = &shard{Standing: Standing{Shard: s, Parts: parts}}
		b.parts[week{s.Authority, s.Epoch}] = parts
	}
}

// gather reads what ended since the last time, for all shards at once, and lays it beside them.
func (b *Builder) gather(ctx context.Context, within []Reach) error {
	waiting := 0
	seen, err := b.Shards.Since(ctx, within, b.upto, func(e Ending) {
		part := shardOf(e.Authority, e.Serial, b.parts[week{e.Authority, e.Serial.Epoch()}])
		for _, s := range []Shard{part, {Authority: e.Authority, Epoch: Whole}} {
			if h := b.shards[s]; h != nil && !h.view.sees(e.Transaction) {
				waiting++
				h.wait(e.Entry, waiting > pendingMost)
			}
		}
	})
	if errors.Is(err, ErrForeign) {
		for _, h := range b.shards {
			h.pending, h.doubt = nil, true
		}
		seen, err = b.Shards.Since(ctx, nil, "", nil)
	}
	if err != nil {
		return err
	}
	b.upto = seen
	for _, h := range b.shards {
		h.view = view{}
	}
	return nil
}

// wait lays e beside its list; where too much waits already, only that something does.
func (h *shard) wait(e Entry, tooMuch bool) { //nolint:revive // a bound, not a choice
	switch {
	case h.doubt || h.Number == 0: // the ledger will be read
		h.more++
	case tooMuch:
		h.more += len(h.pending) + 1
		h.pending, h.doubt = nil, true
	default:
		h.pending = append(h.pending, e)
	}
}

// make makes what is due, the whole lists last: they are the longest, and the fewest depend on them.
func (b *Builder) make(ctx context.Context, now time.Time) error {
	var failed []error
	for _, h := range b.due(now) {
		a := b.byID[h.Authority]
		if ctx.Err() != nil { // what ended it, the duty's loss perhaps, failed no list
			return errors.Join(append(failed, context.Cause(ctx))...)
		}
		began := b.Now()
		// ErrStale: another replica published meanwhile. If that list lacks something, the shard is due again.
		if err := b.renew(ctx, a, h); errors.Is(err, ErrStale) {
			defer b.forget()
		} else if err != nil {
			failed = append(failed, fmt.Errorf("%w: the one after %d of epoch %d of %s: %w", ErrUnmade, h.Number, h.Epoch, a.Name, err))
			h.rest(b.Now())
			continue
		}
		h.failed = 0
		if h.Size > long {
			h.ready = b.Now().Add(unhurried * b.Now().Sub(began))
		}
	}
	return errors.Join(failed...)
}

// rest leaves a list that could not be made alone for a while, the longer the more often. Its bodies may be half changed, and
// what is to be in it stays beside it.
func (h *shard) rest(now time.Time) {
	h.list, h.delta = nil, nil
	h.ready = now.Add(min(longestRest, time.Second<<min(h.failed, 6)))
	h.failed++
}

func (b *Builder) due(now time.Time) []*shard {
	var due []*shard
	for _, h := range b.shards {
		if h.due(now) {
			due = append(due, h)
		}
	}
	slices.SortFunc(due, func(x, y *shard) int {
		return cmp.Or(-cmp.Compare(x.Epoch, y.Epoch), cmp.Compare(x.Authority, y.Authority), cmp.Compare(x.Part, y.Part))
	})
	return due
}

func (h *shard) due(now time.Time) bool {
	return !now.Before(h.ready) && (h.Number == 0 || h.doubt || len(h.pending) > 0 || h.BaseAt.Before(now.Add(-Refresh)))
}

// anew reports whether the list is to be made from the ledger.
func (h *shard) anew(now time.Time) bool {
	return h.Number == 0 || h.doubt || h.BaseAt.Before(now.Add(-Refresh))
}

// renew makes and publishes the list that follows h's.
func (b *Builder) renew(ctx context.Context, a Authority, h *shard) error {
	if a.Key == nil {
		return errors.New("its key is not here: the ledger knows an authority that is not loaded")
	}
	// 1. Read. The list begins before the reading, so it never claims to know what ended after it.
	now := b.Now().Truncate(time.Second)
	p, changed, err := b.read(ctx, a, h, now)
	if err != nil || !changed {
		return err
	}
	p.Previous, p.Term = h.Number, b.term
	p.ThisUpdate, p.NextUpdate = now.Add(-backdate), now.Add(Life)
	for _, least := range []time.Time{h.ThisUpdate, h.list.latest.Truncate(time.Second)} { // a list does not tell what happened after it
		if least.After(p.ThisUpdate) {
			p.ThisUpdate = least
		}
	}

	// 2. Encode, lint and sign. No transaction is open.
	if p.DER, err = sign(ctx, a, p.Standing, h.list, Complete); err != nil {
		return err
	}
	if p.Delta, err = sign(ctx, a, p.Standing, h.delta, Delta); err != nil {
		return err
	}
	p.Entries, p.Size, p.DeltaSize = h.list.count, len(p.DER), len(p.Delta)

	// 3. Publish, if the shard is still where it was and the duty ours. A crash before this leaves the number unused; the next
	// run takes it.
	p.At = b.Now()
	if err := b.Shards.Publish(ctx, p); err != nil {
		return err
	}
	if b.Published != nil {
		b.Published(p)
	}
	h.Standing, h.pending, h.doubt, h.more = p.Standing, nil, false, 0
	b.keep(h)
	return nil
}

// read brings h's bodies up to date and says what list they make; changed is false where that is the one there is.
func (b *Builder) read(ctx context.Context, a Authority, h *shard, now time.Time) (p Publication, changed bool, err error) {
	p.Standing = h.Standing
	p.Number, p.Seen = h.next(now), b.upto
	if !h.anew(now) {
		err := b.recall(ctx, a, h)
		if err == nil {
			changed, err = h.follow(&p, now)
			return p, changed, err
		}
		if !errors.Is(err, errMalformed) && !errors.Is(err, kms.ErrBadSignature) {
			return p, false, fmt.Errorf("reading list %d back: %w", h.Number, err)
		}
	}
	size := h.Size + h.more*entrySize
	b.room(h, size)
	h.list = newBody(size)
	p.Seen, err = b.Shards.Ended(ctx, h.Standing, a.oldest(now), h.list.add)
	h.delta, p.Base, p.BaseAt = newBody(0), p.Number, now
	return p, true, err
}

// next returns the number that follows h's. The first of a shard is the milliseconds since 1970: above all that were used for
// it before its list was withdrawn, or by a ledger that has since been restored from an older state, as no shard publishes a
// thousand lists a second. So none is used twice (RFC 5280 §5.2.3).
func (h *shard) next(now time.Time) int64 {
	if h.Number == 0 {
		return now.UnixMilli()
	}
	return h.Number + 1
}

// follow splices what is pending into the list and its delta, and reports whether that changed anything.
func (h *shard) follow(p *Publication, now time.Time) (changed bool, err error) {
	slices.SortFunc(h.pending, func(x, y Entry) int { return bytes.Compare(x.Serial.Bytes(), y.Serial.Bytes()) })
	added, err := h.list.splice(h.pending)
	if err == nil && added > 0 {
		_, err = h.delta.splice(h.pending)
	}
	if err != nil {
		h.pending, h.doubt = nil, true // they do not fit together: the ledger knows
		return false, err
	}
	if added == 0 {
		h.pending = nil
		return false, nil
	}
	p.Fresh = h.pending
	if h.delta.count > max(deltaMost, h.list.count/4) {
		h.delta, p.Base, p.BaseAt = newBody(0), p.Number, now
	}
	return true, nil
}

// recall reads the list that stands back, if it is not here, and believes it only if we signed it.
func (b *Builder) recall(ctx context.Context, a Authority, h *shard) (err error) {
	if h.list == nil {
		if h.list, err = b.fetch(ctx, a, h, Complete); err != nil {
			return err
		}
	}
	if h.delta == nil {
		h.delta, err = b.fetch(ctx, a, h, Delta)
	}
	return err
}

func (b *Builder) fetch(ctx context.Context, a Authority, h *shard, k Kind) (*body, error) {
	size := h.Size
	if k == Delta {
		size = h.DeltaSize
	}
	buf := make([]byte, room, room+size+room)
	err := b.Shards.Octets(ctx, h.Shard, h.Number, k, func(piece []byte) error {
		buf = append(buf, piece...)
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil, ErrStale // replaced meanwhile
	}
	if err != nil {
		return nil, err
	}
	r, err := reopen(buf)
	if err != nil {
		return nil, err
	}
	return r.body, kms.Verify(a.Certificate.PublicKey, r.signed, r.signature)
}

// room lets h's bodies go, and all others where another of size octets would not fit beside them.
func (b *Builder) room(h *shard, size int) {
	h.list, h.delta, b.bodies = nil, nil, 0
	for _, o := range b.shards {
		b.bodies += o.octets()
	}
	for _, o := range b.shards {
		if n := o.octets(); n > 0 && b.bodies+size > bodiesMost {
			b.bodies -= n
			o.list, o.delta = nil, nil
		}
	}
}

// keep bounds the memory of bodies: where it is exceeded, all others go.
func (b *Builder) keep(h *shard) {
	b.bodies = 0
	for _, o := range b.shards {
		b.bodies += o.octets()
	}
	for _, o := range b.shards {
		if b.bodies > bodiesMost && o != h {
			b.bodies -= o.octets()
			o.list, o.delta = nil, nil
		}
	}
	if b.bodies > bodiesMost {
		h.list, h.delta, b.bodies = nil, nil, 0
	}
}

func (h *shard) octets() (n int) {
	for _, l := range []*body{h.list, h.delta} {
		if l != nil {
			n += cap(l.buf)
		}
	}
	return n
}

// sign makes the signed octets of the list or of its delta. They lie in entries' memory, until that changes.
func sign(ctx context.Context, a Authority, s Standing, entries *body, k Kind) ([]byte, error) {
	algorithm, err := kms.SignatureAlgorithmOf(a.Key.Public())
	if err != nil {
		return nil, err
	}
	h := head{
		algorithm: algorithm.Identifier(), issuer: a.Certificate.RawSubject, keyID: a.Certificate.SubjectKeyId,
		url: a.url(s), number: s.Number, thisUpdate: s.ThisUpdate, nextUpdate: s.NextUpdate,
	}
	if k == Delta {
		h.base = s.Base
	} else {
		h.freshest = a.deltaURL(s)
	}
	signed, err := entries.enclose(h)
	if err != nil {
		return nil, err
	}
	err = lint.List(signed, lint.ExpectList{
		Issuer: h.issuer, IssuerKey: a.Certificate.PublicKey, IssuerKeyID: h.keyID,
		URL: h.url, Epoch: s.Epoch, Parts: s.Parts, Part: int(s.Part), Freshest: h.freshest, Delta: k == Delta, Base: h.base,
		Number: s.Number, ThisUpdate: s.ThisUpdate, NextUpdate: s.NextUpdate, MaxLife: Life + backdate, Entries: entries.count,
	})
	if err != nil {
		return nil, err
	}
	signature, err := kms.SignMessage(ctx, a.Key, signed)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	// A faulty signature would shut out everybody who checks the list.
	if err := kms.Verify(a.Certificate.PublicKey, signed, signature); err != nil {
		return nil, fmt.Errorf("verifying what %s signed: %w", a.Key.Name(), err)
	}
	return entries.assemble(signed, h.algorithm, signature), nil
}
