// Package attest judges what a device says of its key and of itself (device-attest-01,
// draft-ietf-acme-device-attest-09): statements of Apple devices, of TPMs and in smallstep's form, as YubiKeys make.
//
// A statement counts only if all of this holds: its certificates lead to a root that is trusted for its format; it is fresh,
// that is, it carries the challenge's nonce; it names a permanent identifier, and that is the one ordered; and it says which
// key it attests. What is not in a statement is never taken for granted. The key is returned: the certificate must be for it.
//
// The package asks nobody: whether a maker has revoked a certificate of its own is not known here. Everything is parsed from
// a stranger's octets, bounded in size and depth. A Verifier is safe for concurrent use.
package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A Format is a kind of statement (WebAuthn §8, and smallstep's).
type Format string

// The formats.
const (
	Apple Format = "apple"
	TPM   Format = "tpm"
	Step  Format = "step"
)

// A Config says who is trusted to make statements.
type Config struct {
	// Roots are the makers' certificates for each format. A format without any is refused.
	Roots map[Format][]*x509.Certificate
	Now   func() time.Time
}

// A Verifier implements acme.Attester.
type Verifier struct {
	roots map[Format]*x509.CertPool
	now   func() time.Time
}

var _ acme.Attester = (*Verifier)(nil)

// New returns a Verifier.
func New(c Config) (*Verifier, error) {
	if c.Now == nil {
		return nil, errors.New("preparing attestation: a clock is required")
	}
	v := &Verifier{roots: map[Format]*x509.CertPool{}, now: c.Now}
	for f, list := range c.Roots {
		if !slices.Contains([]Format{Apple, TPM, Step}, f) {
			return nil, fmt.Errorf("preparing attestation: format %q: want apple, tpm or step", f)
		}
		if len(list) == 0 {
			continue
		}
		v.roots[f] = x509.NewCertPool()
		for _, r := range list {
			v.roots[f].AddCert(r)
		}
	}
	return v, nil
}

// A statement is what the device sent, with what it must fit.
type statement struct {
	certificates []*x509.Certificate // the one that attests, then those above it
	body         body
	token        string
	keyAuth      string
}

// A finding is what a statement says.
type finding struct {
	identifiers []string // permanent identifiers of the device
	spki        []byte   // the attested key
}

// Attest implements acme.Attester.
func (v *Verifier) Attest(c acme.Check) (acme.Evidence, *acme.Problem) {
	format, found, err := v.judge(c)
	if err != nil {
		return acme.Evidence{}, acme.NewProblem(acme.BadAttestationStatement, "the attestation does not count: %s", err)
	}
	if !slices.Contains(found.identifiers, c.Name.Value()) {
		return acme.Evidence{}, acme.NewProblem(acme.BadAttestationStatement,
			"the attestation is of another device, or names none: it has %.200q, want %q", found.identifiers, c.Name.Value())
	}
	return acme.Evidence{Statement: string(format), Key: cert.KeyID(sha256.Sum256(found.spki))}, nil
}

func (v *Verifier) judge(c acme.Check) (Format, finding, error) {
	// draft-ietf-acme-device-attest-09 §5: "A Client responds with the response object containing the WebAuthn attestation
	// object in the "attObj" field".
	var answer struct {
		Object string `json:"attObj"`
		Error  string `json:"error"`
	}
	if err := json.Unmarshal(c.Payload, &answer); err != nil || answer.Error != "" || answer.Object == "" {
		return "", finding{}, errors.New(`the answer has no "attObj"`)
	}
	raw, err := base64.RawURLEncoding.DecodeString(answer.Object)
	if err != nil {
		return "", finding{}, errors.New(`"attObj" is not base64url without padding`)
	}
	format, b, err := decode(raw)
	if err != nil {
		return "", finding{}, err
	}
	roots, ok := v.roots[format]
	if !ok {
		return "", finding{}, fmt.Errorf("format %.20q is not taken here", string(format))
	}
	s := statement{body: b, token: c.Token, keyAuth: c.KeyAuthorization}
	if s.certificates, err = chain(b.Chain, roots, v.now()); err != nil {
		return "", finding{}, err
	}
	found, err := format.read(s)
	return format, found, err
}

func (f Format) read(s statement) (finding, error) {
	switch f {
	case Apple:
		return apple(s)
	case TPM:
		return tpm(s)
	case Step:
		return step(s)
	}
	return finding{}, fmt.Errorf("format %.20q is not known", string(f))
}
