package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A holder is a key and its certificate, for scripts about files.
type holder struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// writePKI makes a small PKI that is nobody's: a chain that holds, and others that differ from it in one thing each.
func writePKI(t *testing.T, dir string) {
	t.Helper()
	w := pkiWriter{t, dir}
	root := w.authority("root", holder{})
	between := w.authority("between", root)
	other := w.authority("other-root", holder{})
	leaf := w.make(template("leaf"), between, w.key())
	w.certs("leaf.pem", leaf.cert, between.cert)
	w.certs("leaf-alone.pem", leaf.cert)
	w.certs("between.pem", between.cert)
	w.certs("root.pem", root.cert)
	w.certs("other-root.pem", other.cert)
	w.keyFile("leaf-key.pem", leaf.key)
	w.keyFile("other-key.pem", w.key())
	w.write("leaf.der", leaf.cert.Raw)
	w.write("mangled.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.cert.Raw[:200]}))

	expired := template("expired")
	expired.NotBefore, expired.NotAfter = time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	w.certs("expired.pem", w.make(expired, between, w.key()).cert)
	server := template("server-only")
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	w.certs("server-only.pem", w.make(server, between, w.key()).cert)
	client := template("client-only")
	client.DNSNames, client.ExtKeyUsage = []string{"client.test"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	w.certs("client-only.pem", w.make(client, between, w.key()).cert)
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
	w.must(err)
	w.certs("weak.pem", w.make(template("weak"), between, weak).cert)
	w.certs("forged.pem", w.make(template("forged"), holder{w.key(), between.cert}, w.key()).cert, between.cert)
	notCA := w.make(template("not-ca"), between, w.key())
	w.certs("not-ca.pem", notCA.cert, between.cert)
	w.certs("below-not-ca.pem", w.make(template("below-not-ca"), notCA, w.key()).cert)
	w.trust(root, between, other)
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".test"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: "segl.test", Path: "/tenant/demo/" + name}},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

type pkiWriter struct {
	t   *testing.T
	dir string
}

func (w pkiWriter) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w pkiWriter) key() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	return key
}

func (w pkiWriter) authority(name string, above holder) holder {
	t := template(name)
	t.IsCA, t.KeyUsage, t.DNSNames, t.IPAddresses, t.URIs, t.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil, nil, nil, nil
	key := w.key()
	if above.key == nil {
		above = holder{key, t}
	}
	return w.make(t, above, key)
}

// make certifies key. Forging is signing with another key than the issuer's.
func (w pkiWriter) make(t *x509.Certificate, issuer holder, key crypto.Signer) holder {
	var err error
	t.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	w.must(err)
	parent := *issuer.cert
	parent.PublicKey = issuer.key.Public() // or else x509 refuses to forge
	der, err := x509.CreateCertificate(rand.Reader, t, &parent, key.Public(), issuer.key)
	w.must(err)
	c, err := x509.ParseCertificate(der)
	w.must(err)
	return holder{key, c}
}

func (w pkiWriter) certs(name string, chain ...*x509.Certificate) {
	var b bytes.Buffer
	for _, c := range chain {
		w.must(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	w.write(name, b.Bytes())
}

func (w pkiWriter) keyFile(name string, key crypto.Signer) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	w.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (w pkiWriter) write(name string, b []byte) {
	w.must(os.MkdirAll(w.dir, 0o700))
	w.must(os.WriteFile(filepath.Join(w.dir, name), b, 0o600))
}
