package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
	if err != nil {
		return err
	}
	for _, c := range certs[1:] {
		options.Intermediates.AddCert(c)
	}
	chain, err := verifyChain(certs[0], options, names)
	if err != nil {
		return failing(exitFindings, "verifying %s: %w", file, err)
	}
	return output.List(p.out, p.form, links(chain), linkView)
}

func (p *program) verifyOptions(v verification, anchors string) (x509.VerifyOptions, []cert.Name, error) {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: p.now()}
	roots, err := readCertificates(anchors)
	if err != nil {
		return o, nil, err
	}
	for _, c := range roots {
		o.Roots.AddCert(c)
	}
	if v.intermediates != "" {
		more, err := readCertificates(v.intermediates)
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

// verifyChain returns the best chain from leaf to an anchor. Beyond RFC 5280 §6, every key below the anchor must be one
// that this service would certify.
func verifyChain(leaf *x509.Certificate, o x509.VerifyOptions, names []cert.Name) ([]*x509.Certificate, error) {
	chains, err := leaf.Verify(o)
	if err != nil {
		return nil, plainly(err)
	}
	chain := slices.MinFunc(chains, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	for _, c := range chain[:len(chain)-1] {
		if err := cert.CheckKey(c.PublicKey); err != nil {
			return nil, fmt.Errorf("%s: %w", title(c), err)
		}
	}
	for _, n := range names {
		if !bears(leaf, n) {
			return nil, fmt.Errorf("it is not good for %s, only for %s", n, strings.Join(namesIn(leaf), ", "))
		}
	}
	return chain, nil
}

// plainly says what the standard library found, in the words of this program.
func plainly(err error) error {
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		return fmt.Errorf("%s is valid from %s to %s only", title(bad.Cert), stamp(bad.Cert.NotBefore), stamp(bad.Cert.NotAfter))
	}
	if bad, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("no chain leads to the root: %s was issued by %q, which is neither there nor trusted", title(bad.Cert), bad.Cert.Issuer.String())
	}
	return errors.New(strings.TrimPrefix(err.Error(), "x509: "))
}

// bears reports whether leaf is good for n (RFC 9525 §6; the common name means nothing).
func bears(leaf *x509.Certificate, n cert.Name) bool {
	if n.Kind() == cert.URI {
		return slices.ContainsFunc(urisIn(leaf), func(u string) bool { return u == n.Value() })
	}
	if n.Wildcard() {
		return slices.Contains(leaf.DNSNames, n.Value())
	}
	return leaf.VerifyHostname(n.Value()) == nil
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
