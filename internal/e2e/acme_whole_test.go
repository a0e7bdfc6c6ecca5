package e2e_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// What acmez can: profile, renewal information and what it replaces, another key, both ways to revoke, leaving.
func acmezLives(t *testing.T, s *acmeSite) {
	const name = "acmez.demo.test"
	d, key := new(desk), e2e.NewKey(t)
	s.holds(t, d, name)
	c, account := s.acmez(t, d, key)
	order := func(profile string, replaces *x509.Certificate) (issued, *e2e.Pair) {
		t.Helper()
		own := e2e.NewKey(t)
		csr, err := e2e.Order{Names: []string{name}}.Request(own)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(csr))
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		params, err := acmez.OrderParametersFromCSR(account, parsed)
		if err != nil {
			t.Fatal(err)
		}
		params.Profile, params.Replaces = profile, replaces
		got, err := c.ObtainCertificate(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		return s.judge(t, got[0].ChainPEM, name), &e2e.Pair{Key: own}
	}
	first, _ := order("server", nil)
	leaf := first.chain[0]
	info, err := c.GetRenewalInfo(t.Context(), leaf)
	if err != nil {
		t.Fatal(err)
	}
	if w := info.SuggestedWindow; !w.Start.After(leaf.NotBefore) || !w.End.After(w.Start) || !w.End.Before(leaf.NotAfter) {
		t.Errorf("renewal is suggested from %s to %s, of a life from %s to %s", w.Start, w.End, leaf.NotBefore, leaf.NotAfter)
	}
	second, pair := order("", leaf)
	second.replaces(t, first)

	next := e2e.NewKey(t)
	if account, err = c.AccountKeyRollover(t.Context(), account, next); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetAccount(t.Context(), account); err != nil {
		t.Errorf("under the new key: %v", err)
	}
	if err := c.RevokeCertificate(t.Context(), account, leaf, nil, 4); err != nil {
		t.Fatal(err)
	}
	s.ended(t, first, 4)
	s.dueNow(t, first)
	if err := c.RevokeCertificate(t.Context(), account, second.chain[0], pair.Key, 1); err != nil {
		t.Fatal(err)
	}
	s.ended(t, second, 1)
	account.Status = "deactivated"
	if got, err := c.UpdateAccount(t.Context(), account); err != nil || got.Status != "deactivated" {
		t.Errorf("leaving: %+v, %v", got, err)
	}
	s.matrix.note("acmez", issues, byHTTP, choosesProfile, asksARI, renews, changesKey, revokes, revokesByKey, leaves)
}

// dueNow waits until renewal information (RFC 9773 §4.2) suggests to renew at once: answers are kept for some seconds.
func (s *acmeSite) dueNow(t *testing.T, got issued) {
	t.Helper()
	c := &acmezacme.Client{Directory: s.directory, HTTPClient: s.Client(t, "", "")}
	e2e.Eventually(t, 60*time.Second, func() error {
		info, err := c.GetRenewalInfo(t.Context(), got.chain[0])
		if err == nil && info.SuggestedWindow.Start.After(time.Now()) {
			err = fmt.Errorf("a revoked certificate is to be renewed from %s", info.SuggestedWindow.Start)
		}
		return err
	})
}

func xacmeLives(t *testing.T, s *acmeSite) {
	const name = "xacme.demo.test"
	d, key := new(desk), e2e.NewKey(t)
	s.holds(t, d, name, "127.0.0.1:0")
	c := &xacme.Client{Key: key, DirectoryURL: s.directory, HTTPClient: s.Client(t, "", "")}
	if _, err := c.Register(t.Context(), &xacme.Account{}, xacme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	own := e2e.NewKey(t)
	x := s.xacme(t, key)
	obtain := func() issued {
		t.Helper()
		text, err := x.obtain(t.Context(), d, name, own)
		if err != nil {
			t.Fatal(err)
		}
		return s.judge(t, text, name)
	}
	first, second := obtain(), obtain()
	second.replaces(t, first)
	if err := x.AccountKeyRollover(t.Context(), e2e.NewKey(t)); err != nil {
		t.Fatal(err)
	}
	if err := x.RevokeCert(t.Context(), nil, first.chain[0].Raw, xacme.CRLReasonSuperseded); err != nil {
		t.Fatal(err)
	}
	s.ended(t, first, 4)
	if err := x.RevokeCert(t.Context(), own, second.chain[0].Raw, xacme.CRLReasonKeyCompromise); err != nil {
		t.Fatal(err)
	}
	s.ended(t, second, 1)
	if err := x.DeactivateReg(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.matrix.note("x/crypto/acme", issues, renews, byHTTP, changesKey, revokes, revokesByKey, leaves)
}
