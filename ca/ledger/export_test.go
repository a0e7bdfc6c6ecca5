package ledger

import (
	"context"
	"encoding/binary"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// SetPartMost says how many certificates one list is meant to speak for.
func (l *Ledger) SetPartMost(n float64) { l.partMost = n }

// Asked returns how many weeks a look-up of a name asks.
func (l *Ledger) Asked(ctx context.Context, n cert.Name) (int, error) {
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return 0, err
	}
	leaves, err = l.sifted(ctx, leaves, nameMark(tbs.GeneralName(n)))
	return len(leaves), err
}

// Sieve fills a filter with n marks, and returns how many it misses and the share of others that it takes for them.
func Sieve(n int) (missed int, wrong float64) {
	mark := func(i int) int64 { return nameMark(binary.BigEndian.AppendUint64(nil, uint64(i))) }
	s := newSieve(int64(n))
	holds := func(m int64) bool { return mayHold(s.blocks[sieveOf(m)>>(32-s.level)], m) }
	for i := range n {
		s.add(mark(i))
	}
	for i := range n {
		if !holds(mark(i)) {
			missed++
		}
	}
	const others = 20_000
	for i := range others {
		if holds(mark(n + i)) {
			wrong += 1.0 / others
		}
	}
	return missed, wrong
}
