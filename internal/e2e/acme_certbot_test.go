package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// A certbot has directories of its own and a port where its standalone web server answers.
type certbot struct {
	acmeClient
	dir, port string
}

func newCertbot(t *testing.T, s *acmeSite, names ...string) certbot {
	t.Helper()
	program := e2e.Need(t, "certbot", "certbot")
	c := certbot{dir: s.Temp(t), port: clientPort(t)}
	s.holds(t, proxyTo(c.port), names...)
	c.acmeClient = acmeClient{s, []string{
		"env", "REQUESTS_CA_BUNDLE=" + s.Env["SEGL_ROOT"], program, "--non-interactive",
		"--config-dir", filepath.Join(c.dir, "config"), "--work-dir", filepath.Join(c.dir, "work"), "--logs-dir", filepath.Join(c.dir, "logs"),
		"--server", s.directory,
	}}
	return c
}

// order gets a certificate for names, kept as "it".
func (c certbot) order(names ...string) []string {
	return []string{
		"certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", c.port,
		"--agree-tos", "--email", "ops@demo.test", "--cert-name", "it", "--domains", strings.Join(names, ","),
	}
}

func (c certbot) live(file string) string { return filepath.Join(c.dir, "config", "live", "it", file) }

func certbotLives(t *testing.T, s *acmeSite) {
	names := []string{"certbot-a.demo.test", "certbot-b.demo.test"}
	c := newCertbot(t, s, names...)
	c.does(t, "Successfully received certificate.", c.order(names...)...)
	first := s.read(t, c.live("fullchain.pem"), names...)
	c.does(t, "all renewals succeeded", "renew", "--force-renewal", "--no-random-sleep-on-renew")
	second := s.read(t, c.live("fullchain.pem"), names...)
	second.replaces(t, first)
	c.does(t, "You have successfully revoked the certificate", "revoke", "--cert-name", "it", "--reason", "cessationofoperation", "--no-delete-after-revoke")
	s.ended(t, second, 5)
	c.does(t, "(INVALID: REVOKED)", "certificates") // by OCSP
	s.matrix.note("certbot", issues, renews, byHTTP, revokes)
}

// Whoever has the key may revoke, without an account (RFC 8555 §7.6).
func certbotRevokesByKey(t *testing.T, s *acmeSite) {
	c := newCertbot(t, s, "certbot-key.demo.test")
	c.does(t, "Successfully received certificate.", append(c.order("certbot-key.demo.test"), "--key-type", "rsa", "--rsa-key-size", "2048")...)
	got := s.read(t, c.live("fullchain.pem"), "certbot-key.demo.test")
	stranger := newCertbot(t, s)
	stranger.does(t, "You have successfully revoked the certificate", "revoke", "--cert-path", c.live("cert.pem"), "--key-path", c.live("privkey.pem"),
		"--reason", "keycompromise", "--no-delete-after-revoke")
	s.ended(t, got, 1)
	s.matrix.note("certbot", revokesByKey)
}

func certbotIsTold(t *testing.T, s *acmeSite) {
	c := newCertbot(t, s, "certbot-told.demo.test")
	c.does(t, "Account registered.", "register", "--agree-tos", "--email", "ops@demo.test")
	c.does(t, "Your e-mail address was updated to new@demo.test.", "update_account", "--email", "new@demo.test")
	c.failsWith(t, notYours, c.order("evil.test")...)
	s.holds(t, proxyTo(clientPort(t)), "certbot-told.demo.test") // somebody else's port
	c.fails(t, []string{
		"Domain: nowhere.demo.test", "Type:   dns", "nowhere.demo.test. A: the name does not exist (NXDOMAIN)",
		"Domain: certbot-told.demo.test", "Type:   unauthorized", "status 502, want 200",
	}, c.order("nowhere.demo.test", "certbot-told.demo.test")...)
	c.does(t, "Account deactivated.", "unregister")
	s.matrix.note("certbot", leaves)
}

// failsWith wants words in what certbot prints or logs: 2.1 on Python 3.11 dies of printing an ACME error, having logged it
// (https://github.com/certbot/certbot/issues/9539).
func (c certbot) failsWith(t *testing.T, words string, args ...string) {
	t.Helper()
	c.fails(t, nil, args...)
	log, err := os.ReadFile(filepath.Join(c.dir, "logs", "letsencrypt.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), words) {
		t.Errorf("certbot %s: want %q in\n%s", strings.Join(args, " "), words, log)
	}
}
