package attest

import (
	"encoding/asn1"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var oidPermanentIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3} // RFC 4043 §2

// readSAN returns the permanent identifiers of a subjectAltName and the types of the attributes in its directory names.
//
//	GeneralName ::= CHOICE { otherName [0] OtherName, …, directoryName [4] Name, … }
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY DEFINED BY type-id }
//	PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String OPTIONAL, assigner OBJECT IDENTIFIER OPTIONAL }
//	Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value ANY }
func readSAN(der []byte) (identifiers []string, attributes []asn1.ObjectIdentifier, err error) {
	bad := errors.New("the subjectAltName of its certificate cannot be read")
	in := cryptobyte.String(der)
	var names cryptobyte.String
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, nil, bad
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return nil, nil, bad
		}
		switch tag {
		case cbasn1.Tag(0).ContextSpecific().Constructed():
			id, ok := readOther(name)
			if !ok {
				return nil, nil, bad
			}
			if id != "" {
				identifiers = append(identifiers, id)
			}
		case cbasn1.Tag(4).ContextSpecific().Constructed():
			types, ok := readDirectory(name)
			if !ok {
				return nil, nil, bad
			}
			attributes = append(attributes, types...)
		}
	}
	return identifiers, attributes, nil
}

// readOther returns the identifier of an OtherName that is a permanent identifier, else nothing.
func readOther(name cryptobyte.String) (string, bool) {
	var id asn1.ObjectIdentifier
	var wrapped, permanent, text cryptobyte.String
	if !name.ReadASN1ObjectIdentifier(&id) {
		return "", false
	}
	if !id.Equal(oidPermanentIdentifier) {
		return "", true
	}
	explicit := cbasn1.Tag(0).ContextSpecific().Constructed()
	if !name.ReadASN1(&wrapped, explicit) || !name.Empty() || !wrapped.ReadASN1(&permanent, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return "", false
	}
	var has bool
	if !permanent.ReadOptionalASN1(&text, &has, cbasn1.UTF8String) {
		return "", false
	}
	return string(text), true
}

func readDirectory(name cryptobyte.String) ([]asn1.ObjectIdentifier, bool) {
	var out []asn1.ObjectIdentifier
	var rdns cryptobyte.String
	if !name.ReadASN1(&rdns, cbasn1.SEQUENCE) || !name.Empty() {
		return nil, false
	}
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, cbasn1.SET) {
			return nil, false
		}
		for !set.Empty() {
			var attribute cryptobyte.String
			var id asn1.ObjectIdentifier
			if !set.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&id) {
				return nil, false
			}
			out = append(out, id)
		}
	}
	return out, true
}
