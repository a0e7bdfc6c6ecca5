package crl

import (
	"bytes"
	"context"
	"slices"
)

// Sign makes the signed octets of a complete list over the given entries, as a Builder does.
func Sign(ctx context.Context, a Authority, s Standing, list []Entry) ([]byte, error) {
	b, err := bodyOf(list)
	if err != nil {
		return nil, err
	}
	return sign(ctx, a, s, b, Complete)
}

// SignDelta makes those of a delta.
func SignDelta(ctx context.Context, a Authority, s Standing, list []Entry) ([]byte, error) {
	b, err := bodyOf(list)
	if err != nil {
		return nil, err
	}
	return sign(ctx, a, s, b, Delta)
}

func bodyOf(list []Entry) (*body, error) {
	b := newBody(len(list) * 53) // as of a list that stood before
	for _, e := range list {
		if err := b.add(e); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// A Body is what a Builder keeps of a list.
type Body struct{ *body }

// NewBody returns one of the given entries.
func NewBody(list []Entry) (Body, error) {
	b, err := bodyOf(list)
	return Body{b}, err
}

// Reopen makes one of a published list.
func Reopen(der []byte) (Body, error) {
	r, err := reopen(slices.Concat(make([]byte, room), der))
	return Body{r.body}, err
}

// Splice puts entries in.
func (b Body) Splice(list []Entry) (int, error) { return b.splice(list) }

// Sign signs what is in it.
func (b Body) Sign(ctx context.Context, a Authority, s Standing) ([]byte, error) {
	return sign(ctx, a, s, b.body, Complete)
}

// Entries returns how many there are, and their octets.
func (b Body) Entries() (int, []byte) { return b.count, bytes.Clone(b.entries()) }

// Sees reports whether s sees x.
func (s Snapshot) Sees(x uint64) bool { return s.view().sees(x) }
