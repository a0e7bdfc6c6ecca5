package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// stopLeftover ends processes of this cluster whose owner was killed. We hold the directory's lock, so nobody wants them.
// A postmaster gets a fast shutdown; backends without one have lost their shared memory's keeper and are told to quit.
func (c *Cluster) stopLeftover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopPolite)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	told := map[int]bool{}
	for {
		left, err := processes(c.paths.data)
		if err != nil {
			return fmt.Errorf("looking for processes of an earlier run: %w", err)
		}
		if len(left) == 0 {
			return c.clearStale()
		}
		master := readPidFile(c.paths.data).pid
		for _, pid := range left {
			sig := syscall.SIGINT
			switch {
			case told[pid]:
				continue
			case !slices.Contains(left, master):
				sig = syscall.SIGQUIT
			case pid != master:
				continue // its postmaster ends it
			}
			told[pid] = true
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stopping process %d of an earlier run: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v of an earlier run did not end: %w", left, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// clearStale removes lock files whose number has meanwhile gone to a stranger: Postgres would take that process for a
// postmaster and refuse to start. Files naming no living process it clears away itself.
func (c *Cluster) clearStale() error {
	stale := []string{filepath.Join(c.paths.socket, ".s.PGSQL."+port+".lock")}
	if pid := readPidFile(c.paths.data).pid; pid > 0 && syscall.Kill(pid, 0) == nil {
		stale = append(stale, filepath.Join(c.paths.data, "postmaster.pid"))
	}
	for _, name := range stale {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
