// Package tbs builds the to-be-signed bytes of certificates.
//
// What an authority and a usage fix is encoded once, by Compile; a certificate then costs a few appends, a tenth of
// x509.CreateCertificate without its signature. It decides nothing: who may have which names is policy's and ca's, and
// ca/lint reads the bytes back with a parser of its own before they are signed. Keys are not here: kms signs.
//
// Invariant: the same Template and Values give the same bytes, in DER (X.690 §10), and they are a version 3
// TBSCertificate as RFC 5280 §4.1 has it. docs/x509-profiles.md says what stands in each kind of certificate, and why. A
// Template is immutable and safe for concurrent use.
package tbs

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// A Usage is what the key of a certificate is for.
type Usage = lint.Usage

// The usages.
const (
	Server          = lint.Server
	Client          = lint.Client
	ServerAndClient = lint.ServerAndClient
	OCSPResponder   = lint.OCSPResponder
	Authority       = lint.Authority
)

// A Spec is what the issuer and the profile fix in every certificate made from one Template.
type Spec struct {
	Usage Usage
	// Issuer is the certificate of the authority that will sign; nil for a self-signed root.
	Issuer *x509.Certificate
	// Key is the root's own public key when Issuer is nil.
	Key crypto.PublicKey
	// Subject is the name, in DER, of the authority to be certified. Leaves leave it nil: their subject is empty or, where
	// Values gives one, a common name.
	Subject []byte
	// PathLen is how many authorities may follow below an Authority (RFC 5280 §4.2.1.9); negative means no limit.
	PathLen int
	// Purposes limits what a subordinate Authority may issue for, where set; its delegated responders need no mention. A
	// usage other than Authority has its own.
	Purposes []x509.ExtKeyUsage
	Policies []x509.OID
	// Permitted are the only names below a subordinate Authority (RFC 5280 §4.2.1.10); nil means any.
	Permitted *lint.Permitted
	// NoRevAvail says that nobody will ever tell that the certificate ended early (RFC 9608): CRLs and OCSP are then left empty.
	// MustStaple has a TLS server send an OCSP answer along (RFC 7633).
	NoRevAvail, MustStaple bool
	// CRLs is the base URL of the issuer's lists with its last slash: a certificate names the one of the epoch its serial
	// was made in, and of its part (ListURL). Empty, or an OCSPResponder: no distribution point.
	CRLs string
	// List is the one URL where the issuer's list is, in place of CRLs, for an issuer that signs its lists far from here.
	List string
	// OCSP and Issuers are the URLs of the responder and of the issuer's certificate in DER. Empty, or an OCSPResponder: left out.
	OCSP, Issuers string
}

// Values are what differs from one certificate to the next.
type Values struct {
	Serial              cert.Serial
	NotBefore, NotAfter time.Time // whole seconds; both ends count (RFC 5280 §4.1.2.5)
	SPKI                []byte    // SubjectPublicKeyInfo, DER
	CommonName          string    // of a leaf; empty: the subject is empty
	Names               []cert.Name
	Parts               int // how many lists share the serial's epoch; 0 and 1 mean one
}

// Part returns which of the lists of its epoch the serial would stand on: that of its last octet, modulo their number.
func (v Values) Part() int {
	if v.Parts <= 1 {
		return 0
	}
	b := v.Serial.Bytes()
	return int(b[len(b)-1]) % v.Parts
}

// ListURL returns the URL of a list below base: of an epoch, or of one of the parts that share it, in two hexadecimal digits.
// Who publishes the list repeats it octet for octet (RFC 5280 §5.2.5).
func ListURL(base string, e uid.Epoch, parts, part int) string {
	name := base + strconv.Itoa(int(e))
	if parts > 1 {
		name += fmt.Sprintf("-%02x", part)
	}
	return name + ".crl"
}

// check refuses what no certificate can be made from.
func (s Spec) check() error {
	authority := s.Usage == Authority
	switch {
	case s.Usage.String() == "":
		return fmt.Errorf("usage %d: choose one of the named ones", s.Usage)
	case authority && len(s.Subject) == 0:
		return errors.New("an authority has no subject: give its name (RFC 5280 §4.1.2.6)")
	case !authority && s.Subject != nil:
		return errors.New("a leaf has a fixed subject: leave it nil")
	case !authority && len(s.Purposes) > 0:
		return fmt.Errorf("key purposes beside those of usage %s: leave them out", s.Usage)
	case slices.Contains(s.Purposes, x509.ExtKeyUsageOCSPSigning):
		// RFC 6960 §4.2.2.2: a certificate with id-kp-OCSPSigning may answer for everything its issuer issued.
		return errors.New("an authority with OCSPSigning could answer for its siblings: leave the purpose out")
	case s.Permitted != nil && (!authority || s.Issuer == nil):
		return errors.New("name constraints on a leaf or a root: they are for subordinate authorities (RFC 5280 §4.2.1.10, §6.2)")
	case (s.NoRevAvail || s.MustStaple) && (authority || s.Usage == OCSPResponder):
		return errors.New("no revocation available, or status stapled, of an authority or a responder: leave it out (RFC 9608 §2)")
	case s.List != "" && s.CRLs != "":
		return errors.New("a list at one URL and one an epoch: name one of them")
	case s.NoRevAvail && (s.CRLs != "" || s.List != "" || s.OCSP != ""):
		return errors.New("no revocation available, beside a list or a responder: leave these out (RFC 9608 §2)")
	case s.MustStaple && s.OCSP == "":
		return errors.New("status to be stapled, and no responder: name one (RFC 7633 §4)")
	case s.Issuer == nil && (!authority || s.Key == nil):
		return errors.New("no issuer: give the authority's certificate, or for a root its own key")
	case s.Issuer != nil && (!s.Issuer.IsCA || len(s.Issuer.SubjectKeyId) == 0):
		return errors.New("the issuer's certificate is no authority's with a subject key identifier (RFC 5280 §4.2.1.2)")
	}
	return nil
}

// issuer returns what signs: its name, its key and its key identifier, which a root needs none of for itself.
func (s Spec) issuer() (name []byte, key crypto.PublicKey, id []byte) {
	if s.Issuer == nil {
		return s.Subject, s.Key, nil
	}
	return s.Issuer.RawSubject, s.Issuer.PublicKey, s.Issuer.SubjectKeyId
}

// Expect returns what lint is to find in the certificate that Build makes of v, living no longer than maxLife.
func (t *Template) Expect(v Values, maxLife time.Duration) lint.Expect {
	name, key, id := t.spec.issuer()
	e := lint.Expect{
		Usage: t.spec.Usage, Issuer: name, IssuerKey: key, IssuerKeyID: id, MaxLife: maxLife,
		Policies: t.spec.Policies, PathLen: t.spec.PathLen, CRLs: t.spec.CRLs, List: t.spec.List, OCSP: t.spec.OCSP, Issuers: t.spec.Issuers,
		Purposes: t.purposes, Subject: t.spec.Subject, NoRevAvail: t.spec.NoRevAvail, MustStaple: t.spec.MustStaple, Permitted: t.spec.Permitted,
		Serial: v.Serial, NotBefore: v.NotBefore, NotAfter: v.NotAfter, CommonName: v.CommonName, Names: v.Names, SPKI: v.SPKI, Parts: v.Parts,
	}
	if issuer := t.spec.Issuer; issuer != nil {
		e.IssuerNotBefore, e.IssuerNotAfter = issuer.NotBefore, issuer.NotAfter
	}
	return e
}

// Assemble puts a certificate, or a list, together: its to-be-signed bytes, the algorithm and the signature.
//
//	Certificate ::= SEQUENCE { tbsCertificate TBSCertificate, signatureAlgorithm AlgorithmIdentifier, signatureValue BIT STRING }
func Assemble(tbs []byte, algorithm kms.SignatureAlgorithm, signature []byte) ([]byte, error) {
	if len(tbs) == 0 || len(signature) == 0 {
		return nil, errors.New("assembling signed bytes: the bytes or the signature are missing")
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+headroom))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm.Identifier())
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// headroom is more than headers and the longest AlgorithmIdentifier add.
const headroom = 64
