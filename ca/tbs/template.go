package tbs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

// A Template is a Spec, encoded as far as it can be.
type Template struct {
	spec     Spec
	purposes []x509.OID // Spec.Purposes
	issuer   []byte     // signature AlgorithmIdentifier and issuer Name
	// Extensions, in the order they stand in.
	keyUsage  []byte // for keys that are not RSA
	rsaUsage  []byte // for those that are
	limits    []byte // extended key usage, basic constraints
	authority []byte // authority key identifier, authority information access
	policies  []byte
	noCheck   []byte
	names     []byte // name constraints
	status    []byte // no revocation available, TLS feature
}

// maxCommonName is ub-common-name (RFC 5280 appendix A.1).
const maxCommonName = 64

// Compile checks s and encodes what it fixes.
func Compile(s Spec) (*Template, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("compiling a certificate template: %w", err)
	}
	if s.Usage == OCSPResponder {
		// Nobody checks a responder (id-pkix-ocsp-nocheck), so it names nobody to ask: BR §7.1.2.8.2 forbids the list.
		s.CRLs, s.List, s.OCSP, s.Issuers = "", "", "", ""
	}
	name, key, id := s.issuer()
	algorithm, err := kms.SignatureAlgorithmOf(key)
	if err != nil {
		return nil, fmt.Errorf("compiling a certificate template: the issuer's key: %w", err)
	}
	t := &Template{spec: s, issuer: append(algorithm.Identifier(), name...)}
	for _, p := range s.Purposes {
		t.purposes = append(t.purposes, p.OID())
	}
	var b encoder
	t.keyUsage = b.bytes(func(b *cryptobyte.Builder) { addKeyUsage(b, keyUsage(s.Usage, false)) })
	t.rsaUsage = b.bytes(func(b *cryptobyte.Builder) { addKeyUsage(b, keyUsage(s.Usage, true)) })
	t.limits = b.bytes(func(b *cryptobyte.Builder) { addPurposes(b, s); addBasicConstraints(b, s) })
	t.authority = b.bytes(func(b *cryptobyte.Builder) { addAuthorityKeyID(b, id); addAuthorityInfo(b, s.OCSP, s.Issuers) })
	t.policies = b.bytes(func(b *cryptobyte.Builder) { addPolicies(b, s.Policies) })
	t.noCheck = b.bytes(func(b *cryptobyte.Builder) { addNoCheck(b, s.Usage) })
	t.names = b.bytes(func(b *cryptobyte.Builder) { addNameConstraints(b, s.Permitted) })
	t.status = b.bytes(func(b *cryptobyte.Builder) { addStatus(b, s) })
	if b.err != nil {
		return nil, fmt.Errorf("compiling a certificate template: encoding extensions: %w", b.err)
	}
	return t, nil
}

// An encoder keeps the first error of several encodings.
type encoder struct{ err error }

func (e *encoder) bytes(add cryptobyte.BuilderContinuation) []byte {
	var b cryptobyte.Builder
	add(&b)
	der, err := b.Bytes()
	if e.err == nil {
		e.err = err
	}
	return der
}

// Build returns the TBSCertificate for v in DER.
//
//	TBSCertificate ::= SEQUENCE { version [0] EXPLICIT INTEGER, serialNumber INTEGER, signature AlgorithmIdentifier, issuer Name,
//	    validity Validity, subject Name, subjectPublicKeyInfo SubjectPublicKeyInfo, extensions [3] EXPLICIT Extensions }
func (t *Template) Build(v Values) ([]byte, error) {
	k, err := readKey(v.SPKI)
	if err != nil {
		return nil, err
	}
	if err := t.check(v); err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 1024))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(version3)
		b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(v.Serial.Bytes()) }) // positive and shortest: the first octet is 10
		b.AddBytes(t.issuer)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, v.NotBefore)
			addTime(b, v.NotAfter)
		})
		t.addSubject(b, v.CommonName)
		b.AddBytes(v.SPKI)
		b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { t.addExtensions(b, v, k) })
		})
	})
	return b.Bytes()
}

// version3 is [0] { INTEGER 2 }.
var version3 = []byte{0xa0, 3, 2, 1, 2}

const tagExtensions asn1.Tag = 0xa3

// check refuses values that would make a certificate without a holder, or one RFC 5280 cannot express.
func (t *Template) check(v Values) error {
	authority := t.spec.Usage == Authority
	switch {
	case v.Serial.IsZero():
		return errors.New("building a certificate: no serial")
	case !v.NotAfter.After(v.NotBefore):
		return errors.New("building a certificate: notAfter is not after notBefore (RFC 5280 §4.1.2.5)")
	case v.NotBefore.Year() < 1950 || v.NotAfter.Year() > 9999:
		return errors.New("building a certificate: validity outside the years 1950 to 9999 (RFC 5280 §4.1.2.5)")
	case len(v.CommonName) > maxCommonName:
		return fmt.Errorf("building a certificate: common name of %d octets, at most %d (RFC 5280 appendix A.1)", len(v.CommonName), maxCommonName)
	case !utf8.ValidString(v.CommonName):
		return errors.New("building a certificate: the common name is not UTF-8 (RFC 5280 §4.1.2.4)")
	case authority && (v.CommonName != "" || len(v.Names) > 0):
		return errors.New("building an authority's certificate: its name is fixed and it has no others")
	case !authority && v.CommonName == "" && len(v.Names) == 0:
		return errors.New("building a certificate: it names nobody (RFC 5280 §4.1.2.6)")
	}
	for _, n := range v.Names {
		if n == (cert.Name{}) {
			return errors.New("building a certificate: a name is empty")
		}
	}
	return nil
}

// addTime: RFC 5280 §4.1.2.5: "MUST always encode certificate validity dates through the year 2049 as UTCTime; certificate
// validity dates in 2050 or later MUST be encoded as GeneralizedTime".
func addTime(b *cryptobyte.Builder, t time.Time) {
	var buf [len("20060102150405Z")]byte
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1(asn1.UTCTime, func(b *cryptobyte.Builder) { b.AddBytes(t.AppendFormat(buf[:0], "060102150405Z")) })
		return
	}
	b.AddASN1(asn1.GeneralizedTime, func(b *cryptobyte.Builder) { b.AddBytes(t.AppendFormat(buf[:0], "20060102150405Z")) })
}

// addSubject adds the fixed subject, or a common name, or nothing: an empty SEQUENCE.
//
// RFC 5280 §4.1.2.4: "CAs MUST use either the PrintableString or UTF8String encoding of DirectoryString". UTF8String
// always, so that the same name has one encoding whatever characters it holds.
func (t *Template) addSubject(b *cryptobyte.Builder, commonName string) {
	if t.spec.Subject != nil {
		b.AddBytes(t.spec.Subject)
		return
	}
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if commonName == "" {
			return
		}
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(idCommonName)
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(commonName)) })
			})
		})
	})
}

// crlURL is where the list is that the serial would stand on.
func (t *Template) crlURL(v Values) string {
	if t.spec.List != "" {
		return t.spec.List
	}
	return ListURL(t.spec.CRLs, v.Serial.Epoch(), v.Parts, v.Part())
}
