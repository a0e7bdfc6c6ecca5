package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"segl": main})
}

// update rewrites the golden parts of scripts: SEGL_UPDATE=1 go test ./cmd/segl
var update = os.Getenv("SEGL_UPDATE") != ""

// commands are what scripts can do beside running programs.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"capture": capture, "mode": mode, "pair": pair, "code": code,
}

// TestLocalCommands runs the scripts that need no server.
func TestLocalCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/local", Cmds: commands, UpdateScripts: update, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error { writePKI(t, filepath.Join(e.WorkDir, "pki")); return nil },
	})
}

// TestRemoteCommands runs the scripts that talk to a server, all to one: each makes what it needs under names of its own.
func TestRemoteCommands(t *testing.T) {
	vars := start(t)
	t.Run("serve", func(t *testing.T) { testServe(t, vars) })
	testscript.Run(t, testscript.Params{
		Dir: "testdata/remote", Cmds: commands, UpdateScripts: update, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for k, v := range vars {
				e.Setenv(k, v)
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "incidents.sh"), commandsOf(t, "../../docs/incidents.md"), 0o600); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ceremony.sh"), commandsOf(t, "../../docs/ceremony.md"), 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "page.sh"), recipes(t), 0o600)
		},
	})
}

// start runs `segl dev` until the end of the test, and returns what dev.env says.
func start(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "segl-cli-") // not t.TempDir: its long names exceed what a unix socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a temporary directory
	const free = "127.0.0.1:0"
	data := filepath.Join(dir, "d")
	s := running(t, "dev", "--data", data, "--service", free, "--operator", free, "--public", free, "--private", free, "--log-level", "warn")
	t.Cleanup(func() { s.stop(t) })
	return readEnv(t, filepath.Join(data, "dev.env"))
}

// A served command is one that runs until it is told to end.
type served struct {
	cancel context.CancelFunc
	code   chan int
	log    bytes.Buffer
}

// running runs a command up to the line that says it is ready.
func running(t *testing.T, args ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	s := &served{cancel: cancel, code: make(chan int, 1)}
	p := &program{in: strings.NewReader(""), out: in, err: &s.log, env: func(string) string { return "" }, now: time.Now}
	go func() {
		code := p.run(ctx, args)
		in.Close() //nolint:errcheck // never fails
		s.code <- code
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready") {
		cancel()
		t.Fatalf("segl %s said %q and ended with %d:\n%s", args[0], lines.Text(), <-s.code, s.log.String())
	}
	go io.Copy(io.Discard, out) //nolint:errcheck // ends with the command
	return s
}

// stop ends it as SIGTERM does.
func (s *served) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	if code := <-s.code; code != exitDone {
		t.Errorf("it ended with %d", code)
	}
	if t.Failed() {
		t.Log(s.log.String())
	}
}

// testServe runs `segl serve` as a second replica on the same database.
func testServe(t *testing.T, vars map[string]string) {
	config := filepath.Join(t.TempDir(), "segl.yaml")
	text := fmt.Sprintf(`
site: 1
trust_domain: segl.test
database: {url: %q}
passphrase_file: %q
listen: {service: "127.0.0.1:0", operator: "127.0.0.1:0", public: "127.0.0.1:0", private: "127.0.0.1:0"}
urls: {public: %q}
log_level: warn
`, vars["SEGL_DATABASE_URL"], filepath.Join(vars["SEGL_DATA"], "passphrase"), vars["SEGL_PUBLIC_URL"])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	running(t, "serve", "--config", config).stop(t)
}

func readEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[k] = strings.Trim(v, "'")
	}
	return vars
}

// capture VAR puts the last program's stdout into a variable.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: capture VAR")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// mode FILE MODE checks permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE MODE")
	}
	s, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(s.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("%s has mode %s", args[0], got)
	}
}

// pair PREFIX checks that PREFIX.pem and PREFIX-key.pem belong together.
func pair(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] pair PREFIX")
	}
	prefix := ts.MkAbs(args[0])
	if _, err := tls.LoadX509KeyPair(prefix+".pem", prefix+"-key.pem"); (err != nil) != neg {
		ts.Fatalf("pair %s: %v", args[0], err)
	}
}

// code N PROGRAM ARG... runs a program that must end with exit code N.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s ended with code %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
	if err != nil {
		checkComplaint(ts, ts.ReadFile("stderr"))
	}
}

// checkComplaint holds every error to the form that the contract gives: one line of error, at most one of hint, last.
func checkComplaint(ts *testscript.TestScript, stderr string) {
	lines := strings.Split(strings.TrimRight(stderr, "\n"), "\n")
	last := lines[len(lines)-1]
	if strings.HasPrefix(last, "segl: hint: ") && len(lines) > 1 {
		checkForm(ts, last, "segl: hint: ")
		last = lines[len(lines)-2]
	}
	checkForm(ts, last, "segl: error: ")
}

func checkForm(ts *testscript.TestScript, line, prefix string) {
	text, ok := strings.CutPrefix(line, prefix)
	if !ok || text == "" || strings.HasSuffix(text, ".") || strings.ToUpper(text[:2]) != text[:2] && strings.ToLower(text[:1]) != text[:1] {
		ts.Fatalf("stderr has %q: want %q and a sentence in lower case without full stop", line, prefix)
	}
}

func TestUntilSaysItAsPeopleDo(t *testing.T) { // what tables show, by the clock they are given
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &program{now: func() time.Time { return now }, form: "table"}
	for d, want := range map[time.Duration]string{
		6 * time.Hour: "in 6h", -3 * 24 * time.Hour: "3d ago", 90 * time.Second: "in 90s", 50 * time.Minute: "in 50m",
	} {
		if got := p.instant(now.Add(d)); got != want {
			t.Errorf("%s from now is %q, want %q", d, got, want)
		}
	}
	p.form = "csv"
	if got, want := p.instant(now), "2026-01-02T03:04:05Z"; got != want {
		t.Errorf("in csv it is %q, want %q", got, want)
	}
}
