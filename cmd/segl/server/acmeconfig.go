package server

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/attest"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/internal/identity"
)

// ACMEScope narrows validation for one scope and all below it. An address must be allowed by every level that says what is,
// and denied by none; resolver and ports are the nearest level's that names them.
type ACMEScope struct {
	HTTPPort int            `yaml:"http_port"` // where http-01 connects. Default: as above it
	TLSPort  int            `yaml:"tls_port"`  // where tls-alpn-01 connects. Default: as above it
	Resolver string         `yaml:"resolver"`  // DNS server, host:port. Default: as above it
	Allowed  []netip.Prefix `yaml:"allowed"`   // of what is allowed above it, the only ranges that remain. Default: all of them
	Denied   []netip.Prefix `yaml:"denied"`    // Default: none more
}

// CAA says whose CAA records let us issue (RFC 8659, RFC 8657).
type CAA struct {
	// Identities are the names by which owners may name us, such as ca.example; directories show them, and dns-persist-01
	// records begin with one. Default: none, and no record is asked for: nobody could permit us.
	Identities []string `yaml:"identities"`
	// Private are zones in which no record is asked for, such as internal or cluster.local. Default: none.
	Private []string `yaml:"private"`
}

// Attestation says by which certificates devices' makers are known: files of PEM certificates, by the format of statement. A
// format without a file is refused.
type Attestation struct {
	Apple string `yaml:"apple"` // of Apple's Enterprise Attestation Root CA
	TPM   string `yaml:"tpm"`   // of those who certify attesting keys of TPMs
	Step  string `yaml:"step"`  // of YubiKeys' attestation, or your own
}

// open returns who judges statements, or nil if nobody's count.
func (a Attestation) open(now func() time.Time) (acme.Attester, error) {
	roots := map[attest.Format][]*x509.Certificate{}
	for format, file := range map[attest.Format]string{attest.Apple: a.Apple, attest.TPM: a.TPM, attest.Step: a.Step} {
		if file == "" {
			continue
		}
		list, err := readRoots(file)
		if err != nil {
			return nil, fmt.Errorf("acme.attestation.%s: %w", format, err)
		}
		roots[format] = list
	}
	if len(roots) == 0 {
		return nil, nil //nolint:nilnil // nobody's statements count
	}
	return attest.New(attest.Config{Roots: roots, Now: now})
}

func readRoots(file string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	var out []*x509.Certificate
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading certificates of %s: %w", file, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("reading certificates of %s: there is no PEM certificate in it", file)
	}
	return out, nil
}

// check refuses what cannot work, saying which key and what it wants.
func (a *ACME) check() error {
	if _, err := a.rules(); err != nil {
		return err
	}
	if a.Retries == nil {
		a.Retries = acme.DefaultRetries()
	}
	if len(a.Retries) > maxRetries {
		return fmt.Errorf("acme.retries: %d: want %d at most", len(a.Retries), maxRetries)
	}
	for _, d := range a.Retries {
		if d < time.Second || d > maxRetryAfter {
			return fmt.Errorf("acme.retries: %s: want 1s to %s", d, maxRetryAfter)
		}
	}
	if err := a.Perspectives.check(); err != nil {
		return err
	}
	_, err := a.drafts()
	return err
}

// Bounds of a schedule: clients wait for its end.
const (
	maxRetries    = 10
	maxRetryAfter = 10 * time.Minute
)

func (a *ACME) rules() (map[identity.Scope]validate.Rules, error) {
	out := make(map[identity.Scope]validate.Rules, len(a.Scopes))
	for name, r := range a.Scopes {
		s, err := identity.ParseScope(name)
		if err != nil {
			return nil, fmt.Errorf("acme.scopes: %w", err)
		}
		for key, port := range map[string]int{"http_port": r.HTTPPort, "tls_port": r.TLSPort} {
			if port < 0 || port > 65535 {
				return nil, fmt.Errorf("acme.scopes.%s.%s: %d: want a port, 1 to 65535", name, key, port)
			}
		}
		out[s] = validate.Rules{
			Resolver: r.Resolver, HTTPPort: uint16(r.HTTPPort), TLSPort: uint16(r.TLSPort), Allowed: r.Allowed, Denied: r.Denied, //nolint:gosec // checked
		}
	}
	return out, nil
}

func (a *ACME) drafts() ([]acme.Method, error) {
	var out []acme.Method
	for name, version := range a.Drafts {
		ours, known := acme.Drafts()[acme.Method(name)]
		if !known {
			return nil, fmt.Errorf("acme.drafts: %q: want dns-account-01, dns-persist-01 or device-attest-01", name)
		}
		if version != ours {
			return nil, fmt.Errorf("acme.drafts.%s: %q: this program speaks %s", name, version, ours)
		}
		out = append(out, acme.Method(name))
	}
	if _, on := a.Drafts[string(acme.DeviceAttest01)]; on == (a.Attestation == Attestation{}) {
		return nil, fmt.Errorf("acme.attestation: want it and acme.drafts.%s, or neither", acme.DeviceAttest01)
	}
	if len(a.CAA.Identities) == 0 && a.Drafts[string(acme.DNSPersist01)] != "" {
		return nil, fmt.Errorf("acme.drafts.%s: want acme.caa.identities too: records begin with one of them", acme.DNSPersist01)
	}
	return out, nil
}
