package keypair

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"

	"codeberg.org/dataverket/segl/internal/cert"
)

// Request returns a certificate request (RFC 2986) in PEM for key, asking for names and, unless empty, a common name.
func Request(key crypto.Signer, commonName string, names []cert.Name) ([]byte, error) {
	t := &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}
	for _, n := range names {
		switch n.Kind() {
		case cert.DNS:
			t.DNSNames = append(t.DNSNames, n.Value())
		case cert.IP:
			t.IPAddresses = append(t.IPAddresses, n.Addr().AsSlice())
		case cert.URI:
			u, err := url.Parse(n.Value())
			if err != nil {
				return nil, fmt.Errorf("name %s: %w", n, err)
			}
			t.URIs = append(t.URIs, u)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil // RFC 7468 §7
}
