package lint

import (
	"bytes"
	stdasn1 "encoding/asn1"
	"fmt"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
)

func checkDuplicates(c *certificate, _ *Expect) string {
	for i := range c.extensions {
		for j := range c.extensions[:i] {
			if bytes.Equal(c.extensions[i].id, c.extensions[j].id) {
				return fmt.Sprintf("%x is there twice", c.extensions[i].id)
			}
		}
	}
	return ""
}

func checkUnknown(c *certificate, _ *Expect) string {
	for i := range c.extensions {
		mine := false
		for _, k := range c.known {
			mine = mine || k == &c.extensions[i]
		}
		if !mine {
			return fmt.Sprintf("%x is none that this service issues", c.extensions[i].id)
		}
	}
	return ""
}

// checkCritical: key usage, basic constraints and name constraints are critical; names are if, and only if, there is no subject to name the
// holder (RFC 5280 §4.2.1.6); nothing else is.
func checkCritical(c *certificate, _ *Expect) string {
	for k, x := range c.known {
		want := k == extKeyUsage || k == extBasicConstraints || k == extNameConstraints || k == extNames && emptyName(c.subject)
		if x != nil && x.critical != want {
			return fmt.Sprintf("%x: critical is %t, want %t", x.id, x.critical, want)
		}
	}
	return ""
}

// BasicConstraints ::= SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER (0..MAX) OPTIONAL }
func checkBasicConstraints(c *certificate, e *Expect) string {
	x := c.known[extBasicConstraints]
	if x == nil {
		return "missing"
	}
	if e.Usage != Authority {
		if string(x.value) != "\x30\x00" {
			return "a leaf's is not empty: it must never be a CA"
		}
		return ""
	}
	s := cryptobyte.String(x.value)
	var body cryptobyte.String
	ca, length := false, -1
	ok := s.ReadASN1(&body, asn1.SEQUENCE) && s.Empty() && body.ReadASN1Boolean(&ca) &&
		(body.Empty() || body.ReadASN1Integer(&length)) && body.Empty()
	switch {
	case !ok || !ca:
		return "an authority's must say that it is a CA"
	case length != max(e.PathLen, -1):
		return "not the path length asked"
	}
	return ""
}

func checkKeyUsage(c *certificate, e *Expect) string {
	x := c.known[extKeyUsage]
	if x == nil {
		return "missing"
	}
	s := cryptobyte.String(x.value)
	var b stdasn1.BitString
	if !s.ReadASN1BitString(&b) || !s.Empty() {
		return "malformed"
	}
	// X.690 §11.2.2: a named bit list has no trailing zero bits.
	if b.BitLength == 0 || b.At(b.BitLength-1) == 0 {
		return "not the shortest encoding"
	}
	if got, want := bits(b), e.Usage.keyUsage(c.isRSA()); got != want {
		return fmt.Sprintf("%s, want %s", got, want)
	}
	return ""
}

func checkPurposes(c *certificate, e *Expect) string {
	want := e.Usage.purposes()
	for _, id := range e.Purposes {
		want = append(want, oid(id))
	}
	return exactIDs(c.known[extPurposes], want)
}

// exactIDs reads SEQUENCE OF OBJECT IDENTIFIER and compares it with want, in order.
func exactIDs(x *extension, want []string) string {
	switch {
	case x == nil && len(want) == 0:
		return ""
	case x == nil:
		return "missing"
	case len(want) == 0:
		return "present, yet none was asked"
	}
	s := cryptobyte.String(x.value)
	var list, id cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || !s.Empty() {
		return "malformed"
	}
	for _, w := range want {
		if !list.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || string(id) != w {
			return "not those asked"
		}
	}
	if !list.Empty() {
		return "more than those asked"
	}
	return ""
}

//	AuthorityKeyIdentifier ::= SEQUENCE { keyIdentifier [0] IMPLICIT OCTET STRING OPTIONAL, ... }
//
// Issuer name and serial stay out: they would tie the certificate to one of several certificates of the same authority.
func checkAuthorityKeyID(c *certificate, e *Expect) string {
	x := c.known[extAuthorityKeyID]
	if len(e.IssuerKeyID) == 0 {
		if x != nil {
			return "present, yet the issuer has no key identifier"
		}
		return ""
	}
	if x == nil {
		return "missing"
	}
	s := cryptobyte.String(x.value)
	var body, id cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !s.Empty() || !body.ReadASN1(&id, asn1.Tag(0).ContextSpecific()) ||
		!body.Empty() || !bytes.Equal(id, e.IssuerKeyID) {
		return "not the issuer's key identifier alone"
	}
	return ""
}

// checkNames wants the names asked, in the order asked.
//
//	GeneralName ::= CHOICE { dNSName [2] IA5String, uniformResourceIdentifier [6] IA5String, iPAddress [7] OCTET STRING, ... }
func checkNames(c *certificate, e *Expect) string {
	x := c.known[extNames]
	switch {
	case x == nil && len(e.Names) == 0 && !emptyName(c.subject):
		return ""
	case x == nil:
		return "missing"
	case len(e.Names) == 0:
		return "present, yet no name was asked"
	}
	s := cryptobyte.String(x.value)
	var list, value cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || !s.Empty() {
		return "malformed"
	}
	for _, n := range e.Names {
		var tag asn1.Tag
		if !list.ReadAnyASN1(&value, &tag) || !same(n, tag, value) {
			return fmt.Sprintf("%s is not where it was asked", n)
		}
	}
	if !list.Empty() {
		return "more names than asked"
	}
	return ""
}

func same(n cert.Name, tag asn1.Tag, value []byte) bool {
	switch tag {
	case asn1.Tag(2).ContextSpecific():
		return n.Kind() == cert.DNS && string(value) == n.Value() && printable(value)
	case asn1.Tag(6).ContextSpecific():
		return n.Kind() == cert.URI && string(value) == n.Value() && printable(value)
	case asn1.Tag(7).ContextSpecific(): // RFC 5280 §4.2.1.6: four octets for IPv4, sixteen for IPv6
		return n.Kind() == cert.IP && bytes.Equal(value, n.Addr().AsSlice())
	}
	return false
}

// printable reports whether value is a non-empty IA5String without control characters or spaces.
func printable(value []byte) bool {
	for _, b := range value {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return len(value) > 0
}

// CertificatePolicies ::= SEQUENCE OF SEQUENCE { policyIdentifier OBJECT IDENTIFIER, policyQualifiers ... OPTIONAL }
func checkPolicies(c *certificate, e *Expect) string {
	x := c.known[extPolicies]
	switch {
	case x == nil && len(e.Policies) == 0:
		return ""
	case x == nil:
		return "missing"
	}
	s := cryptobyte.String(x.value)
	var list, policy, id cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || !s.Empty() {
		return "malformed"
	}
	for _, want := range e.Policies {
		if !list.ReadASN1(&policy, asn1.SEQUENCE) || !policy.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || !policy.Empty() || string(id) != oid(want) {
			return "not the policies asked, without qualifiers"
		}
	}
	if !list.Empty() || len(e.Policies) == 0 {
		return "more policies than asked"
	}
	return ""
}

// checkCRLs wants one distribution point with one URL: the list of the epoch that the serial was made in.
//
//	DistributionPoint ::= SEQUENCE { distributionPoint [0] CHOICE { fullName [0] GeneralNames, ... } OPTIONAL, ... }
func checkCRLs(c *certificate, e *Expect) string {
	x := c.known[extCRLs]
	switch {
	case x == nil && e.CRLs == "" && e.List == "":
		return ""
	case x == nil:
		return "missing"
	case e.CRLs == "" && e.List == "":
		return "present, yet the issuer has no lists"
	}
	s := cryptobyte.String(x.value)
	var list, point, url cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || !s.Empty() || !list.ReadASN1(&point, asn1.SEQUENCE) || !list.Empty() ||
		!readFullName(&point, &url) || !point.Empty() {
		return "not one distribution point with one URL"
	}
	own := e.CRLs + strconv.Itoa(int(e.Serial.Epoch()))
	if e.Parts > 1 {
		b := e.Serial.Bytes()
		own += fmt.Sprintf("-%02x", int(b[len(b)-1])%e.Parts)
	}
	if own += ".crl"; e.List != "" {
		own = e.List
	}
	if string(url) != own {
		return "not the URL of the serial's own list"
	}
	return ""
}

// readFullName reads [0] { [0] { [6] url } }.
func readFullName(s, url *cryptobyte.String) bool {
	var name, full cryptobyte.String
	zero := asn1.Tag(0).ContextSpecific().Constructed()
	return s.ReadASN1(&name, zero) && name.ReadASN1(&full, zero) && name.Empty() &&
		full.ReadASN1(url, asn1.Tag(6).ContextSpecific()) && full.Empty()
}

// AuthorityInfoAccessSyntax ::= SEQUENCE OF SEQUENCE { accessMethod OBJECT IDENTIFIER, accessLocation GeneralName }
func checkAuthorityInfo(c *certificate, e *Expect) string {
	const ocsp, caIssuers = "\x2b\x06\x01\x05\x05\x07\x30\x01", "\x2b\x06\x01\x05\x05\x07\x30\x02"
	x := c.known[extAuthorityInfo]
	switch {
	case x == nil && e.OCSP == "" && e.Issuers == "":
		return ""
	case x == nil:
		return "missing"
	}
	s := cryptobyte.String(x.value)
	var list cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || !s.Empty() || list.Empty() {
		return "malformed"
	}
	for _, want := range [][2]string{{ocsp, e.OCSP}, {caIssuers, e.Issuers}} {
		if want[1] != "" && !readAccess(&list, want[0], want[1]) {
			return "not the URLs asked"
		}
	}
	if !list.Empty() {
		return "more than the URLs asked"
	}
	return ""
}

func readAccess(list *cryptobyte.String, method, location string) bool {
	var access, id, url cryptobyte.String
	return list.ReadASN1(&access, asn1.SEQUENCE) && access.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) && string(id) == method &&
		access.ReadASN1(&url, asn1.Tag(6).ContextSpecific()) && string(url) == location && access.Empty()
}

// checkNoCheck: responders have it, with the value NULL, so that nobody asks the responder about the responder.
func checkNoCheck(c *certificate, e *Expect) string {
	x := c.known[extNoCheck]
	switch {
	case e.Usage != OCSPResponder && x != nil:
		return "present, yet this is no OCSP responder"
	case e.Usage == OCSPResponder && x == nil:
		return "missing"
	case x != nil && string(x.value) != "\x05\x00":
		return "its value is not NULL"
	}
	return ""
}
