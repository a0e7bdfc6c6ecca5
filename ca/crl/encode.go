package crl

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

// entries are revokedCertificates, encoded one behind the other as they come, so that a list takes the memory of its bytes.
//
//	SEQUENCE { userCertificate INTEGER, revocationDate Time, crlEntryExtensions Extensions OPTIONAL }
//
// Serials are 18 octets, so an entry is 37 octets, 51 with a reason, and two more from 2050 on: lengths of one octet.
type entries struct {
	der    []byte
	count  int
	last   []byte    // serial
	latest time.Time // ending
	second int64     // Unix time that at encodes
	at     []byte    // revocationDate of the last entry
}

// reason is crlEntryExtensions with a reasonCode, not critical, without its last octet:
//
//	SEQUENCE { SEQUENCE { 2.5.29.21, OCTET STRING { ENUMERATED } } }
const reason = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// add appends e, which must follow what was added before it.
func (s *entries) add(e Entry) error {
	serial := e.Serial.Bytes()
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
	s.last = serial
	if e.At.After(s.latest) {
		s.latest = e.At
	}
	return nil
}

func (s *entries) append(serial []byte, r cert.Reason) {
	size := 2 + len(serial) + len(s.at)
	if r != cert.Unspecified {
		size += len(reason) + 1
	}
	if cap(s.der)-len(s.der) < 2+size {
		s.der = slices.Grow(s.der, max(1<<12, len(s.der))) // doubling: append alone would copy a long list five times
	}
	b := append(s.der, byte(asn1.SEQUENCE), byte(size), byte(asn1.INTEGER), byte(len(serial))) //nolint:gosec // 53 at most
	b = append(append(b, serial...), s.at...)
	// RFC 5280 §5.3.1: "the reason code CRL entry extension SHOULD be absent instead of using the unspecified (0) reasonCode
	// value".
	if r != cert.Unspecified {
		b = append(append(b, reason...), byte(r))
	}
	s.der = b
}

// appendTime: RFC 5280 §5.1.2.4: "MUST encode thisUpdate as UTCTime for dates through the year 2049 [and] as
// GeneralizedTime for dates in the year 2050 or later"; §5.1.2.6 says the same of revocationDate. By hand, because a list
// may have a hundred thousand of them.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if year < 2050 {
		b = append(b, byte(asn1.UTCTime), byte(len("060102150405Z")))
	} else {
		b = appendTwo(append(b, byte(asn1.GeneralizedTime), byte(len("20060102150405Z"))), year/100)
	}
	for _, v := range [...]int{year % 100, int(month), day, hour, minute, second} {
		b = appendTwo(b, v)
	}
	return append(b, 'Z')
}

func appendTwo(b []byte, v int) []byte { return append(b, byte('0'+v/10), byte('0'+v%10)) } //nolint:gosec // 0 to 99

// A head is what a list says beside its entries.
type head struct {
	algorithm  []byte // AlgorithmIdentifier
	issuer     []byte // Name
	keyID      []byte
	url        string // empty for a whole list
	number     int64
	thisUpdate time.Time
	nextUpdate time.Time
}

// encode returns the TBSCertList.
//
//	TBSCertList ::= SEQUENCE { version INTEGER, signature AlgorithmIdentifier, issuer Name, thisUpdate Time, nextUpdate Time,
//	    revokedCertificates SEQUENCE OF SEQUENCE { … } OPTIONAL, crlExtensions [0] EXPLICIT Extensions }
func encode(h head, s entries) ([]byte, error) {
	before := append([]byte{byte(asn1.INTEGER), 1, 1}, h.algorithm...) // v2 (RFC 5280 §5.1.2.1)
	before = append(before, h.issuer...)
	before = appendTime(appendTime(before, h.thisUpdate), h.nextUpdate)
	// RFC 5280 §5.1.2.6: "When there are no revoked certificates, the revoked certificates list MUST be absent."
	if s.count > 0 {
		before = appendHeader(before, len(s.der))
	}
	after, err := extensions(h)
	if err != nil {
		return nil, fmt.Errorf("encoding extensions: %w", err)
	}
	size := len(before) + len(s.der) + len(after)
	der := appendHeader(make([]byte, 0, size+headerMost), size)
	return append(append(append(der, before...), s.der...), after...), nil
}

// appendHeader begins a SEQUENCE of size octets, with the shortest length there is (X.690 §10.1).
func appendHeader(b []byte, size int) []byte {
	b = append(b, byte(asn1.SEQUENCE))
	if size < 0x80 {
		return append(b, byte(size)) //nolint:gosec // see the guard
	}
	octets := 1
	for v := size >> 8; v > 0; v >>= 8 {
		octets++
	}
	b = append(b, 0x80|byte(octets))
	for i := octets - 1; i >= 0; i-- {
		b = append(b, byte(size>>(8*i))) //nolint:gosec // one octet at a time
	}
	return b
}

// headerMost is the longest header there is room for: tag, length of lengths, eight octets.
const headerMost = 10

// Object identifiers in DER (RFC 5280 §5.2).
var (
	idNumber       = []byte{6, 3, 0x55, 0x1d, 20}
	idDistribution = []byte{6, 3, 0x55, 0x1d, 28}
	idAuthorityKey = []byte{6, 3, 0x55, 0x1d, 35}
)

const (
	tagZero asn1.Tag = 0xa0 // [0], constructed: crlExtensions, distributionPoint, fullName
	tagKey  asn1.Tag = 0x80 // [0] keyIdentifier
	tagURI  asn1.Tag = 0x86 // [6] uniformResourceIdentifier
)

// extensions encodes crlExtensions: the issuer's key (§5.2.1), the number (§5.2.3), and what the list is for (§5.2.5).
//
//	IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0] CHOICE { fullName [0] GeneralNames }, … all FALSE }
//
// RFC 5280 §5.2.5: "the issuing distribution point … MUST be critical"; without it a list of one week would read as a list
// of all.
func extensions(h head) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			extension(b, idAuthorityKey, nil, func(b *cryptobyte.Builder) {
				b.AddASN1(tagKey, func(b *cryptobyte.Builder) { b.AddBytes(h.keyID) })
			})
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(idNumber)
				b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1Int64(h.number) })
			})
			if h.url == "" {
				return
			}
			extension(b, idDistribution, []byte{1, 1, 0xff}, func(b *cryptobyte.Builder) {
				b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
					b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
						b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(h.url)) })
					})
				})
			})
		})
	})
	return b.Bytes()
}

// extension adds SEQUENCE { id, critical, OCTET STRING { SEQUENCE { value } } }.
func extension(b *cryptobyte.Builder, id, critical []byte, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(id)
		b.AddBytes(critical)
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, value) })
	})
}
