package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// uacme calls it with what is to be done, the challenge, the name, the token and the key authorization.
const uacmeHook = `#!/bin/sh
[ "$2" = http-01 ] || exit 1
case $1 in
begin) printf %s "$5" >"$CHALLENGES/$4" ;;
done | failed) rm -f "$CHALLENGES/$4" ;;
esac
`

// A uacme has a directory of its own.
type uacme struct {
	acmeClient
	dir string
}

// newUacme makes one whose answers appear in a web server's directory. It trusts the system's list of authorities and lets
// nobody choose another, so it sees ours in that place.
func newUacme(t *testing.T, s *acmeSite, root string) uacme {
	t.Helper()
	u := uacmeProgram(t, s, root)
	u.does(t, "account created at", "--yes", "new", "ops@demo.test")
	return u
}

// uacmeProgram is one without an account.
func uacmeProgram(t *testing.T, s *acmeSite, root string) uacme {
	t.Helper()
	program := e2e.Need(t, "uacme", "uacme")
	sealed := []string{"unshare", "--map-root-user", "--mount", "sh", "-ec", `mount --bind "$SEGL_ROOT" /etc/ssl/certs/ca-certificates.crt; exec "$@"`, "sh"}
	if out, err := s.Try(t, sealed[0], append(sealed[1:], "true")...); err != nil {
		t.Skipf("uacme trusts only the system's authorities, and this machine does not let us show it others: %v: %s", err, out)
	}
	u := uacme{dir: s.Temp(t)}
	hook := filepath.Join(u.dir, "hook")
	if err := os.WriteFile(hook, []byte(uacmeHook), 0o755); err != nil {
		t.Fatal(err)
	}
	u.acmeClient = acmeClient{s, append(append([]string{"env", "CHALLENGES=" + filepath.Join(root, wellKnown)}, sealed...),
		program, "--verbose", "--days", "1", "--acme-url", s.directory, "--confdir", filepath.Join(u.dir, "config"), "--hook", hook)}
	return u
}

func (u uacme) cert(name string) string { return filepath.Join(u.dir, "config", name, "cert.pem") }

func (u uacme) key(name string) string {
	return filepath.Join(u.dir, "config", "private", name, "key.pem")
}

func uacmeLives(t *testing.T, s *acmeSite) {
	names := []string{"uacme-a.demo.test", "uacme-b.demo.test"}
	u := newUacme(t, s, s.webroot(t, names...))
	u.does(t, "updating account email to new@demo.test", "update", "new@demo.test")
	issue := append([]string{"issue"}, names...)
	u.does(t, "saving certificate to", issue...)
	first := s.read(t, u.cert(names[0]), names...)
	u.does(t, "saving certificate to", append([]string{"--force"}, issue...)...)
	second := s.read(t, u.cert(names[0]), names...)
	second.replaces(t, first)
	u.does(t, "revoked", "--reason", "4", "revoke", u.cert(names[0]))
	s.ended(t, second, 4)
	u.fails(t, []string{"rejectedIdentifier", notYours}, "issue", "evil.test")

	u.call[1] = "CHALLENGES=" + filepath.Join(s.root, wellKnown)
	u.does(t, "saving certificate to", "--type", "EC", "issue", "127.0.0.1")
	address := s.read(t, u.cert("127.0.0.1"), "127.0.0.1")
	u.does(t, "revoked", "revoke", u.cert("127.0.0.1"), u.key("127.0.0.1"))
	s.ended(t, address, 0)
	u.does(t, "account key changed", "--yes", "newkey")
	u.does(t, "deactivated", "deactivate")
	s.matrix.note("uacme", issues, renews, byHTTP, byAddress, revokes, revokesByKey, changesKey, leaves)
}

// Before it renews, uacme asks OCSP.
func uacmeBelievesOCSP(t *testing.T, s *acmeSite) {
	const name = "uacme-ocsp.demo.test"
	u := newUacme(t, s, s.webroot(t, name))
	u.does(t, "saving certificate to", "issue", name)
	first := s.read(t, u.cert(name), name)
	u.fails(t, []string{"OCSP certificate status is GOOD", "skipping"}, "issue", name)
	s.Revoke(t, first.serial(), "superseded")
	s.ended(t, first, 4)
	u.does(t, "OCSP certificate status is REVOKED", "issue", name)
	s.read(t, u.cert(name), name).replaces(t, first)
}
