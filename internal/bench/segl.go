package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// buildSegl builds segl as `make build` does, and returns its path.
func buildSegl(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "segl")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "codeberg.org/dataverket/segl/cmd/segl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building segl: %w\n%s", err, out)
	}
	return program, nil
}

// A server is a running `segl dev`.
type server struct {
	env   map[string]string
	pid   int
	ready time.Duration // from its start until every listener answered

	cmd   *exec.Cmd
	log   bytes.Buffer
	lines chan string // of stdout, closed at its end
}

const (
	startWithin = 2 * time.Minute
	stopWithin  = time.Minute
)

// startSegl runs `segl dev` in data on free ports until it is ready.
func startSegl(ctx context.Context, program, data string, challengePort int) (*server, error) {
	s := &server{lines: make(chan string, 1)}
	free := "127.0.0.1:0"
	s.cmd = exec.Command(program, "dev", "--data", data, "--service", free, "--operator", free, "--public", free, "--private", free,
		"--acme-http-port", strconv.Itoa(challengePort))
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting segl: %w", err)
	}
	s.pid = s.cmd.Process.Pid
	go func() {
		defer close(s.lines)
		for text := bufio.NewScanner(out); text.Scan(); {
			s.lines <- text.Text()
		}
	}()
	select {
	case line := <-s.lines:
		s.ready = time.Since(began)
		if strings.HasPrefix(line, "ready") {
			s.env, err = readEnv(filepath.Join(data, "dev.env"))
			return s, err
		}
		err = errors.New("it ended")
	case <-time.After(startWithin):
		err = fmt.Errorf("it was not ready within %s", startWithin)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(fmt.Errorf("starting segl: %w", err), s.stop(), errors.New(s.tail()))
}

// stop ends it and waits until it is gone, and Postgres with it.
func (s *server) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM)                               //nolint:errcheck // it may be gone already
	late := time.AfterFunc(stopWithin, func() { s.cmd.Process.Kill() }) //nolint:errcheck // it may be gone already
	defer late.Stop()
	for range s.lines { //nolint:revive // until its end
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping segl: %w", err)
	}
	return nil
}

// tail is the end of its log.
func (s *server) tail() string {
	const most = 4 << 10
	b := s.log.Bytes()
	return string(b[max(0, len(b)-most):])
}

func readEnv(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading where segl is: %w", err)
	}
	vars := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[k] = strings.Trim(v, "'")
		}
	}
	return vars, nil
}
