// Package breakglass keeps the daily CA apart from the emergency ("break-glass") CAs of the platform.
//
// An emergency CA is named by fingerprints alone, in configuration: of its root certificate, of its public key, of its SSH key.
// A Guard compares whatever the daily CA is about to hold, sign for or publish with those, and refuses what equals one, chains
// to one or shares a key with one. It needs nothing of the emergency CA itself: no file, no network, no key. It does not judge
// which of the two is right, nor what others trust: reading their files is `segl check-trust`.
//
// Invariant: a chain that cannot be followed to its anchor is refused, since what is above it may be an emergency CA.
// Fingerprints are SHA-256 over DER (of the certificate; of its SubjectPublicKeyInfo, RFC 5280 §4.1.2.7) and of SSH's public
// key (RFC 4253 §6.6), the last as OpenSSH prints it. A Guard does not change and is safe for concurrent use; a nil Guard
// knows no emergency CA.
package breakglass

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// An Entry names one emergency CA. At least one fingerprint is given; giving the key's too finds it in another certificate.
type Entry struct {
	// Name is what refusals call it.
	Name string `json:"name" yaml:"name"`
	// Certificate is the SHA-256 of the root certificate's DER: 64 hex digits, colons allowed, as
	// `openssl x509 -noout -fingerprint -sha256` prints.
	Certificate string `json:"certificate,omitempty" yaml:"certificate"`
	// Key is the SHA-256 of its SubjectPublicKeyInfo in DER: 64 hex digits, colons allowed.
	Key string `json:"key,omitempty" yaml:"key"`
	// SSH is the fingerprint of its SSH key as `ssh-keygen -l` prints it: SHA256:…
	SSH string `json:"ssh,omitempty" yaml:"ssh"`
}

// A Guard knows the emergency CAs.
type Guard struct {
	certificates, keys, sshKeys map[[sha256.Size]byte]string // to their names
}

// A Touch says what of ours touches an emergency CA, and how.
type Touch struct {
	What string // what was looked at, as in "authority workload-1-1"
	Name string // the emergency CA
	How  string // "is its certificate", "has its key", "chains to its certificate", "has its SSH key"
}

func (t *Touch) Error() string {
	return fmt.Sprintf("%s %s: break-glass CA %q and the daily CA must share nothing: remove it here, or mend break_glass in the configuration if the fingerprint is wrong",
		t.What, t.How, t.Name)
}

// ErrNoAnchor: a chain does not reach a certificate that signed itself.
var ErrNoAnchor = errors.New("the chain does not reach its root, so what it chains to is unknown: give every certificate up to the root")

// Parse returns the Guard of what configuration says; nil if that is nothing.
func Parse(entries []Entry) (*Guard, error) {
	if len(entries) == 0 {
		return nil, nil //nolint:nilnil // a nil Guard is one that knows none
	}
	g := &Guard{map[[sha256.Size]byte]string{}, map[[sha256.Size]byte]string{}, map[[sha256.Size]byte]string{}}
	for i, e := range entries {
		if e.Name == "" {
			return nil, fmt.Errorf("entry %d has no name: give it one, refusals say it", i+1)
		}
		if e.Certificate == "" && e.Key == "" && e.SSH == "" {
			return nil, fmt.Errorf("%s: want a fingerprint: certificate, key or ssh", e.Name)
		}
		for _, f := range []struct {
			field, value string
			into         map[[sha256.Size]byte]string
			parse        func(string) ([]byte, error)
		}{
			{"certificate", e.Certificate, g.certificates, parseHex},
			{"key", e.Key, g.keys, parseHex},
			{"ssh", e.SSH, g.sshKeys, parseSSH},
		} {
			if f.value == "" {
				continue
			}
			sum, err := f.parse(f.value)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %q: %w", e.Name, f.field, f.value, err)
			}
			f.into[[sha256.Size]byte(sum)] = e.Name
		}
	}
	return g, nil
}

func parseHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != sha256.Size {
		return nil, errors.New("want a SHA-256 fingerprint, 64 hex digits")
	}
	return b, nil
}

func parseSSH(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, "SHA256:")
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != sha256.Size {
		return nil, errors.New("want a fingerprint as ssh-keygen -l prints it, SHA256: and 43 characters")
	}
	return b, nil
}

// Key refuses a key that is an emergency CA's, in whatever form that was named.
func (g *Guard) Key(what string, pub crypto.PublicKey) error {
	if g == nil {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("comparing %s with the break-glass CAs: %w", what, err)
	}
	if err := g.KeyID(what, sha256.Sum256(der)); err != nil {
		return err
	}
	if len(g.sshKeys) == 0 {
		return nil
	}
	as, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil //nolint:nilerr // SSH has no such keys, so no emergency CA's SSH key is this one
	}
	return g.SSH(what, as)
}

// KeyID is Key for one that is known by the SHA-256 of its SubjectPublicKeyInfo.
func (g *Guard) KeyID(what string, id [sha256.Size]byte) error {
	if g == nil {
		return nil
	}
	if name, ok := g.keys[id]; ok {
		return &Touch{what, name, "has its key"}
	}
	return nil
}

// SSH refuses an SSH key that is an emergency CA's.
func (g *Guard) SSH(what string, key ssh.PublicKey) error {
	if g == nil {
		return nil
	}
	if name, ok := g.sshKeys[sha256.Sum256(key.Marshal())]; ok {
		return &Touch{what, name, "has its SSH key"}
	}
	return nil
}

// Certificate refuses a certificate that is an emergency CA's, or has its key.
func (g *Guard) Certificate(what string, c *x509.Certificate) error {
	if g == nil {
		return nil
	}
	if name, ok := g.certificates[sha256.Sum256(c.Raw)]; ok {
		return &Touch{what, name, "is its certificate"}
	}
	return g.Key(what, c.PublicKey)
}

// Chain refuses a certificate, the first, that equals, chains to or shares a key with an emergency CA. The others are those
// above it, in any order; together they must reach a certificate that signed itself, else the error is ErrNoAnchor. Certificates
// that are no part of the chain are compared as well.
func (g *Guard) Chain(what string, chain ...*x509.Certificate) error {
	if g == nil {
		return nil
	}
	if len(chain) == 0 {
		return fmt.Errorf("comparing %s with the break-glass CAs: %w", what, ErrNoAnchor)
	}
	if err := g.Certificate(what, chain[0]); err != nil {
		return err
	}
	for _, c := range chain[1:] {
		var touch *Touch
		if err := g.Certificate(what, c); errors.As(err, &touch) {
			return &Touch{what, touch.Name, "chains to it: " + touch.How}
		} else if err != nil {
			return err
		}
	}
	if !anchored(chain[0], chain) {
		return fmt.Errorf("comparing %s with the break-glass CAs: %w", what, ErrNoAnchor)
	}
	return nil
}

// Above refuses a certificate that equals, chains to or shares a key with an emergency CA, as far as known shows what is above
// it: for looking through what others trust, where a chain need not be whole.
func (g *Guard) Above(what string, c *x509.Certificate, known ...*x509.Certificate) error {
	if err := g.Certificate(what, c); g == nil || err != nil {
		return err
	}
	for range known { // a chain is no longer than what is known
		up := issuerOf(c, known)
		if up == nil || up.Equal(c) {
			return nil
		}
		var touch *Touch
		if err := g.Certificate(what, up); errors.As(err, &touch) {
			return &Touch{what, touch.Name, "chains to it: " + touch.How}
		} else if err != nil {
			return err
		}
		c = up
	}
	return nil
}

// anchored reports whether the way up from c that signatures show ends in a self-signed certificate of the set.
func anchored(c *x509.Certificate, set []*x509.Certificate) bool {
	for range set { // a chain is no longer than the set
		if c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return true
		}
		above := issuerOf(c, set)
		if above == nil {
			return false
		}
		c = above
	}
	return false
}

func issuerOf(c *x509.Certificate, set []*x509.Certificate) *x509.Certificate {
	for _, up := range set {
		if up != c && up.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return up
		}
	}
	return nil
}
