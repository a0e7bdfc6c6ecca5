package ocsp

import (
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of what a stranger may send: that many CertIDs with SHA-256, a nonce and a signature fit.
const (
	maxRequest = 16 << 10
	maxCerts   = 64
)

// A hash says how a CertID names its issuer: the algorithm, and whether its absent parameters are written as NULL. Answers
// repeat the question's spelling, so each spelling is an answer of its own in the cache.
type hash uint8

const (
	sha1Absent hash = iota
	sha1NULL
	sha256Absent
	sha256NULL
	numHashes
)

// AlgorithmIdentifiers, contents: SHA-1 is RFC 6960's own (§4.3, RFC 5019 §2.1.1), SHA-256 is what RFC 9654's time asks with.
var hashIDs = [numHashes]string{
	sha1Absent:   "\x06\x05\x2b\x0e\x03\x02\x1a",
	sha1NULL:     "\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00",
	sha256Absent: "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01",
	sha256NULL:   "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00",
}

// An issuerHash is issuerNameHash and issuerKeyHash, each filled up with zeros to 32 octets.
type issuerHash [64]byte

// A certID is one certificate asked about.
//
//	CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING, issuerKeyHash OCTET STRING, serialNumber INTEGER }
type certID struct {
	der    []byte // the element, to be repeated
	hash   hash   // numHashes when it is none we know
	issuer issuerHash
	serial []byte // contents
}

// A request is what is asked.
type request struct {
	certs []certID
	nonce []byte // extnValue of the nonce extension, contents; nil when there is none
}

const (
	tagZero  asn1.Tag = 0xa0
	tagOne   asn1.Tag = 0xa1
	tagTwo   asn1.Tag = 0xa2
	idNonce           = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02" // id-pkix-ocsp-nonce
	maxNonce          = 128                                    // RFC 9654 §2.1: "OCTET STRING (SIZE(1..128))"
)

// parse reads a request; ok is false for what is not one. Its signature, if any, is not looked at: what we answer is public
// (RFC 6960 §4.1.2).
//
//	OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
//	TBSRequest  ::= SEQUENCE { version [0] EXPLICIT Version DEFAULT v1, requestorName [1] EXPLICIT GeneralName OPTIONAL,
//	    requestList SEQUENCE OF Request, requestExtensions [2] EXPLICIT Extensions OPTIONAL }
func parse(der []byte) (r request, ok bool) {
	input := cryptobyte.String(der)
	var outer, body, list, exts cryptobyte.String
	var present bool
	if len(der) > maxRequest || !input.ReadASN1(&outer, asn1.SEQUENCE) || !input.Empty() || !outer.ReadASN1(&body, asn1.SEQUENCE) ||
		!outer.SkipOptionalASN1(tagZero) || !outer.Empty() {
		return r, false
	}
	var version cryptobyte.String
	if !body.ReadOptionalASN1(&version, &present, tagZero) || present && string(version) != "\x02\x01\x00" {
		return r, false
	}
	if !body.SkipOptionalASN1(tagOne) || !body.ReadASN1(&list, asn1.SEQUENCE) || list.Empty() ||
		!body.ReadOptionalASN1(&exts, &present, tagTwo) || !body.Empty() {
		return r, false
	}
	r.certs = make([]certID, 0, 1)
	for !list.Empty() {
		var c certID
		if len(r.certs) == maxCerts || !c.read(&list) {
			return r, false
		}
		r.certs = append(r.certs, c)
	}
	return r, !present || r.readExtensions(exts)
}

// read reads Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }.
func (c *certID) read(list *cryptobyte.String) bool {
	var body, id, algorithm, name, key, serial, exts cryptobyte.String
	var present bool
	if !list.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1Element((*cryptobyte.String)(&c.der), asn1.SEQUENCE) ||
		!body.ReadOptionalASN1(&exts, &present, tagZero) || !body.Empty() {
		return false
	}
	whole := cryptobyte.String(c.der)
	if !whole.ReadASN1(&id, asn1.SEQUENCE) || !id.ReadASN1(&algorithm, asn1.SEQUENCE) || !id.ReadASN1(&name, asn1.OCTET_STRING) ||
		!id.ReadASN1(&key, asn1.OCTET_STRING) || !id.ReadASN1(&serial, asn1.INTEGER) || !id.Empty() || len(serial) == 0 {
		return false
	}
	c.serial, c.hash = serial, numHashes
	for h, known := range hashIDs {
		if string(algorithm) == known && len(name) == hash(h).size() && len(key) == len(name) {
			c.hash = hash(h)
			copy(c.issuer[:32], name)
			copy(c.issuer[32:], key)
		}
	}
	return !present || eachExtension(exts, func(id, _ []byte, critical bool) bool { return !critical })
}

func (h hash) size() int {
	if h == sha1Absent || h == sha1NULL {
		return 20
	}
	return 32
}

// readExtensions takes the nonce and passes over the rest, unless it is critical.
//
// RFC 9654 §2.1: "A responder MUST accept lengths of at least 16 octets and MAY choose to ignore the Nonce extension for
// requests where the length of the Nonce octets is less than 16 octets"; we echo all lengths that are well formed, 1 to
// 128, and refuse others: "OCSP responders … MUST reject any OCSP request that has a nonce with a length of 0 octets or
// more than 128 octets, with the malformedRequest OCSPResponseStatus".
func (r *request) readExtensions(exts cryptobyte.String) bool {
	return eachExtension(exts, func(id, value []byte, critical bool) bool {
		if string(id) != idNonce {
			return !critical
		}
		s := cryptobyte.String(value)
		var nonce cryptobyte.String
		ok := r.nonce == nil && s.ReadASN1(&nonce, asn1.OCTET_STRING) && s.Empty() && len(nonce) >= 1 && len(nonce) <= maxNonce
		r.nonce = value
		return ok
	})
}

// eachExtension reads SEQUENCE OF Extension and reports whether it is well formed and take accepted each.
func eachExtension(exts cryptobyte.String, take func(id, value []byte, critical bool) bool) bool {
	var list cryptobyte.String
	if !exts.ReadASN1(&list, asn1.SEQUENCE) || !exts.Empty() {
		return false
	}
	for !list.Empty() {
		var e, id, value cryptobyte.String
		critical := false
		if !list.ReadASN1(&e, asn1.SEQUENCE) || !e.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
			e.PeekASN1Tag(asn1.BOOLEAN) && !e.ReadASN1Boolean(&critical) ||
			!e.ReadASN1(&value, asn1.OCTET_STRING) || !e.Empty() || !take(id, value, critical) {
			return false
		}
	}
	return true
}
