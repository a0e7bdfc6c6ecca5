package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/credentials/api"
)

// db is `segl db`.
func (p *program) db() *cobra.Command {
	return p.connects(group("db", "Reach databases with a login of your own", p.dbLogin()))
}

// A dbLogin is what `segl db login` was asked.
type dbLogin struct {
	binding, ttl  string
	file, service string
	psql          []string
}

func (p *program) dbLogin() *cobra.Command {
	var l dbLogin
	c := &cobra.Command{
		Use: "login BINDING [-- PSQL-ARGUMENT...]", Short: "Start psql with a fresh login, or write a libpq service file", Args: cobra.MinimumNArgs(1),
		Long: `Asks for a login by a binding, with the workload's certificate, and starts psql with it; the login
ends when psql does. With --service-file it writes the login there, mode 0600, for programs that
use libpq, and leaves it until its time comes. Nothing secret is on a command line.`,
		Example: "  segl db login orders\n  segl db login orders -- -c 'SELECT current_user'\n  segl db login orders --service-file ~/.pg_service.conf && psql service=orders",
		RunE: func(c *cobra.Command, args []string) error {
			l.binding, l.psql = args[0], args[1:]
			if l.file != "" && len(l.psql) > 0 {
				return misuse("psql is not started with --service-file").hinted("leave out what is behind --")
			}
			return p.loginToDatabase(c.Context(), l)
		},
	}
	f := c.Flags()
	f.StringVar(&l.ttl, "ttl", "", "have the login last `DURATION` (default: as long as may be)")
	f.StringVar(&l.file, "service-file", "", "write the login to `FILE` in place of starting psql")
	f.StringVar(&l.service, "service", "", "under the `NAME` (default: the binding's)")
	return c
}

func (p *program) loginToDatabase(ctx context.Context, l dbLogin) error {
	if l.service == "" {
		l.service = l.binding
	}
	remote, err := p.dial(workload)
	if err != nil {
		return err
	}
	defer remote.Close()
	asking, cancel := p.within(ctx)
	defer cancel()
	body := map[string]string{"binding": l.binding}
	if l.ttl != "" {
		body["ttl"] = l.ttl
	}
	var login api.Login
	if err := remote.Do(asking, client.Request{Method: http.MethodPost, Path: "/v1/leases", Body: body}, &login); err != nil {
		return err
	}
	end := func() error {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		return remote.Do(ending, client.Request{Method: http.MethodDelete, Path: "/v1/leases/" + login.Lease.Lease.String(), Idempotent: true}, nil)
	}
	if login.Kind != "postgresql" {
		return errors.Join(fmt.Errorf("target %s is %s: psql speaks to PostgreSQL", login.Target, login.Kind), end())
	}
	if l.file == "" {
		return errors.Join(p.psql(l, login), end())
	}
	if err := p.writeService(l.file, filepath.Dir(l.file), l.service, login); err != nil {
		return errors.Join(err, end())
	}
	_, err = fmt.Fprintf(p.out, "%s until %s\n", l.file, stamp(login.ExpiresAt.Time))
	return err
}

// psql starts psql on a service file of its own, which is gone when psql ends.
func (p *program) psql(l dbLogin, login api.Login) error {
	dir, err := os.MkdirTemp("", "segl-db-")
	if err != nil {
		return fmt.Errorf("making a directory for the login: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the login ends with it
	file := filepath.Join(dir, "service.conf")
	if err := p.writeService(file, dir, "segl", login); err != nil {
		return err
	}
	program, err := exec.LookPath("psql")
	if err != nil {
		return fmt.Errorf("starting psql: %w", err)
	}
	cmd := exec.Command(program, l.psql...) //nolint:gosec,noctx // what the caller wants started; it ends by itself or by the terminal
	cmd.Env = append(os.Environ(), "PGSERVICEFILE="+file, "PGSERVICE=segl")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.err
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGINT, syscall.SIGQUIT) // they are psql's: it cancels a statement
	defer signal.Stop(ignored)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("psql: %w", err)
	}
	return nil
}

// writeService writes the login into a libpq service file (PostgreSQL, "The Connection Service File"): other services in it
// stay. It is complete or as before.
func (p *program) writeService(file, dir, name string, login api.Login) error {
	root, err := filepath.Abs(p.or(p.remote.root, "SEGL_ROOT"))
	if err != nil {
		return fmt.Errorf("finding the root: %w", err)
	}
	if login.Authority != "" {
		root = filepath.Join(dir, name+"-root.pem")
		if err := keypair.WriteFile(root, []byte(login.Authority), 0o600); err != nil {
			return fmt.Errorf("writing the server's authority: %w", err)
		}
	}
	lines := []string{
		"host=" + login.Host, "port=" + login.Port, "dbname=" + login.Database, "user=" + login.Username, "sslmode=verify-full", "sslrootcert=" + root,
		"application_name=segl-db-login",
	}
	if login.Password != "" {
		lines = append(lines, "password="+login.Password, "sslcert=/nonexistent", "options=-c role="+login.Group)
	} else {
		files := p.identityFiles(workload)
		lines = append(lines, "sslcert="+files.Chain, "sslkey="+files.Key)
	}
	before, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the service file: %w", err)
	}
	text := without(string(before), name) + "[" + name + "]\n" + strings.Join(lines, "\n") + "\n"
	if err := keypair.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the service file: %w", err)
	}
	return nil
}

// without returns a service file without one of its services.
func without(text, name string) string {
	var out strings.Builder
	skip := false
	for line := range strings.Lines(text) {
		if head := strings.TrimSpace(line); strings.HasPrefix(head, "[") {
			skip = head == "["+name+"]"
		}
		if !skip {
			out.WriteString(line)
		}
	}
	if s := out.String(); s != "" && !strings.HasSuffix(s, "\n") {
		out.WriteString("\n")
	}
	return out.String()
}
