package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	keeping "codeberg.org/dataverket/segl/internal/agent"
)

// agentCommand is `segl agent`.
func (p *program) agentCommand() *cobra.Command {
	var file, level string
	c := &cobra.Command{
		Use: "agent --config FILE", Short: "Keep certificates, keys, roots and revocation lists on this machine in step", Args: exactly(),
		Long: `Gets the certificates that the configuration names, renews each at two thirds of its
life, and gets it anew by proving who it is when it has expired or was revoked. Files
appear whole or not at all; hooks tell programs of a change. It goes on trying for as
long as it runs.`,
		Example: "  segl agent --config /etc/segl/agent.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := p.openAgent(c.Context(), file, level)
			if err != nil {
				return err
			}
			return a.Run(c.Context())
		},
	}
	f := c.PersistentFlags()
	f.StringVar(&file, "config", "", "read the configuration in `FILE`")
	f.StringVar(&level, "log-level", "info", "log from `LEVEL` on: debug, info, warn or error")
	c.AddCommand(p.agentExec(&file, &level), p.agentCheck(&file))
	return c
}

// agentCheck is `segl agent check`.
func (p *program) agentCheck(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "check --config FILE", Short: "Read the agent's configuration and say what is wrong with it", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := loadAgent(*file)
			return err
		},
	}
}

// agentExec is `segl agent exec`.
func (p *program) agentExec(file, level *string) *cobra.Command {
	var name string
	var grace time.Duration
	c := &cobra.Command{
		Use: "exec --config FILE -- PROGRAM [ARGUMENT]...", Short: "Run a program with credentials that are kept in step for it", Args: cobra.ArbitraryArgs,
		Long: `Runs the agent, and the program once all certificates are there. SEGL_CERT, SEGL_KEY,
SEGL_ROOT and SEGL_URL say where the first one is. The program gets a signal when a
certificate has changed, and whatever asks segl to end. The exit code is the program's.`,
		Example: "  segl agent exec --config agent.yaml -- ./billing --listen :8443",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse("PROGRAM is missing").hinted("use: %s", c.UseLine())
			}
			sig, err := keeping.ParseSignal(name)
			if err != nil {
				return misuse("%w", err)
			}
			a, err := p.openAgent(c.Context(), *file, *level)
			if err != nil {
				return err
			}
			code, err := a.Exec(c.Context(), keeping.Child{Args: args, Signal: sig, Grace: grace})
			if err == nil && code != 0 {
				return &failure{code: code, err: errors.New(args[0] + " ended with that code")}
			}
			return err
		},
	}
	c.Flags().StringVar(&name, "signal", "", "send `SIGNAL` when a certificate has changed: HUP, USR1, USR2, INT or TERM (default HUP)")
	c.Flags().DurationVar(&grace, "grace", 30*time.Second, "give the program `DURATION` to end before it is killed") //nolint:mnd // beside its name
	return c
}

// openAgent readies an agent, and says where its status is.
func (p *program) openAgent(ctx context.Context, file, level string) (*keeping.Agent, error) {
	cfg, err := loadAgent(file)
	if err != nil {
		return nil, err
	}
	log, err := p.logger(level)
	if err != nil {
		return nil, err
	}
	a, err := keeping.New(cfg, p.now, log)
	if err != nil {
		return nil, err
	}
	addr, err := a.Open(ctx)
	if err == nil && addr != "" {
		p.note("status at http://%s/status", addr)
	}
	return a, err
}

// loadAgent reads a configuration. What is wrong inside it is a finding.
func loadAgent(file string) (keeping.Config, error) {
	if file == "" {
		return keeping.Config{}, misuse("--config is missing").hinted("name the configuration file")
	}
	cfg, err := keeping.Load(file)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return cfg, err
	}
	return cfg, &failure{code: exitFindings, err: err}
}
