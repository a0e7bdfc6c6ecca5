package seal

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/kms"
)

// Why a witness does not cosign. Each is a status of C2SP tlog-witness.
var (
	ErrMalformed    = errors.New("malformed request")                      // 400
	ErrUnknownLog   = errors.New("this log is not witnessed here")         // 404
	ErrUntrusted    = errors.New("not signed by that log's key")           // 403
	ErrInconsistent = errors.New("not an extension of what was witnessed") // 422
)

// A Conflict says that a witness holds another size than the one asked for: 409.
type Conflict struct{ Size int64 }

func (c *Conflict) Error() string { return strconv.FormatInt(c.Size, 10) }

// MaxAddCheckpoint bounds a request: 63 hashes, and a checkpoint with a few signatures.
const MaxAddCheckpoint = 16 << 10

// A Witnessed is the newest tree of a log that was cosigned.
type Witnessed struct {
	Size       int64
	Root       tlog.Hash
	Checkpoint string // with the log's signature and our cosignature
	At         time.Time
}

// Memory is where a witness remembers what it cosigned. Implementations are safe for concurrent use.
type Memory interface {
	// Witnessed returns the newest tree of a log that was remembered, or ErrNotFound.
	Witnessed(ctx context.Context, origin string) (Witnessed, error)
	// Remember stores next, durably, in place of a tree of size old (0: none). A *Conflict has the size that is there instead.
	Remember(ctx context.Context, origin string, old int64, next Witnessed) error
}

// A Witness cosigns others' checkpoints, each if it extends the last one of its log.
type Witness struct {
	Memory Memory
	Now    func() time.Time
	self   Cosigner
	key    kms.Key
	logs   map[string]note.Verifier // by origin
}

// NewWitness returns a witness called name for the logs with those verifier keys; a log's origin is its key's name.
func NewWitness(name string, key kms.Key, logs []string, m Memory, now func() time.Time) (*Witness, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key %s: a witness's key must be %s", key.Name(), kms.Ed25519)
	}
	w := &Witness{Memory: m, Now: now, self: Cosigner{name, pub}, key: key, logs: map[string]note.Verifier{}}
	if _, err := ParseCosigner(w.self.VKey()); err != nil {
		return nil, err
	}
	for _, l := range logs {
		v, err := note.NewVerifier(l)
		if err != nil {
			return nil, fmt.Errorf("log key %.200q: %w", l, err)
		}
		w.logs[v.Name()] = v
	}
	return w, nil
}

// VKey returns the key that others know this witness by.
func (w *Witness) VKey() string { return w.self.VKey() }

// Add serves one add-checkpoint request and returns the cosignature. What was cosigned is remembered before it leaves.
func (w *Witness) Add(ctx context.Context, request string) (string, error) {
	old, proof, signed, err := parseAdd(request)
	if err != nil {
		return "", err
	}
	origin, _, _ := strings.Cut(signed, "\n")
	log, ok := w.logs[origin]
	if !ok {
		return "", ErrUnknownLog
	}
	// "The witness MUST respond with a "403 Forbidden" HTTP status code if either no signature from a trusted key for the origin
	// is present, or a signature line's key name and ID match a trusted key but the signature itself fails to verify"
	c, err := OpenCheckpoint(signed, log)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if old > c.Size {
		return "", fmt.Errorf("%w: the old size, %d, is above the checkpoint's, %d", ErrMalformed, old, c.Size)
	}
	held, err := w.Memory.Witnessed(ctx, origin)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("reading what was witnessed of %s: %w", origin, err)
	}
	if held.Size != old {
		return "", &Conflict{held.Size}
	}
	if err := extends(held, c, proof); err != nil {
		return "", err
	}
	cosignature, err := w.self.cosign(ctx, w.key, c.Text(), w.Now())
	if err != nil {
		return "", err
	}
	// "checking the old size against the latest checkpoint and persisting the new checkpoint must be performed atomically"
	next := Witnessed{Size: c.Size, Root: c.Root, Checkpoint: canonical(signed, log) + cosignature, At: w.Now()}
	if err := w.Memory.Remember(ctx, origin, old, next); err != nil {
		return "", err
	}
	return cosignature, nil
}

// canonical is a signed checkpoint with the signatures that log verifies, and no other.
func canonical(signed string, log note.Verifier) string {
	n, err := note.Open([]byte(signed), note.VerifierList(log))
	if err != nil {
		panic("seal: internal error: a checkpoint that was verified does not verify: " + err.Error())
	}
	var b strings.Builder
	b.WriteString(n.Text + "\n")
	for _, s := range n.Sigs {
		fmt.Fprintf(&b, "— %s %s\n", s.Name, s.Base64)
	}
	return b.String()
}

// extends checks a consistency proof as a witness must.
func extends(held Witnessed, c Checkpoint, proof tlog.TreeProof) error {
	switch {
	case c.Size == 0 && c.Root != (Edge{}).Root():
		return fmt.Errorf("%w: the empty tree has another hash", ErrInconsistent)
	case (held.Size == 0 || held.Size == c.Size) && len(proof) > 0:
		return fmt.Errorf("%w: there is nothing to prove, and a proof", ErrInconsistent)
	case held.Size == 0:
		return nil
	case held.Size == c.Size && held.Root != c.Root:
		return fmt.Errorf("%w: another tree of the same size was witnessed", ErrInconsistent)
	case held.Size == c.Size:
		return nil
	}
	if err := tlog.CheckTree(proof, c.Size, c.Root, held.Size, held.Root); err != nil {
		return fmt.Errorf("%w: the proof from %d to %d does not hold", ErrInconsistent, held.Size, c.Size)
	}
	return nil
}

// parseAdd reads a request: "an old size line, zero or more consistency proof lines, and an empty line, followed by a
// checkpoint".
func parseAdd(s string) (old int64, proof tlog.TreeProof, signed string, err error) {
	head, signed, ok := strings.Cut(s, "\n\n")
	lines := strings.Split(head, "\n")
	number, isOld := strings.CutPrefix(lines[0], "old ")
	if !ok || !isOld || len(lines) > 1+maxPath || len(s) > MaxAddCheckpoint {
		return 0, nil, "", fmt.Errorf("%w: want an old size line, at most %d hashes, an empty line and a checkpoint", ErrMalformed, maxPath)
	}
	if old, err = parseSize(number); err != nil {
		return 0, nil, "", fmt.Errorf("%w: old size: %w", ErrMalformed, err)
	}
	if proof, err = parseHashes(lines[1:]); err != nil {
		return 0, nil, "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return old, proof, signed, nil
}

// Checkpoint returns the newest cosigned checkpoint of the log whose origin has that SHA-256, or ErrNotFound.
func (w *Witness) Checkpoint(ctx context.Context, originHash string) (string, error) {
	for origin := range w.logs {
		sum := sha256.Sum256([]byte(origin))
		if hex.EncodeToString(sum[:]) != originHash {
			continue
		}
		held, err := w.Memory.Witnessed(ctx, origin)
		if err != nil {
			return "", fmt.Errorf("reading what was witnessed of %s: %w", origin, err)
		}
		return held.Checkpoint, nil
	}
	return "", ErrNotFound
}
