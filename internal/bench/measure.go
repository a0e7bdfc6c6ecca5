package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// A subject is a running server, and what loads need to know of it.
type subject struct {
	pid      int
	postgres int // process that Postgres runs below; 0: the server itself
	env      map[string]string
	db       *pgx.Conn // nil: it has none
	stock    string
	port     int
}

func (b *bench) spec(at subject, op operation) spec {
	return spec{
		Kind: op.kind, Count: max(int(float64(b.opts.ops)*op.share), workers), Warm: op.warm, Workers: workers, Limit: b.opts.duration,
		Env: at.env, Stock: at.stock, Port: at.port,
	}
}

// measure runs an operation and adds its row. An operation that is not offered gets a row that says so.
func (b *bench) measure(ctx context.Context, at subject, op operation) error {
	fmt.Fprintf(os.Stderr, "bench: %s\n", op.name) //nolint:errcheck // for whoever waits
	before, err := at.octets(ctx)
	if err != nil {
		return err
	}
	if err := b.unit(); err != nil {
		return err
	}
	var began, ended usage
	r := row{operation: op}
	r.outcome, err = b.drive(ctx, b.spec(at, op), func() (err error) {
		if b.opts.profiles != "" && at.env["SEGL_PRIVATE_URL"] != "" {
			go b.profile(ctx, at, op)
		}
		began, err = at.usage()
		return err
	})
	if err == nil {
		ended, err = at.usage()
	}
	if err != nil {
		return fmt.Errorf("measuring %s: %w", op.name, err)
	}
	if err := b.unit(); err != nil {
		return err
	}
	r.used = ended.since(began)
	after, err := at.octets(ctx)
	if err != nil {
		return err
	}
	if op.grows && r.Done > 0 {
		// The runs that only warm up write as well; a load cut short by -duration does not change the quotient.
		r.stored = float64(after-before) / float64(r.Done+r.warmed())
	}
	b.page.rows = append(b.page.rows, r)
	return nil
}

// drive runs a load process. begin is called when it is ready, just before it is let go.
func (b *bench) drive(ctx context.Context, s spec, begin func() error) (outcome, error) {
	cmd := exec.CommandContext(ctx, b.self, asLoad)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return outcome{}, err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return outcome{}, err
	}
	if err := cmd.Start(); err != nil {
		return outcome{}, fmt.Errorf("starting a load: %w", err)
	}
	o, err := steer(in, bufio.NewReader(pipe), s, begin)
	in.Close() //nolint:errcheck // it ends then
	if waited := cmd.Wait(); err == nil && waited != nil {
		err = fmt.Errorf("running a load: %w", waited)
	}
	return o, err
}

// steer talks to a load process.
func steer(in io.Writer, out *bufio.Reader, s spec, begin func() error) (outcome, error) {
	if err := json.NewEncoder(in).Encode(s); err != nil {
		return outcome{}, fmt.Errorf("telling a load what to do: %w", err)
	}
	line, err := readLine(out)
	if err != nil {
		return outcome{}, fmt.Errorf("waiting for a load: %w", err)
	}
	if line == "ready" {
		if begin != nil {
			if err := begin(); err != nil {
				return outcome{}, err
			}
		}
		if _, err := io.WriteString(in, "go\n"); err != nil {
			return outcome{}, fmt.Errorf("letting a load go: %w", err)
		}
		if line, err = readLine(out); err != nil {
			return outcome{}, fmt.Errorf("waiting for a load to end: %w", err)
		}
	}
	var o outcome
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		return outcome{}, fmt.Errorf("reading what a load saw: %w", err)
	}
	return o, nil
}

// usage is the CPU of the server and of its Postgres.
func (at subject) usage() (usage, error) {
	own, err := usageOf(at.pid)
	if err != nil || at.postgres == 0 {
		return own, err
	}
	other, err := usageOf(at.postgres)
	return usage{server: own.total(), below: other.below}, err
}

// octets is the size of the database, dead rows aside, and what is swept within minutes: unlogged tables, of counted uses and spent
// nonces.
func (at subject) octets(ctx context.Context) (n int64, err error) {
	if at.db == nil {
		return 0, nil
	}
	if _, err := at.db.Exec(ctx, `VACUUM`); err != nil {
		return 0, fmt.Errorf("vacuuming: %w", err)
	}
	if err := at.db.QueryRow(ctx, `
		SELECT pg_database_size(current_database()) - coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
		FROM   pg_class
		WHERE  relkind = 'r' AND relpersistence = 'u'`).Scan(&n); err != nil {
		return 0, fmt.Errorf("asking for the database's size: %w", err)
	}
	return n, nil
}

// profile keeps a CPU profile of segl's first seconds of an operation.
func (b *bench) profile(ctx context.Context, at subject, op operation) {
	const seconds = "8"
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.env["SEGL_PRIVATE_URL"]+"/debug/pprof/profile?seconds="+seconds, nil)
		if err != nil {
			return err
		}
		res, err := (&http.Client{}).Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close() //nolint:errcheck // read to its end
		f, err := os.Create(filepath.Join(b.opts.profiles, op.kind+".pprof"))
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, res.Body); err != nil {
			return err
		}
		return f.Close()
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: no profile of %s: %v\n", op.name, err) //nolint:errcheck // for whoever waits
	}
}
