package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
)

// A Task is something an Agent does again and again: it is what other parts of the program add.
type Task struct {
	Name string
	// Once does it, and says when to do it next. An error is logged, counted and shown, and it is done again sooner, slower
	// each time.
	Once func(ctx context.Context) (next time.Duration, err error)
}

// An Agent keeps everything of a Config. Run runs it once.
type Agent struct {
	cfg      Config
	now      func() time.Time
	log      *slog.Logger
	keepers  []*keeper
	tasks    []Task
	state    *state
	registry *prometheus.Registry
	listener net.Listener
}

// New returns an agent that does nothing yet.
func New(cfg Config, now func() time.Time, log *slog.Logger) (*Agent, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("checking configuration: %w", err)
	}
	a := &Agent{cfg: cfg, now: now, log: log, registry: prometheus.NewRegistry()}
	a.state = newState(a.registry, now)
	for _, c := range cfg.Certificates {
		if c.ACME != nil {
			a.tasks = append(a.tasks, a.acmeTask(c))
			continue
		}
		k := &keeper{agent: a, Certificate: c}
		a.keepers = append(a.keepers, k)
		a.tasks = append(a.tasks, Task{Name: "certificate " + c.Name, Once: k.once})
	}
	if cfg.Trust.Bundle != "" {
		a.tasks = append(a.tasks, Task{Name: "bundle", Once: a.bundle})
	}
	if cfg.Trust.CRLs != "" {
		a.tasks = append(a.tasks, Task{Name: "crls", Once: a.lists})
	}
	return a, nil
}

// Add adds a task before Run.
func (a *Agent) Add(t Task) { a.tasks = append(a.tasks, t) }

// OnChange adds a hook for all certificates before Run.
func (a *Agent) OnChange(h Hook) {
	for _, k := range a.keepers {
		k.Hooks = append(k.Hooks, h)
	}
}

// Open listens for whoever asks how it goes, and returns where.
func (a *Agent) Open(ctx context.Context) (addr string, err error) {
	if a.cfg.Listen == "" {
		return "", nil
	}
	var lc net.ListenConfig
	if a.listener, err = lc.Listen(ctx, "tcp", a.cfg.Listen); err != nil {
		return "", fmt.Errorf("opening the agent's listener: %w", err)
	}
	return a.listener.Addr().String(), nil
}

// Run keeps everything until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	a.sweep()
	var background sync.WaitGroup
	defer background.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if a.listener != nil {
		background.Go(func() { a.serve(ctx) })
	}
	for _, t := range a.tasks {
		background.Go(func() { a.repeat(ctx, t) })
	}
	<-ctx.Done()
	return nil
}

// Bounds of trying again.
const (
	firstPause = 2 * time.Second
	mostPause  = 5 * time.Minute
)

// repeat does a task until ctx ends.
func (a *Agent) repeat(ctx context.Context, t Task) {
	pause := time.Duration(0)
	for {
		next, err := t.Once(ctx)
		if ctx.Err() != nil {
			return
		}
		a.state.done(t.Name, err)
		if err != nil {
			pause = min(mostPause, max(firstPause, 2*pause))
			next = pause/2 + rand.N(pause) //nolint:gosec // spread, not secrecy
			a.log.Error("task failed", "task", t.Name, "err", err, "again", next)
		} else {
			pause = 0
		}
		timer := time.NewTimer(max(next, 100*time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// roots reads the roots that the server is trusted by; they may have changed.
func (a *Agent) roots() (*x509.CertPool, error) {
	certs, err := chain.Read(a.cfg.Root)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// dial returns a client of the service listener, as whoever config says.
func (a *Agent) dial(config client.Config) (*client.Client, error) {
	var err error
	if config.Roots, err = a.roots(); err != nil {
		return nil, err
	}
	config.UserAgent, config.Now = "segl-agent", a.now
	if config.URL == "" {
		config.URL = a.cfg.Server
	}
	return client.New(config)
}

// leftover is how old what a killed writer left must be to be swept: no writer takes so long.
const leftover = time.Hour

// sweep removes what was being written when the agent was killed.
func (a *Agent) sweep() {
	var paths []string
	for _, c := range a.cfg.Certificates {
		paths = append(paths, c.Chain, c.Key, c.Combined, c.Key+".pending", c.Key+".told")
	}
	for _, p := range append(paths, a.cfg.Trust.Bundle, a.cfg.Trust.CRLs) {
		if p == "" {
			continue
		}
		found, err := filepath.Glob(filepath.Join(filepath.Dir(p), "."+filepath.Base(p)+".*"))
		if err != nil {
			continue
		}
		for _, f := range found {
			if s, err := os.Stat(f); err == nil && s.Mode().IsRegular() && time.Since(s.ModTime()) > leftover {
				if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
					a.log.Warn("leftover not removed", "err", err)
				}
			}
		}
	}
}
