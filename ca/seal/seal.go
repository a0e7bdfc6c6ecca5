// Package seal makes the ledger provable: its facts are the leaves of a Merkle tree (RFC 6962 §2.1) whose signed
// checkpoints anybody may keep and compare.
//
// A Sealer appends finished facts in the order of their transactions; a leaf is a canonical encoding of the fact and of the
// certificate or revocation that it records (leaf.go, docs/ledger-proof.md). Checkpoints, tiles, proofs and cosignatures are
// those of C2SP (tlog-checkpoint, tlog-tiles, tlog-proof, tlog-cosignature), so that others' programs read them. Verify
// replays the whole ledger and names the first row that is not what was sealed. A Witness cosigns others' logs, Ask has
// ours cosigned, and a Fence stops issuing when the ledger turns out to have forgotten something.
//
//	fact committed ── its transaction and all before it ended ──> sealed ──> checkpoint signed ──> cosigned ──> published
//
// What it is not: it does not keep facts from being written or read, and costs them nothing; it does not prevent tampering,
// but whoever holds a checkpoint, or is a witness, notices it.
//
// The invariants: a checkpoint is published only if the tree it names is stored, whole, in the same transaction; of two
// sealers that follow the same tree one publishes; the published size only grows within an era. Everything here may be
// called concurrently.
package seal

import (
	"context"
	"errors"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Errors that callers decide upon.
var (
	// ErrMoved: the tree has grown, or the duty was lost: what was to follow the old head is not published.
	ErrMoved = errors.New("the tree has moved on")
	// ErrNotFound: there is no such tile, checkpoint or fact.
	ErrNotFound = errors.New("not in the tree")
	// ErrNotSealed: the fact exists and is not in a published tree yet.
	ErrNotSealed = errors.New("not sealed yet")
)

// A Row is a fact as it is stored, with what it records. A nil string is a column that is NULL.
type Row struct {
	Position audit.Position
	At       time.Time
	Scope    *string
	Allowed  bool
	What     string
	Actor    string
	Act      *string
	Serial   cert.Serial // zero where there is none
	Subject  *string
	Why      *string
	Request  *string

	Certificate *Certificate // of facts that say Certifies
	Revocation  *Revocation  // of facts that say Ends
}

// A Certificate is an intent and its outcome.
type Certificate struct {
	Serial    cert.Serial
	Authority string
	Scope     string
	Profile   string
	NotAfter  time.Time
	Origin    []byte
	TBS       []byte
	At        *time.Time // of the outcome; nil while there is none
	Signature []byte     // nil: none, or abandoned
}

// A Revocation is the row that ended a serial.
type Revocation struct {
	Serial    cert.Serial
	Authority string
	Scope     string
	At        time.Time
	Reason    int16
}

// A Head is the tree as it stands.
type Head struct {
	Era        int
	Size       int64
	Last       audit.Position // of the last fact in it
	Edge       Edge
	Checkpoint string // signed; empty before the first
	SealedAt   time.Time
}

// A Tile is a complete one. Last and At are those of its last leaf, where it holds leaves (level 0).
type Tile struct {
	Level  int
	N      int64
	Last   audit.Position
	At     time.Time
	Hashes []byte
}

// Store is where the tree is kept. Implementations are safe for concurrent use.
type Store interface {
	// Head returns the tree; that of an empty one is the zero Head but for Era 1.
	Head(ctx context.Context) (Head, error)
	// Finished returns at most limit facts after a position whose transactions, and all before them, have ended, in order. It
	// may leave out those that say they happened before since.
	Finished(ctx context.Context, after audit.Position, since time.Time, limit int) ([]Row, error)
	// Advance stores tiles and, in place of a head of size old in the same era, next: all of it, durably, or nothing.
	// ErrMoved: the head is another, or the duty is held under another term than term. Other errors leave it unknown.
	Advance(ctx context.Context, old int64, next Head, tiles []Tile, term int64) error
	// Tile returns the hashes of a complete tile, or ErrNotFound.
	Tile(ctx context.Context, level int, n int64) ([]byte, error)
	// Issuing returns the fact that issued serial and the number of the tile it is in, or ErrNotFound.
	Issuing(ctx context.Context, serial cert.Serial) (row Row, tile int64, err error)
	// Bundle returns the facts of tile n, in order; of the last tile, those that are in the tree.
	Bundle(ctx context.Context, n int64) ([]Row, error)
	// Published returns the newest checkpoint that Publish stored for an era, or ErrNotFound.
	Published(ctx context.Context, era int) (size int64, checkpoint string, err error)
	// Publish stores a cosigned checkpoint unless one of a larger tree is there.
	Publish(ctx context.Context, era int, size int64, checkpoint string) error
}

// Height is that of tiles: each holds 2^Height hashes (C2SP tlog-tiles).
const Height = 8

const (
	full     = 1 << Height
	hashSize = tlog.HashSize
)
