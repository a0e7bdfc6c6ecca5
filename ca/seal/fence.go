package seal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrFenced: the ledger has forgotten something, or may have, and nothing is issued until an operator has decided.
var ErrFenced = errors.New("issuing is fenced")

// Remedy is what an operator does about a fence.
const Remedy = "restore a newer backup, or run segl ledger accept-gap (docs/recovery.md)"

// A Fence is one replica's word on whether certificates may be issued. The zero Fence lets everybody through. The reason for it is
// in the store, which every replica reads; status is answered and certificates are revoked behind a fence as ever.
type Fence struct{ why atomic.Pointer[string] }

// Set says why nothing may be issued, or with "" that it may.
func (f *Fence) Set(why string) {
	if why == "" {
		f.why.Store(nil)
		return
	}
	f.why.Store(&why)
}

// Fenced returns ErrFenced with the reason and the remedy, or nil.
func (f *Fence) Fenced() error {
	if why := f.why.Load(); why != nil {
		return fmt.Errorf("%w: %s: %s", ErrFenced, *why, Remedy)
	}
	return nil
}

// Forgot compares the tree with a checkpoint that was kept, and returns what the ledger has forgotten if the tree does not
// extend it, or "". A checkpoint of an era before this one says nothing: an operator has accepted what came between.
func Forgot(ctx context.Context, store Store, log Log, keptCheckpoint string) (string, error) {
	c, era, err := log.Open(0, keptCheckpoint)
	if err != nil {
		return "", err
	}
	head, err := store.Head(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the tree: %w", err)
	}
	switch {
	case era < head.Era:
		return "", nil
	case era > head.Era:
		return fmt.Sprintf("a checkpoint of era %d was kept, and the ledger is in era %d", era, head.Era), nil
	case c.Size > head.Size:
		return fmt.Sprintf("a checkpoint of %d facts was kept, and there are %d in the tree", c.Size, head.Size), nil
	}
	root, err := tiles{ctx, store, head}.rootAt(c.Size)
	if err != nil {
		return "", fmt.Errorf("reading the tree of %d facts: %w", c.Size, err)
	}
	if root != c.Root {
		return fmt.Sprintf("the checkpoint of %d facts that was kept is of another tree", c.Size), nil
	}
	return "", nil
}
