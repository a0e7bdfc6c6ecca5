// Package cluster runs a private Postgres from installed binaries, for segl dev and for tests.
//
// A cluster is one directory: data/, a password, a log and a unix socket; there is no TCP port unless a setting asks for
// one. Start makes it or finds it again; a postmaster of it that outlived its owner is stopped first. As root it runs as
// an unprivileged user. It is not for production: no standby, no backup, no tuning beyond a small machine.
//
// The invariants: at most one process owns a directory (flock); Postgres does not outlive its owner, not even one killed
// by SIGKILL (Linux: PR_SET_PDEATHSIG); a commit it acknowledges is on disk, unless Config.Test; a postmaster that dies
// is started again until Stop.
//
// A Cluster may be used concurrently.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	superuser = "postgres" // administers the cluster
	owner     = "segl"     // owns the database, an ordinary role as in production
	database  = "segl"
	port      = "5432" // only a part of the socket's name
)

// A Config says where a cluster lives.
type Config struct {
	// Dir holds everything of the cluster. It is made when missing, mode 0700, and belongs to the user Postgres runs as.
	Dir string
	// BinDir has initdb and postgres. Empty: the environment's PG_BIN, else the usual places, newest first.
	BinDir string
	// Settings are server settings (postgresql.conf) added to, or in place of, those of this package.
	Settings map[string]string
	// Test trades durability for speed: fsync and full_page_writes are off. Nothing in such a cluster survives a crash of
	// the machine.
	Test bool
	// Log is told of restarts. Nil: nobody is.
	Log *slog.Logger
}

// A Cluster is a running Postgres.
type Cluster struct {
	cfg      Config
	bin      binaries
	user     account
	paths    paths
	password string
	lock     *os.File
	log      *slog.Logger

	stopping chan struct{} // closed by Stop
	stopped  chan struct{} // closed when Postgres is gone and will not be started again
	stopOnce sync.Once

	mu  sync.Mutex // guards pid
	pid int        // of the postmaster, 0 between two of them
}

// Start returns once the cluster accepts connections, or says why it cannot. The caller stops it.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("starting private Postgres: %w", err)
	}
	ready := make(chan error, 1)
	go c.supervise(context.WithoutCancel(ctx), ready)
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = fmt.Errorf("waiting until it accepts connections: %w", context.Cause(ctx))
	}
	if err == nil {
		err = c.makeRoles(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting private Postgres: %w", err), c.Stop())
	}
	return c, nil
}

// prepare does everything before the first postmaster. On an error nothing is held.
func prepare(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, log: cfg.Log, stopping: make(chan struct{}), stopped: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	// 1. Which binaries, and may they read what is there?
	data := filepath.Join(cfg.Dir, "data")
	if c.bin, err = find(cfg.BinDir, os.Getenv("PG_BIN"), data); err != nil {
		return nil, err
	}
	// 2. Who runs them, and where.
	if c.user, err = runAs(data); err != nil {
		return nil, err
	}
	if err = c.user.makeDir(cfg.Dir); err != nil {
		return nil, err
	}
	// 3. Nobody else's, from here to Stop.
	if c.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.lock.Close() //nolint:errcheck // gives the lock back; there is nothing to flush
		}
	}()
	if c.paths, err = choosePaths(cfg.Dir, c.user); err != nil {
		return nil, err
	}
	// 4. What a killed owner left.
	if err = c.stopLeftover(ctx); err != nil {
		return nil, err
	}
	// 5. The data, unless it is there.
	if err = c.initialize(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// URL connects to the database of the cluster as its owner, an ordinary role. It contains the password.
func (c *Cluster) URL() string { return c.url(owner) }

// SuperuserURL connects to the same database as the administrator.
func (c *Cluster) SuperuserURL() string { return c.url(superuser) }

// url spells out what libpq and pgx would otherwise take from PG* variables.
func (c *Cluster) url(user string) string {
	// One parameter, with its slashes as they are: the URL stands in shell files and needs no quoting there.
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, c.password), Host: ":" + port, Path: "/" + database,
		RawQuery: "host=" + strings.ReplaceAll(url.QueryEscape(c.paths.socket), "%2F", "/"),
	}
	return u.String()
}

// Dir is where the cluster lives; DataDir below it is Postgres's own; BinDir has its programs.
func (c *Cluster) Dir() string { return c.cfg.Dir }

// DataDir is Postgres's data directory.
func (c *Cluster) DataDir() string { return c.paths.data }

// BinDir is where the programs of this cluster's Postgres are.
func (c *Cluster) BinDir() string { return c.bin.dir }

// LogFile is where Postgres writes its log.
func (c *Cluster) LogFile() string { return c.paths.log }

// Pid is the postmaster's process id, 0 while there is none.
func (c *Cluster) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// Stopped is closed once Postgres has ended for good: after Stop, or when it could not be started again.
func (c *Cluster) Stopped() <-chan struct{} { return c.stopped }

// Stop ends sessions, checkpoints, and returns when Postgres is gone. It may be called again.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() { close(c.stopping) })
	<-c.stopped
	if c.paths.socket != filepath.Join(c.cfg.Dir, socketDir) {
		os.Remove(c.paths.socket) //nolint:errcheck // ours and empty; if not, the next start makes do with it
	}
	if err := c.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("stopping private Postgres: %w", err)
	}
	return nil
}

// startTimeout bounds one start, crash recovery included.
const startTimeout = 2 * time.Minute
