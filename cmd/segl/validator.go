package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/server"
)

// validator is `segl validator`.
func (p *program) validator() *cobra.Command {
	var file, level string
	c := &cobra.Command{
		Use: "validator --config FILE", Short: "Look at ACME names from another place, for servers that ask", Args: exactly(),
		Long: `Runs a perspective: servers elsewhere ask it over mutual TLS whether it sees what they
see of a name's holder and owner, and count its answer (acme.perspectives in their
configuration). It has no database and keeps nothing. SIGTERM stops it. It prints one
line that begins with "ready" once it answers.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return misuse("--config is missing").hinted("name the configuration file")
			}
			cfg, err := server.LoadValidator(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				err = &failure{code: exitFindings, err: err}
			}
			if err != nil {
				return err
			}
			log, err := p.logger(level)
			if err != nil {
				return err
			}
			return server.RunValidator(c.Context(), cfg, log, func(a net.Addr) error {
				_, err := fmt.Fprintf(p.out, "ready: %s\n", a)
				return err
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read the configuration in `FILE`")
	c.Flags().StringVar(&level, "log-level", "info", "log from `LEVEL` up: debug, info, warn or error")
	return c
}
