package seal

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/kms"
)

// A Checkpoint is the tree a log claims to be (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	Rest   string // further lines, if any, each with its end
}

// Text returns the note that is signed.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n%s", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), c.Rest)
}

// ParseCheckpoint reads the text of a note. It says nothing about signatures.
func ParseCheckpoint(text string) (Checkpoint, error) {
	origin, rest, ok1 := strings.Cut(text, "\n")
	number, rest, ok2 := strings.Cut(rest, "\n")
	hash, rest, ok3 := strings.Cut(rest, "\n")
	if !ok1 || !ok2 || !ok3 || origin == "" {
		return Checkpoint{}, errors.New("reading a checkpoint: want an origin, a size and a hash, a line each (C2SP tlog-checkpoint)")
	}
	size, err := strconv.ParseInt(number, 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != number {
		return Checkpoint{}, fmt.Errorf("reading a checkpoint: size %.30q: want a decimal number", number)
	}
	root, err := parseHash(hash)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading a checkpoint: %w", err)
	}
	if rest != "" && !strings.HasSuffix(rest, "\n") {
		return Checkpoint{}, errors.New("reading a checkpoint: the last line has no end")
	}
	return Checkpoint{origin, size, root, rest}, nil
}

// parseHash reads base64 of 32 octets, spelt the one way.
func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != hashSize {
		return tlog.Hash{}, fmt.Errorf("hash %.60q: want base64 of 32 octets", s)
	}
	return tlog.Hash(b), nil
}

// A Log is a log's name and key: what checkpoints of it are signed and known by.
type Log struct {
	Base   string  // the origin of its first era
	Key    kms.Key // Ed25519; nil where checkpoints are only verified
	Public ed25519.PublicKey
}

// NewLog returns the log that key signs for.
func NewLog(base string, key kms.Key) (Log, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return Log{}, fmt.Errorf("key %s: a ledger's key must be %s: witnesses know no other", key.Name(), kms.Ed25519)
	}
	l := Log{Base: base, Key: key, Public: pub}
	_, err := l.VKey(1)
	return l, err
}

// Origin names the log of an era: each accepted gap begins another, because its tree does not extend the last one's.
func (l Log) Origin(era int) string {
	if era <= 1 {
		return l.Base
	}
	return fmt.Sprintf("%s/era%d", l.Base, era)
}

// VKey returns the verifier key (C2SP signed-note) of an era's checkpoints.
func (l Log) VKey(era int) (string, error) {
	v, err := note.NewEd25519VerifierKey(l.Origin(era), l.Public)
	if err == nil {
		_, err = note.NewVerifier(v)
	}
	if err != nil {
		return "", fmt.Errorf("origin %q cannot name a key: %w", l.Origin(era), err)
	}
	return v, nil
}

// Sign returns the signed checkpoint of a tree.
func (l Log) Sign(ctx context.Context, era int, size int64, root tlog.Hash) (string, error) {
	v, err := l.verifier(era)
	if err != nil {
		return "", err
	}
	c := Checkpoint{Origin: l.Origin(era), Size: size, Root: root}
	b, err := note.Sign(&note.Note{Text: c.Text()}, signer{ctx, l.Key, v})
	if err != nil {
		return "", fmt.Errorf("signing the checkpoint of %d facts: %w", size, err)
	}
	return string(b), nil
}

func (l Log) verifier(era int) (note.Verifier, error) {
	key, err := l.VKey(era)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(key)
}

// A signer is a KMS key as notes want one. It lives for one signature.
type signer struct {
	ctx context.Context //nolint:containedctx // note.Signer has no room for one
	key kms.Key
	note.Verifier
}

func (s signer) Sign(msg []byte) ([]byte, error) {
	sig, err := kms.SignMessage(s.ctx, s.key, msg)
	if err == nil && !s.Verify(msg, sig) {
		err = kms.ErrBadSignature // a faulty signature would have everybody suspect the ledger
	}
	return sig, err
}

// Open verifies a signed checkpoint of era, or of any era where that is 0, and returns what it says and which era it is of.
func (l Log) Open(era int, signed string) (Checkpoint, int, error) {
	if era == 0 {
		origin, _, _ := strings.Cut(signed, "\n")
		var err error
		if era, err = l.eraOf(origin); err != nil {
			return Checkpoint{}, 0, err
		}
	}
	v, err := l.verifier(era)
	if err != nil {
		return Checkpoint{}, 0, err
	}
	c, err := OpenCheckpoint(signed, v)
	if err == nil && c.Origin != l.Origin(era) {
		err = fmt.Errorf("the checkpoint is of %q, not of %q", c.Origin, l.Origin(era))
	}
	return c, era, err
}

func (l Log) eraOf(origin string) (int, error) {
	if origin == l.Base {
		return 1, nil
	}
	if number, ok := strings.CutPrefix(origin, l.Base+"/era"); ok {
		if era, err := strconv.Atoi(number); err == nil && era > 1 && l.Origin(era) == origin {
			return era, nil
		}
	}
	return 0, fmt.Errorf("the checkpoint is of %.200q, which is not this ledger, %q", origin, l.Base)
}

// OpenCheckpoint verifies a signed checkpoint under a log's key.
func OpenCheckpoint(signed string, log note.Verifier) (Checkpoint, error) {
	n, err := note.Open([]byte(signed), note.VerifierList(log))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verifying a checkpoint of %s: %w", log.Name(), err)
	}
	return ParseCheckpoint(n.Text)
}

// ParseLog reads a verifier key (C2SP signed-note) of a log, of any era.
func ParseLog(vkey string) (Log, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return Log{}, fmt.Errorf("verifier key %.200q: %w", vkey, err)
	}
	_, encoded, _ := strings.Cut(vkey[len(v.Name())+1:], "+")
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return Log{}, fmt.Errorf("verifier key %.200q: want an Ed25519 key", vkey)
	}
	base := v.Name()
	if i := strings.LastIndex(base, "/era"); i > 0 {
		if era, err := (Log{Base: base[:i]}).eraOf(base); err == nil && era > 1 {
			base = base[:i]
		}
	}
	return Log{Base: base, Public: b[1:]}, nil
}
