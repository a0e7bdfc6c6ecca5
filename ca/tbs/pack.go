package tbs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Frame keeps to-be-signed bytes short. Those of one authority and profile differ in serial, validity, key and names, a
// quarter of what they are; a Frame is one of them, and Pack writes down only what another has different. Unpack gives
// back every octet. A Frame does not change and is safe for concurrent use.
//
// The packed form is runs, up to the end: the length of a literal and its octets, then where a copy begins and its length,
// lengths and places as unsigned varints. What is copied from is the frame, followed by the certificate's serial: whoever
// asks has that.
type Frame struct {
	body []byte
	at   map[uint64]int // where each eight octets of body are first found
}

// window is the shortest copy: a shorter one would save nothing.
const window = 8

// NewFrame returns the frame that tbs is.
func NewFrame(tbs []byte) *Frame {
	f := &Frame{body: bytes.Clone(tbs), at: make(map[uint64]int, len(tbs))}
	for i := len(tbs) - window; i >= 0; i-- {
		f.at[binary.LittleEndian.Uint64(tbs[i:])] = i
	}
	return f
}

// Pack appends tbs, of the certificate with that serial, to dst in packed form, and returns how many octets the frame spared.
func (f *Frame) Pack(dst, tbs, serial []byte) (out []byte, spared int) {
	literal, next := 0, 0 // where the literal began, and where in the frame the same place would be
	for i := 0; i < len(tbs); {
		from, n := f.match(tbs[i:], serial, next)
		if n == 0 {
			i++
			next++
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(i-literal)) //nolint:gosec // not negative
		dst = append(dst, tbs[literal:i]...)
		dst = binary.AppendUvarint(dst, uint64(from)) //nolint:gosec // not negative
		dst = binary.AppendUvarint(dst, uint64(n))    //nolint:gosec // not negative
		i += n
		literal, spared = i, spared+n
		if next = from + n; from >= len(f.body) {
			next = bytes.Index(tbs, serial) + len(serial)
		}
	}
	if literal < len(tbs) {
		dst = binary.AppendUvarint(dst, uint64(len(tbs)-literal)) //nolint:gosec // not negative
		dst = append(dst, tbs[literal:]...)
	}
	return dst, spared
}

// match finds what rest begins with: in the frame at next or anywhere, or as the serial.
func (f *Frame) match(rest, serial []byte, next int) (from, n int) {
	if len(rest) < window {
		return 0, 0
	}
	if len(serial) >= window && bytes.HasPrefix(rest, serial) {
		return len(f.body), len(serial)
	}
	if next <= len(f.body)-window && bytes.Equal(rest[:window], f.body[next:next+window]) {
		return next, shared(rest, f.body[next:])
	}
	if at, ok := f.at[binary.LittleEndian.Uint64(rest)]; ok {
		return at, shared(rest, f.body[at:])
	}
	return 0, 0
}

// shared returns how many octets a and b begin with in common.
func shared(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

var errPacked = errors.New("unpacking to-be-signed bytes: the stored form is damaged")

// maxUnpacked bounds what damaged bytes can ask for.
const maxUnpacked = 1 << 20

// Unpack returns what was packed for the certificate with that serial.
func (f *Frame) Unpack(stored, serial []byte) ([]byte, error) {
	out := make([]byte, 0, len(f.body)+len(stored))
	for len(stored) > 0 {
		n, used := binary.Uvarint(stored)
		if used <= 0 || n > uint64(len(stored)-used) { //nolint:gosec // not negative
			return nil, errPacked
		}
		stored = stored[used:]
		out = append(out, stored[:n]...)
		if stored = stored[n:]; len(stored) == 0 {
			break
		}
		from, used := binary.Uvarint(stored)
		if used <= 0 {
			return nil, errPacked
		}
		stored = stored[used:]
		n, used = binary.Uvarint(stored)
		source := f.body
		if from >= uint64(len(f.body)) {
			source, from = serial, from-uint64(len(f.body))
		}
		if used <= 0 || n == 0 || from > uint64(len(source)) || n > uint64(len(source))-from || len(out)+int(n) > maxUnpacked { //nolint:gosec // n is within source
			return nil, errPacked
		}
		out = append(out, source[from:from+n]...)
		stored = stored[used:]
	}
	return out, nil
}

// Stored bytes begin with packed, the number of a frame and what Pack wrote. DER begins with 30.
const packed = 0x00

// Frames are the numbered frames of a ledger. They read what is stored of to-be-signed bytes, and are safe for concurrent use.
type Frames struct {
	read func(ctx context.Context, id int64) (body []byte, err error)
	mu   sync.RWMutex // guards known; never held while reading
	// known are those read so far: an authority and profile has few, and they never change.
	known map[int64]*Frame
}

// NewFrames returns frames of which read gives the bytes by their number.
func NewFrames(read func(ctx context.Context, id int64) (body []byte, err error)) *Frames {
	return &Frames{read: read, known: map[int64]*Frame{}}
}

// Get returns the frame with that number.
func (f *Frames) Get(ctx context.Context, id int64) (*Frame, error) {
	f.mu.RLock()
	frame := f.known[id]
	f.mu.RUnlock()
	if frame != nil {
		return frame, nil
	}
	body, err := f.read(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading frame %d: %w", id, err)
	}
	frame = NewFrame(body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[id] = frame
	return frame, nil
}

// Pack returns what to store of tbs against the frame with that number, and how many octets that spares.
func (f *Frames) Pack(ctx context.Context, id int64, tbs []byte, s cert.Serial) (stored []byte, spared int, err error) {
	frame, err := f.Get(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	stored = binary.AppendUvarint(append(make([]byte, 0, len(tbs)), packed), uint64(id)) //nolint:gosec // an identity
	stored, spared = frame.Pack(stored, tbs, s.Bytes())
	return stored, spared, nil
}

// Unpack returns the to-be-signed bytes of which stored is kept, as they were signed: whatever is stored but begins otherwise
// is all of them.
func (f *Frames) Unpack(ctx context.Context, stored []byte, s cert.Serial) ([]byte, error) {
	if len(stored) == 0 || stored[0] != packed {
		return stored, nil
	}
	id, n := binary.Uvarint(stored[1:])
	if n <= 0 {
		return nil, fmt.Errorf("reading the intent of %s: %w", s, errPacked)
	}
	frame, err := f.Get(ctx, int64(id)) //nolint:gosec // not found if it is none
	if err != nil {
		return nil, fmt.Errorf("reading the intent of %s: %w", s, err)
	}
	out, err := frame.Unpack(stored[1+n:], s.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading the intent of %s: %w", s, err)
	}
	return out, nil
}
