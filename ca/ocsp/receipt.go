package ocsp

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Receipt is an answer that says a certificate is revoked.
type Receipt struct {
	Serial cert.Serial
	At     time.Time
	Answer [sha256.Size]byte // of the OCSPResponse
}

// Presign makes an answer about each of these serials that the ledger holds as revoked, keeps it for whoever asks next, and
// returns their receipts. What is revoked stays so: no notice can overtake these.
func (r *Responder) Presign(ctx context.Context, serials []cert.Serial) ([]Receipt, error) {
	known, err := r.Ledger.Status(ctx, serials)
	if err != nil {
		return nil, err
	}
	t, now := r.table.Load(), r.Now()
	var made []Receipt
	for s, st := range known {
		d := t.byID[st.Authority]
		if st.State != Revoked || !d.usable(now) {
			continue
		}
		id, err := d.certID(s)
		if err != nil {
			return made, err
		}
		a, err := d.answer(now, []single{{id, st}}, nil)
		if err != nil {
			return made, err
		}
		r.cache.put(cacheKey{s, sha1NULL}, a)
		made = append(made, Receipt{s, now, a.sum})
	}
	return made, nil
}

// certID writes the question most clients ask: by SHA-1, its parameters NULL.
func (d *delegate) certID(s cert.Serial) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes([]byte(hashIDs[sha1NULL])) })
		b.AddASN1OctetString(d.named[:20])
		b.AddASN1OctetString(d.named[32:52])
		b.AddASN1BigInt(s.Int())
	})
	return b.Bytes()
}

// Receipts gathers what answers told first, to be written down beside the answering. It is bounded: what does not fit is
// left to Presign, which finds what has no receipt. It is safe for concurrent use.
type Receipts struct {
	mu      sync.Mutex // guards below
	waiting []Receipt
	told    map[cert.Serial]struct{} // lately
	wake    chan struct{}
}

const (
	receiptsMost = 10_000
	toldMost     = 50_000
)

// NewReceipts returns an empty one.
func NewReceipts() *Receipts {
	return &Receipts{told: map[cert.Serial]struct{}{}, wake: make(chan struct{}, 1)}
}

// Add takes note of v, unless its serial was told of lately.
func (r *Receipts) Add(v Receipt) {
	r.mu.Lock()
	_, known := r.told[v.Serial]
	if !known && len(r.waiting) < receiptsMost {
		if len(r.told) >= toldMost {
			clear(r.told)
		}
		r.told[v.Serial] = struct{}{}
		r.waiting = append(r.waiting, v)
	}
	r.mu.Unlock()
	if !known {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Run hands over what was added, in batches, until ctx ends. What write fails on is left to Presign.
func (r *Receipts) Run(ctx context.Context, write func(context.Context, []Receipt) error) error {
	var failed error
	for {
		select {
		case <-ctx.Done():
			return failed
		case <-r.wake:
		}
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		r.mu.Unlock()
		if err := write(ctx, batch); err != nil && !errors.Is(err, context.Canceled) {
			failed = err
		}
	}
}
