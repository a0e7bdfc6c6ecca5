// Package lint judges to-be-signed bytes before a key touches them.
//
// It reads the bytes with a parser of its own, never with the builder that made them, and compares them with what was
// asked. Each rule has a name, a citation and a check; the first that is broken is the answer. It decides nothing about
// callers or names: ca and policy did. The rules are those of RFC 5280 and, where stricter, of Segl itself
// (docs/x509-profiles.md). Linting is a pure function: no I/O, no state, safe for concurrent use, and cheap enough for
// every certificate; zlint, which is not, judges every profile in the tests.
package lint

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Violation is a broken rule. It is a fault of ours, not of the requester: what a stranger may ask was settled before.
type Violation struct {
	Rule     string // the rule's name, as in "key-usage"
	Citation string // where it is written, as in "RFC 5280 §4.2.1.3"
	Found    string // what is wrong
}

func (v *Violation) Error() string {
	return fmt.Sprintf("lint rule %s (%s): %s", v.Rule, v.Citation, v.Found)
}

// Expect is what a certificate must say.
type Expect struct {
	Usage Usage

	// What the issuer fixes. For a self-signed root, Issuer is its own Subject and IssuerKey its own key.
	Issuer          []byte // Name, DER
	IssuerKey       crypto.PublicKey
	IssuerKeyID     []byte // empty: a root's own, which needs no authority key identifier
	IssuerNotBefore time.Time
	IssuerNotAfter  time.Time // zero for a root: nothing lies above it

	// What the profile fixes.
	MaxLife  time.Duration
	Policies []x509.OID
	PathLen  int        // of an authority; negative means no limit
	CRLs     string     // base URL of the issuer's lists, with its last slash; empty: no list
	List     string     // the one URL of the issuer's list, in place of CRLs
	Parts    int        // how many lists share the serial's epoch; 0 and 1 mean one
	OCSP     string     // URL of the responder; empty: none
	Issuers  string     // URL of the issuer's certificate; empty: none
	Purposes []x509.OID // key purposes that a subordinate authority is limited to
	// NoRevAvail: nothing will ever say that the certificate ended early (RFC 9608); MustStaple: its server sends an OCSP answer
	// along (RFC 7633).
	NoRevAvail, MustStaple bool
	// Permitted are the only names below a subordinate authority; nil means any.
	Permitted *Permitted

	// What was asked.
	Serial     cert.Serial
	NotBefore  time.Time
	NotAfter   time.Time
	Subject    []byte // Name, DER, of an authority
	CommonName string // of a leaf; empty: the subject is empty
	Names      []cert.Name
	SPKI       []byte
}

// A rule is one thing a certificate must keep. Its check returns what is wrong, or nothing.
type rule struct {
	name, citation string
	check          func(c *certificate, e *Expect) string
}

// Certificate returns nil if tbs, a TBSCertificate in DER, keeps every rule and says what e expects; else a *Violation.
func Certificate(tbs []byte, e Expect) error {
	c, wrong := parse(tbs)
	if wrong != "" {
		return &Violation{"encoding", "RFC 5280 §4.1, X.690 §10", wrong}
	}
	for i := range rules {
		if wrong := rules[i].check(&c, &e); wrong != "" {
			return &Violation{rules[i].name, rules[i].citation, wrong}
		}
	}
	return nil
}

// oid returns the contents of an object identifier.
func oid(id x509.OID) string {
	der, err := id.MarshalBinary()
	if err != nil {
		panic("lint: internal error: " + err.Error())
	}
	return string(der)
}

// Rules returns the name and citation of every rule for certificates, in the order they are checked.
func Rules() [][2]string {
	list := [][2]string{{"encoding", "RFC 5280 §4.1, X.690 §10"}}
	for _, r := range rules {
		list = append(list, [2]string{r.name, r.citation})
	}
	return list
}
