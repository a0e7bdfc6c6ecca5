package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/remote"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

const goodValidator = `
listen: 127.0.0.1:0
certificate: %[1]s/there.crt
key: %[1]s/there.key
roots: %[1]s/roots.pem
sites: [spiffe://segl.test/platform/site]
`

func TestLoadValidatorRefuses(t *testing.T) {
	for name, c := range map[string]struct{ edit, names string }{
		"an unknown key":          {"database: {}", "database"},
		"nobody who may ask":      {"sites: []", "sites"},
		"no certificate":          {`certificate: ""`, "certificate"},
		"a schedule":              {"acme: {retries: [1s]}", "retries"},
		"a scope that is none":    {"acme: {scopes: {Demo: {}}}", "acme.scopes"},
		"perspectives of its own": {"acme: {perspectives: {quorum: 1, places: {a: {}}}}", "perspectives"},
	} {
		t.Run(name, func(t *testing.T) {
			key, _, _ := strings.Cut(c.edit, ":")
			var lines []string
			for line := range strings.Lines(fmt.Sprintf(goodValidator, "/x")) {
				if !strings.HasPrefix(line, key+":") {
					lines = append(lines, line)
				}
			}
			_, err := server.LoadValidator(write(t, strings.Join(lines, "")+c.edit+"\n"))
			if err == nil || !strings.Contains(err.Error(), c.names) {
				t.Errorf("%v, want an error that names %s", err, c.names)
			}
		})
	}
}

// ends writes certificates of both ends into a directory.
func ends(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	must(t, err)
	put("roots.pem", "CERTIFICATE", der)
	for name, id := range map[string]string{"site": "spiffe://segl.test/platform/site", "there": "spiffe://segl.test/platform/there"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		u, err := url.Parse(id)
		must(t, err)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
		must(t, err)
		put(name+".crt", "CERTIFICATE", der)
		der, err = x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		put(name+".key", "PRIVATE KEY", der)
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAValidatorAnswersTheSitesItKnows(t *testing.T) {
	dir, dns := ends(t), dnstest.New(t)
	cfg, err := server.LoadValidator(write(t, fmt.Sprintf(goodValidator, dir)+"acme: {resolver: \""+dns.Addr+"\"}\n"))
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	at, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- server.RunValidator(ctx, cfg, slog.New(slog.DiscardHandler), func(a net.Addr) error { at <- a; return nil })
	}()
	var addr net.Addr
	select {
	case addr = <-at:
	case err := <-ended:
		t.Fatal(err)
	}
	there, err := identity.ParseID("spiffe://segl.test/platform/there")
	must(t, err)
	tlsConfig, err := remote.Peer{
		Certificate: dir + "/site.crt", Key: dir + "/site.key", Roots: dir + "/roots.pem", Others: []identity.ID{there}, Now: time.Now,
	}.Client()
	must(t, err)
	p, err := remote.NewPerspective("there", "https://"+addr.String(), tlsConfig)
	must(t, err)
	defer p.Close()
	name, err := cert.ParseDNS("a.test")
	must(t, err)
	c := acme.Check{Scope: identity.Platform, Name: name, Method: acme.DNS01, Token: "t", KeyAuthorization: "t.k"}
	dns.SetTXT("_acme-challenge.a.test", c.Record())
	if got, err := p.Validate(t.Context(), c); err != nil || got != nil {
		t.Errorf("found %v, %v", got, err)
	}
	c.KeyAuthorization = "t.other"
	if got, err := p.Validate(t.Context(), c); err != nil || got == nil || got.Type != acme.IncorrectResponse {
		t.Errorf("found %v, %v", got, err)
	}
	// Whoever no record can name finds no permission.
	if got, err := p.Permit(t.Context(), c); err != nil || got == nil || !strings.Contains(got.Detail, "identities") {
		t.Errorf("permitted: %v, %v", got, err)
	}
	// What the perspective's own rules forbid, it does not see.
	dns.Add(t, "a.test. 0 IN A 127.0.0.1")
	c.Method = acme.HTTP01
	if got, err := p.Validate(t.Context(), c); err != nil || got == nil || !strings.Contains(got.Detail, "loopback") {
		t.Errorf("found %v, %v", got, err)
	}
	stop()
	must(t, <-ended)
}
