package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// TestReadmesTour follows the README word for word: `make dev` on free ports and in a directory of its own, then every
// command of the tour in one shell, as a reader would.
func TestReadmesTour(t *testing.T) {
	e2e.Need(t, "certbot", "certbot")
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tour, ok := strings.Cut(string(text), "\n## A tour\n")
	tour, _, ok2 := strings.Cut(tour, "\n## ")
	script := shell(tour)
	if n := strings.Count(strings.TrimSpace(script), "\n") + 1; !ok || !ok2 || n < 8 || n > 10 {
		t.Fatalf("the tour has %d commands, want 8 to 10", n)
	}
	port := freePort(t)
	env := makeDev(t, port)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "DEV_ENV="+env, "HTTP_PORT="+port)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"spiffe://segl.test/tenant/demo/project/shop/environment/dev/web", "cert.pem: OK", "web.pem: revoked"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the tour never says %q:\n%s", want, out)
		}
	}
}

// makeDev runs `make dev` until the test ends and returns the path of its dev.env.
func makeDev(t *testing.T, acmePort string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "segl-tour-")
	if err != nil {
		t.Fatal(err)
	}
	const free = " 127.0.0.1:0"
	cmd := exec.Command("make", "-C", "../..", "dev", "DATA="+dir,
		"ARGS=--service"+free+" --operator"+free+" --public"+free+" --private"+free+" --acme-http-port "+acmePort)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var logs strings.Builder
	cmd.Stdout, cmd.Stderr = &logs, &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) //nolint:errcheck // it may be gone
		<-done
		if t.Failed() {
			t.Log(logs.String())
		}
		os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	})
	env := filepath.Join(dir, "dev.env")
	e2e.Eventually(t, 5*time.Minute, func() error { // it builds the program first
		_, err := os.Stat(env)
		return err
	})
	return env
}

// shell returns the commands of every ```sh block.
func shell(page string) string {
	var b strings.Builder
	for {
		_, rest, ok := strings.Cut(page, "```sh\n")
		if !ok {
			return b.String()
		}
		block, after, _ := strings.Cut(rest, "```")
		b.WriteString(block)
		page = after
	}
}
