package ceremony

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/kms"
)

// A Step is a line of a transcript.
type Step struct {
	N        int       `json:"n"`
	Previous string    `json:"previous"` // SHA-256 of the line before, in hex; of the first: of the transcript before, or empty
	At       time.Time `json:"at"`
	Step     string    `json:"step"`
	Text     string    `json:"text,omitempty"`   // for people
	Hashes   []Hash    `json:"hashes,omitempty"` // of what the step read or made
	// Of the last step.
	Certificate []byte `json:"certificate,omitempty"` // the root whose key signs, DER
	Signature   []byte `json:"signature,omitempty"`
}

// A Hash names octets that a ceremony read or made.
type Hash struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

// HashOf returns the hash of octets called name.
func HashOf(name string, octets []byte) Hash {
	return Hash{name, sum(octets)}
}

func sum(octets []byte) string {
	h := sha256.Sum256(octets)
	return hex.EncodeToString(h[:])
}

const (
	beginning = "begin"
	ending    = "end"
	// signedPrefix begins what is signed, so that it is no certificate, list or answer: it begins no DER SEQUENCE.
	signedPrefix = "segl: transcript of a ceremony, version 1\n"
)

// A Transcript says, line by line, what was done. It is written while it is done and signed at the end.
type Transcript struct {
	now   func() time.Time
	text  []byte
	last  string
	steps int
}

// Begin begins a transcript that follows before, the whole of the one before it; nil is the first. Who was there is for people.
func Begin(now func() time.Time, before []byte, about string) *Transcript {
	t := &Transcript{now: now}
	if before != nil {
		t.last = sum(before)
	}
	t.Note(beginning, about)
	return t
}

// Note writes a step down.
func (t *Transcript) Note(step, text string, hashes ...Hash) {
	t.write(Step{Step: step, Text: text, Hashes: hashes})
}

func (t *Transcript) write(s Step) {
	t.steps++
	s.N, s.Previous, s.At = t.steps, t.last, t.now().UTC().Truncate(time.Second)
	line, err := json.Marshal(s)
	if err != nil {
		panic("ceremony: internal error: encoding a step: " + err.Error())
	}
	t.last = sum(line)
	t.text = append(append(t.text, line...), '\n')
}

// End signs everything so far with the root's key and returns the whole.
func (t *Transcript) End(ctx context.Context, key kms.Key, root *x509.Certificate) ([]byte, error) {
	signature, err := kms.SignMessage(ctx, key, append([]byte(signedPrefix), t.text...))
	if err != nil {
		return nil, fmt.Errorf("signing the transcript: %w", err)
	}
	t.write(Step{Step: ending, Certificate: root.Raw, Signature: signature})
	return t.text, nil
}

// maxLine is the longest line that a transcript may have.
const maxLine = 1 << 20

// Verify reads a transcript and returns its steps, if none was changed, taken away, put in or moved, and the key of root has signed it.
// Before is the transcript before it; nil leaves that link unchecked.
func Verify(text, before []byte, root *x509.Certificate) ([]Step, error) {
	var steps []Step
	last, signed := "", 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		s, err := readStep(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(steps)+1, err)
		}
		switch {
		case len(steps) > 0 && steps[len(steps)-1].Step == ending:
			return nil, errors.New("something follows the signature")
		case s.N != len(steps)+1 || (s.N == 1) != (s.Step == beginning):
			return nil, fmt.Errorf("line %d is step %d, %q: a step is missing", len(steps)+1, s.N, s.Step)
		case s.N > 1 && s.Previous != last:
			return nil, fmt.Errorf("step %d does not follow the line before it: one was changed", s.N)
		case s.N == 1 && before != nil && s.Previous != sum(before):
			return nil, errors.New("it does not follow the transcript before it")
		}
		steps, last = append(steps, s), sum(lines.Bytes())
		if s.Step != ending {
			signed += len(lines.Bytes()) + 1
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	if len(steps) == 0 || steps[len(steps)-1].Step != ending {
		return nil, errors.New("it is not signed: its end is missing")
	}
	end := steps[len(steps)-1]
	if !bytes.Equal(end.Certificate, root.Raw) {
		return nil, errors.New("it is of another root")
	}
	if err := kms.Verify(root.PublicKey, append([]byte(signedPrefix), text[:min(signed, len(text))]...), end.Signature); err != nil {
		return nil, fmt.Errorf("its signature: %w", err)
	}
	return steps, nil
}

// readStep reads a line that has one spelling.
func readStep(line []byte) (s Step, err error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, err
	}
	if again, err := json.Marshal(s); err != nil || !bytes.Equal(again, line) {
		return s, errors.New("not as it is written down here")
	}
	return s, nil
}

// Names reports whether a step made or read octets of that name, and whether they were these.
func Names(steps []Step, name string, octets []byte) (named, same bool) {
	for _, s := range steps {
		for _, h := range s.Hashes {
			if h.Name == name {
				named, same = true, h.SHA256 == sum(octets)
			}
		}
	}
	return named, same
}

// Fingerprint is how people compare a certificate: SHA-256, in hex.
func Fingerprint(der []byte) string { return sum(der) }
