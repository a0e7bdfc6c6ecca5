package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// newDehydrated makes one with a directory of its own, for names.
func newDehydrated(t *testing.T, s *acmeSite, names ...string) (c acmeClient, dir string) {
	t.Helper()
	program := e2e.Need(t, "dehydrated", "dehydrated")
	dir = s.Temp(t)
	config := filepath.Join(dir, "config")
	text := fmt.Sprintf("CA=%q\nBASEDIR=%q\nWELLKNOWN=%q\nCURL_OPTS=%q\nKEYSIZE=2048\nKEY_ALGO=secp384r1\nCONTACT_EMAIL=ops@demo.test\nOCSP_FETCH=yes\n",
		s.directory, dir, filepath.Join(s.webroot(t, names...), wellKnown), "--cacert "+s.Env["SEGL_ROOT"])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// It has no setting for whom OpenSSL trusts when it reads an OCSP answer.
	return acmeClient{s, []string{"env", "SSL_CERT_FILE=" + s.Env["SEGL_ROOT"], program, "--config", config}}, filepath.Join(dir, "certs")
}

func dehydratedLives(t *testing.T, s *acmeSite) {
	names := []string{"dehydrated-a.demo.test", "dehydrated-b.demo.test"}
	d, dir := newDehydrated(t, s, names...)
	file := func(name string) string { return filepath.Join(dir, names[0], name) }
	issue := []string{"--cron", "--domain", names[0] + " " + names[1]}
	d.does(t, "+ Registering account key with ACME server...", append(issue, "--accept-terms")...)
	first := s.read(t, file("fullchain.pem"), names...)
	d.does(t, "+ Updating OCSP stapling file", append(issue, "--force")...)
	second := s.read(t, file("fullchain.pem"), names...)
	second.replaces(t, first)
	s.Run(t, "openssl", "ocsp", "-respin", file("ocsp.der"), "-issuer", file("chain.pem"), "-cert", file("cert.pem"), "-CAfile", s.Env["SEGL_ROOT"], "-verify_other", file("chain.pem"))
	d.does(t, "+ Done.", "--revoke", file("cert.pem"))
	s.ended(t, second, 0)
	s.matrix.note("dehydrated", issues, renews, byHTTP, revokes)
}
