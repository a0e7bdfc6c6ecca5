package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// mod_md renews in its watchdog and serves what it got after a graceful restart, which is the operator's to give.
const apacheConf = `ServerRoot %[1]q
ServerName %[2]s
PidFile %[1]q
Mutex file:%[1]s
ErrorLog %[1]s/error.log
LogLevel warn md:debug
User #%[8]s
Group #%[9]s
LoadModule mpm_event_module %[7]s/mod_mpm_event.so
LoadModule authz_core_module %[7]s/mod_authz_core.so
LoadModule socache_shmcb_module %[7]s/mod_socache_shmcb.so
LoadModule ssl_module %[7]s/mod_ssl.so
LoadModule md_module %[7]s/mod_md.so
Listen 127.0.0.1:%[3]s
Listen 127.0.0.1:%[4]s
MDStoreDir %[1]s/md
MDCertificateAuthority %[5]s
MDCACertificateFile %[6]s
MDCertificateAgreement accepted
MDContactEmail ops@demo.test
MDPortMap http:%[3]s https:%[4]s
MDCAChallenges http-01
MDRenewWindow 33%%
MDStapling on
MDomain %[2]s
<VirtualHost 127.0.0.1:%[3]s>
	ServerName %[2]s
</VirtualHost>
<VirtualHost 127.0.0.1:%[4]s>
	ServerName %[2]s
	SSLEngine on
</VirtualHost>
`

// An apache is a web server that gets its own certificate; more are further directives.
type apache struct {
	s               *acmeSite
	dir, name, port string
	program, config string
}

func newApache(t *testing.T, s *acmeSite, name string, more ...string) apache {
	t.Helper()
	a := apache{s: s, dir: s.Temp(t), name: name, port: clientPort(t), program: e2e.Need(t, "apache2", "apache2-bin")}
	web := clientPort(t)
	s.holds(t, proxyTo(web), name)
	uid, gid := strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
	if uid == "0" { // Apache does not serve as root
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, gid = nobody.Uid, nobody.Gid
	}
	root := filepath.Join(a.dir, "root.pem") // where nobody may read it
	if err := os.WriteFile(root, []byte(readFile(t, s.Env["SEGL_ROOT"])), 0o644); err != nil {
		t.Fatal(err)
	}
	a.config = filepath.Join(a.dir, "apache.conf")
	text := fmt.Sprintf(apacheConf, a.dir, name, web, a.port, s.directory, root, "/usr/lib/apache2/modules", uid, gid)
	text = strings.Replace(text, fmt.Sprintf("PidFile %q", a.dir), fmt.Sprintf("PidFile %q", filepath.Join(a.dir, "pid")), 1)
	text += strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(a.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// serve runs it, with a graceful restart once mod_md has something new, until f is content with what it shows.
func (a apache) serve(t *testing.T, f func(issued) error) (got issued) {
	t.Helper()
	cmd := exec.Command(a.program, "-f", a.config, "-DFOREGROUND")
	said := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if log, _ := os.ReadFile(filepath.Join(a.dir, "error.log")); t.Failed() {
			t.Logf("Apache says:\n%s\nand logs:\n%s", said, log)
		}
	}()
	staged, restarted := filepath.Join(a.dir, "md", "staging", a.name, "pubcert.pem"), false
	e2e.Eventually(t, 90*time.Second, func() error {
		if _, err := os.Stat(staged); err == nil && !restarted {
			restarted = true
			cmd.Process.Signal(syscall.SIGUSR1)
		}
		shown, err := a.s.Try(t, "openssl", "s_client", "-connect", "127.0.0.1:"+a.port, "-servername", a.name, "-showcerts")
		if err != nil {
			return fmt.Errorf("s_client: %w", err)
		}
		if shown = strings.ReplaceAll(shown, "\r", ""); len(certificates(t, []byte(shown))) != 2 {
			return errors.New("it shows no certificate of ours yet")
		}
		got = a.s.judge(t, []byte(shown), a.name)
		return f(got)
	})
	return got
}

func apacheLives(t *testing.T, s *acmeSite) {
	a := newApache(t, s, "apache.demo.test", "MDProfile server", "MDProfileMandatory on")
	first := a.serve(t, func(issued) error { return nil })
	s.Revoke(t, first.serial(), "superseded")
	s.ended(t, first, 4)
	s.dueNow(t, first)
	a.serve(t, func(got issued) error { // at its next start it asks when to renew, and that is now
		if got.serial() == first.serial() {
			return errors.New("it shows the revoked certificate still")
		}
		return nil
	})
	s.matrix.note("Apache mod_md", issues, byHTTP, renews, asksARI, choosesProfile)
}
