package cert

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrBadRequest is wrapped by every refusal of a certificate request that is not about its key.
var ErrBadRequest = errors.New("certificate request refused")

// MaxRequestSize bounds a certificate request in DER: a hundred of the longest names and the largest key fit.
const MaxRequestSize = 32 << 10

// maxCommonName is ub-common-name (RFC 5280 appendix A.1).
const maxCommonName = 64

// A Request is what a PKCS #10 request (RFC 2986) asks, once its signature has proved possession of the key. What else it
// carries (attributes, extensions, a subject beyond the common name) is not taken: profiles decide that.
type Request struct {
	Key        crypto.PublicKey
	KeyID      KeyID
	SPKI       []byte // SubjectPublicKeyInfo, DER
	CommonName string
	Names      []Name // in the order asked, without repeats
}

// ParseRequestPEM reads exactly one PEM block of type CERTIFICATE REQUEST.
func ParseRequestPEM(b []byte) (Request, error) {
	if len(b) > 2*MaxRequestSize {
		return Request{}, badRequest("larger than %d octets", 2*MaxRequestSize)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return Request{}, badRequest("want one PEM block of type CERTIFICATE REQUEST (RFC 7468 §7)")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return Request{}, badRequest("something follows the PEM block: send one request")
	}
	return ParseRequest(block.Bytes)
}

// ParseRequest reads a request in DER and checks its signature, its key and the spelling of every name in it.
func ParseRequest(der []byte) (Request, error) {
	if len(der) > MaxRequestSize {
		return Request{}, badRequest("larger than %d octets", MaxRequestSize)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, badRequest("not a PKCS #10 request in DER (RFC 2986 §4.2): %s", shorten(err))
	}
	if err := CheckKey(csr.PublicKey); err != nil {
		return Request{}, err
	}
	switch csr.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.DSAWithSHA256:
		return Request{}, badRequest("signed with %s: use SHA-256 or better (RFC 9155)", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, badRequest("its signature does not verify under its own key (RFC 2986 §4.2)")
	}
	names, err := requestNames(csr)
	if err != nil {
		return Request{}, err
	}
	if cn := csr.Subject.CommonName; len(cn) > maxCommonName {
		return Request{}, badRequest("common name of %d octets: at most 64 (RFC 5280 appendix A.1)", len(cn))
	}
	return Request{
		Key: csr.PublicKey, KeyID: sha256.Sum256(csr.RawSubjectPublicKeyInfo), SPKI: csr.RawSubjectPublicKeyInfo,
		CommonName: csr.Subject.CommonName, Names: names,
	}, nil
}

func requestNames(csr *x509.CertificateRequest) ([]Name, error) {
	if len(csr.EmailAddresses) > 0 {
		return nil, badRequest("has an e-mail address: only dns, ip and uri names are issued")
	}
	if n := len(csr.DNSNames) + len(csr.IPAddresses) + len(csr.URIs); n > MaxNames {
		return nil, badRequest("has %d names: at most %d; ask for several certificates", n, MaxNames)
	}
	var names []Name
	seen := make(map[Name]bool)
	add := func(n Name, err error) error {
		if err != nil {
			return badRequest("%s", err)
		}
		if !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
		return nil
	}
	for _, s := range csr.DNSNames {
		if err := add(ParseDNS(s)); err != nil {
			return nil, err
		}
	}
	for _, ip := range csr.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			return nil, badRequest("has an IP address of %d octets", len(ip))
		}
		if err := add(IPName(a), nil); err != nil {
			return nil, err
		}
	}
	for _, u := range csr.URIs {
		if err := add(ParseURI(u.String())); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func badRequest(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadRequest, fmt.Sprintf(format, args...))
}

// shorten keeps a parser's complaint but never the bytes it complains of.
func shorten(err error) string {
	s := strings.TrimPrefix(err.Error(), "x509: ")
	if len(s) > 120 {
		s = s[:120]
	}
	return strings.ToValidUTF8(s, "?")
}
