package e2e_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// Each client runs unmodified, with files and ports of its own, against one segl. They wait more than they work, so they run
// all at once, however few processors there are.
func TestACMEClients(t *testing.T) {
	s := newACMESite(t)
	var all sync.WaitGroup
	for name, f := range map[string]func(*testing.T, *acmeSite){
		"certbot issues, renews and revokes as an account":    certbotLives,
		"certbot revokes by the certificate's key alone":      certbotRevokesByKey,
		"certbot updates, leaves and says why not":            certbotIsTold,
		"lego issues, renews and revokes by tls-alpn-01":      legoLives,
		"lego gets a wildcard by dns-01":                      legoWildcard,
		"lego says why not":                                   legoIsTold,
		"uacme issues, renews and revokes, addresses too":     uacmeLives,
		"uacme replaces what OCSP calls revoked":              uacmeBelievesOCSP,
		"dehydrated issues, renews, staples and revokes":      dehydratedLives,
		"caddy serves, staples and replaces what is revoked":  caddyLives,
		"apache serves what mod_md got":                       apacheLives,
		"acme-client of node issues, changes its key, leaves": nodeLives,
		"acmez and x-crypto-acme share an account":            librariesShareAnAccount,
		"acmez does all it can":                               acmezLives,
		"x-crypto-acme does all it can":                       xacmeLives,
	} {
		all.Go(func() { t.Run(name, func(t *testing.T) { f(t, s) }) })
	}
	all.Wait()
	t.Run("clients bind their accounts to keys known elsewhere", func(t *testing.T) { clientsBind(t, s) })
	if !t.Failed() {
		s.matrix.check(t)
	}
}

// An issued is a certificate as a client left it.
type issued struct {
	chain    []*x509.Certificate
	leafFile string
	moreFile string // what is above it
}

// read reads a PEM chain and lets OpenSSL judge it for each of names.
func (s *acmeSite) read(t *testing.T, file string, names ...string) issued {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return s.judge(t, text, names...)
}

func (s *acmeSite) judge(t *testing.T, text []byte, names ...string) issued {
	t.Helper()
	dir := s.Temp(t)
	got := issued{certificates(t, text), filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "more.pem")}
	if len(got.chain) != 2 {
		t.Fatalf("a chain of %d certificates, want the certificate and its authority", len(got.chain))
	}
	for i, f := range []string{got.leafFile, got.moreFile} {
		if err := os.WriteFile(f, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: got.chain[i].Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if has := len(got.chain[0].DNSNames) + len(got.chain[0].IPAddresses); has != len(names) {
		t.Errorf("the certificate has %d names, want %v", has, names)
	}
	for _, n := range names {
		by := "-verify_hostname"
		if net.ParseIP(n) != nil {
			by = "-verify_ip"
		}
		s.Run(t, "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", s.Env["SEGL_ROOT"], "-untrusted", got.moreFile,
			by, strings.Replace(n, "*", "any", 1), got.leafFile)
	}
	return got
}

// replaces wants another certificate for the same names.
func (got issued) replaces(t *testing.T, old issued) {
	t.Helper()
	if got.chain[0].SerialNumber.Cmp(old.chain[0].SerialNumber) == 0 {
		t.Error("it is the same certificate as before")
	}
}

// ended waits until OCSP and the list say that it is revoked for a reason, and has OpenSSL refuse it. How long that may
// take is measured elsewhere, without a crowd.
func (s *acmeSite) ended(t *testing.T, got issued, reason int) {
	t.Helper()
	leaf, issuer := got.chain[0], got.chain[1]
	e2e.Eventually(t, 30*time.Second, func() error {
		if r := askOCSP(t, s.Segl, issuer, leaf.SerialNumber); r.Status != ocsp.Revoked || r.RevocationReason != reason {
			return fmt.Errorf("OCSP says %s, reason %d; want revoked, %d", ocspWords[r.Status], r.RevocationReason, reason)
		}
		e := onList(t, s.Segl, leaf, issuer)
		if e == nil {
			return errors.New("not on its list")
		}
		if e.ReasonCode != reason {
			return fmt.Errorf("its list has reason %d, want %d", e.ReasonCode, reason)
		}
		return nil
	})
	e2e.Eventually(t, 10*time.Second, func() error { // the list of everything comes after the shard's
		said, err := s.Try(t, "openssl", "verify", "-x509_strict", "-crl_check_all", "-CRLfile", lists(t, s.Segl),
			"-CAfile", s.Env["SEGL_ROOT"], "-untrusted", got.moreFile, got.leafFile)
		if err == nil || !strings.Contains(said, "certificate revoked") {
			return fmt.Errorf("OpenSSL says of a revoked certificate: %v: %s", err, said) //nolint:errorlint // it may be nil
		}
		return nil
	})
}

// An acmeClient is a program with its own arguments and environment.
type acmeClient struct {
	s    *acmeSite
	call []string
}

// does wants success, and words in what it prints.
func (c acmeClient) does(t *testing.T, words string, args ...string) {
	t.Helper()
	c.run(t, true, []string{words}, args)
}

// fails wants failure that a reader understands.
func (c acmeClient) fails(t *testing.T, words []string, args ...string) {
	t.Helper()
	c.run(t, false, words, args)
}

func (c acmeClient) run(t *testing.T, good bool, words, args []string) {
	t.Helper()
	all := append(append([]string(nil), c.call...), args...)
	out, err := c.s.Try(t, all[0], all[1:]...)
	if (err == nil) != good {
		t.Fatalf("%s: %v, want success %t\n%s", strings.Join(all, " "), err, good, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%s: want %q in\n%s", strings.Join(all, " "), w, out)
		}
	}
}

// notYours is what every client is told about a name outside the scope's rights.
const notYours = "evil.test is refused by the name rights of demo: allowed there: localhost, *.localhost, *.demo.test"

func (got issued) serial() string { return fmt.Sprintf("%036x", got.chain[0].SerialNumber) }
