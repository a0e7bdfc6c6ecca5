package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Answer is what a door said, to the end.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Ask sends a request and reads its answer. body is sent as JSON, or as it is if it is octets; header is names and values
// in turn.
func Ask(ctx context.Context, client *http.Client, method, url string, body any, header ...string) (Answer, error) { //nolint:revive // what a request is made of
	octets, raw := body.([]byte)
	if body != nil && !raw {
		var err error
		if octets, err = json.Marshal(body); err != nil {
			return Answer{}, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(octets))
	if err != nil {
		return Answer{}, err
	}
	if body != nil && !raw {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	said, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, res.Header, said}, err
}

// Certificate is a certificate as the REST doors answer it.
type Certificate struct {
	Serial    string    `json:"serial"`
	PEM       string    `json:"certificate"` // with the authorities above it, without the root
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	StatusURL string    `json:"status_url"`
	Revoked   *struct {
		At     time.Time `json:"at"`
		Reason string    `json:"reason"`
	} `json:"revoked"`
}

// Certificate reads an answer that is a certificate.
func (a Answer) Certificate() (Certificate, error) {
	var c Certificate
	if a.Status != http.StatusOK && a.Status != http.StatusCreated {
		return c, fmt.Errorf("answer %d: %s", a.Status, a.Body)
	}
	err := json.Unmarshal(a.Body, &c)
	return c, err
}

// Leaf returns the certificate alone, in DER.
func (c Certificate) Leaf() []byte {
	block, _ := pem.Decode([]byte(c.PEM))
	if block == nil {
		return nil
	}
	return block.Bytes
}

// An Order is what a certificate is to be. It goes to the demo environment.
type Order struct {
	Profile    string
	Workload   string        // whose identity it carries, if the profile has one
	CommonName string        // of the request: a role for a database client
	Names      []string      // DNS names and IP addresses
	Life       time.Duration // zero means the profile's own
}

// Scope is the path of the demo environment below the service and operator URLs.
const Scope = "/v1/tenants/demo/projects/shop/environments/dev"

// Request returns a certificate request in PEM, for key.
func (o Order) Request(key *ecdsa.PrivateKey) (string, error) {
	in := &x509.CertificateRequest{Subject: pkix.Name{CommonName: o.CommonName}}
	for _, n := range o.Names {
		if ip := net.ParseIP(n); ip != nil {
			in.IPAddresses = append(in.IPAddresses, ip)
		} else {
			in.DNSNames = append(in.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, in, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Body is the JSON that orders a certificate for a request in PEM.
func (o Order) Body(csr string) map[string]string {
	body := map[string]string{"csr": csr, "profile": o.Profile}
	if o.Workload != "" {
		body["workload"] = o.Workload
	}
	if o.Life != 0 {
		body["ttl"] = o.Life.String()
	}
	return body
}

// A Pair is a certificate with its key, also as files that every user's programs can read.
type Pair struct {
	Certificate
	Key  *ecdsa.PrivateKey
	X509 *x509.Certificate
	Dir  string // of the files
	// Files: the certificate alone, what is above it without the root, both, and the key.
	LeafFile, ChainFile, CertFile, KeyFile string
}

// TLS returns the pair as TLS shows it.
func (p *Pair) TLS() tls.Certificate {
	out := tls.Certificate{PrivateKey: p.Key, Leaf: p.X509}
	for block, rest := pem.Decode([]byte(p.PEM)); block != nil; block, rest = pem.Decode(rest) {
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	return out
}

// Issuer returns the authority that signed it.
func (p *Pair) Issuer(t testing.TB) *x509.Certificate {
	t.Helper()
	x, err := x509.ParseCertificate(p.TLS().Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// NewKey returns a fresh key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Issue orders a certificate as the demo workload.
func (s *Segl) Issue(t testing.TB, o Order) *Pair {
	t.Helper()
	key := NewKey(t)
	csr, err := o.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Ask(t.Context(), s.Workload(t), http.MethodPost, s.Env["SEGL_URL"]+Scope+"/certificates", o.Body(csr))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Certificate()
	if err != nil {
		t.Fatalf("ordering a certificate of profile %s: %v", o.Profile, err)
	}
	return s.Keep(t, c, key)
}

// Keep writes a certificate and its key to files.
func (s *Segl) Keep(t testing.TB, c Certificate, key *ecdsa.PrivateKey) *Pair {
	t.Helper()
	p := &Pair{Certificate: c, Key: key, Dir: s.Temp(t)}
	var err error
	if p.X509, err = x509.ParseCertificate(c.Leaf()); err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	_, above := pem.Decode([]byte(c.PEM))
	p.LeafFile, p.ChainFile = filepath.Join(p.Dir, "leaf.pem"), filepath.Join(p.Dir, "chain.pem")
	p.CertFile, p.KeyFile = filepath.Join(p.Dir, "cert.pem"), filepath.Join(p.Dir, "key.pem")
	err = errors.Join(
		os.WriteFile(p.LeafFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Leaf()}), 0o644), //nolint:gosec // public
		os.WriteFile(p.ChainFile, above, 0o644),        //nolint:gosec // public
		os.WriteFile(p.CertFile, []byte(c.PEM), 0o644), //nolint:gosec // public
		os.WriteFile(p.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Temp returns a new directory that other users may enter, for as long as s.
func (s *Segl) Temp(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(s.Dir), "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	return dir
}

// Revoke ends a certificate as an operator and returns the answer.
func (s *Segl) Revoke(t testing.TB, serial, reason string) Certificate {
	t.Helper()
	a, err := Ask(t.Context(), s.Operator(t), http.MethodPost, s.Env["SEGL_OPERATOR_URL"]+"/v1/certificates/"+serial+":revoke", map[string]string{"reason": reason})
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Certificate()
	if err != nil {
		t.Fatalf("revoking %s: %v", serial, err)
	}
	return c
}

// plain is for the public listener, which is plain HTTP.
var plain = &http.Client{Timeout: 30 * time.Second}

// Public fetches a path of the public listener, or a whole URL, and wants 200.
func (s *Segl) Public(t testing.TB, path string) Answer {
	t.Helper()
	if path[0] == '/' {
		path = s.Env["SEGL_PUBLIC_URL"] + path
	}
	a, err := Ask(t.Context(), plain, http.MethodGet, path, nil)
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("fetching %s: %d %s %v", path, a.Status, a.Body, err)
	}
	return a
}
