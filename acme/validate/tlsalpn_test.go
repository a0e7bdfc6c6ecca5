package validate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"testing"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
)

var (
	oidSAN            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidAcmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}
)

func raw(tag int, b string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(b)}
}

// A challenge certificate, to be changed in one thing.
type challenge struct {
	names    []asn1.RawValue // GeneralNames
	noNames  bool
	digest   []byte // the extension's value
	critical bool
	noExt    bool
	foreign  bool // signed by another key
	alpn     []string
	version  uint16
}

func goodChallenge() challenge {
	d := sha256.Sum256([]byte(keyAuth))
	return challenge{
		names: []asn1.RawValue{raw(2, "a.test")}, digest: append([]byte{4, 32}, d[:]...), critical: true,
		alpn: []string{"acme-tls/1"}, version: tls.VersionTLS13,
	}
}

func (c challenge) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "challenge"}}
	if !c.noNames {
		san, err := asn1.Marshal(c.names)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: san})
	}
	if !c.noExt {
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: oidAcmeIdentifier, Critical: c.critical, Value: c.digest})
	}
	signer := key
	if c.foreign {
		if signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	parent := *tmpl
	parent.PublicKey = signer.Public()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, &parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveTLS shows c to whoever connects and reports the server name that was asked for.
func (c challenge) serve(t *testing.T) (addr string, sni func() string) {
	t.Helper()
	asked := make(chan string, 8)
	leaf := c.certificate(t)
	cfg := &tls.Config{NextProtos: c.alpn, MaxVersion: c.version, MinVersion: tls.VersionTLS10, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked <- h.ServerName
		return &leaf, nil
	}}
	addr = serve(t, func(conn net.Conn) {
		tls.Server(conn, cfg).Handshake() //nolint:errcheck // the other side judges
	})
	return addr, func() string { return <-asked }
}

func (c challenge) validate(t *testing.T, who string) (acme.Evidence, *acme.Problem) {
	t.Helper()
	addr, _ := c.serve(t)
	d := dnstest.New(t)
	d.Add(t, "a.test. 0 IN A 127.0.0.1")
	v := newValidator(t, validate.Config{Resolver: d.Addr, TLSPort: port(t, addr), Egress: loopback})
	return v.Validate(t.Context(), check(t, acme.TLSALPN01, who))
}

func TestTLSALPN01AcceptsTheChallengeCertificate(t *testing.T) {
	upper, old := goodChallenge(), goodChallenge()
	upper.names = []asn1.RawValue{raw(2, "A.Test")} // RFC 4343: DNS names compare without case
	old.version = tls.VersionTLS12
	for what, c := range map[string]challenge{"good": goodChallenge(), "upper case": upper, "TLS 1.2": old} {
		t.Run(what, func(t *testing.T) {
			if seen, p := c.validate(t, "dns:a.test"); p != nil || !seen.Remote.IsValid() {
				t.Fatalf("evidence %v, %v", seen, p)
			}
		})
	}
}

func TestTLSALPN01AsksForAnAddressByItsReverseName(t *testing.T) {
	c := goodChallenge()
	c.names = []asn1.RawValue{raw(7, "\x7f\x00\x00\x01")}
	addr, sni := c.serve(t)
	v := newValidator(t, validate.Config{TLSPort: port(t, addr), Egress: loopback})
	if _, p := v.Validate(t.Context(), check(t, acme.TLSALPN01, "ip:127.0.0.1")); p != nil {
		t.Fatal(p)
	}
	if got := sni(); got != "1.0.0.127.in-addr.arpa" { // RFC 8738 §6
		t.Errorf("asked for %s", got)
	}
}

func TestTLSALPN01Refuses(t *testing.T) {
	other := sha256.Sum256([]byte("another." + keyAuth))
	for what, c := range map[string]struct {
		change func(*challenge)
		want   acme.ErrorType
		words  string
	}{
		"no names":           {func(c *challenge) { c.noNames = true }, acme.IncorrectResponse, "no subjectAltName"},
		"another name":       {func(c *challenge) { c.names[0] = raw(2, "b.test") }, acme.IncorrectResponse, "only name"},
		"a wildcard":         {func(c *challenge) { c.names[0] = raw(2, "*.test") }, acme.IncorrectResponse, "only name"},
		"a second name":      {func(c *challenge) { c.names = append(c.names, raw(2, "b.test")) }, acme.IncorrectResponse, "2 entries"},
		"the name twice":     {func(c *challenge) { c.names = append(c.names, raw(2, "a.test")) }, acme.IncorrectResponse, "2 entries"},
		"an extra address":   {func(c *challenge) { c.names = append(c.names, raw(7, "\x7f\x00\x00\x01")) }, acme.IncorrectResponse, "2 entries"},
		"an extra e-mail":    {func(c *challenge) { c.names = append(c.names, raw(1, "a@a.test")) }, acme.IncorrectResponse, "2 entries"},
		"an extra oid name":  {func(c *challenge) { c.names = append(c.names, raw(8, "\x2a\x03")) }, acme.IncorrectResponse, "2 entries"},
		"the name as e-mail": {func(c *challenge) { c.names[0] = raw(1, "a.test") }, acme.IncorrectResponse, ""},
		"no acmeIdentifier":  {func(c *challenge) { c.noExt = true }, acme.IncorrectResponse, "no acmeIdentifier"},
		"not critical":       {func(c *challenge) { c.critical = false }, acme.IncorrectResponse, "not critical"},
		"another's digest":   {func(c *challenge) { c.digest = append([]byte{4, 32}, other[:]...) }, acme.IncorrectResponse, "digest"},
		"the digest bare":    {func(c *challenge) { c.digest = c.digest[2:] }, acme.IncorrectResponse, "digest"},
		"more after it":      {func(c *challenge) { c.digest = append(c.digest, 5, 0) }, acme.IncorrectResponse, "digest"},
		"a short digest":     {func(c *challenge) { c.digest = append([]byte{4, 31}, c.digest[2:33]...) }, acme.IncorrectResponse, "digest"},
		"signed by another":  {func(c *challenge) { c.foreign = true }, acme.IncorrectResponse, "self-signed"},
		"no protocol":        {func(c *challenge) { c.alpn = nil }, acme.TLS, "acme-tls/1"},
		"another protocol":   {func(c *challenge) { c.alpn = []string{"h2"} }, acme.TLS, ""},
		"TLS 1.1":            {func(c *challenge) { c.version = tls.VersionTLS11 }, acme.TLS, ""},
	} {
		t.Run(what, func(t *testing.T) {
			ch := goodChallenge()
			c.change(&ch)
			_, p := ch.validate(t, "dns:a.test")
			refused(t, p, c.want, c.words)
		})
	}
}

func TestTLSALPN01RefusesWhatIsNotTLS(t *testing.T) {
	addr := serve(t, func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }) //nolint:errcheck // rude on purpose
	v := newValidator(t, validate.Config{TLSPort: port(t, addr), Egress: loopback})
	_, p := v.Validate(t.Context(), check(t, acme.TLSALPN01, "ip:127.0.0.1"))
	refused(t, p, acme.TLS)
}
