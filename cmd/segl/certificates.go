package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// readCertificates reads certificates from a file, or from stdin where it is called -.
func (p *program) readCertificates(file string) ([]*x509.Certificate, error) {
	if file != "-" {
		return readCertificates(file)
	}
	b, err := readAll(p.in)
	if err != nil {
		return nil, fmt.Errorf("reading stdin: %w", err)
	}
	certs, err := parseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("reading stdin: %w", err)
	}
	return certs, nil
}

// maxInput bounds what is read from stdin.
const maxInput = 4 << 20

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxInput)) }

// readCertificates reads every certificate of a PEM file, at least one; a single one may be in DER.
func readCertificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	certs, err := parseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return certs, nil
}

func parseCertificates(b []byte) ([]*x509.Certificate, error) {
	if len(b) > 0 && b[0] == 0x30 { // a SEQUENCE: DER
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, notACertificate(err)
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, notACertificate(err)
			}
			certs = append(certs, c)
		}
		b = rest
	}
	if len(certs) == 0 {
		return nil, failing(exitFailed, "there is no certificate in it").hinted("want PEM blocks of type CERTIFICATE")
	}
	return certs, nil
}

// notACertificate is a finding: to whoever verifies, a malformed certificate is one that does not verify.
func notACertificate(err error) error {
	return failing(exitFindings, "a certificate in it cannot be read: %s", strings.TrimPrefix(err.Error(), "x509: "))
}

// linkView shows one certificate of a chain.
var linkView = output.View[link]{
	Name: func(l link) string { return l.Serial },
	Columns: []output.Column[link]{
		{Head: "SUBJECT", Cell: func(l link) string { return l.Subject }},
		{Head: "SERIAL", Cell: func(l link) string { return l.Serial }},
		{Head: "NOT BEFORE", Cell: func(l link) string { return l.NotBefore }},
		{Head: "NOT AFTER", Cell: func(l link) string { return l.NotAfter }},
	},
}

// A link is one certificate of a chain.
type link struct {
	Subject   string   `json:"subject"`
	Serial    string   `json:"serial"`
	NotBefore string   `json:"not_before"`
	NotAfter  string   `json:"not_after"`
	Names     []string `json:"names,omitempty"`
}

func linkOf(c *x509.Certificate) link {
	return link{title(c), serialOf(c), stamp(c.NotBefore), stamp(c.NotAfter), namesIn(c)}
}

// links yields the chain as it is printed.
func links(chain []*x509.Certificate) iter.Seq2[link, error] {
	return func(yield func(link, error) bool) {
		for _, c := range chain {
			if !yield(linkOf(c), nil) {
				return
			}
		}
	}
}

// serialOf is how this program writes serials: lower-case hex, as many digits as octets have.
func serialOf(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber.Bytes()) }

// stamp is how this program writes instants.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// title is what to call a certificate: its subject, or where that is empty, as of workloads (RFC 5280 §4.1.2.6), its names.
func title(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	if names := namesIn(c); len(names) > 0 {
		return names[0]
	}
	return serialOf(c)
}

func namesIn(c *x509.Certificate) []string {
	names := append(urisIn(c), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func urisIn(c *x509.Certificate) []string {
	var list []string
	for _, u := range c.URIs {
		list = append(list, u.String())
	}
	return list
}
