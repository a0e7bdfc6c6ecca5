package crl

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

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
	freshest   string // URL of its delta; empty for a delta
	base       int64  // of a delta; zero for a complete list
	number     int64
	thisUpdate time.Time
	nextUpdate time.Time
}

// enclose writes around the entries what makes them a TBSCertList, and returns that. It lies in the body's own memory, until
// the body changes.
//
//	TBSCertList ::= SEQUENCE { version INTEGER, signature AlgorithmIdentifier, issuer Name, thisUpdate Time, nextUpdate Time,
//	    revokedCertificates SEQUENCE OF SEQUENCE { … } OPTIONAL, crlExtensions [0] EXPLICIT Extensions }
func (s *body) enclose(h head) ([]byte, error) {
	before := append([]byte{byte(asn1.INTEGER), 1, 1}, h.algorithm...) // v2 (RFC 5280 §5.1.2.1)
	before = append(before, h.issuer...)
	before = appendTime(appendTime(before, h.thisUpdate), h.nextUpdate)
	// RFC 5280 §5.1.2.6: "When there are no revoked certificates, the revoked certificates list MUST be absent."
	if s.end > s.start {
		before = appendHeader(before, s.end-s.start)
	}
	after, err := extensions(h)
	if err != nil {
		return nil, fmt.Errorf("encoding extensions: %w", err)
	}
	size := len(before) + (s.end - s.start) + len(after)
	before = append(appendHeader(make([]byte, 0, headerMost+len(before)), size), before...)
	if len(before)+headerMost > s.start {
		return nil, fmt.Errorf("an issuer's name of %d octets is too long", len(h.issuer))
	}
	s.buf = append(s.buf[:s.end], after...)
	copy(s.buf[s.start-len(before):], before)
	return s.buf[s.start-len(before) : s.end+len(after)], nil
}

// assemble puts algorithm and signature behind what enclose returned, and the outermost header before it.
//
//	CertificateList ::= SEQUENCE { tbsCertList TBSCertList, signatureAlgorithm AlgorithmIdentifier, signatureValue BIT STRING }
func (s *body) assemble(signed, algorithm, signature []byte) []byte {
	begin := len(s.buf) - len(signed) // nothing stands behind it yet
	s.buf = append(s.buf, algorithm...)
	s.buf = append(s.buf, byte(asn1.BIT_STRING))
	s.buf = appendLength(s.buf, 1+len(signature))
	s.buf = append(append(s.buf, 0), signature...)
	header := appendHeader(make([]byte, 0, headerMost), len(s.buf)-begin)
	copy(s.buf[begin-len(header):], header)
	return s.buf[begin-len(header):]
}

// appendHeader begins a SEQUENCE of size octets.
func appendHeader(b []byte, size int) []byte {
	return appendLength(append(b, byte(asn1.SEQUENCE)), size)
}

// appendLength writes size in the shortest way there is (X.690 §10.1).
func appendLength(b []byte, size int) []byte {
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
	idDelta        = []byte{6, 3, 0x55, 0x1d, 27}
	idDistribution = []byte{6, 3, 0x55, 0x1d, 28}
	idAuthorityKey = []byte{6, 3, 0x55, 0x1d, 35}
	idFreshest     = []byte{6, 3, 0x55, 0x1d, 46}
)

const (
	tagZero asn1.Tag = 0xa0 // [0], constructed: crlExtensions, distributionPoint, fullName
	tagKey  asn1.Tag = 0x80 // [0] keyIdentifier
	tagURI  asn1.Tag = 0x86 // [6] uniformResourceIdentifier
)

// extensions encodes crlExtensions: the issuer's key (§5.2.1), the number (§5.2.3), that it is a delta (§5.2.4), what the list
// is for (§5.2.5), and where its delta is (§5.2.6).
//
//	IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0] CHOICE { fullName [0] GeneralNames }, … all FALSE }
//	FreshestCRL ::= SEQUENCE OF SEQUENCE { distributionPoint [0] CHOICE { fullName [0] GeneralNames } }
//
// RFC 5280 §5.2.5: "the issuing distribution point … MUST be critical"; without it a list of one week would read as a list
// of all. §5.2.4: "The delta CRL indicator is a critical CRL extension".
func extensions(h head) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			extension(b, idAuthorityKey, nil, sequence(func(b *cryptobyte.Builder) {
				b.AddASN1(tagKey, func(b *cryptobyte.Builder) { b.AddBytes(h.keyID) })
			}))
			extension(b, idNumber, nil, func(b *cryptobyte.Builder) { b.AddASN1Int64(h.number) })
			if h.base != 0 {
				extension(b, idDelta, critical, func(b *cryptobyte.Builder) { b.AddASN1Int64(h.base) })
			}
			if h.url != "" {
				extension(b, idDistribution, critical, sequence(fullName(h.url)))
			}
			if h.freshest != "" {
				extension(b, idFreshest, nil, sequence(sequence(fullName(h.freshest))))
			}
		})
	})
	return b.Bytes()
}

var critical = []byte{1, 1, 0xff}

func sequence(value cryptobyte.BuilderContinuation) cryptobyte.BuilderContinuation {
	return func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, value) }
}

// fullName is distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] } }.
func fullName(url string) cryptobyte.BuilderContinuation {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
			b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
				b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
			})
		})
	}
}

// extension adds SEQUENCE { id, critical, OCTET STRING { value } }.
func extension(b *cryptobyte.Builder, id, critical []byte, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(id)
		b.AddBytes(critical)
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}
