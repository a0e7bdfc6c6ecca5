package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// A holder is who controls names: it answers http-01, dns-01 and tls-alpn-01 as clients tell it to.
type holder struct {
	dns *dnstest.Server

	mu    sync.Mutex
	files map[string]string
	leafs map[string]*tls.Certificate // by server name
}

// holder serves the site's validation ports.
func (s *site) holder(t testing.TB) *holder {
	t.Helper()
	h := &holder{dns: s.dns, files: map[string]string{}, leafs: map[string]*tls.Certificate{}}
	web := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	alpn := tls.NewListener(s.tls, &tls.Config{GetCertificate: h.leaf, NextProtos: []string{"acme-tls/1"}})
	var all sync.WaitGroup
	all.Go(func() { web.Serve(s.http) }) //nolint:errcheck // ends with Close
	all.Go(func() {
		for {
			c, err := alpn.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				c.(*tls.Conn).Handshake() //nolint:errcheck // the server judges
				c.Close()                 //nolint:errcheck // nothing is sent
			})
		}
	})
	t.Cleanup(func() {
		web.Close()  //nolint:errcheck // ends Serve
		alpn.Close() //nolint:errcheck // ends the loop
		all.Wait()
	})
	return h
}

func (h *holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, ok := h.files[r.Host+r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	io.WriteString(w, body) //nolint:errcheck // the server judges
}

func (h *holder) leaf(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.leafs[hello.ServerName]; c != nil {
		return c, nil
	}
	return nil, errors.New("no such name")
}

func (h *holder) put(path, body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[path] = body
}

func (h *holder) show(name string, c *tls.Certificate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leafs[name] = c
}

// solver lets acmez use the holder.
type solver struct{ *holder }

func (s solver) Present(_ context.Context, c acmezacme.Challenge) error {
	switch c.Type {
	case "http-01":
		host := c.Identifier.Value
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			host = "[" + host + "]"
		}
		s.put(host+c.HTTP01ResourcePath(), c.KeyAuthorization)
	case "dns-01":
		s.dns.SetTXT(c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	case "tls-alpn-01":
		leaf, err := acmez.TLSALPN01ChallengeCert(c)
		if err != nil {
			return err
		}
		name := c.Identifier.Value
		if a, err := netip.ParseAddr(name); err == nil {
			name = arpa(a)
		}
		s.show(name, leaf)
	}
	return nil
}

func (s solver) CleanUp(_ context.Context, c acmezacme.Challenge) error {
	if c.Type == "dns-01" {
		s.dns.Clear(c.DNS01TXTRecordName())
	}
	return nil
}

// arpa is the reverse name of an IPv4 address.
func arpa(a netip.Addr) string {
	b := a.As4()
	return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String() + ".in-addr.arpa"
}

func (r *replica) acmez(t testing.TB, h *holder, methods ...string) (*acmez.Client, acmezacme.Account) {
	t.Helper()
	c := &acmez.Client{
		Client:           &acmezacme.Client{Directory: r.directory(), HTTPClient: r.client, PollInterval: 10 * time.Millisecond},
		ChallengeSolvers: map[string]acmez.Solver{},
	}
	for _, m := range methods {
		c.ChallengeSolvers[m] = solver{h}
	}
	a, err := c.NewAccount(t.Context(), acmezacme.Account{Contact: []string{"mailto:ops@demo.test"}, TermsOfServiceAgreed: true, PrivateKey: pkitest.Key(t)})
	must(t, err)
	return c, a
}

func TestAcmezGetsCertificatesByEveryMethod(t *testing.T) {
	s, r := newSite(t, options{})
	h := s.holder(t)
	for what, c := range map[string]struct {
		method string
		names  []string
	}{
		"http-01":                {"http-01", []string{"a.demo.test"}},
		"http-01, three names":   {"http-01", []string{"a.demo.test", "b.demo.test", "localhost"}},
		"http-01, an address":    {"http-01", []string{"127.0.0.1"}},
		"dns-01":                 {"dns-01", []string{"a.demo.test"}},
		"dns-01, wildcard":       {"dns-01", []string{"*.demo.test"}},
		"dns-01, both":           {"dns-01", []string{"*.demo.test", "a.demo.test"}},
		"tls-alpn-01":            {"tls-alpn-01", []string{"a.demo.test"}},
		"tls-alpn-01, localhost": {"tls-alpn-01", []string{"x.localhost"}},
		"tls-alpn-01, address":   {"tls-alpn-01", []string{"127.0.0.1"}},
	} {
		t.Run(what, func(t *testing.T) {
			client, account := r.acmez(t, h, c.method)
			key := pkitest.Key(t)
			certs, err := client.ObtainCertificateForSANs(t.Context(), account, key, c.names)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, n := range c.names {
				names = append(names, strings.Replace(n, "*", "any", 1))
			}
			leaf := verify(t, s, certs[0].ChainPEM, names...)
			if !key.PublicKey.Equal(leaf.PublicKey) {
				t.Error("the certificate has another key")
			}
		})
	}
}

func TestAcmezRevokesByAccountAndByKey(t *testing.T) {
	s, r := newSite(t, options{})
	client, account := r.acmez(t, s.holder(t), "http-01")
	for _, by := range []string{"account", "certificate key"} {
		key := pkitest.Key(t)
		certs, err := client.ObtainCertificateForSANs(t.Context(), account, key, []string{"a.demo.test"})
		must(t, err)
		leaf := verify(t, s, certs[0].ChainPEM, "a.demo.test")
		signer, reason := account.PrivateKey, acmezacme.ReasonSuperseded
		if by == "certificate key" {
			signer, reason = key, acmezacme.ReasonKeyCompromise
		}
		if err := client.RevokeCertificate(t.Context(), account, leaf, signer, reason); err != nil {
			t.Errorf("by %s: %v", by, err)
		}
		serial, err := cert.SerialFromInt(leaf.SerialNumber)
		must(t, err)
		c, err := s.Certificate(t.Context(), serial)
		if err != nil || c.Revoked == nil || int(c.Revoked.Reason) != reason {
			t.Errorf("by %s: the ledger has %+v, %v", by, c.Revoked, err)
		}
		var p acmezacme.Problem
		err = client.RevokeCertificate(t.Context(), account, leaf, signer, reason)
		if !errors.As(err, &p) || p.Type != "urn:ietf:params:acme:error:alreadyRevoked" || p.Status != http.StatusBadRequest {
			t.Errorf("by %s, again: %v", by, err)
		}
	}
}

func (r *replica) xacme(t testing.TB, key *ecdsa.PrivateKey) *xacme.Client {
	t.Helper()
	c := &xacme.Client{Key: key, DirectoryURL: r.directory(), HTTPClient: r.client}
	_, err := c.Register(t.Context(), &xacme.Account{Contact: []string{"mailto:ops@demo.test"}}, xacme.AcceptTOS)
	must(t, err)
	return c
}

// answer gets an authorization proved by x/crypto/acme.
func (h *holder) answer(t testing.TB, c *xacme.Client, url, method string) {
	t.Helper()
	z, err := c.GetAuthorization(t.Context(), url)
	must(t, err)
	for _, ch := range z.Challenges {
		if ch.Type != method {
			continue
		}
		switch method {
		case "http-01":
			body, err := c.HTTP01ChallengeResponse(ch.Token)
			must(t, err)
			h.put(z.Identifier.Value+c.HTTP01ChallengePath(ch.Token), body)
		case "dns-01":
			value, err := c.DNS01ChallengeRecord(ch.Token)
			must(t, err)
			h.dns.SetTXT("_acme-challenge."+z.Identifier.Value, value)
		case "tls-alpn-01":
			leaf, err := c.TLSALPN01ChallengeCert(ch.Token, z.Identifier.Value)
			must(t, err)
			h.show(z.Identifier.Value, &leaf)
		}
		_, err = c.Accept(t.Context(), ch)
		must(t, err)
		_, err = c.WaitAuthorization(t.Context(), url)
		must(t, err)
		return
	}
	t.Fatalf("no %s challenge", method)
}

func TestXCryptoAcmeGetsAndRevokesCertificates(t *testing.T) {
	s, r := newSite(t, options{})
	h := s.holder(t)
	for _, method := range []string{"http-01", "dns-01", "tls-alpn-01"} {
		t.Run(method, func(t *testing.T) {
			c := r.xacme(t, pkitest.Key(t)) // an account that has proved nothing yet
			key := pkitest.Key(t)
			o, err := c.AuthorizeOrder(t.Context(), xacme.DomainIDs("b.demo.test"))
			must(t, err)
			for _, u := range o.AuthzURLs {
				h.answer(t, c, u, method)
			}
			o, err = c.WaitOrder(t.Context(), o.URI)
			must(t, err)
			chain, url, err := c.CreateOrderCert(t.Context(), o.FinalizeURL, pkitest.CSRBytes(t, key, "dns:b.demo.test"), true)
			must(t, err)
			if len(chain) != 2 || url == "" {
				t.Fatalf("a chain of %d from %q", len(chain), url)
			}
			leaf, err := x509.ParseCertificate(chain[0])
			must(t, err)
			if err := leaf.VerifyHostname("b.demo.test"); err != nil {
				t.Error(err)
			}
			signer := key // by its own key, or by the account
			if method == "http-01" {
				signer = nil
			}
			if signer == nil {
				err = c.RevokeCert(t.Context(), nil, chain[0], xacme.CRLReasonCessationOfOperation)
			} else {
				err = c.RevokeCert(t.Context(), signer, chain[0], xacme.CRLReasonUnspecified)
			}
			must(t, err)
		})
	}
}

func TestXCryptoAcmeFindsAndDeactivatesItsAccount(t *testing.T) {
	_, r := newSite(t, options{})
	key := pkitest.Key(t)
	c := r.xacme(t, key)
	again := &xacme.Client{Key: key, DirectoryURL: r.directory(), HTTPClient: r.client}
	_, err := again.Register(t.Context(), &xacme.Account{}, xacme.AcceptTOS)
	if !errors.Is(err, xacme.ErrAccountAlreadyExists) {
		t.Errorf("registered twice: %v", err)
	}
	a, err := again.GetReg(t.Context(), "")
	must(t, err)
	if a.Status != "valid" {
		t.Errorf("account is %s", a.Status)
	}
	a, err = c.UpdateReg(t.Context(), &xacme.Account{Contact: []string{"mailto:new@demo.test"}})
	must(t, err)
	if len(a.Contact) != 1 || a.Contact[0] != "mailto:new@demo.test" {
		t.Errorf("contacts %v", a.Contact)
	}
	must(t, c.DeactivateReg(t.Context()))
	_, err = c.AuthorizeOrder(t.Context(), xacme.DomainIDs("a.demo.test"))
	var e *xacme.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusUnauthorized || e.ProblemType != "urn:ietf:params:acme:error:unauthorized" {
		t.Errorf("a deactivated account: %v", err)
	}
}
