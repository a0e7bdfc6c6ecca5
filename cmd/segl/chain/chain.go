// Package chain reads certificates from files and verifies them as the doors of segl do.
//
// It verifies as RFC 5280 §6 says, by the standard library, and beyond that wants every key below the anchor to be one
// that this service would certify. Names are those of the subject alternative name (RFC 9525 §6); a common name means
// nothing. Revocation is not asked about. The package keeps no state.
package chain

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Errors that callers decide upon.
var (
	// ErrNone: there is no certificate where one was looked for.
	ErrNone = errors.New("there is no certificate in it: want PEM blocks of type CERTIFICATE (RFC 7468 §5)")
	// ErrMalformed: there is one, and it cannot be read. To whoever verifies, it is one that does not verify.
	ErrMalformed = errors.New("a certificate in it cannot be read")
)

// Read reads every certificate of a PEM file, at least one; a single one may be in DER.
func Read(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	certs, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return certs, nil
}

// Parse is Read of what a file holds.
func Parse(b []byte) ([]*x509.Certificate, error) {
	if len(b) > 0 && b[0] == 0x30 { // a SEQUENCE: DER
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, malformed(err)
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, malformed(err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, ErrNone
	}
	return certs, nil
}

func malformed(err error) error {
	return fmt.Errorf("%w: %s", ErrMalformed, strings.TrimPrefix(err.Error(), "x509: "))
}

// Serial writes c's serial as this program does everywhere: lower-case hex, two digits an octet.
func Serial(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber.Bytes()) }

// Title is what to call c: its subject, or where that is empty, as a workload's (RFC 5280 §4.1.2.6), its first name.
func Title(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	if names := Names(c); len(names) > 0 {
		return names[0]
	}
	return Serial(c)
}

// Names are the subject alternative names of c, URIs first.
func Names(c *x509.Certificate) []string {
	names := append(uris(c), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func uris(c *x509.Certificate) []string {
	var list []string
	for _, u := range c.URIs {
		list = append(list, u.String())
	}
	return list
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
