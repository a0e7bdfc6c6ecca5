package cert_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"codeberg.org/dataverket/segl/internal/cert"
)

// Keys are made once: RSA is slow.
var (
	p256    = sync.OnceValue(func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	rsa2048 = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// good is what every refused request differs from in one thing.
func good() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "a.demo.test"}, DNSNames: []string{"a.demo.test", "*.demo.test"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
		URIs:        []*url.URL{must(url.Parse("spiffe://segl.test/tenant/demo/web"))},
	}
}

func request(key crypto.Signer, edit func(*x509.CertificateRequest)) []byte {
	tmpl := good()
	edit(tmpl)
	return must(x509.CreateCertificateRequest(rand.Reader, tmpl, key))
}

func TestParseRequestTakesWhatIsAsked(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"P-256": p256(), "P-384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), "Ed25519": edKey, "RSA 2048": rsa2048(),
	} {
		req, err := cert.ParseRequest(request(key, func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, "a.demo.test") }))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := []string{"dns:a.demo.test", "dns:*.demo.test", "ip:192.0.2.1", "ip:2001:db8::1", "uri:spiffe://segl.test/tenant/demo/web"}
		var got []string
		for _, n := range req.Names {
			got = append(got, n.String())
		}
		if !slices.Equal(got, want) || req.CommonName != "a.demo.test" {
			t.Errorf("%s: names %q, common name %q; want %q, each once", name, got, req.CommonName, want)
		}
		if id, err := cert.KeyIDOf(req.Key); err != nil || id != req.KeyID || len(id.String()) != 64 {
			t.Errorf("%s: key id %s, by the key itself %s, %v", name, req.KeyID, id, err)
		}
	}
}

func TestParseRequestRefusesNames(t *testing.T) {
	many := make([]string, cert.MaxNames+1)
	for i := range many {
		many[i] = fmt.Sprintf("n%d.demo.test", i)
	}
	for name, c := range map[string]struct {
		edit   func(*x509.CertificateRequest)
		remedy string // a word of what the refusal must say
	}{
		"an e-mail address":        {func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@demo.test"} }, "only dns, ip and uri"},
		"101 names":                {func(r *x509.CertificateRequest) { *r = x509.CertificateRequest{DNSNames: many} }, "at most 100"},
		"a common name of 65":      {func(r *x509.CertificateRequest) { r.Subject.CommonName = strings.Repeat("a", 65) }, "at most 64"},
		"upper case":               {func(r *x509.CertificateRequest) { r.DNSNames[0] = "A.demo.test" }, "use a.demo.test"},
		"a trailing dot":           {func(r *x509.CertificateRequest) { r.DNSNames[0] = "a.demo.test." }, "leave the dot out"},
		"an underscore":            {func(r *x509.CertificateRequest) { r.DNSNames[0] = "a_b.demo.test" }, "underscore"},
		"an address as a name":     {func(r *x509.CertificateRequest) { r.DNSNames[0] = "192.0.2.1" }, "as type ip"},
		"an IPv6 as a name":        {func(r *x509.CertificateRequest) { r.DNSNames[0] = "2001:db8::1" }, "as type ip"},
		"a bad A-label":            {func(r *x509.CertificateRequest) { r.DNSNames[0] = "xn--a.demo.test" }, "IDNA"},
		"a wildcard in the middle": {func(r *x509.CertificateRequest) { r.DNSNames[0] = "a.*.demo.test" }, "left-most"},
		"half a wildcard":          {func(r *x509.CertificateRequest) { r.DNSNames[0] = "a*.demo.test" }, "left-most"},
		"two wildcards":            {func(r *x509.CertificateRequest) { r.DNSNames[0] = "*.*.demo.test" }, "left-most"},
		"a URI without a host":     {func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "urn", Opaque: "a:b"}} }, "with a host"},
	} {
		_, err := cert.ParseRequest(request(p256(), c.edit))
		if !errors.Is(err, cert.ErrBadRequest) || !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%s: %v, want a refusal that says %q", name, err, c.remedy)
		}
	}
	if _, err := cert.ParseRequest(request(p256(), func(r *x509.CertificateRequest) { *r = x509.CertificateRequest{DNSNames: many[1:]} })); err != nil {
		t.Errorf("100 names: %v", err)
	}
	if _, err := cert.ParseRequest(request(p256(), func(r *x509.CertificateRequest) { r.Subject.CommonName = strings.Repeat("a", 64) })); err != nil {
		t.Errorf("a common name of 64: %v", err)
	}
}

func TestParseRequestRefusesBytes(t *testing.T) {
	der := request(p256(), func(*x509.CertificateRequest) {})
	flipped := func(i int) []byte {
		b := bytes.Clone(der)
		b[(i+len(b))%len(b)] ^= 1
		return b
	}
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	spki := must(x509.MarshalPKIXPublicKey(p256().Public()))
	stolen := bytes.Replace(der, spki, must(x509.MarshalPKIXPublicKey(other.Public())), 1)
	sha1 := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.demo.test"}, SignatureAlgorithm: x509.SHA1WithRSA}, rsa2048()))
	address := func(octets int) []byte { // an iPAddress of any length (RFC 5280 §4.2.1.6)
		san := must(asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: make([]byte, octets)}}))
		return request(p256(), func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
		})
	}
	for name, c := range map[string]struct {
		der    []byte
		remedy string
	}{
		"nothing":                   {nil, "PKCS #10"},
		"trailing bytes":            {append(bytes.Clone(der), 0), "PKCS #10"},
		"one octet short":           {der[:len(der)-1], "PKCS #10"},
		"a certificate's DER":       {spki, "PKCS #10"},
		"another's public key":      {stolen, "does not verify"},
		"one bit of the signature":  {flipped(-1), "does not verify"},
		"a SHA-1 signature":         {sha1, "SHA-256"},
		"oversized":                 {append(bytes.Clone(der), make([]byte, cert.MaxRequestSize)...), "larger than"},
		"an address of five octets": {address(5), "PKCS #10"},
	} {
		_, err := cert.ParseRequest(c.der)
		if !errors.Is(err, cert.ErrBadRequest) || !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%s: %v, want a refusal that says %q", name, err, c.remedy)
		}
	}
	if _, err := cert.ParseRequest(address(4)); err != nil {
		t.Errorf("an address of four octets: %v", err)
	}
}

func TestParseRequestAsksAboutTheKeyFirst(t *testing.T) {
	forged := func(pub ed25519.PublicKey) []byte { // under a point of small order anyone signs; here nobody needs to
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		der := request(key, func(*x509.CertificateRequest) {})
		return bytes.Replace(der, key.Public().(ed25519.PublicKey), pub, 1)
	}
	for name, der := range map[string][]byte{
		"RSA 1024":            request(must(rsa.GenerateKey(rand.Reader, 1024)), func(*x509.CertificateRequest) {}),
		"P-224":               request(must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)), func(*x509.CertificateRequest) {}),
		"P-521":               request(must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), func(*x509.CertificateRequest) {}),
		"Ed25519, order one":  forged(append([]byte{1}, make([]byte, 31)...)),
		"Ed25519, order four": forged(make([]byte, 32)),
	} {
		if _, err := cert.ParseRequest(der); !errors.Is(err, cert.ErrBadKey) {
			t.Errorf("%s: %v, want the key refused", name, err)
		}
	}
	off := request(p256(), func(*x509.CertificateRequest) {})
	point := must(p256().Public().(*ecdsa.PublicKey).Bytes())
	i := bytes.Index(off, point)
	off[i+len(point)-1] ^= 1
	if _, err := cert.ParseRequest(off); err == nil || !strings.Contains(err.Error(), "on curve") {
		t.Errorf("a point off the curve: %v, want a refusal that says so", err)
	}
}

func TestParseRequestPEMTakesOneBlock(t *testing.T) {
	der := request(p256(), func(*x509.CertificateRequest) {})
	block := func(kind string) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for _, kind := range []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"} {
		if _, err := cert.ParseRequestPEM(append(block(kind), " \r\n"...)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	one := block("CERTIFICATE REQUEST")
	for name, b := range map[string][]byte{
		"nothing": nil, "DER": der, "a certificate": block("CERTIFICATE"), "two blocks": append(bytes.Clone(one), one...),
		"words after it": append(bytes.Clone(one), "and more"...), "no end": one[:len(one)-10],
		"oversized": append(bytes.Clone(one), bytes.Repeat([]byte{'\n'}, 2*cert.MaxRequestSize)...),
	} {
		if _, err := cert.ParseRequestPEM(b); !errors.Is(err, cert.ErrBadRequest) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestARefusalNeverCarriesTheRequest(t *testing.T) {
	_, err := cert.ParseRequest([]byte("-----BEGIN SECRET-----"))
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Fatalf("%v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(request(p256(), func(*x509.CertificateRequest) {}))
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		req, err := cert.ParseRequest(der)
		if err != nil {
			return
		}
		again, err := cert.ParseRequest(der)
		if err != nil || again.KeyID != req.KeyID || !slices.Equal(again.Names, req.Names) {
			t.Fatalf("read twice: %v, %v", again, err)
		}
		if len(req.Names) > cert.MaxNames || len(req.CommonName) > 64 || cert.CheckKey(req.Key) != nil {
			t.Fatalf("took %d names, common name %q, key %v", len(req.Names), req.CommonName, cert.CheckKey(req.Key))
		}
		for _, n := range req.Names {
			if back, err := cert.ParseName(n.String()); err != nil || back != n {
				t.Fatalf("%s reads back as %s, %v", n, back, err)
			}
		}
	})
}
