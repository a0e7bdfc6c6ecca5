package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
	"codeberg.org/dataverket/segl/internal/oidc/oidctest"
)

// An agent is one that runs beside a segl.
type agent struct {
	t    *testing.T
	segl *e2e.Segl
	dir  string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

func (a *agent) file(name string) string { return filepath.Join(a.dir, name) }

// config writes one with a certificate "web" and further lines below it.
func (a *agent) config(proof string) {
	a.t.Helper()
	text := fmt.Sprintf(`
server: %s
public: %s
root: %s
certificates:
- name: web
  chain: %s
  key: %s
  combined: %s
  names: [web.demo.test]
  proof: %s
  hooks:
  - command: [sh, -c, 'echo "$SEGL_NAME" >>%s']
trust:
  bundle: %s
  crls: %s
`, a.segl.Env["SEGL_URL"], a.segl.Env["SEGL_PUBLIC_URL"], a.segl.Env["SEGL_ROOT"], a.file("web.pem"), a.file("web-key.pem"), a.file("web-both.pem"), proof, a.file("told"), a.file("roots.pem"), a.file("crls.pem"))
	if err := os.WriteFile(a.file("agent.yaml"), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// start runs it with its clock ahead by some time.
func (a *agent) start(ahead time.Duration) {
	a.t.Helper()
	a.cmd = a.segl.Command(e2e.Binary(a.t), "agent", "--config", a.file("agent.yaml"))
	a.cmd.Env = append(a.cmd.Env, "SEGL_CLOCK_OFFSET="+ahead.String())
	log, err := os.OpenFile(a.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		a.t.Fatal(err)
	}
	a.log, a.cmd.Stderr = log, log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.done = make(chan struct{})
	go func() { defer close(a.done); a.cmd.Wait() }() //nolint:errcheck // how it ends is the test's doing
	a.t.Cleanup(a.kill)
}

// kill ends it as a crash does.
func (a *agent) kill() {
	a.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-a.done
	a.log.Close() //nolint:errcheck // nothing is written any more
}

// leaf reads the pair in place.
func (a *agent) leaf() (*x509.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(a.file("web.pem"), a.file("web-key.pem"))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

// has waits until there is a certificate other than one.
func (a *agent) has(other *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	var leaf *x509.Certificate
	// A kill may leave the server with an intent, which it abandons after half a minute: then the same token gets another.
	e2e.Eventually(a.t, 2*time.Minute, func() (err error) {
		if leaf, err = a.leaf(); err == nil && other != nil && leaf.Equal(other) {
			err = errors.New("still the same certificate")
		}
		return err
	})
	return leaf
}

func (a *agent) token() {
	a.t.Helper()
	token := a.segl.Run(a.t, "segl", "enroll", "token", "--workload", "web", "--name", "web.demo.test", "-o", "json")
	var out struct{ Token string }
	if err := json.Unmarshal([]byte(token), &out); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.file("token"), []byte(out.Token+"\n"), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func newAgent(t *testing.T, s *e2e.Segl) *agent {
	t.Helper()
	a := &agent{t: t, segl: s, dir: t.TempDir()}
	t.Cleanup(func() {
		if text, err := os.ReadFile(a.file("log")); err == nil && t.Failed() {
			t.Logf("the agent's log:\n%s", text)
		}
	})
	return a
}

func TestTheAgentGetsRenewsAndProvesAnew(t *testing.T) {
	a := newAgent(t, e2e.Start(t))
	a.token()
	a.config("{file: " + a.file("token") + "}")
	a.start(0)
	first := a.has(nil)
	if len(first.DNSNames) != 1 || len(first.URIs) != 1 || !strings.HasSuffix(first.URIs[0].String(), "/web") {
		t.Errorf("%v %v", first.DNSNames, first.URIs)
	}
	e2e.Eventually(t, 20*time.Second, func() error {
		for name, mode := range map[string]os.FileMode{"web.pem": 0o644, "web-key.pem": 0o600, "web-both.pem": 0o600, "roots.pem": 0o644, "crls.pem": 0o644} {
			if s, err := os.Stat(a.file(name)); err != nil || s.Mode().Perm() != mode {
				return fmt.Errorf("%s: %v, want mode %o", name, err, mode)
			}
		}
		return told(a, 1)
	})
	if _, err := tls.LoadX509KeyPair(a.file("web-both.pem"), a.file("web-both.pem")); err != nil {
		t.Error(err)
	}
	a.kill()

	a.start(18 * time.Hour) // three quarters of its life
	second := a.has(first)
	e2e.Eventually(t, 20*time.Second, func() error { return told(a, 2) })
	a.kill()

	a.segl.Stop(t)
	a.segl.Begin(t, "--clock-offset", "72h") // it has expired
	a.start(72 * time.Hour)
	e2e.Eventually(t, 20*time.Second, func() error { // the token was used: the agent says so, and goes on
		if text, err := os.ReadFile(a.file("log")); err != nil || !strings.Contains(string(text), "task failed") {
			return fmt.Errorf("the agent does not say that it has no proof: %v", err)
		}
		return nil
	})
	a.token()
	third := a.has(second)
	a.kill()
	if third.URIs[0].String() != first.URIs[0].String() {
		t.Errorf("another identity: %s", third.URIs[0])
	}
}

func told(a *agent, times int) error {
	text, err := os.ReadFile(a.file("told"))
	if n := strings.Count(string(text), "web\n"); n != times {
		return fmt.Errorf("hooks ran %d times, want %d: %v", n, times, err)
	}
	return nil
}

// Killed at any instant, the agent leaves whole files, and its next run a whole pair.
func TestAKilledAgentLeavesWholeFiles(t *testing.T) {
	a := newAgent(t, e2e.Shared(t))
	a.token()
	a.config("{file: " + a.file("token") + "}")
	for i := range 25 {
		a.start(0)
		time.Sleep(time.Duration(i*i) * time.Millisecond) // a kill at another instant each time
		a.kill()
		for _, name := range []string{"web.pem", "web-key.pem", "web-both.pem", "crls.pem", "roots.pem"} {
			text, err := os.ReadFile(a.file(name))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil || !strings.HasPrefix(string(text), "-----BEGIN ") || !strings.HasSuffix(string(text), "-----\n") {
				t.Fatalf("after %d ms %s is torn: %v\n%s", i*i, name, err, text)
			}
		}
	}
	a.start(0)
	a.has(nil)
	e2e.Eventually(t, 20*time.Second, func() error {
		text, err := os.ReadFile(a.file("told"))
		if err != nil || len(text) == 0 {
			return errors.New("a hook that a kill kept from running was not run")
		}
		return nil
	})
}

func TestAServiceAccountsTokenIsAProofAndAProgramIsKeptInStep(t *testing.T) {
	a := newAgent(t, e2e.Shared(t))
	cluster := oidctest.New(t)
	if err := os.WriteFile(a.file("jwks.json"), cluster.Keys(t), 0o600); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("pods-%d", time.Now().UnixNano())
	a.segl.Run(t, "segl", "enroll", "method", "add", name, "--kind", "kubernetes", "--issuer", "https://kubernetes.default.svc", "--keys", a.file("jwks.json"), "--subject", "system:serviceaccount:shop:web", "--workload", "web", "--name", "web.demo.test")
	now := time.Now().Unix()
	proof := cluster.Sign(t, map[string]any{
		"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:web", "aud": []string{"segl:segl.test:demo/shop/dev:" + name}, "iat": now, "exp": now + 3600, "jti": name,
	})
	if err := os.WriteFile(a.file("token"), []byte(proof), 0o600); err != nil {
		t.Fatal(err)
	}
	a.config(fmt.Sprintf("{method: 'demo/shop/dev:%s', file: %s}", name, a.file("token")))
	out, err := a.segl.Try(t, "segl", "agent", "exec", "--config", a.file("agent.yaml"), "--", "sh", "-c", `segl_ok=no; test -r "$SEGL_CERT" && test -r "$SEGL_KEY" && segl_ok=yes; echo "child $segl_ok"; exit 42`)
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 42 || !strings.Contains(out, "child yes") {
		t.Fatalf("%v\n%s", err, out)
	}
	leaf, err := a.leaf()
	if err != nil || !strings.HasSuffix(leaf.URIs[0].String(), "/web") {
		t.Fatalf("%v, %v", leaf, err)
	}
	// The proof was spent: with another key it gets nothing.
	out, err = a.segl.Try(t, "segl", "enroll", "--token", proof, "--method", "demo/shop/dev:"+name, "--out", a.file("thief"))
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 5 {
		t.Errorf("a spent proof: %v\n%s", err, out)
	}
	a.segl.Run(t, "segl", "enroll", "method", "end", name)
	out, err = a.segl.Try(t, "segl", "enroll", "--token", proof, "--method", "demo/shop/dev:"+name, "--out", a.file("late"))
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 4 {
		t.Errorf("by an ended method: %v\n%s", err, out)
	}
}

// A person logs in by the browser, or from elsewhere, and is known; with what bindings give, and nothing more.
func TestAPersonLogsIn(t *testing.T) {
	provider := oidctest.New(t)
	provider.Person(40*time.Second, map[string]any{"sub": "mia", "aud": "segl", "urn:zitadel:iam:org:project:roles": map[string]any{"ops": map[string]any{"4711": "demo.test"}}})
	s := e2e.Start(t, "--oidc-issuer", provider.URL)
	dir := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := s.Command(e2e.Binary(t), args...)
		var env []string
		for _, v := range cmd.Env {
			if !strings.HasPrefix(v, "SEGL_CERT=") && !strings.HasPrefix(v, "SEGL_KEY=") && !strings.HasPrefix(v, "SEGL_OPERATOR_CERT=") && !strings.HasPrefix(v, "SEGL_OPERATOR_KEY=") {
				env = append(env, v)
			}
		}
		cmd.Env = append(env, "SEGL_CONFIG_DIR="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("cert", "list"); err == nil || !strings.Contains(out, "segl login") {
		t.Errorf("nobody lists: %v\n%s", err, out)
	}
	if out, err := run("login", "--device"); err != nil || !strings.Contains(out, "ABCD-EFGH") {
		t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(dir, "logins.json")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if out, err := run("cert", "list"); err == nil { // known, and nobody gave her anything
		t.Errorf("lists without a role:\n%s", out)
	}
	s.Run(t, "segl", "access", "grant", "reader", "--scope", "demo", "--claim", "role=ops@4711", "--issuer", provider.URL)
	// Twice: the first token is near its end by then, and refreshed.
	for range 2 {
		e2e.Eventually(t, 10*time.Second, func() error {
			if out, err := run("cert", "list"); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		provider.Person(25*time.Second, map[string]any{"sub": "mia", "aud": "segl", "urn:zitadel:iam:org:project:roles": map[string]any{"ops": map[string]any{"4711": "demo.test"}}})
	}
	if out, err := run("enroll", "token", "--workload", "x"); err == nil {
		t.Errorf("a reader invites:\n%s", out)
	}
	if out, err := run("logout"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("cert", "list"); err == nil {
		t.Errorf("lists after logging out:\n%s", out)
	}
	throughBrowser(t, s, dir)
}

// throughBrowser logs in by a loopback redirect, the test being the browser.
func throughBrowser(t *testing.T, s *e2e.Segl, dir string) {
	t.Helper()
	cmd := s.Command(e2e.Binary(t), "login", "--no-browser")
	cmd.Env = append(cmd.Env, "SEGL_CONFIG_DIR="+dir)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended, as a rule
	var said strings.Builder
	buffer := make([]byte, 1)
	for !strings.Contains(said.String(), "\n") {
		if _, err := io.ReadFull(pipe, buffer); err != nil {
			t.Fatal(err)
		}
		said.Write(buffer)
	}
	_, url, ok := strings.Cut(strings.TrimSpace(said.String()), "machine: ")
	if !ok {
		t.Fatalf("no URL: %s", said.String())
	}
	answer, err := e2e.Ask(t.Context(), &http.Client{Timeout: 10 * time.Second}, http.MethodGet, url, nil)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("%d %s, %v", answer.Status, answer.Body, err)
	}
	rest, _ := io.ReadAll(pipe)
	if err := cmd.Wait(); err != nil || !strings.Contains(string(rest), "logged in") {
		t.Errorf("%v: %s", err, rest)
	}
}
