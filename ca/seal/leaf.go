package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/internal/audit"
)

// Lost is what a fact says of a serial that an operator supplied when accepting a gap: nothing else is known of it.
const Lost = "certificate.lost"

// Issues lists the facts that say a certificate was issued. Each serial has one.
func Issues() []string { return []string{audit.Issue, audit.Renew} }

// Certifies reports whether a fact of that kind, allowed, carries the certificate, or what would have become one.
func Certifies(what string) bool {
	return what == audit.Issue || what == audit.Renew || what == audit.Abandon || what == Lost
}

// Ends reports whether a fact of that kind, allowed, carries a revocation.
func Ends(what string) bool { return what == audit.Revoke || what == audit.Abandon || what == Lost }

// leafVersion is the first thing a leaf says of itself. What a version means never changes.
const leafVersion = "segl-fact/v1"

// Leaf returns the bytes that stand for r in the tree: a JSON object in the form of RFC 8785 (members sorted, no space, each
// string spelt one way), without members for what is NULL.
func Leaf(r Row) []byte {
	b := make([]byte, 0, 1024) //nolint:mnd // as much as most take
	b = append(b, '{')
	b = text(b, "act", r.Act)
	b = str(b, "actor", r.Actor)
	b = append(b, `"allowed":`...)
	b = append(strconv.AppendBool(b, r.Allowed), ',')
	b = instant(b, "at", r.At)
	if r.Certificate != nil {
		b = certificate(b, *r.Certificate)
	}
	b = str(b, "position", r.Position.String())
	b = text(b, "request", r.Request)
	if v := r.Revocation; v != nil {
		b = append(b, `"revocation":{`...)
		b = instant(b, "at", v.At)
		b = str(b, "authority", v.Authority)
		b = append(strconv.AppendInt(append(b, `"reason":`...), int64(v.Reason), 10), ',')
		b = str(b, "scope", v.Scope)
		b = closed(b)
	}
	b = text(b, "scope", r.Scope)
	if !r.Serial.IsZero() {
		b = str(b, "serial", r.Serial.String())
	}
	b = text(b, "subject", r.Subject)
	b = str(b, "type", leafVersion)
	b = str(b, "what", r.What)
	b = text(b, "why", r.Why)
	b = closed(b)
	return b[:len(b)-1]
}

// LeafHash returns the hash of r's leaf (RFC 6962 §2.1).
func LeafHash(r Row) tlog.Hash { return tlog.RecordHash(Leaf(r)) }

// certificate says what was intended and, where it was signed, the SHA-256 of the certificate, its fingerprint; else that of
// the bytes that were to be signed. Signed
// bytes that are no certificate have an empty one; sealing goes on nevertheless.
func certificate(b []byte, c Certificate) []byte {
	b = append(b, `"certificate":{`...)
	b = str(b, "authority", c.Authority)
	if c.At != nil {
		b = instant(b, "ended_at", *c.At)
	}
	b = instant(b, "not_after", c.NotAfter)
	if c.Origin != nil {
		b = str(b, "origin", hex.EncodeToString(c.Origin))
	}
	b = str(b, "profile", c.Profile)
	b = str(b, "scope", c.Scope)
	if c.Signature == nil {
		return closed(digest(b, "tbs_sha256", c.TBS))
	}
	der, err := DER(c.TBS, c.Signature)
	if err != nil {
		return closed(str(b, "sha256", ""))
	}
	return closed(digest(b, "sha256", der))
}

// digest writes the SHA-256 of v.
func digest(b []byte, name string, v []byte) []byte {
	sum := sha256.Sum256(v)
	b = append(append(append(b, '"'), name...), '"', ':', '"')
	return append(hex.AppendEncode(b, sum[:]), '"', ',')
}

// DER puts a certificate together from its to-be-signed bytes and its signature. RFC 5280 §4.1.1.2: signatureAlgorithm "MUST
// contain the same algorithm identifier as the signature field in the sequence tbsCertificate", so that is where it is
// taken from.
//
//	TBSCertificate ::= SEQUENCE { version [0] EXPLICIT Version, serialNumber INTEGER, signature AlgorithmIdentifier, … }
func DER(tbs, signature []byte) ([]byte, error) {
	var (
		in        = cryptobyte.String(tbs)
		algorithm cryptobyte.String
	)
	if len(signature) == 0 {
		return nil, errors.New("there is no signature")
	}
	if !in.ReadASN1(&in, asn1.SEQUENCE) || !in.SkipASN1(asn1.Tag(0).ContextSpecific().Constructed()) || !in.SkipASN1(asn1.INTEGER) ||
		!in.ReadASN1Element(&algorithm, asn1.SEQUENCE) {
		return nil, errors.New("the bytes to be signed are no TBSCertificate")
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+64)) //nolint:mnd // more than headers and algorithm take
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// closed ends an object in place of its last comma, and begins the next member.
func closed(b []byte) []byte {
	b[len(b)-1] = '}'
	return append(b, ',')
}

func text(b []byte, name string, v *string) []byte {
	if v == nil {
		return b
	}
	return str(b, name, *v)
}

// instant writes a time as Postgres keeps it: UTC, six digits of a second.
func instant(b []byte, name string, t time.Time) []byte {
	b = append(append(append(b, '"'), name...), '"', ':', '"')
	return append(t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z"), '"', ',')
}

// str writes a member whose value is a string as RFC 8785 §3.2.2.2 has it: escapes where JSON demands them, the short
// ones where there are, everything else as UTF-8.
func str(b []byte, name, v string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	for i := 0; i < len(v); {
		c := v[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			b = append(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(v[i:])
		b = appendRune(b, r)
		i += n
	}
	return append(b, '"', ',')
}

func appendRune(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	if r < ' ' {
		return fmt.Appendf(b, `\u%04x`, r)
	}
	return utf8.AppendRune(b, r)
}
