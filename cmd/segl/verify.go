package main

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A verification is what `segl verify` was asked.
type verification struct {
	root, intermediates, usage, at string
	names                          []string
}

// verify is `segl verify`.
func (p *program) verify() *cobra.Command {
	var v verification
	c := p.prints(&cobra.Command{
		Use: "verify --root FILE [--intermediates FILE] [--name NAME]... FILE", Short: "Verify a certificate as the doors of segl do",
		Args: exactly("FILE"),
		Long: `Verifies the first certificate of FILE against the roots (RFC 5280 §6), by way of the
other certificates of FILE and of --intermediates, and prints the chain it found.
FILE may be - for stdin. Revocation is not asked: segl cert show tells it. Exit code 7
says that the certificate does not verify.`,
		RunE: func(_ *cobra.Command, args []string) error { return p.verifyFile(v, args[0]) },
	})
	f := c.Flags()
	text(f, &v.root, "root", "SEGL_ROOT", "trust the roots in `FILE`, PEM")
	f.StringVar(&v.intermediates, "intermediates", "", "build the chain from the certificates in `FILE` too, PEM")
	f.StringSliceVarP(&v.names, "name", "n", nil, "must be good for `NAME`: DNS name, IP address or URI; may be repeated")
	f.StringVar(&v.usage, "usage", "", "shown as `USAGE`: server, client or any (default: server if --name is a host, else any)")
	choices(c, "usage", "server", "client", "any")
	f.StringVar(&v.at, "at", "", "verify for `INSTANT`, RFC 3339 (default: now)")
	return c
}

func (p *program) verifyFile(v verification, file string) error {
	anchors := p.or(v.root, "SEGL_ROOT")
	if anchors == "" {
		return misuse("there is no root to verify against").hinted("give --root or set SEGL_ROOT")
	}
	options, names, err := p.verifyOptions(v, anchors)
	if err != nil {
		return err
	}
	certs, err := p.readCertificates(file)
	if errors.Is(err, chain.ErrMalformed) { // it is there, and does not verify
		return &failure{code: exitFindings, err: err}
	}
	if err != nil {
		return err
	}
	for _, c := range certs[1:] {
		options.Intermediates.AddCert(c)
	}
	found, err := chain.Verify(certs[0], options, names)
	if err != nil {
		return failing(exitFindings, "verifying %s: %w", file, err)
	}
	return output.List(p.out, p.form, sequence(linksOf(found)), linkView)
}

func (p *program) verifyOptions(v verification, anchors string) (x509.VerifyOptions, []cert.Name, error) {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: p.now()}
	roots, err := chain.Read(anchors)
	if err != nil {
		return o, nil, err
	}
	for _, c := range roots {
		o.Roots.AddCert(c)
	}
	if v.intermediates != "" {
		more, err := chain.Read(v.intermediates)
		if err != nil {
			return o, nil, err
		}
		for _, c := range more {
			o.Intermediates.AddCert(c)
		}
	}
	if v.at != "" {
		if o.CurrentTime, err = time.Parse(time.RFC3339, v.at); err != nil {
			return o, nil, misuse("--at %q: want a form such as 2026-01-02T15:04:05Z", v.at)
		}
	}
	names, err := parseNames(v.names)
	if err != nil {
		return o, nil, err
	}
	o.KeyUsages, err = usages(v.usage, names)
	return o, names, err
}

func usages(asked string, names []cert.Name) ([]x509.ExtKeyUsage, error) {
	host := slices.ContainsFunc(names, func(n cert.Name) bool { return n.Kind() != cert.URI })
	switch {
	case asked == "server" || asked == "" && host:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, nil
	case asked == "client":
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil
	case asked == "any" || asked == "":
		return []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, nil
	}
	return nil, misuse("--usage %q: want server, client or any", asked)
}

// parseNames reads names as people write them: an address, a URI, else a DNS name.
func parseNames(list []string) ([]cert.Name, error) {
	var names []cert.Name
	for _, s := range list {
		n, err := parseName(s)
		if err != nil {
			return nil, misuse("%w", err)
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, nil
}

func parseName(s string) (cert.Name, error) {
	for _, prefix := range []string{"dns:", "ip:", "uri:"} {
		if strings.HasPrefix(s, prefix) {
			return cert.ParseName(s)
		}
	}
	if strings.Contains(s, "://") {
		return cert.ParseURI(s)
	}
	if n, err := cert.ParseIP(s); err == nil || strings.Contains(s, ":") {
		return n, err
	}
	return cert.ParseDNS(s)
}
