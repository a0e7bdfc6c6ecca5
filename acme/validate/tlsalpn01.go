package validate

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

// alpn is the protocol that tells a server it is being validated (RFC 8737 §6.2).
const alpn = "acme-tls/1"

var (
	oidSAN            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidAcmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31} // id-pe-acmeIdentifier, RFC 8737 §6.1
)

// tlsALPN01 looks at the certificate that the host shows for the protocol acme-tls/1 (RFC 8737 §3).
func (r *reach) tlsALPN01(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	conn, remote, p := r.dial(ctx, c.Name, r.tlsPort)
	if p != nil {
		return acme.Evidence{}, p
	}
	defer conn.Close() //nolint:errcheck // RFC 8737 §3: "the connection MUST be closed", nothing is sent over it
	defer deadline(ctx, conn)()
	t, err := handshake(ctx, conn, &tls.Config{
		ServerName:         challengeName(c.Name),
		NextProtos:         []string{alpn},   // RFC 8737 §3: "a single protocol name"
		MinVersion:         tls.VersionTLS12, // RFC 8737 §4: "MUST … TLS 1.2 or higher"
		InsecureSkipVerify: true,             //nolint:gosec // the certificate is self-signed by definition; checkChallenge is what verifies it
	})
	if err != nil {
		return acme.Evidence{}, refuse(acme.TLS, "handshake with %s for %s: %s", remote, c.Name.Value(), err)
	}
	state := t.ConnectionState()
	if state.NegotiatedProtocol != alpn {
		return acme.Evidence{}, refuse(acme.TLS, "%s did not choose the protocol acme-tls/1 for %s (RFC 8737 §3)", remote, c.Name.Value())
	}
	if err := checkChallenge(state.PeerCertificates[0], c); err != nil {
		return acme.Evidence{}, refuse(acme.IncorrectResponse, "%s showed a certificate for %s that does not count: %s", remote, c.Name.Value(), err)
	}
	return acme.Evidence{Remote: remote}, nil
}

func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	t := tls.Client(conn, cfg)
	err := t.HandshakeContext(ctx)
	if err == nil {
		return t, nil
	}
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &alert):
		return nil, fmt.Errorf("the server ended it: %s", printable(alert.Error()))
	case errors.As(err, &record):
		return nil, errors.New("what answers does not speak TLS")
	case strings.HasPrefix(err.Error(), "tls: "):
		return nil, errors.New(printable(err.Error()))
	}
	return nil, plainReason(err)
}

// challengeName returns the server name: the DNS name, or for an address its name for reverse look-up (RFC 8738 §6: "the
// ACME server MUST … use the IN-ADDR.ARPA or IP6.ARPA reverse mapping of the IP address").
func challengeName(n cert.Name) string {
	if n.Kind() != cert.IP {
		return n.Value()
	}
	return reverse(n.Addr())
}

// reverse returns the reverse mapping of a (RFC 1034 §5.2.1, RFC 3596 §2.5), without the last dot.
func reverse(a netip.Addr) string {
	var b strings.Builder
	raw := a.AsSlice()
	for i := len(raw) - 1; i >= 0; i-- {
		if a.Is4() {
			fmt.Fprintf(&b, "%d.", raw[i])
		} else {
			fmt.Fprintf(&b, "%x.%x.", raw[i]&0xf, raw[i]>>4)
		}
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}

// checkChallenge verifies the certificate as RFC 8737 §3 lists it.
func checkChallenge(leaf *x509.Certificate, c acme.Check) error {
	if err := checkOnlyName(leaf, c.Name); err != nil {
		return err
	}
	if err := checkAcmeIdentifier(leaf, c); err != nil {
		return err
	}
	// RFC 8737 §3: "constructing a self-signed certificate".
	if leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		return errors.New("it is not self-signed (RFC 8737 §3)")
	}
	return nil
}

// checkOnlyName reads the extension itself: the parser of the standard library passes over names it does not know.
//
//	SubjectAltName ::= GeneralNames
//	GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
//	GeneralName ::= CHOICE { … dNSName [2] IA5String, … iPAddress [7] OCTET STRING, … }
func checkOnlyName(leaf *x509.Certificate, want cert.Name) error {
	value, _, ok := extension(leaf, oidSAN)
	if !ok {
		return errors.New("it has no subjectAltName")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 {
		return errors.New("its subjectAltName cannot be read")
	}
	// RFC 8737 §3: "The subjectAltName extension MUST contain a single dNSName entry …"; RFC 8738 §6: "a single iPAddress".
	if len(names) != 1 {
		return fmt.Errorf("its subjectAltName has %d entries, want exactly one (RFC 8737 §3)", len(names))
	}
	n := names[0]
	const dNSName, iPAddress = 2, 7
	switch {
	case n.Class != asn1.ClassContextSpecific:
	case want.Kind() == cert.DNS && n.Tag == dNSName && strings.EqualFold(string(n.Bytes), want.Value()): // RFC 4343
		return nil
	case want.Kind() == cert.IP && n.Tag == iPAddress && string(n.Bytes) == string(want.Addr().AsSlice()):
		return nil
	}
	return fmt.Errorf("its only name is not %s", want)
}

// checkAcmeIdentifier wants the extension critical, and in it the digest of the key authorization:
//
//	Authorization ::= OCTET STRING (SIZE (32))
func checkAcmeIdentifier(leaf *x509.Certificate, c acme.Check) error {
	value, critical, ok := extension(leaf, oidAcmeIdentifier)
	if !ok {
		return errors.New("it has no acmeIdentifier extension (RFC 8737 §3)")
	}
	if !critical { // RFC 8737 §3: "The acmeIdentifier extension MUST be critical"
		return errors.New("its acmeIdentifier extension is not critical (RFC 8737 §3)")
	}
	digest := c.Digest()
	want := append([]byte{asn1.TagOctetString, byte(len(digest))}, digest[:]...)
	if subtle.ConstantTimeCompare(value, want) != 1 {
		return errors.New("its acmeIdentifier is not the digest of this challenge's key authorization")
	}
	return nil
}

// extension returns the only extension id of leaf. A certificate with two of one kind does not parse (RFC 5280 §4.2).
func extension(leaf *x509.Certificate, id asn1.ObjectIdentifier) (value []byte, critical, ok bool) {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(id) {
			return e.Value, e.Critical, true
		}
	}
	return nil, false, false
}
