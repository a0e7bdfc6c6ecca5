package chain

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"codeberg.org/dataverket/segl/internal/cert"
)

// Verify returns the best chain from leaf to an anchor. Beyond RFC 5280 §6, every key below the anchor must be one
// that this service would certify.
func Verify(leaf *x509.Certificate, o x509.VerifyOptions, names []cert.Name) ([]*x509.Certificate, error) {
	chains, err := leaf.Verify(o)
	if err != nil {
		return nil, plainly(err)
	}
	chain := slices.MinFunc(chains, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	for _, c := range chain[:len(chain)-1] {
		if err := cert.CheckKey(c.PublicKey); err != nil {
			return nil, fmt.Errorf("%s: %w", Title(c), err)
		}
	}
	for _, n := range names {
		if !bears(leaf, n) {
			return nil, fmt.Errorf("it is not good for %s, only for %s", n, strings.Join(Names(leaf), ", "))
		}
	}
	return chain, nil
}

// plainly says what the standard library found, in the words of this program.
func plainly(err error) error {
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		return fmt.Errorf("%s is valid from %s to %s only", Title(bad.Cert), stamp(bad.Cert.NotBefore), stamp(bad.Cert.NotAfter))
	}
	if bad, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("no chain leads to the root: %s was issued by %q, which is neither there nor trusted", Title(bad.Cert), bad.Cert.Issuer.String())
	}
	return errors.New(strings.TrimPrefix(err.Error(), "x509: "))
}

// bears reports whether leaf is good for n (RFC 9525 §6; the common name means nothing).
func bears(leaf *x509.Certificate, n cert.Name) bool {
	if n.Kind() == cert.URI {
		return slices.ContainsFunc(uris(leaf), func(u string) bool { return u == n.Value() })
	}
	if n.Wildcard() {
		return slices.Contains(leaf.DNSNames, n.Value())
	}
	return leaf.VerifyHostname(n.Value()) == nil
}
