package lint

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxCommonName is ub-common-name.
const maxCommonName = 64

func checkSubject(c *certificate, e *Expect) string {
	switch {
	case e.Usage == Authority && emptyName(c.subject):
		return `empty: "If the subject is a CA ... then the subject field MUST be populated with a non-empty distinguished name"`
	case e.Usage == Authority && !bytes.Equal(c.subject, e.Subject):
		return "not the name of the authority"
	case e.Usage != Authority && e.CommonName == "" && !emptyName(c.subject):
		return "not empty, yet no common name was asked"
	}
	return ""
}

// checkCommonName reads the one form of a leaf's subject: a common name in UTF8String.
//
//	Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value ANY }
func checkCommonName(c *certificate, e *Expect) string {
	if e.Usage == Authority || e.CommonName == "" {
		return ""
	}
	subject := cryptobyte.String(c.subject)
	var names, set, pair, id, value cryptobyte.String
	ok := subject.ReadASN1(&names, asn1.SEQUENCE) && names.ReadASN1(&set, asn1.SET) && names.Empty() &&
		set.ReadASN1(&pair, asn1.SEQUENCE) && set.Empty() &&
		pair.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) && pair.ReadASN1(&value, asn1.UTF8String) && pair.Empty()
	switch {
	case !ok || string(id) != "\x55\x04\x03":
		return "the subject is not one common name in UTF8String"
	case !utf8.Valid(value):
		return "not UTF-8"
	case len(value) > maxCommonName:
		return fmt.Sprintf("%d octets, at most %d", len(value), maxCommonName)
	case string(value) != e.CommonName:
		return "not the common name asked"
	}
	return ""
}

// Keys that may be certified, by the contents of their AlgorithmIdentifier.
const (
	keyP256    = "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" // RFC 5480 §2.1.1, named curve only
	keyP384    = "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22"
	keyEd25519 = "\x06\x03\x2b\x65\x70"                                 // RFC 8410 §3: no parameters
	keyRSA     = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00" // RFC 3279 §2.3.1: parameters NULL
)

// key takes the public key apart into its algorithm and the contents of its BIT STRING.
//
//	SubjectPublicKeyInfo ::= SEQUENCE { algorithm AlgorithmIdentifier, subjectPublicKey BIT STRING }
func (c *certificate) key() (algorithm string, point []byte, ok bool) {
	spki := cryptobyte.String(c.spki)
	var body, id cryptobyte.String
	ok = spki.ReadASN1(&body, asn1.SEQUENCE) && body.ReadASN1(&id, asn1.SEQUENCE) &&
		body.ReadASN1BitStringAsBytes(&point) && body.Empty()
	return string(id), point, ok
}

// isRSA reports whether the key is RSA; checkKey has seen that it is well formed.
func (c *certificate) isRSA() bool {
	algorithm, _, _ := c.key()
	return algorithm == keyRSA
}

// checkKey looks at kind and size alone: what is wrong inside a key (cert.CheckKey) was looked for when it came in, at
// fifty times the cost.
func checkKey(c *certificate, e *Expect) string {
	algorithm, point, ok := c.key()
	switch {
	case !ok:
		return "malformed subjectPublicKeyInfo"
	case len(e.SPKI) == 0 || !bytes.Equal(c.spki, e.SPKI):
		return "not the key asked"
	}
	switch algorithm {
	case keyP256:
		return uncompressed(point, 65)
	case keyP384:
		return uncompressed(point, 97)
	case keyEd25519:
		if len(point) == 32 {
			return ""
		}
		return "Ed25519 key is not 32 octets"
	case keyRSA:
		return checkRSA(point)
	}
	return "neither P-256, P-384, Ed25519 nor RSA"
}

func uncompressed(point []byte, size int) string {
	if len(point) != size || point[0] != 4 {
		return "point is not in uncompressed form (RFC 5480 §2.2)"
	}
	return ""
}

// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
func checkRSA(key []byte) string {
	s := cryptobyte.String(key)
	var body, modulus, exponent cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !s.Empty() || !body.ReadASN1(&modulus, asn1.INTEGER) ||
		!body.ReadASN1(&exponent, asn1.INTEGER) || !body.Empty() || len(modulus) < 2 || modulus[0] != 0 || len(exponent) == 0 {
		return "malformed RSAPublicKey"
	}
	// A size that is a multiple of 8 has its highest bit set, and so one octet of zero before it.
	if bits := 8 * (len(modulus) - 1); modulus[1] < 0x80 || bits < 2048 || bits > 4096 {
		return "RSA modulus is not of 2048 to 4096 bits, a multiple of 8"
	}
	if len(exponent) < 3 || exponent[len(exponent)-1]&1 == 0 {
		return "RSA exponent is even or below 65537"
	}
	return ""
}

// checkSubjectKeyID: authorities have one, made as RFC 7093 §2 (1) says; leaves have none (docs/x509-profiles.md).
func checkSubjectKeyID(c *certificate, e *Expect) string {
	x := c.known[extSubjectKeyID]
	if e.Usage != Authority {
		if x != nil {
			return "present on a leaf, where nothing looks for it"
		}
		return ""
	}
	_, point, _ := c.key()
	sum := sha256.Sum256(point)
	if x == nil || string(x.value) != "\x04\x14"+string(sum[:20]) {
		return "not the first 160 bits of the SHA-256 of the authority's key"
	}
	return ""
}
