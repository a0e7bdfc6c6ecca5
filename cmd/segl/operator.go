package main

import (
	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/server"
)

// operator is `segl operator`.
func (p *program) operator() *cobra.Command {
	return group("operator", "Make operators, on the machine that has the configuration", p.operatorAdd())
}

func (p *program) operatorAdd() *cobra.Command {
	var file, out string
	c := &cobra.Command{
		Use: "add NAME --config FILE --out PREFIX", Short: "Make an operator and its certificate", Args: exactly("NAME"),
		Long: `Makes spiffe://<trust domain>/platform/NAME an operator and writes its certificate and
key to PREFIX.pem and PREFIX-key.pem. It works on the ledger itself, as serve would, and
needs no running server: this is how the first operator comes to be. Who can read the
configuration and the passphrase can do this, and nobody else.`,
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return misuse("--out is missing").hinted("name where to write: PREFIX.pem and PREFIX-key.pem")
			}
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			log, err := p.logger(cfg.LogLevel)
			if err != nil {
				return err
			}
			id, err := server.AddOperator(c.Context(), cfg, args[0], out, log)
			if err != nil {
				return ofDatabase(err)
			}
			p.note("%s is an operator; its certificate is %s.pem", id, out)
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "read the configuration in `FILE`")
	c.Flags().StringVar(&out, "out", "", "write PREFIX.pem and PREFIX-key.pem, `PREFIX`")
	return c
}
