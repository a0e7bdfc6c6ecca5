package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// readCertificates reads certificates from a file, or from stdin where it is called -.
func (p *program) readCertificates(file string) ([]*x509.Certificate, error) {
	if file != "-" {
		return chain.Read(file)
	}
	b, err := readAll(p.in)
	if err != nil {
		return nil, fmt.Errorf("reading stdin: %w", err)
	}
	certs, err := chain.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading stdin: %w", err)
	}
	return certs, nil
}

// maxInput bounds what is read from stdin.
const maxInput = 4 << 20

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxInput)) }

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
	return link{chain.Title(c), chain.Serial(c), stamp(c.NotBefore), stamp(c.NotAfter), chain.Names(c)}
}

func linksOf(path []*x509.Certificate) []link {
	list := make([]link, 0, len(path))
	for _, c := range path {
		list = append(list, linkOf(c))
	}
	return list
}

// stamp is how this program writes instants.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
