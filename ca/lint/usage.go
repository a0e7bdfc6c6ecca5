package lint

import (
	"crypto/x509"
	"encoding/asn1"
)

// A Usage is what the key of a certificate is for. Everything that depends on it (key usage, extended key usage, basic
// constraints, no-check) follows from it alone.
type Usage uint8

// The usages.
const (
	Server          Usage = iota + 1 // a TLS server
	Client                           // a TLS client
	ServerAndClient                  // both, as workloads are
	OCSPResponder                    // a delegated OCSP responder (RFC 6960 §4.2.2.2)
	Authority                        // a certificate authority
)

var usageNames = [...]string{"", "server", "client", "server and client", "ocsp responder", "authority"}

// String returns the usage in words.
func (u Usage) String() string {
	if int(u) >= len(usageNames) {
		return ""
	}
	return usageNames[u]
}

// Key purposes (RFC 5280 §4.2.1.12, RFC 6960 §4.2.2.2), the contents of their object identifiers.
const (
	serverAuth  = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	clientAuth  = "\x2b\x06\x01\x05\x05\x07\x03\x02"
	ocspSigning = "\x2b\x06\x01\x05\x05\x07\x03\x09"
)

// purposes returns the key purposes of u. They stand here beside the builder's own, on purpose: two tables that must agree.
func (u Usage) purposes() []string {
	switch u {
	case Server:
		return []string{serverAuth}
	case Client:
		return []string{clientAuth}
	case ServerAndClient:
		return []string{serverAuth, clientAuth}
	case OCSPResponder:
		return []string{ocspSigning}
	}
	return nil
}

// keyUsage returns the key usage bits of u for an RSA key or another.
func (u Usage) keyUsage(rsa bool) x509.KeyUsage {
	switch {
	case u == Authority:
		return x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	case rsa && (u == Server || u == ServerAndClient):
		// TLS 1.2 clients encrypt to RSA servers that offer nothing better (RFC 5246 §7.4.2).
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

// bits reads a KeyUsage BIT STRING the way crypto/x509 numbers it.
func bits(b asn1.BitString) x509.KeyUsage {
	var usage x509.KeyUsage
	for i := range 9 {
		if b.At(i) != 0 {
			usage |= 1 << i
		}
	}
	return usage
}
