package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

const caddyfile = `{
	admin off
	http_port %s
	https_port %s
	storage file_system %q
	acme_ca %s
	acme_ca_root %q
	email ops@demo.test
	auto_https disable_redirects
	%s
}
%s {
	bind 127.0.0.1
	respond "served"
}
`

// newCaddy returns the configuration of one, with a further global option, and its port.
func newCaddy(t *testing.T, s *acmeSite, name, option string) (config, port string) {
	t.Helper()
	e2e.Need(t, "caddy", "caddy")
	e2e.Need(t, "curl", "curl")
	dir, web, port := s.Temp(t), clientPort(t), clientPort(t)
	s.holdsTLS(t, port, name)
	s.holds(t, proxyTo(web), name)
	config = filepath.Join(dir, "Caddyfile")
	text := fmt.Sprintf(caddyfile, web, port, dir, s.directory, s.Env["SEGL_ROOT"], option, name)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, port
}

// A caddy proves its name by http-01 or tls-alpn-01, as it likes.
func caddyLives(t *testing.T, s *acmeSite) {
	const name = "caddy.demo.test"
	config, port := newCaddy(t, s, name, "")
	dir, first := filepath.Dir(config), s.caddy(t, config, name, port)
	s.Revoke(t, first.serial(), "superseded")
	s.ended(t, first, 4)
	if err := os.RemoveAll(filepath.Join(dir, "ocsp")); err != nil { // the answer from before, which is fresh for an hour
		t.Fatal(err)
	}
	s.caddy(t, config, name, port).replaces(t, first) // by OCSP, at its next start
	s.matrix.note("Caddy", issues, renews)
}

// caddy runs it until curl, trusting only our root and wanting a stapled answer, was served; and returns what it showed.
func (s *acmeSite) caddy(t *testing.T, config, name, port string) issued {
	t.Helper()
	log := filepath.Join(filepath.Dir(config), "log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "caddy", "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(config), "XDG_CONFIG_HOME="+filepath.Dir(config), "XDG_DATA_HOME="+filepath.Dir(config))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 10*time.Second
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	defer func() {
		stop()
		cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log)
			t.Logf("caddy's log:\n%s", said)
		}
	}()
	e2e.Eventually(t, 60*time.Second, func() error {
		said, err := s.Try(t, "curl", "--silent", "--show-error", "--cacert", s.Env["SEGL_ROOT"], "--cert-status", "--resolve", name+":"+port+":127.0.0.1", "https://"+name+":"+port+"/")
		if err != nil || said != "served" {
			return fmt.Errorf("curl: %w: %s", err, said)
		}
		return nil
	})
	shown := s.Run(t, "openssl", "s_client", "-connect", "127.0.0.1:"+port, "-servername", name, "-showcerts")
	return s.judge(t, []byte(strings.ReplaceAll(shown, "\r", "")), name)
}
