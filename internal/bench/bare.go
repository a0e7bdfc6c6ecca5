package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"time"
)

// A bare server is what nobody can be much faster than with Go's own libraries: over TLS it reads a certificate request,
// verifies its signature and signs a certificate; over plain HTTP it answers with the same octets always. It asks
// nobody, checks no right and remembers nothing.
type bare struct {
	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
	above  []byte // issuer, in PEM
	fixed  []byte
}

// serveBare runs a bare server until in ends. It tells out where it is, as dev.env would.
func serveBare(in io.Reader, out io.Writer) error {
	b, pair, err := newBare()
	if err != nil {
		return fmt.Errorf("making a bare server: %w", err)
	}
	secure, err1 := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
	plain, err2 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("making a bare server: %w", err)
	}
	issuing := &http.Server{Handler: http.HandlerFunc(b.issue), ReadHeaderTimeout: answerWithin}
	telling := &http.Server{Handler: http.HandlerFunc(b.tell), ReadHeaderTimeout: answerWithin}
	go issuing.Serve(secure) //nolint:errcheck // ends with the process
	go telling.Serve(plain)  //nolint:errcheck // ends with the process
	err = json.NewEncoder(out).Encode(map[string]string{
		"SEGL_URL": "https://" + secure.Addr().String(), "SEGL_PUBLIC_URL": "http://" + plain.Addr().String(), "SEGL_SCOPE": "demo/shop/dev",
		"root": string(b.above),
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// newBare makes an authority and a certificate of it for the server itself.
func newBare() (*bare, tls.Certificate, error) {
	b := &bare{fixed: make([]byte, 600)} //nolint:mnd // as long as an OCSP answer with its responder's certificate is
	var err error
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, tls.Certificate{}, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bare"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, b.key.Public(), b.key)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	if b.issuer, err = x509.ParseCertificate(der); err != nil {
		return nil, tls.Certificate{}, err
	}
	b.above = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	host := &x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, PublicKey: own.Public()} //nolint:mnd // loopback
	leaf, _, err := b.sign(host)
	return b, tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: own}, err
}

func (b *bare) sign(csr *x509.CertificateRequest) (der, serial []byte, err error) {
	const octets = 18
	serial = make([]byte, octets)
	if _, err := rand.Read(serial); err != nil {
		return nil, nil, err
	}
	serial[0] = 0x10
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, b.issuer, csr.PublicKey, b.key)
	return der, serial, err
}

func (b *bare) issue(w http.ResponseWriter, r *http.Request) {
	var in struct{ CSR string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	block, _ := pem.Decode([]byte(in.CSR))
	if block == nil {
		http.Error(w, "no PEM", http.StatusBadRequest)
		return
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	der, serial, err := b.sign(csr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), b.above...)
	json.NewEncoder(w).Encode(map[string]string{ //nolint:errcheck // the client sees it
		"serial": hex.EncodeToString(serial), "certificate": string(chain),
	})
}

func (b *bare) tell(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.Write(b.fixed) //nolint:errcheck // the client sees it
}
