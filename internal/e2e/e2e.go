// Package e2e starts a real segl, as its users do, for tests that judge it with other people's programs.
//
// The binary is built once a test run, from this tree, unless SEGL_BINARY names another. A Segl is `segl dev` in a directory of its own on free ports, with
// everything that dev.env says. What is asked of it goes through its listeners or its command line, never through its
// packages. It is for tests alone.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWithin is how long a first start may take on a busy machine: initdb, keys, authorities.
const startWithin = 90 * time.Second

// SEGL_BINARY names one that was built elsewhere, such as a release.
var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("SEGL_BINARY"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "segl-bin-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "segl")
	cmd := exec.Command("go", "build", "-o", bin, "codeberg.org/dataverket/segl/cmd/segl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building segl: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary returns the path of segl, built from this tree.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Main is TestMain's body: it runs the tests, stops what Shared started and removes what Binary built.
func Main(m *testing.M) {
	code := m.Run()
	if err := unshare(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the shared segl:", err) //nolint:errcheck // there is nowhere else to say it
		code = max(code, 1)
	}
	if bin, err := build(); err == nil && bin != os.Getenv("SEGL_BINARY") {
		os.RemoveAll(filepath.Dir(bin)) //nolint:errcheck // a temporary directory
	}
	os.Exit(code)
}

// A Segl is a running `segl dev`.
type Segl struct {
	Dir string            // its data directory
	Env map[string]string // what dev.env says

	bin   string
	flags []string
	cmd   *exec.Cmd
	log   locked
	ready chan bool     // told once
	done  chan struct{} // closed when it has ended; nil while it is not expected to run
}

// Start runs `segl dev` in a directory of its own on free ports, with further flags, and waits until it is ready. It is
// stopped, and its log shown if the test failed, at the end of the test.
func Start(t testing.TB, flags ...string) *Segl {
	t.Helper()
	s := New(t, flags...)
	s.Begin(t)
	return s
}

// New is Start without the start: Begin says with which further flags.
func New(t testing.TB, flags ...string) *Segl {
	t.Helper()
	s, err := prepare(Binary(t), flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
		s.explain(t, 0)
	})
	return s
}

// prepare makes its directory.
func prepare(bin string, flags []string) (*Segl, error) {
	// Not t.TempDir: its long names exceed what a unix socket's path may be.
	dir, err := os.MkdirTemp("", "segl-e2e-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // certificates below it are read by other users' programs
		return nil, err
	}
	return &Segl{Dir: filepath.Join(dir, "d"), bin: bin, flags: flags}, nil
}

// end stops it and removes its directory.
func (s *Segl) end() error {
	return errors.Join(s.stop(), os.RemoveAll(filepath.Dir(s.Dir)))
}

// explain shows what was logged since an offset, if the test failed.
func (s *Segl) explain(t testing.TB, from int) {
	if t.Failed() {
		t.Logf("segl's log:\n%s", tail(s.log.String()[from:], 200))
	}
}

// Begin starts it again after Kill or Stop, in the same directory, with further flags for this run, and waits until it is
// ready.
func (s *Segl) Begin(t testing.TB, more ...string) {
	t.Helper()
	if err := s.begin(more...); err != nil {
		t.Fatal(err)
	}
}

func (s *Segl) begin(more ...string) error {
	if err := s.spawn(more...); err != nil {
		return err
	}
	select {
	case <-s.ready:
	case <-s.done:
		return fmt.Errorf("segl ended before it was ready:\n%s", tail(s.log.String(), 60))
	case <-time.After(startWithin):
		return fmt.Errorf("segl was not ready within %s:\n%s", startWithin, tail(s.log.String(), 60))
	}
	var err error
	s.Env, err = readEnv(filepath.Join(s.Dir, "dev.env"))
	return err
}

// Spawn is Begin that does not wait.
func (s *Segl) Spawn(t testing.TB) {
	t.Helper()
	if err := s.spawn(); err != nil {
		t.Fatal(err)
	}
}

func (s *Segl) spawn(more ...string) error {
	args := []string{"dev", "--data", s.Dir, "--service", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"}
	s.cmd = exec.Command(s.bin, append(append(args, s.flags...), more...)...)
	s.cmd.Stderr = &s.log
	dieWithUs(s.cmd)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.ready, s.done = make(chan bool, 1), make(chan struct{})
	started := make(chan error)
	go follow(s.cmd, out, started, s.ready, s.done)
	return <-started
}

// follow starts cmd and waits for its end. It stays on one thread, which ends with it: the death signal of Linux comes
// when the thread dies that started the child.
func follow(cmd *exec.Cmd, out io.Reader, started chan<- error, ready chan<- bool, done chan<- struct{}) {
	runtime.LockOSThread()
	defer close(done)
	err := cmd.Start()
	started <- err
	if err != nil {
		return
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "ready") {
			ready <- true
		}
	}
	cmd.Wait() //nolint:errcheck // how it ended is in its log
}

// Pid returns its process id.
func (s *Segl) Pid() int { return s.cmd.Process.Pid }

// Kill ends it as a crash does, and waits until it is gone.
func (s *Segl) Kill(t testing.TB) {
	t.Helper()
	if s.done == nil {
		t.Fatal("segl is killed, but does not run")
	}
	s.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-s.done
	s.done = nil
}

// Stop asks it to end and waits. A second Stop does nothing.
func (s *Segl) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func (s *Segl) stop() error {
	if s.done == nil {
		return nil
	}
	done := s.done
	s.done = nil
	if s.cmd.Process == nil {
		return nil // it never began
	}
	s.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may be gone already
	select {
	case <-done:
		return nil
	case <-time.After(60 * time.Second):
		s.cmd.Process.Kill() //nolint:errcheck // the last resort
		return errors.New("segl did not end within 60 s of SIGTERM")
	}
}

// Log returns what it has logged so far.
func (s *Segl) Log() string { return s.log.String() }

// Command returns a command with dev.env in its environment.
func (s *Segl) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = os.Environ()
	for k, v := range s.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// Run runs a program with dev.env in its environment and returns its output; a failure ends the test. "segl" is ours.
func (s *Segl) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := s.Try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run that returns the failure.
func (s *Segl) Try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	if name == "segl" {
		name = s.bin
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.Command(name, args...)
	run := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	run.Env, run.Dir = cmd.Env, s.Dir
	out, err := run.CombinedOutput()
	return string(out), err
}

// Client returns an HTTP client that trusts only the root and, where certFile is given, shows a certificate.
func (s *Segl) Client(t testing.TB, certFile, keyFile string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(s.Env["SEGL_ROOT"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	tr := &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 32}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// ClientShowing returns a client like another, of Client, that shows a certificate of its own.
func ClientShowing(like *http.Client, c *tls.Certificate) *http.Client {
	tr, ok := like.Transport.(*http.Transport)
	if !ok {
		panic("e2e: internal error: not a client of Client")
	}
	cfg := tr.TLSClientConfig.Clone()
	cfg.Certificates = []tls.Certificate{*c}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: like.Timeout}
}

// Workload returns a client that is the demo workload, Operator one that is the operator.
func (s *Segl) Workload(t testing.TB) *http.Client {
	t.Helper()
	return s.Client(t, s.Env["SEGL_CERT"], s.Env["SEGL_KEY"])
}

// Operator returns an HTTP client that is the operator.
func (s *Segl) Operator(t testing.TB) *http.Client {
	t.Helper()
	return s.Client(t, s.Env["SEGL_OPERATOR_CERT"], s.Env["SEGL_OPERATOR_KEY"])
}

// Need fails the test where a program is missing, saying how to get it: `make test` installs them all.
func Need(t testing.TB, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, program))
		}
	}
	if err != nil {
		t.Fatalf("%s is not installed: run apt-get install %s, or make test as root", program, debianPackage)
	}
	return path
}

// Eventually tries f until it returns nil, for at most limit; it is for what others do in their own time.
func Eventually(t testing.TB, limit time.Duration, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %v", limit, err)
		}
		<-tick.C
	}
}

func readEnv(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[k] = strings.Trim(v, "'")
		}
	}
	return vars, nil
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// locked is a buffer that a process writes while a test reads.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
