package tbs

import (
	"bytes"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

// Parts are what a certificate is looked up by, as slices of its bytes.
type Parts struct {
	SPKI  []byte   // SubjectPublicKeyInfo, DER
	Names [][]byte // each GeneralName of the subjectAltName, DER, in their order
}

// Holds reports whether n is one of the names.
func (p Parts) Holds(n cert.Name) bool {
	want := GeneralName(n)
	for _, name := range p.Names {
		if bytes.Equal(name, want) {
			return true
		}
	}
	return false
}

// GeneralName returns n as a certificate has it (RFC 5280 §4.2.1.6), or nil where none can.
func GeneralName(n cert.Name) []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(n.Value())+4))
	addName(b, n)
	der, err := b.Bytes()
	if err != nil {
		return nil
	}
	return der
}

var errNoTBS = errors.New("reading a certificate's parts: not a TBSCertificate as this service makes them")

// Read finds the parts of what Build has made. It judges nothing: ca/lint did, before it was signed.
func Read(tbs []byte) (Parts, error) {
	var body, spki cryptobyte.String
	in := cryptobyte.String(tbs)
	ok := in.ReadASN1(&body, asn1.SEQUENCE) && in.Empty() &&
		body.SkipASN1(asn1.Tag(0).ContextSpecific().Constructed()) && // version
		body.SkipASN1(asn1.INTEGER) && body.SkipASN1(asn1.SEQUENCE) && // serialNumber, signature
		body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) && // issuer, validity, subject
		body.ReadASN1Element(&spki, asn1.SEQUENCE)
	if !ok {
		return Parts{}, errNoTBS
	}
	names, err := readNames(body)
	return Parts{SPKI: spki, Names: names}, err
}

// readNames reads the subjectAltName out of what follows the key.
func readNames(rest cryptobyte.String) ([][]byte, error) {
	var explicit, list, extension, id, value, names cryptobyte.String
	if rest.Empty() {
		return nil, nil
	}
	if !rest.ReadASN1(&explicit, tagExtensions) || !explicit.ReadASN1(&list, asn1.SEQUENCE) {
		return nil, errNoTBS
	}
	var out [][]byte
	for !list.Empty() {
		if !list.ReadASN1(&extension, asn1.SEQUENCE) || !extension.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER) {
			return nil, errNoTBS
		}
		if !bytes.Equal(id, idSubjectAltName) {
			continue
		}
		if !extension.SkipOptionalASN1(asn1.BOOLEAN) || !extension.ReadASN1(&value, asn1.OCTET_STRING) || !value.ReadASN1(&names, asn1.SEQUENCE) {
			return nil, errNoTBS
		}
		for !names.Empty() {
			var name cryptobyte.String
			var tag asn1.Tag
			if !names.ReadAnyASN1Element(&name, &tag) {
				return nil, errNoTBS
			}
			out = append(out, name)
		}
	}
	return out, nil
}
