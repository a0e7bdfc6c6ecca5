package seal

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Snapshot is everything that is replayed, as it stood at one instant.
type Snapshot interface {
	Head(ctx context.Context) (Head, error)
	// Facts returns at most limit facts after a position, in order, finished or not.
	Facts(ctx context.Context, after audit.Position, limit int) ([]Row, error)
	Tile(ctx context.Context, level int, n int64) ([]byte, error)
	// Gaps returns the last checkpoint of each era that ended, by the era that began with it.
	Gaps(ctx context.Context) (map[int]string, error)
	// Left returns what has left the ledger with its epoch.
	Left(ctx context.Context) (Left, error)
	// Outcomes returns at most limit outcomes of serials after one, in order.
	Outcomes(ctx context.Context, after cert.Serial, limit int) ([]Ending, error)
	// Revocations returns at most limit revocations of serials after one, in order.
	Revocations(ctx context.Context, after cert.Serial, limit int) ([]Ending, error)
}

// Left is what is in archives and no longer in the ledger.
type Left struct {
	Facts  int64              // how many facts there were
	Epochs map[uid.Epoch]bool // whose certificates and revocations are gone
}

// An Ending is an outcome or a revocation, as far as it must have a fact.
type Ending struct {
	Serial cert.Serial
	Signed bool // of an outcome: it has a signature
}

// A Finding is something that is not as it was sealed. Row names it.
type Finding struct {
	Row  string `json:"row"`
	What string `json:"what"`
}

// A Report is what a replay found.
type Report struct {
	Facts    int64     `json:"facts"`    // replayed, of those in the tree
	Archived int64     `json:"archived"` // leaves whose facts have left with their epoch: their hashes are checked, not their rows
	Unsealed int64     `json:"unsealed"` // facts after the last one in the tree
	Size     int64     `json:"size"`
	Origin   string    `json:"origin"`
	Root     string    `json:"root"`
	Findings []Finding `json:"findings"`
}

const maxFindings = 20

func (r *Report) find(row, format string, args ...any) {
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, Finding{row, fmt.Sprintf(format, args...)})
	}
}

// page is how many rows a replay holds at once.
const page = 2048

// Verify replays a ledger: every fact against its leaf, every tile against those below, the root against the checkpoint,
// every checkpoint in kept against the tree, and every outcome and revocation against the facts. An error means that it
// could not be done; what is wrong with the ledger is in the report. It holds a page of rows, the edge of the tree and a
// few hundred octets an epoch.
func Verify(ctx context.Context, s Snapshot, log Log, kept ...string) (Report, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("reading the tree: %w", err)
	}
	v := &replay{ctx: ctx, s: s, head: head, sums: sums{}, report: &Report{Size: head.Size, Origin: log.Origin(head.Era), Findings: []Finding{}}}
	rand.Read(v.salt[:]) //nolint:errcheck // never fails since Go 1.24
	if err := v.checkpoints(log, kept); err != nil {
		return Report{}, err
	}
	if err := v.leaves(); err != nil {
		return Report{}, fmt.Errorf("replaying facts: %w", err)
	}
	if err := v.rows(); err != nil {
		return Report{}, fmt.Errorf("comparing rows with facts: %w", err)
	}
	return *v.report, nil
}

// A replay is one run of Verify.
type replay struct {
	ctx    context.Context //nolint:containedctx // of one run
	s      Snapshot
	head   Head
	report *Report

	edge   Edge
	size   int64
	left   Left
	tile   []byte // the stored hashes of the tile that the next leaf is in
	wrongs int    // how many leaves before the next one were wrong
	roots  []kept // checkpoints still to be compared, smallest first
	salt   [32]byte
	sums   sums
}

// A kept checkpoint is one that a person, a file or a witness holds.
type kept struct {
	Checkpoint
	name string
}

// checkpoints opens the tree's own checkpoint and those that were kept.
func (v *replay) checkpoints(log Log, signed []string) error {
	switch c, era, err := log.Open(0, v.head.Checkpoint); {
	case v.head.Checkpoint == "" && v.head.Size == 0:
	case err != nil:
		v.report.find("seal_head", "the tree's checkpoint is not signed by the ledger's key: %v", err)
	case c.Size != v.head.Size || era > v.head.Era:
		v.report.find("seal_head", "the tree has %d leaves and its checkpoint says %d", v.head.Size, c.Size)
	default:
		v.roots = append(v.roots, kept{c, "the tree's own checkpoint"})
	}
	for i, s := range signed {
		name := fmt.Sprintf("checkpoint %d that was kept", i+1)
		c, era, err := log.Open(0, s)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if known, err := v.known(log, era); err != nil {
			return err
		} else if c.Size > known && era != v.head.Era {
			v.report.find(name, "it has %d leaves of era %d, and %d of them were known when a gap was accepted", c.Size, era, known)
			continue
		}
		if c.Size > v.head.Size {
			v.report.find(fmt.Sprintf("fact %d", v.head.Size), "the tree was cut: %s has %d leaves and the tree has %d", name, c.Size, v.head.Size)
			continue
		}
		v.roots = append(v.roots, kept{c, name})
	}
	slices.SortStableFunc(v.roots, func(a, b kept) int { return int(min(1, max(-1, a.Size-b.Size))) })
	return nil
}

// known returns how many leaves of an era are in the tree: of one that a gap ended, those before it.
func (v *replay) known(log Log, era int) (int64, error) {
	if era == v.head.Era {
		return v.head.Size, nil
	}
	gaps, err := v.s.Gaps(v.ctx)
	if err != nil {
		return 0, fmt.Errorf("reading gaps: %w", err)
	}
	next := 0 // the era after it
	for began := range gaps {
		if began > era && (next == 0 || began < next) {
			next = began
		}
	}
	text, _, _ := strings.Cut(gaps[next], "\n\n")
	last, err := ParseCheckpoint(text + "\n")
	if err != nil || last.Origin != log.Origin(era) {
		return 0, nil //nolint:nilerr // nothing was sealed in it, or it is of a ledger that was restored since
	}
	return last.Size, nil
}

// leaves replays the facts.
func (v *replay) leaves() error {
	v.compare()
	var err error
	if v.left, err = v.s.Left(v.ctx); err != nil {
		return err
	}
	if err := v.skip(); err != nil {
		return err
	}
	var at audit.Position
	var rows []Row
	for {
		// One page is looked ahead of, so that a row too many and one too few are told apart.
		more, err := v.s.Facts(v.ctx, at, page)
		if err != nil {
			return err
		}
		if len(more) > 0 {
			at = more[len(more)-1].Position
		}
		rows = append(rows, more...)
		for len(rows) > rowsAhead || len(more) < page && len(rows) > 0 {
			n, err := v.fact(rows)
			if err != nil {
				return err
			}
			rows = rows[n:]
		}
		if len(more) < page {
			break
		}
	}
	return v.end()
}

// skip passes over the leaves of the facts that left, up to the first that is still here.
func (v *replay) skip() error {
	if v.left.Facts == 0 {
		return nil
	}
	first, err := v.s.Facts(v.ctx, audit.Position{}, 1)
	if err != nil {
		return err
	}
	for v.report.Archived < v.left.Facts && v.size < v.head.Size {
		stored, err := v.stored()
		if err != nil || len(first) > 0 && LeafHash(first[0]) == stored {
			return err
		}
		v.append(stored)
		v.report.Archived++
	}
	return nil
}

// How far ahead is looked to tell what happened at a wrong leaf: rows, leaves, and how many wrong ones in a row make it
// pointless to go on naming them.
const (
	rowsAhead   = 256
	leavesAhead = 8192
	givenUp     = 3
)

// fact replays the first of rows, and returns how many of them it took.
func (v *replay) fact(rows []Row) (int, error) {
	r := rows[0]
	if v.size >= v.head.Size {
		if p := r.Position; cmp.Or(cmp.Compare(p.Transaction, v.head.Last.Transaction), cmp.Compare(p.ID, v.head.Last.ID)) <= 0 {
			v.wrong(r, "the row was inserted after sealing: it stands before the last sealed fact, %s, and no leaf is left for it", v.head.Last)
		}
		v.report.Unsealed++
		v.note(r)
		return 1, nil
	}
	stored, err := v.stored()
	if err != nil {
		return 0, err
	}
	switch h := LeafHash(r); {
	case h == stored, v.lacks(r):
		v.wrongs = 0
	case v.wrongs < givenUp:
		if took, err := v.explain(rows, stored, h); err != nil || took >= 0 {
			return max(took, 0), err
		}
		v.wrongs++
	}
	v.report.Facts++
	v.note(r)
	v.append(stored)
	return 1, nil
}

// explain says what is wrong at a leaf: a row altered, inserted, or missing. It returns how many rows that took, or -1 for
// going on as if the row were right.
func (v *replay) explain(rows []Row, stored, hash tlog.Hash) (int, error) {
	r := rows[0]
	for i := 1; i < min(len(rows), rowsAhead); i++ {
		if LeafHash(rows[i]) == stored {
			v.wrong(r, "the row was inserted after sealing: leaf %d is row %s", v.size, rows[i].Position)
			v.note(r)
			return 1, nil
		}
	}
	ahead, err := v.peek(1, leavesAhead)
	if err != nil {
		return -1, err
	}
	i := slices.Index(ahead, hash)
	if i < 0 {
		v.wrong(r, "the row is not what was sealed as leaf %d: it, or the certificate or revocation it records, was altered", v.size)
		return -1, nil
	}
	if n := int64(i + 1); v.report.Archived+n <= v.left.Facts {
		v.report.Archived += n // of the epoch before, with which it overlaps
	} else {
		v.wrong(r, "%d row(s) just before it were deleted: those of leaves %d to %d", i+1, v.size, v.size+int64(i))
	}
	for range i + 1 {
		s, err := v.stored()
		if err != nil {
			return -1, err
		}
		v.append(s)
	}
	return 0, nil
}

// lacks reports whether what r records has left the ledger with its epoch, while r has not: its leaf cannot be made again.
func (v *replay) lacks(r Row) bool {
	gone := !r.Serial.IsZero() && v.left.Epochs[r.Serial.Epoch()]
	return gone && r.Allowed && (Certifies(r.What) && r.Certificate == nil || Ends(r.What) && r.Revocation == nil)
}

func (v *replay) wrong(r Row, format string, args ...any) {
	name := "fact " + r.Position.String() + " (" + r.What
	if !r.Serial.IsZero() {
		name += " " + r.Serial.String()
	}
	v.report.find(name+")", format, args...)
}

// stored returns the hash that the tree has for the next leaf.
func (v *replay) stored() (tlog.Hash, error) {
	if v.size%full == 0 || v.tile == nil {
		var err error
		if v.tile, err = v.tileOf(v.size / full); err != nil {
			return tlog.Hash{}, err
		}
	}
	at := int(v.size%full) * hashSize
	if at+hashSize > len(v.tile) {
		return tlog.Hash{}, nil // missing: nothing hashes to this
	}
	return tlog.Hash(v.tile[at : at+hashSize]), nil
}

// tileOf returns the stored hashes of leaves; none where the tile is missing, which is a finding.
func (v *replay) tileOf(n int64) ([]byte, error) {
	if n == v.head.Size/full {
		return v.head.Edge.Level(0), nil
	}
	b, err := v.s.Tile(v.ctx, 0, n)
	if errors.Is(err, ErrNotFound) {
		v.report.find(fmt.Sprintf("seal_tile level 0 number %d", n), "the tile is missing")
		return []byte{}, nil
	}
	return b, err
}

// peek returns the stored hashes of leaves from one after the next, up to another.
func (v *replay) peek(from, to int) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for i := v.size + int64(from); i < min(v.head.Size, v.size+int64(to)); i++ {
		b := v.tile
		if i/full != v.size/full {
			var err error
			if b, err = v.tileOf(i / full); err != nil {
				return nil, err
			}
		}
		if at := int(i%full) * hashSize; at+hashSize <= len(b) {
			out = append(out, tlog.Hash(b[at:at+hashSize]))
		}
	}
	return out, nil
}

// append adds what is stored as the next leaf, and compares what that completes: upper tiles and kept checkpoints.
func (v *replay) append(leaf tlog.Hash) {
	v.edge.Append(v.size, leaf, func(level int, n int64, hashes []byte) {
		if level == 0 {
			return // it is where the leaves came from
		}
		b, err := v.s.Tile(v.ctx, level, n)
		if err != nil || !bytes.Equal(b, hashes) {
			v.report.find(fmt.Sprintf("seal_tile level %d number %d", level, n), "the tile is not the hash of those below it")
		}
	})
	v.size++
	v.compare()
}

// compare holds checkpoints of the present size against the tree.
func (v *replay) compare() {
	for len(v.roots) > 0 && v.roots[0].Size <= v.size {
		c := v.roots[0]
		v.roots = v.roots[1:]
		if c.Root != v.edge.Root() {
			v.report.find(fmt.Sprintf("facts 0 to %d", c.Size-1), "the tree of %d leaves is not that of %s: it was rewritten, or the checkpoint is of a fork",
				c.Size, c.name)
		}
	}
}

// end says what is missing after the last row.
func (v *replay) end() error {
	if v.report.Archived < v.left.Facts {
		v.report.find("epoch_archive", "archives say that %d facts have left, and %d are missing", v.left.Facts, v.report.Archived)
	}
	if v.size < v.head.Size {
		v.report.find(fmt.Sprintf("facts %d to %d", v.size, v.head.Size-1), "the rows of the last %d leaves, up to %s, are missing",
			v.head.Size-v.size, v.head.Last)
		for v.size < v.head.Size {
			s, err := v.stored()
			if err != nil {
				return err
			}
			v.append(s)
		}
	}
	if !bytes.Equal(v.edge.Bytes(), v.head.Edge.Bytes()) {
		v.report.find("seal_head", "the edge of the tree is not the hash of what is below it")
	}
	root := v.edge.Root()
	v.report.Root = root.String()
	return nil
}

// sums are the sums, by epoch and bucket, over the serials that facts speak of less those that rows are there for. Each
// serial counts as a hash under a salt nobody knew, so that a sum of nothing means the same serials on both sides.
type sums map[bucket]*[4]uint64

type bucket struct {
	kind  byte
	epoch int32
	slot  byte
}

// Kinds of rows that need a fact.
const (
	signed byte = iota
	abandoned
	ended
)

var kindNames = [...]string{"outcome (signed)", "outcome (abandoned)", "revocation"}

// slots divide an epoch, so that where a sum is not zero few rows are read again.
const slots = 64

func (v *replay) hash(kind byte, s cert.Serial) (bucket, [32]byte) {
	h := sha256.Sum256(append(append(v.salt[:], kind), s.Bytes()...))
	return bucket{kind, int32(s.Epoch()), h[31] % slots}, h
}

func (v *replay) add(kind byte, s cert.Serial, sign uint64) {
	if v.left.Epochs[s.Epoch()] {
		return
	}
	b, h := v.hash(kind, s)
	sum := v.sums[b]
	if sum == nil {
		sum = new([4]uint64)
		v.sums[b] = sum
	}
	for i := range sum {
		var word uint64
		for _, o := range h[i*8 : i*8+8] { //nolint:mnd // octets of a word
			word = word<<8 | uint64(o)
		}
		sum[i] += sign * word
	}
}

// note counts what a fact says of a serial.
func (v *replay) note(r Row) {
	for _, k := range noted(r) {
		v.add(k, r.Serial, 1)
	}
}

func noted(r Row) []byte {
	var out []byte
	if !r.Allowed || r.Serial.IsZero() {
		return nil
	}
	if slices.Contains(Issues(), r.What) {
		out = append(out, signed)
	} else if Certifies(r.What) {
		out = append(out, abandoned)
	}
	if Ends(r.What) {
		out = append(out, ended)
	}
	return out
}

// rows compares outcomes and revocations with what facts said.
func (v *replay) rows() error {
	err := v.each(func(kind byte, s cert.Serial) { v.add(kind, s, ^uint64(0)) })
	if err != nil {
		return err
	}
	wrong := map[bucket]bool{}
	for b, sum := range v.sums {
		if *sum != [4]uint64{} {
			wrong[b] = true
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return v.differences(wrong)
}

func (v *replay) each(seen func(kind byte, s cert.Serial)) error {
	for _, read := range []struct {
		of   func(context.Context, cert.Serial, int) ([]Ending, error)
		kind func(Ending) byte
	}{
		{v.s.Outcomes, func(e Ending) byte {
			if e.Signed {
				return signed
			}
			return abandoned
		}},
		{v.s.Revocations, func(Ending) byte { return ended }},
	} {
		var after cert.Serial
		for {
			all, err := read.of(v.ctx, after, page)
			if err != nil {
				return err
			}
			for _, e := range all {
				seen(read.kind(e), e.Serial)
				after = e.Serial
			}
			if len(all) < page {
				break
			}
		}
	}
	return nil
}

// differences reads again and names what is on one side only. It holds the serials of the buckets that differ.
func (v *replay) differences(wrong map[bucket]bool) error {
	type side struct{ rows, facts int }
	found := map[bucket]map[cert.Serial]*side{}
	at := func(kind byte, s cert.Serial) *side {
		b, _ := v.hash(kind, s)
		if !wrong[b] {
			return &side{}
		}
		if found[b] == nil {
			found[b] = map[cert.Serial]*side{}
		}
		if found[b][s] == nil {
			found[b][s] = &side{}
		}
		return found[b][s]
	}
	if err := v.each(func(kind byte, s cert.Serial) { at(kind, s).rows++ }); err != nil {
		return err
	}
	var after audit.Position
	for {
		rows, err := v.s.Facts(v.ctx, after, page)
		if err != nil {
			return err
		}
		for _, r := range rows {
			for _, k := range noted(r) {
				at(k, r.Serial).facts++
			}
			after = r.Position
		}
		if len(rows) < page {
			break
		}
	}
	for b, serials := range found {
		for s, n := range serials {
			name := kindNames[b.kind] + " " + s.String()
			switch {
			case n.rows > n.facts:
				v.report.find(name, "no fact says so: the row was inserted past the ledger")
			case n.rows < n.facts && n.rows == 0:
				v.report.find(name, "a fact says so and the row is missing")
			case n.rows < n.facts:
				v.report.find(name, "%d facts say so of one row", n.facts)
			}
		}
	}
	return nil
}
