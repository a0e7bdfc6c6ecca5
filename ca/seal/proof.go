package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A Proof shows that a leaf is in the tree of a checkpoint, to whoever trusts the log's key. It needs nothing else.
type Proof struct {
	Leaf       []byte
	Index      int64
	Path       tlog.RecordProof
	Checkpoint string // signed
}

const proofHeader = "c2sp.org/tlog-proof@v1"

// maxPath bounds what a parser takes: no tree that an int64 counts is deeper.
const maxPath = 63

// String returns the proof as C2SP tlog-proof has it. The extra line is the leaf.
func (p Proof) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(p.Leaf), p.Index)
	writeHashes(&b, p.Path)
	b.WriteByte('\n')
	b.WriteString(p.Checkpoint)
	return b.String()
}

func writeHashes(b *strings.Builder, hashes []tlog.Hash) {
	for _, h := range hashes {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]))
		b.WriteByte('\n')
	}
}

// ParseProof reads what String wrote. It checks the form, not the proof.
func ParseProof(s string) (Proof, error) {
	head, signed, ok := strings.Cut(s, "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 3 || len(lines) > 3+maxPath || lines[0] != proofHeader { //nolint:mnd // header, extra, index
		return Proof{}, errors.New("reading a proof: want the lines of C2SP tlog-proof, with an extra line")
	}
	leaf, ok1 := strings.CutPrefix(lines[1], "extra ")
	index, ok2 := strings.CutPrefix(lines[2], "index ")
	if !ok1 || !ok2 {
		return Proof{}, errors.New("reading a proof: want an extra line, the leaf, and then an index line")
	}
	p := Proof{Checkpoint: signed}
	var err error
	if p.Leaf, err = base64.StdEncoding.Strict().DecodeString(leaf); err != nil {
		return Proof{}, errors.New("reading a proof: its leaf is not base64")
	}
	if p.Index, err = parseSize(index); err != nil {
		return Proof{}, fmt.Errorf("reading a proof: index: %w", err)
	}
	if p.Path, err = parseHashes(lines[3:]); err != nil {
		return Proof{}, fmt.Errorf("reading a proof: %w", err)
	}
	return p, nil
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, l := range lines {
		h, err := parseHash(l)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// parseSize reads a decimal number as C2SP spells it: no sign, no leading zero.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.30q: want a decimal number", s)
	}
	return n, nil
}

// Check verifies p under the log's key.
func (p Proof) Check(log Log) (Checkpoint, error) {
	c, _, err := log.Open(0, p.Checkpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index >= c.Size {
		return Checkpoint{}, fmt.Errorf("leaf %d is not in a tree of %d", p.Index, c.Size)
	}
	if err := tlog.CheckRecord(p.Path, c.Size, c.Root, p.Index, tlog.RecordHash(p.Leaf)); err != nil {
		return Checkpoint{}, fmt.Errorf("leaf %d is not in the tree of %d that the checkpoint names", p.Index, c.Size)
	}
	return c, nil
}

// A Prover answers from the stored tree.
type Prover struct {
	Store Store
	Log   Log
	// Quorum is how many witnesses a checkpoint must have before anybody is shown it.
	Quorum int
	// Living reports whether a scope is the one that it was at a time: a deleted tenant's name may be another's since. Nil: it is.
	Living func(s identity.Scope, at time.Time) bool
}

// Checkpoint returns the newest checkpoint to be shown, and the tree it is of. ErrNotFound: there is none yet.
func (p *Prover) Checkpoint(ctx context.Context) (string, int64, error) {
	head, err := p.Store.Head(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("reading the tree: %w", err)
	}
	return p.shown(ctx, head)
}

func (p *Prover) shown(ctx context.Context, head Head) (string, int64, error) {
	size, signed, err := p.Store.Published(ctx, head.Era)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", 0, fmt.Errorf("reading the published checkpoint: %w", err)
	}
	if err == nil && (p.Quorum > 0 || size == head.Size) {
		return signed, size, nil
	}
	// A gap was accepted and nothing has been sealed since: the last era's checkpoint is not this one's.
	if p.Quorum > 0 || head.Checkpoint == "" || !strings.HasPrefix(head.Checkpoint, p.Log.Origin(head.Era)+"\n") {
		return "", 0, ErrNotFound
	}
	return head.Checkpoint, head.Size, nil
}

// Tile returns width hashes of a tile, or all 256 of it where width is 0. Complete tiles never change.
func (p *Prover) Tile(ctx context.Context, level int, n int64, width int) ([]byte, error) {
	head, err := p.Store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the tree: %w", err)
	}
	if width == 0 {
		width = full
	}
	return tiles{ctx, p.Store, head}.read(tlog.Tile{H: Height, L: level, N: n, W: width})
}

// covers reports whether who may read a fact: its scope is who's or below.
func (p *Prover) covers(who identity.Caller, r Row) bool {
	if r.Scope == nil {
		return access.May(who, access.ReadFacts, identity.Platform)
	}
	scope, err := identity.ParseScope(*r.Scope)
	if err == nil && p.Living != nil && !p.Living(scope, r.At) { // it was another's who is gone
		scope = identity.Platform
	}
	return err == nil && access.May(who, access.ReadFacts, scope)
}

// Bundle returns the leaves of tile n, at most width of them where that is not 0, as C2SP tlog-tiles has them: each after
// its length in two octets. ErrNotFound also where who may not read every one of them.
func (p *Prover) Bundle(ctx context.Context, who identity.Caller, n int64, width int) ([]byte, error) {
	head, err := p.Store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the tree: %w", err)
	}
	have := min(full, head.Size-n*full)
	if n > head.Size/full {
		return nil, ErrNotFound
	}
	if width == 0 {
		width = full
	}
	if have < int64(width) {
		return nil, ErrNotFound
	}
	rows, err := p.Store.Bundle(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("reading the facts of tile %d: %w", n, err)
	}
	if len(rows) < width {
		return nil, fmt.Errorf("tile %d has %d facts in the tree and %d in the ledger: run segl ledger verify", n, have, len(rows))
	}
	var out []byte
	for _, r := range rows[:width] {
		if !p.covers(who, r) {
			return nil, ErrNotFound
		}
		leaf := Leaf(r)
		out = append(out, byte(len(leaf)>>8), byte(len(leaf))) //nolint:gosec // columns are bounded far below 64 KiB
		out = append(out, leaf...)
	}
	return out, nil
}

// Prove returns the proof that serial was issued, in the newest tree that is shown, to who may see that certificate: its
// holder, its scope and those above. ErrNotFound: the ledger knows of no such certificate, or who may not see it.
// ErrNotSealed: it does, and its fact is not in that tree yet.
func (p *Prover) Prove(ctx context.Context, who identity.Caller, serial cert.Serial) (Proof, error) {
	// The tree first: a fact that it lacks is then said to be in its last tile, or in one that it has not. Read after the fact, it may
	// have grown past the tile that the fact was expected in, and the fact would look as if it had been tampered with.
	head, unread := p.Store.Head(ctx)
	row, tile, err := p.Store.Issuing(ctx, serial)
	if err == nil && who.Serial != serial && !p.covers(who, row) {
		err = ErrNotFound
	}
	if err != nil {
		return Proof{}, fmt.Errorf("looking for the fact that issued %s: %w", serial, err)
	}
	if unread != nil {
		return Proof{}, fmt.Errorf("reading the tree: %w", unread)
	}
	signed, size, err := p.shown(ctx, head)
	if errors.Is(err, ErrNotFound) {
		err = ErrNotSealed
	}
	if err != nil {
		return Proof{}, err
	}
	proof := Proof{Leaf: Leaf(row), Checkpoint: signed}
	if proof.Index, err = p.index(ctx, head, tile, tlog.RecordHash(proof.Leaf)); err != nil {
		return Proof{}, fmt.Errorf("looking for the fact that issued %s: %w", serial, err)
	}
	if proof.Index >= size {
		return Proof{}, ErrNotSealed
	}
	if proof.Path, err = tlog.ProveRecord(size, proof.Index, tiles{ctx, p.Store, head}.hashes()); err != nil {
		return Proof{}, fmt.Errorf("proving fact %s: %w", row.Position, err)
	}
	if _, err := proof.Check(p.Log); err != nil {
		return Proof{}, fmt.Errorf("proving fact %s: %w: run segl ledger verify", row.Position, err)
	}
	return proof, nil
}

// index finds a leaf in its tile by its hash, so that facts which have left the ledger do not matter.
func (p *Prover) index(ctx context.Context, head Head, tile int64, leaf tlog.Hash) (int64, error) {
	width := int(min(full, head.Size-tile*full))
	if width <= 0 {
		return 0, ErrNotSealed
	}
	b, err := tiles{ctx, p.Store, head}.read(tlog.Tile{H: Height, L: 0, N: tile, W: width})
	if err != nil {
		return 0, err
	}
	for i := 0; i < width; i++ {
		if bytes.Equal(b[i*hashSize:(i+1)*hashSize], leaf[:]) {
			return tile*full + int64(i), nil
		}
	}
	if tile == head.Size/full {
		return 0, ErrNotSealed
	}
	return 0, errors.New("its row is not what was sealed: run segl ledger verify")
}

// Extends returns the proof that the tree of size extends that of old (RFC 6962 §2.1.2), out of tiles.
func Extends(ctx context.Context, store Store, head Head, old, size int64) (tlog.TreeProof, error) {
	if old == 0 || old == size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(size, old, tiles{ctx, store, head}.hashes())
	if err != nil {
		return nil, fmt.Errorf("proving that the tree of %d extends that of %d: %w", size, old, err)
	}
	return proof, nil
}

// Consistency returns a consistency proof between two sizes of the tree, base64, a hash a line.
func (p *Prover) Consistency(ctx context.Context, old, size int64) (string, error) {
	head, err := p.Store.Head(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the tree: %w", err)
	}
	if old > size || size > head.Size {
		return "", ErrNotFound
	}
	proof, err := Extends(ctx, p.Store, head, old, size)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	writeHashes(&b, proof)
	return b.String(), nil
}

// Key returns the verifier key of the checkpoints that are shown now.
func (p *Prover) Key(ctx context.Context) (string, error) {
	head, err := p.Store.Head(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the tree: %w", err)
	}
	return p.Log.VKey(head.Era)
}
