package crl

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A Bundle is what a relying party loads that cannot fetch lists by itself: the whole list of every authority, roots
// included, or, where an authority has none, the lists of all its shards.
type Bundle struct {
	tag   string
	lists []Standing
	from  Shards
}

// Tag changes with every list in it.
func (b Bundle) Tag() string { return b.tag }

// Bundle returns which lists stand. It is an error when one is missing or has ended: certificates below would all be refused
// there.
func (s *Server) Bundle(ctx context.Context) (Bundle, error) {
	now := s.Now()
	b := Bundle{from: s.Shards}
	hash := sha256.New()
	for _, a := range s.Authorities() {
		lists, err := s.standing(ctx, a)
		if err != nil {
			return b, err
		}
		for _, l := range lists {
			if !l.NextUpdate.After(now) {
				return b, fmt.Errorf("list %d of epoch %d of %s ended at %s: see that the duty %s runs", l.Number, l.Epoch, a.Name, l.NextUpdate.UTC().Format(time.RFC3339), Duty)
			}
			fmt.Fprintln(hash, l.Authority, l.Epoch, l.Part, l.Number) //nolint:errcheck // a hash takes everything
		}
		b.lists = append(b.lists, lists...)
	}
	b.tag = hex.EncodeToString(hash.Sum(nil)[:12])
	return b, nil
}

// standing returns the lists of a that belong in a bundle.
func (s *Server) standing(ctx context.Context, a Authority) ([]Standing, error) {
	if !a.NoWhole {
		l, err := s.Shards.Head(ctx, Shard{Authority: a.ID, Epoch: Whole})
		if err != nil {
			return nil, fmt.Errorf("reading the whole list of %s: %w", a.Name, err)
		}
		return []Standing{l}, nil
	}
	all, err := s.Shards.Standing(ctx, []int{a.ID})
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lists of %s: %w", a.Name, err)
	}
	all = slices.DeleteFunc(all, func(l Standing) bool { return l.Epoch == Whole || a.ended(l.Epoch, s.Now()) })
	slices.SortFunc(all, func(x, y Standing) int { return cmp.Or(cmp.Compare(x.Epoch, y.Epoch), cmp.Compare(x.Part, y.Part)) })
	return all, nil
}

// Write writes the lists, a PEM block each (RFC 7468 §6). Memory is that of one list. A list that is replaced meanwhile is
// written as it stands then.
func (b Bundle) Write(ctx context.Context, w io.Writer) error {
	for _, l := range b.lists {
		der, err := whole(ctx, b.from, l)
		if err != nil {
			return fmt.Errorf("reading list %d of authority %d: %w", l.Number, l.Authority, err)
		}
		if err := pem.Encode(w, &pem.Block{Type: "X509 CRL", Bytes: der}); err != nil {
			return err
		}
	}
	return nil
}

// whole returns the octets of l, or of the list that took its place.
func whole(ctx context.Context, from Shards, l Standing) ([]byte, error) {
	for range 3 {
		der := make([]byte, 0, l.Size)
		err := from.Octets(ctx, l.Shard, l.Number, Complete, func(piece []byte) error {
			der = append(der, piece...)
			return nil
		})
		if !errors.Is(err, ErrNotFound) {
			return der, err
		}
		if l, err = from.Head(ctx, l.Shard); err != nil {
			return nil, err
		}
	}
	return nil, errReplaced
}
