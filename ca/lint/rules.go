package lint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// rules are checked in this order: what later rules lean on comes first.
var rules = []rule{
	{"version-3", "RFC 5280 §4.1.2.1", checkVersion},
	{"serial", "RFC 5280 §4.1.2.2, BR §7.1", checkSerial},
	{"signature-algorithm", "RFC 5280 §4.1.2.3", checkAlgorithm},
	{"issuer", "RFC 5280 §4.1.2.4", checkIssuer},
	{"validity-encoding", "RFC 5280 §4.1.2.5", checkValidityEncoding},
	{"validity", "RFC 5280 §4.1.2.5", checkValidity},
	{"life", "docs/x509-profiles.md", checkLife},
	{"within-issuer", "RFC 5280 §6.1.3", checkWithinIssuer},
	{"subject", "RFC 5280 §4.1.2.6", checkSubject},
	{"common-name", "RFC 5280 appendix A.1", checkCommonName},
	{"key", "RFC 3279 §2.3, RFC 5480 §2, RFC 8410 §4", checkKey},
	{"unique-identifiers", "RFC 5280 §4.1.2.8", checkUnique},
	{"duplicate-extension", "RFC 5280 §4.2", checkDuplicates},
	{"unknown-extension", "RFC 5280 §4.2", checkUnknown},
	{"critical", "RFC 5280 §4.2.1", checkCritical},
	{"basic-constraints", "RFC 5280 §4.2.1.9", checkBasicConstraints},
	{"key-usage", "RFC 5280 §4.2.1.3", checkKeyUsage},
	{"extended-key-usage", "RFC 5280 §4.2.1.12", checkPurposes},
	{"subject-key-identifier", "RFC 5280 §4.2.1.2, RFC 7093 §2", checkSubjectKeyID},
	{"authority-key-identifier", "RFC 5280 §4.2.1.1", checkAuthorityKeyID},
	{"names", "RFC 5280 §4.2.1.6", checkNames},
	{"policies", "RFC 5280 §4.2.1.4", checkPolicies},
	{"crl-distribution-point", "RFC 5280 §4.2.1.13", checkCRLs},
	{"authority-information-access", "RFC 5280 §4.2.2.1", checkAuthorityInfo},
	{"ocsp-no-check", "RFC 6960 §4.2.2.2.1", checkNoCheck},
	{"no-rev-avail", "RFC 9608 §2", checkNoRevAvail},
	{"tls-feature", "RFC 7633 §4", checkFeatures},
	{"name-constraints", "RFC 5280 §4.2.1.10", checkNameConstraints},
}

func checkVersion(c *certificate, _ *Expect) string {
	if c.version != 2 {
		return fmt.Sprintf("version number %d, want 2, which is v3", c.version)
	}
	return ""
}

const (
	maxSerial = 20 // RFC 5280 §4.1.2.2: "Conforming CAs MUST NOT use serialNumber values longer than 20 octets"
	minSerial = 8  // BR §7.1: "at least 64 bits of output from a CSPRNG"
)

func checkSerial(c *certificate, e *Expect) string {
	switch {
	case len(c.serial) == 0 || c.serial[0] > 0x7f:
		return "not positive"
	case len(c.serial) > maxSerial:
		return fmt.Sprintf("%d octets, at most %d", len(c.serial), maxSerial)
	case len(c.serial) < minSerial:
		return fmt.Sprintf("%d octets hold no 64 unpredictable bits", len(c.serial))
	case e.Serial.IsZero() || !bytes.Equal(c.serial, e.Serial.Bytes()):
		return "not the serial asked"
	}
	return ""
}

// algorithmOf returns the AlgorithmIdentifier of signatures by pub, written down from RFC 5758 §3.2 (ECDSA: no
// parameters), RFC 8410 §3 (Ed25519: no parameters) and RFC 4055 §5 (RSA: NULL), apart from the signers' own table.
func algorithmOf(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
		case 384:
			return "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
		}
	case ed25519.PublicKey:
		return "\x30\x05\x06\x03\x2b\x65\x70"
	case *rsa.PublicKey:
		return "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
	}
	return ""
}

func checkAlgorithm(c *certificate, e *Expect) string {
	if want := algorithmOf(e.IssuerKey); want == "" || string(c.algorithm) != want {
		return "not the algorithm of the issuer's key"
	}
	return ""
}

func checkIssuer(c *certificate, e *Expect) string {
	switch {
	case emptyName(c.issuer):
		return `empty: "The issuer field MUST contain a non-empty distinguished name"`
	case !bytes.Equal(c.issuer, e.Issuer):
		return "not the issuer's subject, octet for octet"
	}
	return ""
}

func emptyName(name []byte) bool { return len(name) <= 2 }

// RFC 5280 §4.1.2.5: "MUST always encode certificate validity dates through the year 2049 as UTCTime; certificate validity
// dates in 2050 or later MUST be encoded as GeneralizedTime", both with seconds and Z.
func (t instant) time() (time.Time, bool) {
	const layout = "20060102150405Z"
	text := string(t.text)
	if t.tag == asn1.UTCTime && len(text) == len(layout)-len("20") {
		text = century(t.text) + text
	} else if t.tag != asn1.GeneralizedTime {
		return time.Time{}, false
	}
	v, err := time.Parse(layout, text)
	// time.Parse lets a fraction through.
	ok := err == nil && len(text) == len(layout) && (t.tag == asn1.UTCTime || v.Year() >= 2050)
	return v, ok
}

// century: RFC 5280 §4.1.2.5.1: "Where YY is greater than or equal to 50, the year SHALL be interpreted as 19YY".
func century(utc []byte) string {
	if utc[0] >= '5' {
		return "19"
	}
	return "20"
}

func checkValidityEncoding(c *certificate, _ *Expect) string {
	if _, ok := c.notBefore.time(); !ok {
		return "notBefore: want UTCTime until 2049 and GeneralizedTime after, with seconds and Z"
	}
	if _, ok := c.notAfter.time(); !ok {
		return "notAfter: want UTCTime until 2049 and GeneralizedTime after, with seconds and Z"
	}
	return ""
}

func (c *certificate) validity() (from, to time.Time) {
	from, _ = c.notBefore.time()
	to, _ = c.notAfter.time()
	return from, to
}

func checkValidity(c *certificate, e *Expect) string {
	from, to := c.validity()
	switch {
	case !to.After(from):
		return "notAfter is not after notBefore"
	case !from.Equal(e.NotBefore.Truncate(time.Second)) || !to.Equal(e.NotAfter.Truncate(time.Second)):
		return "not the validity asked"
	}
	return ""
}

// RFC 5280 §4.1.2.5: the period is "from notBefore through notAfter, inclusive", so a second longer than it looks.
func checkLife(c *certificate, e *Expect) string {
	from, to := c.validity()
	if life := to.Sub(from) + time.Second; life > e.MaxLife {
		return fmt.Sprintf("%s, the profile allows %s", life, e.MaxLife)
	}
	return ""
}

func checkWithinIssuer(c *certificate, e *Expect) string {
	from, to := c.validity()
	if !e.IssuerNotAfter.IsZero() && (from.Before(e.IssuerNotBefore) || to.After(e.IssuerNotAfter)) {
		return fmt.Sprintf("reaches outside the issuer's validity, %s to %s", e.IssuerNotBefore.UTC().Format(time.RFC3339), e.IssuerNotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

func checkUnique(c *certificate, _ *Expect) string {
	if c.unique {
		return `present: "CAs conforming to this profile MUST NOT generate certificates with unique identifiers"`
	}
	return ""
}
