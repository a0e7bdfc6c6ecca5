package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/server"
)

// dev is `segl dev`.
func (p *program) dev() *cobra.Command {
	var o server.DevOptions
	c := &cobra.Command{
		Use: "dev --data DIR", Short: "Run a whole CA on this machine, on a Postgres of its own", Args: exactly(),
		Long: `Runs everything in one process tree, with a demo tenant and two identities. A second
start in the same directory finds all of it again. When every listener answers it
writes DIR/dev.env, the variables that other commands read, and prints one line that
begins with "ready". SIGTERM stops it.`,
		Example: "  segl dev --data ./demo\n  set -a; . ./demo/dev.env; set +a",
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Data == "" {
				return misuse("--data is missing").hinted("name a directory; it is made when missing")
			}
			log, err := p.logger(o.LogLevel)
			if err != nil {
				return err
			}
			return ofDatabase(server.Dev(c.Context(), o, p.out, log))
		},
	}
	f := c.Flags()
	f.StringVar(&o.Data, "data", "", "keep everything in `DIR`, made when missing")
	f.StringVar(&o.Listen.Service, "service", "127.0.0.1:8443", "serve tenants at `ADDRESS`; port 0 picks a free one")
	f.StringVar(&o.Listen.Operator, "operator", "127.0.0.1:9443", "serve operators at `ADDRESS`")
	f.StringVar(&o.Listen.Public, "public", "127.0.0.1:8080", "serve CRL, OCSP, issuers and roots at `ADDRESS`, plain HTTP")
	f.StringVar(&o.Listen.Private, "private", "127.0.0.1:9090", "serve health, metrics and profiles at `ADDRESS`, plain HTTP, loopback")
	f.StringVar(&o.URLs.Service, "service-url", "", "hand out `URL` as the service listener's, where a proxy stands before it")
	f.StringVar(&o.URLs.Public, "public-url", "", "hand out `URL` as the public listener's; it stands in certificates")
	f.StringVar(&o.DatabaseURL, "database-url", "", "use the Postgres at `URL` in place of a private one")
	f.IntVar(&o.ACME.HTTPPort, "acme-http-port", 80, "validate http-01 at `PORT` (for tests)")
	f.IntVar(&o.ACME.TLSPort, "acme-tls-port", 443, "validate tls-alpn-01 at `PORT` (for tests)")
	f.StringVar(&o.OIDC.Issuer, "oidc-issuer", "", "take access tokens of the provider at `URL`, for audience segl and client segl-cli")
	f.StringVar(&o.ACME.Resolver, "acme-resolver", "", "validate with the DNS server at `HOST:PORT` (default: the system's)")
	f.DurationVar(&o.Clock, "clock-offset", 0, "let the clock run ahead by `DURATION`, behind when negative (for tests)")
	f.StringVar(&o.LogLevel, "log-level", "info", "log from `LEVEL` up: debug, info, warn or error")
	return c
}

// serve is `segl serve`.
func (p *program) serve() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "serve --config FILE", Short: "Run the server", Args: exactly(),
		Long: `Runs the server until SIGTERM, which it answers by finishing the requests under way.
The schema is brought up to date first, by one replica at a time.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			log, err := p.logger(cfg.LogLevel)
			if err != nil {
				return err
			}
			s, err := server.Open(c.Context(), cfg, log)
			if err != nil {
				return ofDatabase(err)
			}
			defer s.Close()
			return s.Run(c.Context(), func(a server.Addresses) error {
				_, err := fmt.Fprintf(p.out, "ready: %s (tenants) %s (operators) %s (public)\n", a.Service, a.Operator, a.Public)
				return err
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read the configuration in `FILE`")
	return c
}

// migrate is `segl migrate`.
func (p *program) migrate() *cobra.Command {
	var file, url string
	c := p.changes(&cobra.Command{
		Use: "migrate {--config FILE | --database-url URL}", Short: "Bring the database's schema up to date", Args: exactly(),
		Long: `Applies the migrations that the database lacks, one process at a time. A schema newer
than this program is refused. serve does the same when it starts.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.databaseConfig(file, url)
			if err != nil {
				return err
			}
			if p.plan {
				return ofDatabase(p.planMigration(c.Context(), cfg))
			}
			if err := server.Migrate(c.Context(), cfg); err != nil {
				return ofDatabase(err)
			}
			p.note("the schema is up to date")
			return nil
		},
	})
	c.Flags().StringVar(&file, "config", "", "read in `FILE`, a configuration, where the database is")
	text(c.Flags(), &url, "database-url", "SEGL_DATABASE_URL", "migrate the database at `URL`, without a configuration")
	return c
}

func (p *program) databaseConfig(file, url string) (server.Config, error) {
	if file != "" && url != "" {
		return server.Config{}, misuse("--config and --database-url name two databases").hinted("leave one out")
	}
	if file != "" {
		return loadConfig(file)
	}
	if url = p.or(url, "SEGL_DATABASE_URL"); url == "" {
		return server.Config{}, misuse("there is no database to migrate").hinted("give --config FILE or --database-url URL")
	}
	return server.Config{Database: server.Database{URL: url}}, nil
}

// checkConfig is `segl check-config`.
func (p *program) checkConfig() *cobra.Command {
	return &cobra.Command{
		Use: "check-config FILE", Short: "Read a configuration file and say what is wrong with it", Args: exactly("FILE"),
		Long: `Reads the file as serve would, and connects to nothing. Exit code 7 says that serve
would refuse it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := loadConfig(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintln(p.out, args[0]+": good")
			return err
		},
	}
}

// loadConfig reads a configuration. What is wrong inside it is a finding.
func loadConfig(file string) (server.Config, error) {
	if file == "" {
		return server.Config{}, misuse("--config is missing").hinted("name the configuration file")
	}
	cfg, err := server.Load(file)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return cfg, err
	}
	return cfg, &failure{code: exitFindings, err: err}
}

// logger writes one JSON line an event to stderr.
func (p *program) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, misuse("log level %q: want debug, info, warn or error", level)
	}
	return slog.New(slog.NewJSONHandler(p.err, &slog.HandlerOptions{Level: l})), nil
}
