package ocsp

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A refusal is an answer without a signature: OCSPResponse with a responseStatus alone (RFC 6960 §4.2.1).
type refusal byte

// The refusals.
const (
	malformedRequest refusal = 1
	internalError    refusal = 2
	tryLater         refusal = 3
	unauthorized     refusal = 6 // not about a certificate of ours (RFC 5019 §2.2.3)
)

func (r refusal) der() []byte { return []byte{0x30, 3, 0x0a, 1, byte(r)} }

// A single is the answer about one certificate.
type single struct {
	id     []byte // CertID, as it was asked
	status Status
}

var (
	idBasic     = []byte{6, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 1}                   // id-pkix-ocsp-basic
	ecdsaSHA256 = []byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2} // RFC 5758 §3.2
)

// sign writes and signs an answer.
//
//	OCSPResponse      ::= SEQUENCE { responseStatus ENUMERATED, responseBytes [0] EXPLICIT SEQUENCE { OID, OCTET STRING } }
//	BasicOCSPResponse ::= SEQUENCE { tbsResponseData ResponseData, signatureAlgorithm, signature BIT STRING, certs [0] EXPLICIT SEQUENCE OF }
func (d *delegate) sign(now time.Time, answers []single, nonce []byte) ([]byte, error) {
	data, err := d.data(now, answers, nonce)
	if err != nil {
		return nil, fmt.Errorf("encoding an answer: %w", err)
	}
	digest := sha256.Sum256(data)
	signature, err := ecdsa.SignASN1(rand.Reader, d.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing an answer: %w", err)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(data)+len(d.certs)+256))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0) // successful
		b.AddASN1(tagZero, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(idBasic)
				b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes(data)
						b.AddBytes(ecdsaSHA256)
						b.AddASN1BitString(signature)
						b.AddBytes(d.certs)
					})
				})
			})
		})
	})
	return b.Bytes()
}

// data returns
//
//	ResponseData ::= SEQUENCE { version [0] EXPLICIT DEFAULT v1, responderID ResponderID, producedAt GeneralizedTime,
//	    responses SEQUENCE OF SingleResponse, responseExtensions [1] EXPLICIT Extensions OPTIONAL }
func (d *delegate) data(now time.Time, answers []single, nonce []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 512))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(d.id)
		addTime(b, now)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, a := range answers {
				d.addSingle(b, now, a)
			}
		})
		if nonce == nil {
			return
		}
		// RFC 9654 §2.1: the answer carries the question's nonce.
		b.AddASN1(tagOne, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(idNonce)) })
					b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(nonce) })
				})
			})
		})
	})
	return b.Bytes()
}

// addSingle adds
//
//	SingleResponse ::= SEQUENCE { certID CertID, certStatus CertStatus, thisUpdate GeneralizedTime, nextUpdate [0] EXPLICIT GeneralizedTime }
//	CertStatus     ::= CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo, unknown [2] IMPLICIT NULL }
func (d *delegate) addSingle(b *cryptobyte.Builder, now time.Time, a single) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(a.id)
		// RFC 6960 §4.2.2.1: thisUpdate is "the most recent time at which the status being indicated is known … to have been
		// correct": no earlier than the revocation it tells of.
		this := now.Add(-backdate)
		switch a.status.State {
		case Good:
			b.AddBytes([]byte{0x80, 0})
		case Revoked:
			addRevoked(b, a.status)
			if a.status.At.After(this) {
				this = a.status.At
			}
		default:
			b.AddBytes([]byte{0x82, 0})
		}
		addTime(b, this)
		b.AddASN1(tagZero, func(b *cryptobyte.Builder) { addTime(b, d.nextUpdate(now)) })
	})
}

// addRevoked adds RevokedInfo ::= SEQUENCE { revocationTime GeneralizedTime, revocationReason [0] EXPLICIT CRLReason OPTIONAL }.
func addRevoked(b *cryptobyte.Builder, s Status) {
	b.AddASN1(tagOne, func(b *cryptobyte.Builder) {
		addTime(b, s.At)
		if s.Reason != cert.Unspecified { // RFC 5280 §5.3.1: left out rather than said
			b.AddASN1(tagZero, func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(s.Reason)) })
		}
	})
}

// addTime: RFC 6960 §4.2.2.1 wants GeneralizedTime, in the form of RFC 5280 §4.1.2.5.2: seconds and Z.
func addTime(b *cryptobyte.Builder, t time.Time) {
	var buf [len("20060102150405Z")]byte
	b.AddASN1(asn1.GeneralizedTime, func(b *cryptobyte.Builder) { b.AddBytes(t.UTC().AppendFormat(buf[:0], "20060102150405Z")) })
}
