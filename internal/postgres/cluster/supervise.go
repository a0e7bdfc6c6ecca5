package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
	logKept     = 8 << 20
)

// supervise runs Postgres until Stop, again whenever it dies. It tells ready how the first start went.
//
// The goroutine stays on one thread, and that thread ends with it: the death signal is tied to the thread that starts the
// child (PR_SET_PDEATHSIG, prctl(2)), so it may not end before.
func (c *Cluster) supervise(ready chan<- error) {
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
		ctx, cancel := context.WithTimeout(context.Background(), stopPolite)
		if err := c.stopLeftover(ctx); err != nil {
			c.log.Warn("private postgres left processes", "err", err)
		}
		cancel()
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
		return true, fmt.Errorf("postgres ended by itself: %w", errors.Join(err))
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
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("postgres ended: %w", err)
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

// shutDown asks ever less politely (https://www.postgresql.org/docs/current/server-shutdown.html).
func shutDown(p *os.Process, ended <-chan error) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGINT, stopPolite}, {syscall.SIGQUIT, stopHarsh}} {
		if err := p.Signal(step.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-ended:
			return nil
		case <-time.After(step.wait):
		}
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-ended
	return nil
}

func (c *Cluster) setPid(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
}

// args are the server's settings, on its command line so that the data directory holds none that a later version of this
// program would have to change.
func (c *Cluster) args() []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": c.paths.serverSocket,
		"unix_socket_permissions": "0700",
		"cluster_name":            "segl",
		"max_connections":         "60",
		"shared_buffers":          "64MB",
		"work_mem":                "4MB",
		"maintenance_work_mem":    "32MB",
		"max_wal_size":            "512MB",
		"min_wal_size":            "64MB",
		"checkpoint_timeout":      "15min",
		"huge_pages":              "off",
		"jit":                     "off", // short statements only
		"update_process_title":    "off",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"log_line_prefix":         "%m [%p] ",
		"log_timezone":            "UTC",
		"timezone":                "UTC",
		"password_encryption":     "scram-sha-256",
	}
	if c.cfg.Test {
		maps.Copy(settings, map[string]string{
			"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "shared_buffers": "32MB",
			"max_wal_senders": "0", "wal_level": "minimal",
		})
	}
	maps.Copy(settings, c.cfg.Settings)
	args := []string{"-D", filepath.Join(c.paths.serverDir, "data")}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// openLog keeps one older log when the present one has grown.
func (c *Cluster) openLog() (*os.File, error) {
	if info, err := os.Stat(c.paths.log); err == nil && info.Size() > logKept {
		if err := os.Rename(c.paths.log, c.paths.log+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(c.paths.log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

func (c *Cluster) logSince(from int64) string {
	f, err := os.Open(c.paths.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // opened for reading
	said, err := io.ReadAll(io.NewSectionReader(f, from, 64<<10))
	if err != nil {
		return err.Error()
	}
	return c.lastWords(said)
}

// A pidFile is what matters of postmaster.pid: lines 1 and 8 (src/include/utils/pidfile.h).
type pidFile struct {
	pid    int
	status string
}

func readPidFile(data string) pidFile {
	raw, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}
	}
	lines := strings.Split(string(raw), "\n")
	var f pidFile
	f.pid, _ = strconv.Atoi(strings.TrimSpace(lines[0])) //nolint:errcheck // zero is nobody
	if len(lines) >= 8 {
		f.status = strings.TrimSpace(lines[7])
	}
	return f
}
