package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const workers = 16

// A bench is one run.
type bench struct {
	opts    options
	out     io.Writer
	dir     string // temporary
	self    string // this program
	program string // segl
	peer    string // step-ca; empty: it could not be built
	units   []time.Duration
	page    page
}

func newBench(o options, out io.Writer) (*bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "segl-bench-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // Postgres runs as another user below it
		return nil, err
	}
	return &bench{opts: o, out: out, dir: dir, self: self, program: o.program}, nil
}

// run measures everything and tells it.
func (b *bench) run(ctx context.Context) error {
	if b.program == "" {
		var err error
		if b.program, err = buildSegl(ctx, b.dir); err != nil {
			return err
		}
	}
	if b.wantsPeer() {
		b.buildPeer(ctx)
	}
	b.page.begin()
	if err := b.unit(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{b.measureFloors, b.measureSegl, b.measureLarge, b.measureStart} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	b.page.end(b.units)
	if err := b.page.print(b.out); err != nil {
		return err
	}
	if b.opts.page == "" {
		return nil
	}
	return b.page.write(b.opts.page)
}

// unit measures S once more. A run's S is the median.
func (b *bench) unit() error {
	s, err := measureUnit()
	b.units = append(b.units, s)
	return err
}

func (b *bench) wanted(op operation) bool { return b.opts.only.MatchString(op.kind) }

// measureFloors measures the bare server.
func (b *bench) measureFloors(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.self, asBare)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a bare server: %w", err)
	}
	defer func() {
		in.Close() //nolint:errcheck // it ends then
		cmd.Wait() //nolint:errcheck // nothing depends on how
	}()
	var env map[string]string
	if err := json.NewDecoder(out).Decode(&env); err != nil {
		return fmt.Errorf("starting a bare server: %w", err)
	}
	env["SEGL_ROOT"] = filepath.Join(b.dir, "bare.pem")
	if err := os.WriteFile(env["SEGL_ROOT"], []byte(env["root"]), 0o600); err != nil {
		return err
	}
	at := subject{pid: cmd.Process.Pid, env: env, stock: filepath.Join(b.dir, "bare.json")}
	for _, op := range floors() {
		if !b.wanted(op) {
			continue
		}
		if err := b.measure(ctx, at, op); err != nil {
			return err
		}
	}
	return nil
}

// measureSegl measures every operation on a fresh segl.
func (b *bench) measureSegl(ctx context.Context) (err error) {
	port, err := freePort()
	if err != nil {
		return err
	}
	s, err := startSegl(ctx, b.program, filepath.Join(b.dir, "d"), port)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, s.tail())
		}
		err = errors.Join(err, s.stop())
	}()
	db, err := pgx.Connect(ctx, s.env["SEGL_DATABASE_URL"])
	if err != nil {
		return fmt.Errorf("connecting to segl's database: %w", err)
	}
	defer db.Close(ctx) //nolint:errcheck // it only read
	if err := b.page.describe(ctx, db); err != nil {
		return err
	}
	at := subject{pid: s.pid, env: s.env, db: db, stock: filepath.Join(b.dir, "stock.json"), port: port}
	seeded := false
	for _, op := range operations() {
		if b.wanted(op) {
			if op.asks && !seeded {
				if _, err = b.drive(ctx, b.spec(at, operations()[0]), nil); err != nil {
					return err
				}
			}
			seeded = seeded || op.asks || op.kind == kindIssue
			if err = b.measure(ctx, at, op); err != nil {
				return err
			}
		}
	}
	resident, err := residentOf(s.pid)
	if err != nil {
		return err
	}
	b.page.figure("RAM of segl after all of it", megabytes(resident), "", "")
	return b.measurePeer(ctx, at)
}

// measureStart starts segl again in the same directory.
func (b *bench) measureStart(ctx context.Context) error {
	if !b.opts.only.MatchString("start") {
		return nil
	}
	const (
		starts = 3
		idle   = 5 * time.Second
	)
	var readies []time.Duration
	var resident int64
	for range starts {
		s, err := startSegl(ctx, b.program, filepath.Join(b.dir, "d"), 0)
		if err != nil {
			return err
		}
		readies = append(readies, s.ready)
		select {
		case <-time.After(idle):
		case <-ctx.Done():
		}
		r, err := residentOf(s.pid)
		if err := errors.Join(err, s.stop()); err != nil {
			return err
		}
		resident = max(resident, r)
	}
	ready := median(readies).Seconds()
	b.page.figure("ready after start on this data directory", fmt.Sprintf("%.2f s", ready), "≤ 2 s", verdict(ready, barReady))
	b.page.figure("RAM of segl when idle", megabytes(resident), "≤ 80 MiB", verdict(float64(resident), barResident))
	info, err := os.Stat(b.program)
	if err == nil {
		b.page.figure("program, stripped", fmt.Sprintf("%.1f MB", float64(info.Size())/1e6), "≤ 60 MB", verdict(float64(info.Size()), barProgram)) //nolint:mnd // a million
	}
	return err
}

// freePort finds a port that nobody listens on, for http-01.
func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	defer ln.Close() //nolint:errcheck // only asked
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("finding a free port: not TCP")
	}
	return a.Port, nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

// readLine reads up to the end of a line.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	return strings.TrimSpace(line), err
}
