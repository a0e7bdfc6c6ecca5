package lint

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/uid"
)

// ExpectList is what a certificate revocation list must say.
type ExpectList struct {
	Issuer      []byte // Name, DER
	IssuerKey   crypto.PublicKey
	IssuerKeyID []byte
	URL         string    // of its distribution point, as in the certificates it is for; empty: it is for all of them
	Epoch       uid.Epoch // that every serial on it was made in, unless URL is empty
	Parts, Part int       // where Parts lists share the epoch: every serial's last octet is Part, modulo Parts
	Freshest    string    // URL of its delta; empty: it names none
	Delta       bool      // it is a delta, to the list numbered Base
	Base        int64
	Number      int64
	ThisUpdate  time.Time
	NextUpdate  time.Time
	MaxLife     time.Duration
	Entries     int
}

// A list is a TBSCertList taken apart.
//
//	TBSCertList ::= SEQUENCE {
//	     version                 Version OPTIONAL,
//	     signature               AlgorithmIdentifier,
//	     issuer                  Name,
//	     thisUpdate              Time,
//	     nextUpdate              Time OPTIONAL,
//	     revokedCertificates     SEQUENCE OF SEQUENCE { … } OPTIONAL,
//	     crlExtensions           [0] EXPLICIT Extensions OPTIONAL }
type list struct {
	version                uint8
	algorithm, issuer      []byte // elements
	thisUpdate, nextUpdate instant
	present                bool   // revokedCertificates is there
	entries                []byte // contents
	extensions             []extension
}

type listRule struct {
	name, citation string
	check          func(l *list, e *ExpectList) string
}

var listRules = []listRule{
	{"list-version", "RFC 5280 §5.1.2.1", func(l *list, _ *ExpectList) string { return unless(l.version == 1, "not version 2") }},
	{"list-signature-algorithm", "RFC 5280 §5.1.2.2", func(l *list, e *ExpectList) string {
		want := algorithmOf(e.IssuerKey)
		return unless(want != "" && string(l.algorithm) == want, "not the algorithm of the issuer's key")
	}},
	{"list-issuer", "RFC 5280 §5.1.2.3", func(l *list, e *ExpectList) string {
		return unless(!emptyName(l.issuer) && bytes.Equal(l.issuer, e.Issuer), "not the issuer's subject, octet for octet")
	}},
	{"list-updates", "RFC 5280 §5.1.2.4, §5.1.2.5", checkUpdates},
	{"list-entries", "RFC 5280 §5.1.2.6", checkEntries},
	{"list-extensions", "RFC 5280 §5.2", checkListExtensions},
	{"list-authority-key-identifier", "RFC 5280 §5.2.1", func(l *list, e *ExpectList) string {
		want := append([]byte{0x30, byte(2 + len(e.IssuerKeyID)), 0x80, byte(len(e.IssuerKeyID))}, e.IssuerKeyID...)
		return unless(len(e.IssuerKeyID) > 0 && bytes.Equal(l.extensions[0].value, want), "not the issuer's key identifier alone")
	}},
	{"list-number", "RFC 5280 §5.2.3", checkNumber},
	{"list-delta-indicator", "RFC 5280 §5.2.4", checkDelta},
	{"list-distribution-point", "RFC 5280 §5.2.5", checkDistribution},
	{"list-freshest", "RFC 5280 §5.2.6", checkFreshest},
}

// unless returns what is wrong where something is.
func unless(ok bool, wrong string) string { //nolint:revive // ok is the finding, not a flag
	if ok {
		return ""
	}
	return wrong
}

// List returns nil if tbs, a TBSCertList in DER, keeps every rule and says what e expects; else a *Violation.
func List(tbs []byte, e ExpectList) error {
	l, wrong := parseList(tbs)
	if wrong != "" {
		return &Violation{"list-encoding", "RFC 5280 §5.1, X.690 §10", wrong}
	}
	for i := range listRules {
		if wrong := listRules[i].check(&l, &e); wrong != "" {
			return &Violation{listRules[i].name, listRules[i].citation, wrong}
		}
	}
	return nil
}

func parseList(tbs []byte) (l list, wrong string) {
	input := cryptobyte.String(tbs)
	var body, explicit, exts cryptobyte.String
	switch {
	case !input.ReadASN1(&body, asn1.SEQUENCE) || !input.Empty():
		return l, "not one SEQUENCE"
	case body.PeekASN1Tag(asn1.INTEGER) && !body.ReadASN1Integer(&l.version):
		return l, "malformed version"
	case !body.ReadASN1Element((*cryptobyte.String)(&l.algorithm), asn1.SEQUENCE):
		return l, "malformed signature"
	case !body.ReadASN1Element((*cryptobyte.String)(&l.issuer), asn1.SEQUENCE):
		return l, "malformed issuer"
	case !l.thisUpdate.read(&body) || !l.nextUpdate.read(&body):
		return l, "malformed thisUpdate or nextUpdate"
	case !body.ReadOptionalASN1((*cryptobyte.String)(&l.entries), &l.present, asn1.SEQUENCE):
		return l, "malformed revokedCertificates"
	case !body.ReadASN1(&explicit, tagVersion) || !body.Empty() || !explicit.ReadASN1(&exts, asn1.SEQUENCE) || !explicit.Empty():
		return l, "malformed crlExtensions"
	}
	for !exts.Empty() {
		var e extension
		if !e.read(&exts) {
			return l, "malformed extension"
		}
		l.extensions = append(l.extensions, e)
	}
	return l, ""
}

func checkUpdates(l *list, e *ExpectList) string {
	from, ok1 := l.thisUpdate.time()
	to, ok2 := l.nextUpdate.time()
	switch {
	case !ok1 || !ok2:
		return "want UTCTime until 2049 and GeneralizedTime after, with seconds and Z, and a nextUpdate"
	case !to.After(from) || to.Sub(from) > e.MaxLife:
		return fmt.Sprintf("from %s to %s, at most %s is allowed", from.Format(time.RFC3339), to.Format(time.RFC3339), e.MaxLife)
	case !from.Equal(e.ThisUpdate) || !to.Equal(e.NextUpdate):
		return "not the times asked"
	}
	return ""
}

// reasonHead is crlEntryExtensions with a reasonCode, without its last octet.
const reasonHead = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// checkEntries walks the entries by hand: there may be hundreds of thousands.
//
//	SEQUENCE { userCertificate INTEGER, revocationDate Time, crlEntryExtensions Extensions OPTIONAL }
func checkEntries(l *list, e *ExpectList) string {
	if l.present && len(l.entries) == 0 {
		return `empty: "When there are no revoked certificates, the revoked certificates list MUST be absent"`
	}
	n, last := 0, []byte(nil)
	for rest := l.entries; len(rest) > 0; n++ {
		if len(rest) < 2 || rest[0] != 0x30 || rest[1] > 0x7f || len(rest) < 2+int(rest[1]) {
			return "malformed entry " + strconv.Itoa(n)
		}
		serial, wrong := checkEntry(rest[2:2+rest[1]], e)
		switch {
		case wrong != "":
			return fmt.Sprintf("entry %d: %s", n, wrong)
		case bytes.Compare(serial, last) <= 0:
			return fmt.Sprintf("entry %d: not above the one before it: a certificate stands on a list once", n)
		}
		last, rest = serial, rest[2+rest[1]:]
	}
	return unless(n == e.Entries, fmt.Sprintf("%d entries, want %d", n, e.Entries))
}

func checkEntry(entry []byte, e *ExpectList) (serial []byte, wrong string) {
	const serialSize = 18
	if len(entry) < 2+serialSize+2 || entry[0] != 2 || entry[1] != serialSize || entry[2] != 0x10 {
		return nil, "serial is none of this service's"
	}
	serial, entry = entry[2:2+serialSize], entry[2+serialSize:]
	if made := int64(binary.BigEndian.Uint32(serial[2:6])); e.URL != "" && made/week != int64(e.Epoch) {
		return nil, "serial belongs on another list"
	}
	if e.Parts > 1 && int(serial[serialSize-1])%e.Parts != e.Part {
		return nil, "serial belongs on another part's list"
	}
	size, generalized := 13, entry[0] == byte(asn1.GeneralizedTime)
	if generalized {
		size = 15
	}
	if !generalized && entry[0] != byte(asn1.UTCTime) || int(entry[1]) != size || len(entry) < 2+size || !plainTime(entry[2:2+size], generalized) {
		return nil, "malformed revocationDate"
	}
	entry = entry[2+size:]
	if len(entry) == 0 {
		return serial, ""
	}
	if len(entry) != len(reasonHead)+1 || string(entry[:len(reasonHead)]) != reasonHead {
		return nil, "more than a reason code in its extensions"
	}
	switch entry[len(reasonHead)] {
	case 1, 2, 3, 4, 5, 9, 10:
		return serial, ""
	}
	return nil, "reason code is none that ends a certificate for good (RFC 5280 §5.3.1)"
}

const week = int64(uid.EpochLength / time.Second)

// plainTime reports whether text is digits that make a date, and Z; GeneralizedTime from 2050 on only.
func plainTime(text []byte, generalized bool) bool {
	last := len(text) - 1
	for _, c := range text[:last] {
		if c < '0' || c > '9' {
			return false
		}
	}
	two := func(i int) int { return int(text[i]-'0')*10 + int(text[i+1]-'0') }
	late := !generalized || two(0) > 20 || two(0) == 20 && two(2) >= 50
	d := last - 10
	return late && text[last] == 'Z' && two(d) >= 1 && two(d) <= 12 && two(d+2) >= 1 && two(d+2) <= 31 &&
		two(d+4) < 24 && two(d+6) < 60 && two(d+8) < 60
}

// Extensions of a list, by the last octet of 2.5.29.x.
const (
	listAuthorityKey  = "\x55\x1d\x23"
	listNumber        = "\x55\x1d\x14"
	listDelta         = "\x55\x1d\x1b"
	listDistribution  = "\x55\x1d\x1c"
	listFreshest      = "\x55\x1d\x2e"
	listNumberAt      = 1
	listFirstVariable = 2 // where those begin that not every list has
)

// expected are the extensions in their order, and which are critical: what a list that is not whole is for (RFC 5280 §5.2.5)
// and that it is a delta (§5.2.4), and nothing else.
func (e *ExpectList) expected() (ids []string, critical []bool) {
	add := func(id string, c bool) { ids, critical = append(ids, id), append(critical, c) }
	add(listAuthorityKey, false)
	add(listNumber, false)
	if e.Delta {
		add(listDelta, true)
	}
	if e.URL != "" {
		add(listDistribution, true)
	}
	if e.Freshest != "" {
		add(listFreshest, false)
	}
	return ids, critical
}

// at returns the extension called id. checkListExtensions has seen that each stands in its place.
func (l *list) at(id string) []byte {
	for _, x := range l.extensions[listFirstVariable:] {
		if string(x.id) == id {
			return x.value
		}
	}
	return nil
}

func checkListExtensions(l *list, e *ExpectList) string {
	want, critical := e.expected()
	if len(l.extensions) != len(want) {
		return fmt.Sprintf("%d of them, want %d", len(l.extensions), len(want))
	}
	for i, id := range want {
		if string(l.extensions[i].id) != id {
			return fmt.Sprintf("%x is not where it was expected", l.extensions[i].id)
		}
		if l.extensions[i].critical != critical[i] {
			return fmt.Sprintf("%x: critical is %t", l.extensions[i].id, l.extensions[i].critical)
		}
	}
	return ""
}

func checkNumber(l *list, e *ExpectList) string {
	n, ok := integer(l.extensions[listNumberAt].value)
	return unless(ok && n > 0 && n == e.Number, "not the number asked, which follows the last one")
}

func integer(value []byte) (n int64, ok bool) {
	s := cryptobyte.String(value)
	ok = s.ReadASN1Integer(&n) && s.Empty()
	return n, ok
}

// checkDelta: BaseCRLNumber ::= CRLNumber. A delta to a list that is yet to come fits nobody.
func checkDelta(l *list, e *ExpectList) string {
	if !e.Delta {
		return unless(e.Base == 0, "a base is expected of a list that is no delta")
	}
	n, ok := integer(l.at(listDelta))
	return unless(ok && n > 0 && n == e.Base && n <= e.Number && e.Freshest == "", "not the base asked, or one above its own number, or a delta with a delta")
}

// IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0] DistributionPointName OPTIONAL, … }
func checkDistribution(l *list, e *ExpectList) string {
	if e.URL == "" {
		return ""
	}
	s := cryptobyte.String(l.at(listDistribution))
	var body, url cryptobyte.String
	ok := s.ReadASN1(&body, asn1.SEQUENCE) && s.Empty() && readFullName(&body, &url) && body.Empty()
	return unless(ok && string(url) == e.URL, "not the URL in the certificates, alone")
}

// FreshestCRL ::= CRLDistributionPoints, one with one URL.
func checkFreshest(l *list, e *ExpectList) string {
	if e.Freshest == "" {
		return ""
	}
	s := cryptobyte.String(l.at(listFreshest))
	var points, point, url cryptobyte.String
	ok := s.ReadASN1(&points, asn1.SEQUENCE) && s.Empty() && points.ReadASN1(&point, asn1.SEQUENCE) && points.Empty() &&
		readFullName(&point, &url) && point.Empty()
	return unless(ok && string(url) == e.Freshest, "not the URL of its delta, alone")
}
