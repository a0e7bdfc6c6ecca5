package crl

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A body is revokedCertificates, one entry behind the other, in a buffer that has room for all that a list has before and
// after them: a list is finished, signed and handed over where its entries lie, and its memory is that of its octets.
//
//	| room, filled from its end: headers, issuer, times | entries | extensions, algorithm, signature |
//
// An entry is SEQUENCE { userCertificate INTEGER, revocationDate Time, crlEntryExtensions Extensions OPTIONAL }. Serials are 18
// octets, so an entry is 37 octets, 51 with a reason, and two more from 2050 on: lengths of one octet.
type body struct {
	buf    []byte
	start  int // of the entries, room or more
	end    int // of the entries
	count  int
	latest time.Time // of the endings that were added here
	second int64     // Unix time that at encodes
	at     []byte    // revocationDate of the last entry
	last   []byte    // its serial
}

// room is more than headers, algorithm, an issuer's name and two times take.
const room = 4 << 10

// newBody returns an empty one with memory for a list of size octets.
func newBody(size int) *body {
	return &body{buf: make([]byte, room, room+size+room), start: room, end: room}
}

// reason is crlEntryExtensions with a reasonCode, not critical, without its last octet:
//
//	SEQUENCE { SEQUENCE { 2.5.29.21, OCTET STRING { ENUMERATED } } }
const reason = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

const serialSize = 18

// entrySize is that of an entry with a reason, until 2049.
const entrySize = 51

// entryHead is SEQUENCE, its length, INTEGER, its length: the serial stands behind it.
const entryHead = 4

// add appends e, which must follow what was added before it.
func (s *body) add(e Entry) error {
	var octets [serialSize]byte
	serial := e.Serial.Append(octets[:0])
	if e.Serial.IsZero() || bytes.Compare(serial, s.last) <= 0 {
		return fmt.Errorf("entry %s: serials must ascend, each once", e.Serial)
	}
	if second := e.At.Unix(); s.at == nil || second != s.second { // many end in the same second
		year := e.At.UTC().Year()
		if year < 1950 || year > 9999 {
			return fmt.Errorf("entry %s: ended outside the years 1950 to 9999", e.Serial)
		}
		s.second, s.at = second, appendTime(s.at[:0], e.At)
	}
	s.append(serial, e.Reason)
	s.count++
	s.last = append(s.last[:0], serial...)
	if e.At.After(s.latest) {
		s.latest = e.At
	}
	return nil
}

func (s *body) append(serial []byte, r cert.Reason) {
	size := 2 + len(serial) + len(s.at)
	if r != cert.Unspecified {
		size += len(reason) + 1
	}
	b := s.buf[:s.end]
	if need := s.end + 2 + size; need > cap(b) {
		b = slices.Grow(b, max(room, len(b))) // append alone would grow by a quarter, and copy a long list more often
	}
	b = append(b, byte(asn1.SEQUENCE), byte(size), byte(asn1.INTEGER), byte(len(serial))) //nolint:gosec // 53 at most
	b = append(append(b, serial...), s.at...)
	// RFC 5280 §5.3.1: "the reason code CRL entry extension SHOULD be absent instead of using the unspecified (0) reasonCode
	// value".
	if r != cert.Unspecified {
		b = append(append(b, reason...), byte(r))
	}
	s.buf, s.end = b, len(b)
}

// entries are the octets.
func (s *body) entries() []byte { return s.buf[s.start:s.end] }

// splice puts added, in ascending order, among the entries where they belong, and returns how many were not there yet. What is
// there already stays as it is: a certificate ends once.
func (s *body) splice(added []Entry) (int, error) {
	var fresh body
	var gaps []gap // where each goes
	at := s.start
	for _, e := range added {
		var octets [serialSize]byte
		serial := e.Serial.Append(octets[:0])
		if bytes.Equal(serial, fresh.last) {
			continue
		}
		for at < s.end && bytes.Compare(s.serialAt(at), serial) < 0 {
			at += 2 + int(s.buf[at+1])
		}
		if at < s.end && bytes.Equal(s.serialAt(at), serial) {
			continue
		}
		from := fresh.end
		if err := fresh.add(e); err != nil {
			return 0, err
		}
		gaps = append(gaps, gap{at, fresh.end - from})
	}
	s.fill(gaps, fresh.buf[:fresh.end])
	s.count += fresh.count
	if fresh.latest.After(s.latest) {
		s.latest = fresh.latest
	}
	s.last, s.at = nil, nil // what was added last is no longer what stands last
	return fresh.count, nil
}

func (s *body) serialAt(at int) []byte { return s.buf[at+entryHead : at+entryHead+serialSize] }

// A gap is where octets are to be put in.
type gap struct{ at, size int }

// fill moves what stands behind each gap, the last first, so that each octet moves once.
func (s *body) fill(gaps []gap, octets []byte) {
	end := s.end + len(octets)
	if end > cap(s.buf) {
		s.buf = slices.Grow(s.buf[:s.end], len(octets)+room+s.end/8) // for the next ones too
	}
	s.buf = s.buf[:end]
	to, from := end, s.end
	for _, g := range slices.Backward(gaps) {
		moved := from - g.at
		copy(s.buf[to-moved:to], s.buf[g.at:from])
		to, from = to-moved, g.at
		copy(s.buf[to-g.size:to], octets[len(octets)-g.size:])
		to, octets = to-g.size, octets[:len(octets)-g.size]
	}
	s.end = end
}

var errMalformed = errors.New("it is not one of our lists")

// A reopened list is one that was published: its body, what was signed of it, and its parts.
type reopened struct {
	*body
	signed, signature []byte
	times             cryptobyte.String // thisUpdate and nextUpdate
	extensions        cryptobyte.String
}

// reopen takes a published list apart, whose octets stand in buf from room on. It does not look at the signature.
func reopen(buf []byte) (r reopened, err error) {
	input := cryptobyte.String(buf[room:])
	var outer, inner, revoked, exts cryptobyte.String
	if !input.ReadASN1(&outer, asn1.SEQUENCE) || !input.Empty() || !outer.ReadASN1Element((*cryptobyte.String)(&r.signed), asn1.SEQUENCE) {
		return r, errMalformed
	}
	end := len(buf) - len(outer) // of what is signed
	whole := cryptobyte.String(r.signed)
	if !outer.SkipASN1(asn1.SEQUENCE) || !outer.ReadASN1BitStringAsBytes(&r.signature) || !outer.Empty() || !whole.ReadASN1(&inner, asn1.SEQUENCE) ||
		!inner.SkipASN1(asn1.INTEGER) || !inner.SkipASN1(asn1.SEQUENCE) || !inner.SkipASN1(asn1.SEQUENCE) {
		return r, errMalformed
	}
	r.times = inner
	if !skipTime(&inner) || !skipTime(&inner) || !inner.ReadOptionalASN1(&revoked, nil, asn1.SEQUENCE) { //nolint:staticcheck // two times, one after the other
		return r, errMalformed
	}
	b := &body{buf: buf, end: end - len(inner)}
	b.start = b.end - len(revoked)
	if !inner.ReadASN1(&exts, tagZero) || !inner.Empty() || !exts.ReadASN1(&r.extensions, asn1.SEQUENCE) {
		return r, errMalformed
	}
	for at := b.start; at < b.end; at += 2 + int(buf[at+1]) {
		if b.end-at < entryHead+serialSize || buf[at] != byte(asn1.SEQUENCE) || buf[at+1] > 0x7f || at+2+int(buf[at+1]) > b.end || buf[at+3] != serialSize {
			return r, errMalformed
		}
		b.count++
	}
	r.body = b
	return r, nil
}

func skipTime(s *cryptobyte.String) bool {
	return s.SkipOptionalASN1(asn1.UTCTime) && s.SkipOptionalASN1(asn1.GeneralizedTime)
}
