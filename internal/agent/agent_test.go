package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/agent"
)

const good = `
server: https://segl.test:8443
public: http://segl.test:8080
root: /r.pem
listen: 127.0.0.1:0
certificates:
- name: web
  chain: /web.pem
  key: /web-key.pem
  proof: {file: /token}
trust: {crls: /crls.pem}
`

func TestConfigurationsAreRefused(t *testing.T) {
	load := func(text string) error {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := agent.Load(path)
		return err
	}
	if err := load(good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"plain HTTP":               {"https://segl.test:8443", "http://segl.test:8443"},
		"no root":                  {"root: /r.pem", ""},
		"lists from nowhere":       {"public: http://segl.test:8080", ""},
		"status for everybody":     {"127.0.0.1:0", "0.0.0.0:9091"},
		"status without a port":    {"127.0.0.1:0", "127.0.0.1"},
		"an unknown key":           {"root: /r.pem", "root: /r.pem\nrooot: x"},
		"no name":                  {"name: web", "name: ''"},
		"no key file":              {"  key: /web-key.pem\n", ""},
		"one file for two things":  {"key: /web-key.pem", "key: /web.pem"},
		"a list over a key":        {"crls: /crls.pem", "crls: /web-key.pem"},
		"two proofs":               {"{file: /token}", "{file: /token, command: [a]}"},
		"a method and no token":    {"{file: /token}", "{method: 'demo:a'}"},
		"another key type":         {"proof:", "key_type: dsa\n  proof:"},
		"a hook that does two":     {"proof:", "hooks: [{command: [a], systemd: b}]\n  proof:"},
		"a hook that does nothing": {"proof:", "hooks: [{}]\n  proof:"},
		"another signal":           {"proof:", "hooks: [{pid_file: /p, signal: KILL}]\n  proof:"},
		"a unit that is a flag":    {"proof:", "hooks: [{systemd: '--now'}]\n  proof:"},
		"a name that is none":      {"proof:", "names: ['a b']\n  proof:"},
		"ACME beside a proof":      {"proof:", "acme: {directory: x, name: y}\n  proof:"},
	} {
		if err := load(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

func TestHooks(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	if err := (agent.Hook{Command: []string{"sh", "-c", `echo "$SEGL_NAME" >` + out}}).Run(t.Context(), "SEGL_NAME=web"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "web\n" {
		t.Errorf("%q, %v", text, err)
	}
	child := exec.CommandContext(t.Context(), "sh", "-c", `trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done`)
	pipe, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(child.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (agent.Hook{PIDFile: pid, Signal: "USR1"}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*exec.ExitError](child.Wait()); !ok || e.ExitCode() != 7 {
		t.Errorf("the signal did not arrive: %v", e)
	}
	for what, text := range map[string]string{"everybody": "-1", "the group": "0", "init": "1", "nothing": "", "words": "x"} {
		if err := os.WriteFile(pid, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (agent.Hook{PIDFile: pid}).Run(t.Context()); err == nil {
			t.Errorf("%s was signalled", what)
		}
	}
	hooks := []agent.Hook{{Command: []string{"false"}}, {Command: []string{"sh", "-c", "echo again >" + out}}}
	if err := agent.RunHooks(t.Context(), hooks); err == nil {
		t.Error("a failure was not told")
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "again\n" {
		t.Errorf("a failed hook kept the next from running: %q, %v", text, err)
	}
}

// A server that is away is asked again, slower each time, and said so.
func TestAnAgentThatCanReachNobodyGoesOn(t *testing.T) {
	dir := t.TempDir()
	cfg := agent.Config{Server: "https://127.0.0.1:1", Root: filepath.Join(dir, "none.pem"), Listen: "127.0.0.1:0", Certificates: []agent.Certificate{{
		Name: "web", Chain: filepath.Join(dir, "web.pem"), Key: filepath.Join(dir, "web-key.pem"), Proof: agent.Proof{File: filepath.Join(dir, "token")},
	}}}
	a, err := agent.New(cfg, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{}, 1)
	a.Add(agent.Task{Name: "extra", Once: func(context.Context) (time.Duration, error) {
		select {
		case tried <- struct{}{}:
		default:
		}
		return 0, errors.New("no")
	}})
	addr, err := a.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-tried
	for path, want := range map[string]string{"/healthz": "missing", "/metrics": `segl_agent_task_failures{task="extra"}`, "/status": `"extra"`} {
		if err := eventually(t, "http://"+addr+path, want); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "web.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a certificate came from nowhere: %v", err)
	}
}

func TestAnAgentsConfigurationIsChecked(t *testing.T) {
	if _, err := agent.New(agent.Config{}, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(fmt.Sprint(err), "server") {
		t.Errorf("%v", err)
	}
}
