package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A Child is a program that is run with the agent's credentials.
type Child struct {
	Args   []string
	Signal syscall.Signal // sent when a certificate has changed
	// Grace is how long it may take to end when the agent is asked to; then it is killed.
	Grace time.Duration
}

// Exec runs the agent, and the child once all certificates are there; it returns when the child has ended, with its exit
// code. When ctx ends the child is asked to end, and killed after its grace.
func (a *Agent) Exec(ctx context.Context, c Child) (code int, err error) {
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	changed := make(chan struct{}, 1)
	a.OnChange(Hook{Call: func() error {
		select {
		case changed <- struct{}{}:
		default:
		}
		return nil
	}})
	background.Go(func() { a.Run(ctx) }) //nolint:errcheck // it ends with ctx
	if err := a.complete(ctx, changed); err != nil {
		return 0, err
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...) //nolint:noctx // it is ended by signals, and then killed
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), a.env()...)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", c.Args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	end := ctx.Done()
	for {
		select {
		case err := <-ended:
			return exitCode(err)
		case <-changed:
			cmd.Process.Signal(c.Signal) //nolint:errcheck // it may have ended: then Wait says so
		case <-end:
			end = nil
			cmd.Process.Signal(syscall.SIGTERM)                             //nolint:errcheck // likewise
			timer := time.AfterFunc(c.Grace, func() { cmd.Process.Kill() }) //nolint:errcheck // likewise
			defer timer.Stop()
		}
	}
}

// complete waits until every certificate is there.
func (a *Agent) complete(ctx context.Context, changed <-chan struct{}) error {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		whole := true
		for _, k := range a.keepers {
			_, leaf, err := k.load()
			whole = whole && err == nil && a.now().Before(leaf.NotAfter)
		}
		if whole {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first certificate: %w", context.Cause(ctx))
		case <-changed:
		case <-look.C:
		}
	}
}

// env tells the child where its credentials are: those of the first certificate under the names that segl's own commands read.
func (a *Agent) env() []string {
	env := []string{"SEGL_URL=" + a.cfg.Server, "SEGL_ROOT=" + a.cfg.Root}
	if len(a.keepers) > 0 {
		env = append(env, "SEGL_CERT="+a.keepers[0].Chain, "SEGL_KEY="+a.keepers[0].Key)
	}
	return env
}

// signalled is how shells tell of a program that a signal ended.
const signalled = 128

func exitCode(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 0, fmt.Errorf("waiting for the program: %w", err)
	}
	if s, ok := e.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return signalled + int(s.Signal()), nil
	}
	return e.ExitCode(), nil
}
