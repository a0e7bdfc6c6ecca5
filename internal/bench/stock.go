package main

import (
	"bytes"
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
	"math/big"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/crypto/ocsp"
)

// An order is a written request for a certificate, with the key that it is for.
type order struct {
	key  *ecdsa.PrivateKey
	name string // of a host; a workload has none
	csr  []byte
	body []byte // JSON
}

// makeOrders makes keys and signs requests, on every processor. Profile workload gets an identity, others a host name.
func makeOrders(n int, profile string) ([]order, error) {
	orders := make([]order, n)
	errs := make([]error, runtime.NumCPU())
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				orders[i], errs[w] = makeOrder(i, profile)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("making certificate requests: %w", err)
	}
	return orders, nil
}

func makeOrder(i int, profile string) (order, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return order{}, err
	}
	said := map[string]string{"profile": profile}
	var tmpl x509.CertificateRequest
	o := order{key: key}
	if name := fmt.Sprintf("b%06d", i); profile == "workload" {
		said["workload"] = name
	} else {
		o.name = name + ".demo.test"
		tmpl = x509.CertificateRequest{Subject: pkix.Name{}, DNSNames: []string{o.name}}
	}
	if o.csr, err = x509.CreateCertificateRequest(rand.Reader, &tmpl, key); err != nil {
		return order{}, err
	}
	said["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: o.csr}))
	o.body, err = json.Marshal(said)
	return o, err
}

// service returns the listener of tenants, as the demo workload reaches it, and the path of its environment.
func (s spec) service() (place, string, error) {
	var pair *tls.Certificate
	if s.Env["SEGL_CERT"] != "" {
		p, err := tls.LoadX509KeyPair(s.Env["SEGL_CERT"], s.Env["SEGL_KEY"])
		if err != nil {
			return place{}, "", fmt.Errorf("reading the workload's identity: %w", err)
		}
		pair = &p
	}
	parts := strings.Split(s.Env["SEGL_SCOPE"], "/")
	if len(parts) != 3 { //nolint:mnd // tenant, project, environment
		return place{}, "", fmt.Errorf("scope %q: want an environment's", s.Env["SEGL_SCOPE"])
	}
	p, err := placeOf(s.Env["SEGL_URL"], s.Env["SEGL_ROOT"], pair)
	return p, "/v1/tenants/" + parts[0] + "/projects/" + parts[1] + "/environments/" + parts[2], err
}

// A stock is what a load issued, for later loads to ask about.
type stock struct {
	Serials []string
	Chain   string // PEM, of the first
}

func newStock(n int) *stock { return &stock{Serials: make([]string, n)} }

// add notes the certificate in an answer to the n-th request. Answers may come from several workers.
func (st *stock) add(n int, a answer) error {
	const mark, length = `"serial":"`, 36
	_, rest, ok := bytes.Cut(a.body, []byte(mark))
	if !ok || len(rest) < length {
		return fmt.Errorf("reading an issued certificate: no serial in %.300s", a.body)
	}
	st.Serials[n] = string(rest[:length])
	if n > 0 {
		return nil
	}
	var issued struct{ Certificate string }
	if err := json.Unmarshal(a.body, &issued); err != nil {
		return fmt.Errorf("reading an issued certificate: %w", err)
	}
	st.Chain = issued.Certificate
	return nil
}

func (st *stock) write(file string) error {
	kept := stock{Chain: st.Chain}
	for _, s := range st.Serials {
		if s != "" { // the load may have been cut short
			kept.Serials = append(kept.Serials, s)
		}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func readStock(file string) (*stock, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading what was issued: %w", err)
	}
	st := new(stock)
	if err := json.Unmarshal(text, st); err != nil {
		return nil, fmt.Errorf("reading what was issued: %w", err)
	}
	return st, nil
}

// certificates returns the first certificate of the stock and its issuer.
func (st *stock) certificates() (leaf, issuer *x509.Certificate, err error) {
	var found []*x509.Certificate
	for rest := []byte(st.Chain); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("reading an issued chain: %w", err)
		}
		found = append(found, c)
	}
	if len(found) < 2 { //nolint:mnd // leaf and issuer
		return nil, nil, fmt.Errorf("reading an issued chain: %d certificates", len(found))
	}
	return found[0], found[1], nil
}

func (st *stock) responder() (string, error) {
	leaf, _, err := st.certificates()
	if err == nil && len(leaf.OCSPServer) == 0 {
		err = errAbsent
	}
	if err != nil {
		return "", err
	}
	return leaf.OCSPServer[0], nil
}

// question is an OCSP request about the i-th certificate, in DER.
func (st *stock) question(i int) ([]byte, error) {
	_, issuer, err := st.certificates()
	if err != nil {
		return nil, err
	}
	serial, ok := new(big.Int).SetString(st.Serials[i], 16) //nolint:mnd // hexadecimal
	if !ok {
		return nil, fmt.Errorf("serial %q: not hexadecimal", st.Serials[i])
	}
	der, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial}, issuer, nil)
	if err != nil {
		return nil, fmt.Errorf("writing an OCSP request: %w", err)
	}
	return der, nil
}
