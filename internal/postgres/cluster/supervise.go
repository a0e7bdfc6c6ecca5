package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	poll        = 10 * time.Millisecond // while waiting for files and processes of Postgres, which tell nobody
	stopPolite  = 30 * time.Second      // fast shutdown: end sessions, checkpoint
	stopHarsh   = 5 * time.Second       // immediate shutdown: recovery at the next start
	restartWait = 200 * time.Millisecond
	restartMost = 10 * time.Second
	restarts    = 12 // failed in a row, about a minute
)

// supervise runs Postgres until Stop, again whenever it dies. It tells ready how the first start went.
//
// The goroutine stays on one thread, and that thread ends with it: the death signal is tied to the thread that starts the
// child (PR_SET_PDEATHSIG, prctl(2)), so it may not end before.
func (c *Cluster) supervise(ctx context.Context, ready chan<- error) {
	runtime.LockOSThread()
	defer close(c.stopped)
	first, failed := true, 0
	for {
		wasReady, err := c.postmaster(func() {
			if first {
				first = false
				ready <- nil
			}
		})
		if c.isStopping() {
			if first {
				ready <- errors.New("stopped before it was ready")
			}
			return
		}
		if first {
			ready <- err
			return
		}
		if failed++; wasReady {
			failed = 0
		}
		if failed > restarts {
			c.log.Error("private postgres given up", "err", err)
			return
		}
		c.log.Warn("private postgres ended, starting it again", "err", err)
		if !c.pause(min(restartWait<<failed, restartMost)) {
			return
		}
		if err := c.stopLeftover(ctx); err != nil {
			c.log.Warn("private postgres left processes", "err", err)
		}
	}
}

func (c *Cluster) isStopping() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// pause reports whether the whole of d passed before Stop.
func (c *Cluster) pause(d time.Duration) bool {
	select {
	case <-c.stopping:
		return false
	case <-time.After(d):
		return true
	}
}

// postmaster runs Postgres once, from start to end, and calls ready when it takes connections.
func (c *Cluster) postmaster(ready func()) (wasReady bool, err error) {
	log, err := c.openLog()
	if err != nil {
		return false, err
	}
	defer log.Close() //nolint:errcheck // the server writes it, not we
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	cmd := exec.Command(c.bin.path("postgres"), c.args()...) //nolint:gosec // the operator's own program
	cmd.Stdout, cmd.Stderr = log, log
	closeFiles, err := c.dress(cmd, syscall.SIGINT) // SIGINT: fast shutdown
	if err != nil {
		return false, err
	}
	defer closeFiles()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	c.setPid(cmd.Process.Pid)
	defer c.setPid(0)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	if err := c.awaitReady(cmd.Process.Pid, ended); err != nil {
		return false, fmt.Errorf("%w: %s (log: %s)", err, c.logSince(from), c.paths.log)
	}
	ready()
	select {
	case err := <-ended:
		return true, fmt.Errorf("postgres ended by itself: %w", orZero(err))
	case <-c.stopping:
		return true, shutDown(cmd.Process, ended)
	}
}

// awaitReady waits as pg_ctl does, for the status line of postmaster.pid. When it returns an error, Postgres has ended.
func (c *Cluster) awaitReady(pid int, ended <-chan error) error {
	late := time.After(startTimeout)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	process := os.Process{Pid: pid}
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("postgres ended: %w", orZero(err))
		case <-c.stopping:
			return errors.Join(errors.New("stopped while starting"), shutDown(&process, ended))
		case <-late:
			return errors.Join(fmt.Errorf("postgres was not ready within %v", startTimeout), shutDown(&process, ended))
		case <-tick.C:
			if f := readPidFile(c.paths.data); f.pid == pid && f.status == "ready" {
				return nil
			}
		}
	}
}

// orZero says of a process that ended well but unasked what os/exec leaves unsaid.
func orZero(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// shutDown asks ever less politely, and returns how Postgres ended (https://www.postgresql.org/docs/current/server-shutdown.html).
func shutDown(p *os.Process, ended <-chan error) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGINT, stopPolite}, {syscall.SIGQUIT, stopHarsh}} {
		if err := p.Signal(step.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(step.wait):
		}
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return <-ended
}

func (c *Cluster) setPid(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
}
