package seal

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// An Edge is the right edge of a tree: of each level the hashes of its unfinished tile, level 0 first. It is all that is
// needed to go on, and says what the root is. The zero Edge is the empty tree's.
type Edge struct{ levels [][]byte }

// ParseEdge reads what Bytes wrote for a tree of size leaves.
func ParseEdge(size int64, b []byte) (Edge, error) {
	var e Edge
	for rest := size; rest > 0; rest >>= Height {
		n := int(rest%full) * hashSize
		if n > len(b) {
			return Edge{}, fmt.Errorf("the edge of a tree of %d leaves is cut short", size)
		}
		e.levels = append(e.levels, append(make([]byte, 0, full*hashSize), b[:n]...))
		b = b[n:]
	}
	if len(b) != 0 {
		return Edge{}, fmt.Errorf("the edge of a tree of %d leaves is too long", size)
	}
	return e, nil
}

// Bytes returns the hashes, level 0 first.
func (e Edge) Bytes() []byte {
	out := []byte{}
	for _, l := range e.levels {
		out = append(out, l...)
	}
	return out
}

// Level returns the hashes of the unfinished tile of a level: none where there is no such level.
func (e Edge) Level(level int) []byte {
	if level >= len(e.levels) {
		return nil
	}
	return e.levels[level]
}

// Clone returns an edge that grows apart from e.
func (e Edge) Clone() Edge {
	out := Edge{levels: make([][]byte, len(e.levels))}
	for i, l := range e.levels {
		out.levels[i] = append(make([]byte, 0, full*hashSize), l...)
	}
	return out
}

// Append adds leaf number n, which follows the last, and calls done for each tile that it completes, lowest level first.
func (e *Edge) Append(n int64, leaf tlog.Hash, done func(level int, n int64, hashes []byte)) {
	for level, h := 0, leaf; ; level++ {
		if level == len(e.levels) {
			e.levels = append(e.levels, make([]byte, 0, full*hashSize))
		}
		e.levels[level] = append(e.levels[level], h[:]...)
		if len(e.levels[level]) < full*hashSize {
			return
		}
		tile := e.levels[level]
		e.levels[level] = make([]byte, 0, full*hashSize)
		n >>= Height
		done(level, n, tile)
		h = perfect(tile)
	}
}

// perfect is the root over a power of two of hashes.
func perfect(b []byte) tlog.Hash {
	if len(b) == hashSize {
		return tlog.Hash(b)
	}
	half := len(b) / 2 //nolint:mnd // a half
	return tlog.NodeHash(perfect(b[:half]), perfect(b[half:]))
}

// Root returns the hash of the tree (RFC 6962 §2.1): its perfect subtrees, the largest first, folded from the right.
func (e Edge) Root() tlog.Hash {
	var subtrees []tlog.Hash
	for level := len(e.levels) - 1; level >= 0; level-- {
		rest := e.levels[level]
		for width := full / 2; width > 0; width /= 2 { //nolint:mnd // powers of two
			if n := width * hashSize; len(rest) >= n {
				subtrees = append(subtrees, perfect(rest[:n]))
				rest = rest[n:]
			}
		}
	}
	if len(subtrees) == 0 {
		root, err := tlog.TreeHash(0, nil)
		if err != nil {
			panic("seal: internal error: the empty tree has no hash: " + err.Error())
		}
		return root
	}
	root := subtrees[len(subtrees)-1]
	for i := len(subtrees) - 2; i >= 0; i-- {
		root = tlog.NodeHash(subtrees[i], root)
	}
	return root
}

// tiles reads the tree that a head is of: finished tiles from the store, others from the edge. It implements
// tlog.TileReader.
type tiles struct {
	ctx   context.Context //nolint:containedctx // of one proof: tlog.TileReader has no room for one
	store interface {
		Tile(ctx context.Context, level int, n int64) ([]byte, error)
	}
	head Head
}

func (t tiles) Height() int                     { return Height }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, 0, len(want))
	for _, w := range want {
		b, err := t.read(w)
		if err != nil {
			return nil, fmt.Errorf("reading tile %d of level %d: %w", w.N, w.L, err)
		}
		out = append(out, b)
	}
	return out, nil
}

func (t tiles) read(w tlog.Tile) ([]byte, error) {
	if w.L < 0 || w.L > 7 { //nolint:mnd // 256^8 leaves are more than an int64 counts
		return nil, ErrNotFound
	}
	var b []byte
	whole := t.head.Size >> (Height * (w.L + 1))
	switch {
	case w.N < whole:
		var err error
		if b, err = t.store.Tile(t.ctx, w.L, w.N); err != nil {
			return nil, err
		}
	case w.N == whole:
		b = t.head.Edge.Level(w.L)
	}
	if n := w.W * hashSize; n > 0 && len(b) >= n {
		return b[:n], nil
	}
	return nil, ErrNotFound
}

// rootAt returns the hash of the first size leaves of head's tree, out of tiles that are checked against its root.
func (t tiles) rootAt(size int64) (tlog.Hash, error) {
	if size > t.head.Size {
		return tlog.Hash{}, errors.New("the tree is shorter")
	}
	if size == t.head.Size {
		return t.head.Edge.Root(), nil
	}
	return tlog.TreeHash(size, t.hashes())
}

func (t tiles) hashes() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: t.head.Size, Hash: t.head.Edge.Root()}, t)
}
