package attest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// A body is an attestation statement (WebAuthn §6.5.4): every format's members, of which each takes its own.
type body struct {
	Chain [][]byte `cbor:"x5c"`
	// Of tpm and step.
	Algorithm int64  `cbor:"alg"`
	Signature []byte `cbor:"sig"`
	// Of tpm.
	Version  string `cbor:"ver"`
	CertInfo []byte `cbor:"certInfo"`
	PubArea  []byte `cbor:"pubArea"`
}

// Bounds of a statement. JWS bodies are bounded besides.
const (
	maxChain = 6
	maxDepth = 8
	maxItems = 64
)

// decode reads an attestation object:
//
//	attObj = { fmt: text, attStmt: map, ? authData: bytes }
func decode(raw []byte) (Format, body, error) {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: maxDepth, MaxArrayElements: maxItems, MaxMapPairs: maxItems,
		TagsMd: cbor.TagsForbidden, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("attest: internal error: " + err.Error()) // the options are constants
	}
	var object struct {
		Format    string          `cbor:"fmt"`
		Statement cbor.RawMessage `cbor:"attStmt"`
		Data      []byte          `cbor:"authData"`
	}
	if err := mode.Unmarshal(raw, &object); err != nil || len(object.Statement) == 0 {
		return "", body{}, errors.New("its object is not CBOR with fmt and attStmt (WebAuthn §6.5.4)")
	}
	var b body
	if err := mode.Unmarshal(object.Statement, &b); err != nil {
		return "", body{}, errors.New("its statement has members of another type (WebAuthn §8)")
	}
	return Format(object.Format), b, nil
}

// chain parses certificates and wants them to lead from the first to one of roots at the given time. A subjectAltName the
// standard library leaves unread, because it has only names of other kinds, is read by the formats.
func chain(ders [][]byte, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, fmt.Errorf("it has %d certificates, want 1 to %d", len(ders), maxChain)
	}
	var all []*x509.Certificate
	above := x509.NewCertPool()
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("its certificate %d cannot be read", i+1)
		}
		all = append(all, c)
		if i > 0 {
			above.AddCert(c)
		}
	}
	leaf := all[0]
	var left = leaf.UnhandledCriticalExtensions[:0:0]
	for _, id := range leaf.UnhandledCriticalExtensions {
		if !id.Equal(oidSAN) {
			left = append(left, id)
		}
	}
	leaf.UnhandledCriticalExtensions = left
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, errors.New("its certificates do not lead to a root that is trusted for its format, or are not valid now")
	}
	if leaf.IsCA {
		return nil, errors.New("what attests is an authority's certificate")
	}
	return all, nil
}
