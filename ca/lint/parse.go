package lint

import (
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A certificate is a TBSCertificate taken apart, nothing interpreted yet. Elements keep tag and length.
//
//	TBSCertificate ::= SEQUENCE {
//	     version         [0]  EXPLICIT Version DEFAULT v1,
//	     serialNumber         CertificateSerialNumber,
//	     signature            AlgorithmIdentifier,
//	     issuer               Name,
//	     validity             Validity,
//	     subject              Name,
//	     subjectPublicKeyInfo SubjectPublicKeyInfo,
//	     issuerUniqueID  [1]  IMPLICIT UniqueIdentifier OPTIONAL,
//	     subjectUniqueID [2]  IMPLICIT UniqueIdentifier OPTIONAL,
//	     extensions      [3]  EXPLICIT Extensions OPTIONAL }
type certificate struct {
	version             uint8
	serial              []byte // contents
	algorithm           []byte // element
	issuer              []byte // element
	notBefore, notAfter instant
	subject             []byte // element
	spki                []byte // element
	unique              bool
	extensions          []extension
	known               [numExtensions]*extension // those in extensions that have a place of their own
}

type instant struct {
	tag  asn1.Tag
	text []byte
}

// Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
type extension struct {
	id       []byte
	critical bool
	value    []byte
}

// The extensions that this service issues.
const (
	extKeyUsage = iota
	extPurposes
	extBasicConstraints
	extSubjectKeyID
	extAuthorityKeyID
	extAuthorityInfo
	extNames
	extPolicies
	extCRLs
	extNoCheck
	extNoRevAvail
	extFeatures
	extNameConstraints
	numExtensions
)

// Contents of the extensions' object identifiers: id-ce is 2.5.29, id-pe 1.3.6.1.5.5.7.1 (RFC 5280 §4.2),
// id-pkix-ocsp-nocheck 1.3.6.1.5.5.7.48.1.5 (RFC 6960 §4.2.2.2.1), id-ce-noRevAvail 2.5.29.56 (RFC 9608 §2), id-pe-tlsfeature
// 1.3.6.1.5.5.7.1.24 (RFC 7633 §6).
var extensionIDs = [numExtensions]string{
	extKeyUsage:         "\x55\x1d\x0f",
	extPurposes:         "\x55\x1d\x25",
	extBasicConstraints: "\x55\x1d\x13",
	extSubjectKeyID:     "\x55\x1d\x0e",
	extAuthorityKeyID:   "\x55\x1d\x23",
	extAuthorityInfo:    "\x2b\x06\x01\x05\x05\x07\x01\x01",
	extNames:            "\x55\x1d\x11",
	extPolicies:         "\x55\x1d\x20",
	extCRLs:             "\x55\x1d\x1f",
	extNoCheck:          "\x2b\x06\x01\x05\x05\x07\x30\x01\x05",
	extNoRevAvail:       "\x55\x1d\x38",
	extFeatures:         "\x2b\x06\x01\x05\x05\x07\x01\x18",
	extNameConstraints:  "\x55\x1d\x1e",
}

// Context-specific tags: 80 (hex) and the number, and 20 (hex) when constructed (X.690 §8.1.2).
const (
	tagVersion    asn1.Tag = 0xa0
	tagIssuerUID  asn1.Tag = 0x81
	tagSubjectUID asn1.Tag = 0x82
	tagExtensions asn1.Tag = 0xa3
)

// parse takes tbs apart and returns what is wrong with the encoding, or nothing. cryptobyte refuses lengths that are not
// the shortest (X.690 §10.1).
func parse(tbs []byte) (c certificate, wrong string) {
	input := cryptobyte.String(tbs)
	var body, explicit, validity cryptobyte.String
	if !input.ReadASN1(&body, asn1.SEQUENCE) || !input.Empty() {
		return c, "not one SEQUENCE"
	}
	// Version absent is v1, which DER may not write out; either way it is not v3.
	if body.PeekASN1Tag(tagVersion) && (!body.ReadASN1(&explicit, tagVersion) || !explicit.ReadASN1Integer(&c.version) || !explicit.Empty()) {
		return c, "malformed version"
	}
	switch {
	case !body.ReadASN1((*cryptobyte.String)(&c.serial), asn1.INTEGER):
		return c, "malformed serialNumber"
	case !body.ReadASN1Element((*cryptobyte.String)(&c.algorithm), asn1.SEQUENCE):
		return c, "malformed signature"
	case !body.ReadASN1Element((*cryptobyte.String)(&c.issuer), asn1.SEQUENCE):
		return c, "malformed issuer"
	case !body.ReadASN1(&validity, asn1.SEQUENCE) || !c.notBefore.read(&validity) || !c.notAfter.read(&validity) || !validity.Empty():
		return c, "malformed validity"
	case !body.ReadASN1Element((*cryptobyte.String)(&c.subject), asn1.SEQUENCE):
		return c, "malformed subject"
	case !body.ReadASN1Element((*cryptobyte.String)(&c.spki), asn1.SEQUENCE):
		return c, "malformed subjectPublicKeyInfo"
	}
	return c, c.readOptional(&body)
}

// readOptional reads what may follow the key.
func (c *certificate) readOptional(body *cryptobyte.String) (wrong string) {
	for _, tag := range [...]asn1.Tag{tagIssuerUID, tagSubjectUID} {
		c.unique = body.PeekASN1Tag(tag) || c.unique
		if !body.SkipOptionalASN1(tag) {
			return "malformed unique identifier"
		}
	}
	if wrong := c.readExtensions(body); wrong != "" {
		return wrong
	}
	if !body.Empty() {
		return "something follows the extensions"
	}
	return ""
}

func (t *instant) read(s *cryptobyte.String) bool {
	return s.ReadAnyASN1((*cryptobyte.String)(&t.text), &t.tag)
}

func (c *certificate) readExtensions(body *cryptobyte.String) (wrong string) {
	if body.Empty() {
		return ""
	}
	var explicit, list cryptobyte.String
	if !body.ReadASN1(&explicit, tagExtensions) || !explicit.ReadASN1(&list, asn1.SEQUENCE) || !explicit.Empty() {
		return "malformed extensions"
	}
	c.extensions = make([]extension, 0, numExtensions)
	for !list.Empty() {
		var e extension
		if !e.read(&list) {
			return "malformed extension"
		}
		c.extensions = append(c.extensions, e)
	}
	for i := range c.extensions {
		for k, id := range extensionIDs {
			if string(c.extensions[i].id) == id {
				c.known[k] = &c.extensions[i]
			}
		}
	}
	return ""
}

func (e *extension) read(list *cryptobyte.String) bool {
	var body cryptobyte.String
	if !list.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1((*cryptobyte.String)(&e.id), asn1.OBJECT_IDENTIFIER) {
		return false
	}
	// X.690 §11.5: a value equal to its default is left out, so critical is TRUE where it stands.
	if body.PeekASN1Tag(asn1.BOOLEAN) && (!body.ReadASN1Boolean(&e.critical) || !e.critical) {
		return false
	}
	return body.ReadASN1((*cryptobyte.String)(&e.value), asn1.OCTET_STRING) && body.Empty()
}
