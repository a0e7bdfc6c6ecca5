package seal

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"codeberg.org/dataverket/segl/kms"
)

// algCosignature is the signature type of Ed25519 cosignatures (C2SP tlog-cosignature).
const algCosignature = 4

// A Cosigner is a witness's name and key.
type Cosigner struct {
	name   string
	public ed25519.PublicKey
}

// ParseCosigner reads a witness's verifier key: <name>+<key ID>+base64(04 || public key) (C2SP signed-note, tlog-cosignature).
func ParseCosigner(vkey string) (Cosigner, error) {
	name, rest, ok1 := strings.Cut(vkey, "+")
	id, key, ok2 := strings.Cut(rest, "+")
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	if !ok1 || !ok2 || err != nil || len(b) != 1+ed25519.PublicKeySize || b[0] != algCosignature {
		return Cosigner{}, fmt.Errorf("witness key %.200q: want <name>+<key ID>+<base64 of 04 and an Ed25519 key> (C2SP tlog-cosignature)", vkey)
	}
	c := Cosigner{name, ed25519.PublicKey(b[1:])}
	if name == "" || strings.ContainsAny(name, " \t\n") || fmt.Sprintf("%08x", c.KeyHash()) != id {
		return Cosigner{}, fmt.Errorf("witness key %.200q: its key ID is not that of its name and key", vkey)
	}
	return c, nil
}

// VKey returns what ParseCosigner reads.
func (c Cosigner) VKey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{algCosignature}, c.public...)))
}

// Name implements note.Verifier.
func (c Cosigner) Name() string { return c.name }

// KeyHash implements note.Verifier: "SHA-256(<name> || "\n" || 0x04 || 32-byte Ed25519 cosigner public key)[:4]".
func (c Cosigner) KeyHash() uint32 {
	h := sha256.Sum256(append(append([]byte(c.name), '\n', algCosignature), c.public...))
	return binary.BigEndian.Uint32(h[:])
}

// timestamp is how many octets of a cosignature say when.
const timestamp = 8

// Verify implements note.Verifier.
func (c Cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != timestamp+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	return at != 0 && at < 1<<63 && ed25519.Verify(c.public, cosigned(at, msg), sig[timestamp:])
}

func cosigned(at uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), text...)
}

// cosign returns key's cosignature of a checkpoint's text, as one signature line.
func (c Cosigner) cosign(ctx context.Context, key kms.Key, text string, now time.Time) (string, error) {
	at := uint64(now.Unix()) //nolint:gosec // after 1970
	sig, err := kms.SignMessage(ctx, key, cosigned(at, []byte(text)))
	if err != nil {
		return "", fmt.Errorf("cosigning with %s: %w", key.Name(), err)
	}
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, c.KeyHash()), at)
	b = append(b, sig...)
	if !c.Verify([]byte(text), b[4:]) {
		return "", fmt.Errorf("cosigning with %s: %w", key.Name(), kms.ErrBadSignature)
	}
	return "— " + c.name + " " + base64.StdEncoding.EncodeToString(b) + "\n", nil
}

// cosignatures returns the signature lines of lines that c made for a signed checkpoint.
func (c Cosigner) cosignatures(signed, lines string) (string, error) {
	text, _, ok := strings.Cut(signed, "\n\n")
	if !ok {
		return "", errors.New("the checkpoint has no signature")
	}
	n, err := note.Open([]byte(text+"\n\n"+lines), note.VerifierList(c))
	if err != nil {
		return "", fmt.Errorf("verifying a cosignature of %s: %w", c.name, err)
	}
	var out strings.Builder
	for _, s := range n.Sigs {
		fmt.Fprintf(&out, "— %s %s\n", s.Name, s.Base64)
	}
	return out.String(), nil
}
