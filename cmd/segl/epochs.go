package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/uid"
)

// keeper is where commands on epochs find the ledger: its database, not a listener, since they work where the files are.
type keeper struct {
	file, url string
	site      int
}

func (k *keeper) flags(c *cobra.Command) *cobra.Command {
	f := c.Flags()
	f.StringVar(&k.file, "config", "", "read in `FILE`, a configuration, where the database is and how long things are kept")
	text(f, &k.url, "database-url", "SEGL_DATABASE_URL", "work on the database at `URL`, without a configuration")
	f.IntVar(&k.site, "site", 1, "the `NUMBER` of the site, where there is no configuration")
	return c
}

// open runs do with the ledger.
func (p *program) kept(ctx context.Context, k keeper, do func(*server.Keeper) error) error {
	cfg, err := p.databaseConfig(k.file, k.url)
	if err != nil {
		return err
	}
	if k.file == "" {
		if k.site < 1 || k.site > 255 {
			return misuse("--site %d: want 1 to 255", k.site)
		}
		cfg.Site = k.site
	}
	kept, err := server.OpenKeeper(ctx, cfg)
	if err != nil {
		return ofDatabase(err)
	}
	defer kept.Close()
	return ofDatabase(do(kept))
}

// ledgerEpochs is `segl ledger epochs`.
func (p *program) ledgerEpochs() *cobra.Command {
	var k keeper
	return k.flags(p.prints(&cobra.Command{
		Use: "epochs {--config FILE | --database-url URL}", Short: "List the weeks that the ledger has, and those that have left", Args: exactly(),
		Long: `Lists every week of the ledger: ahead, open, closed, expired (everything in it is past its
retention), archived (a file has it), dropped (the file has it alone) or restored.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.kept(c.Context(), k, func(kept *server.Keeper) error {
				all, err := kept.Epochs(c.Context())
				if err != nil {
					return err
				}
				return output.List(p.out, p.form, func(yield func(epoch, error) bool) {
					for _, e := range all {
						if !yield(epochOf(e), nil) {
							return
						}
					}
				}, epochView)
			})
		},
	}))
}

// An epoch is ledger.Epoch as it is printed.
type epoch struct {
	Epoch     int    `json:"epoch"`
	From      string `json:"from"`
	State     string `json:"state"`
	Rows      int64  `json:"certificates"`
	Octets    int64  `json:"octets"`
	KeptUntil string `json:"kept_until,omitempty"`
	File      string `json:"file,omitempty"`
}

func epochOf(e ledger.Epoch) epoch {
	out := epoch{Epoch: int(e.Epoch), From: stamp(e.Epoch.Start()), State: e.State, Rows: e.Rows, Octets: e.Octets, File: e.File}
	if !e.KeptUntil.IsZero() {
		out.KeptUntil = stamp(e.KeptUntil)
	}
	return out
}

var epochView = output.View[epoch]{
	Name: func(e epoch) string { return strconv.Itoa(e.Epoch) },
	Columns: []output.Column[epoch]{
		{Head: "EPOCH", Cell: func(e epoch) string { return strconv.Itoa(e.Epoch) }},
		{Head: "FROM", Cell: func(e epoch) string { return e.From }},
		{Head: "STATE", Cell: func(e epoch) string { return e.State }},
		{Head: "CERTIFICATES", Cell: func(e epoch) string { return fmt.Sprint(e.Rows) }},
		{Head: "OCTETS", Cell: func(e epoch) string { return fmt.Sprint(e.Octets) }},
		{Head: "KEPT UNTIL", Cell: func(e epoch) string { return e.KeptUntil }},
		{Head: "FILE", Cell: func(e epoch) string { return e.File }},
	},
}

// ledgerArchive is `segl ledger archive`.
func (p *program) ledgerArchive() *cobra.Command {
	var k keeper
	var dir string
	var drop bool
	c := k.flags(p.changes(&cobra.Command{
		Use: "archive EPOCH --dir DIR", Short: "Write a week of the ledger to a file", Args: exactly("EPOCH"),
		Long: `Writes all that the ledger has of a closed week to a file of its own in DIR, with what proves
it. With --drop the week then leaves the database; segl ledger restore brings it back.
The server does both by itself where its configuration has epochs.archive.`,
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[0], 10, 32)
			if err != nil || n < 0 {
				return misuse("EPOCH %q: want a number, as segl ledger epochs prints it", args[0])
			}
			if dir == "" {
				return misuse("--dir is missing").hinted("name the directory that the file is to be in")
			}
			if p.plan {
				return p.show(plan{Do: "archive", Subject: "epoch " + args[0]})
			}
			return p.kept(c.Context(), k, func(kept *server.Keeper) error {
				file, err := kept.Archive(c.Context(), uid.Epoch(n), dir)
				if errors.Is(err, ledger.ErrOpen) {
					return &failure{code: exitConflict, err: err}
				}
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintln(p.out, file); err != nil || !drop {
					return err
				}
				err = kept.Drop(c.Context(), uid.Epoch(n))
				if errors.Is(err, ledger.ErrValid) {
					return &failure{code: exitConflict, err: err}
				}
				return err
			})
		},
	}))
	c.Flags().StringVar(&dir, "dir", "", "write the file in `DIR`")
	c.Flags().BoolVar(&drop, "drop", false, "drop the week once the file is durable")
	return c
}

// ledgerRestore is `segl ledger restore`.
func (p *program) ledgerRestore() *cobra.Command {
	var k keeper
	return k.flags(p.changes(&cobra.Command{
		Use: "restore FILE", Short: "Put an archived week back into the ledger", Args: exactly("FILE"),
		Long: `Puts back all that segl ledger archive wrote, or nothing: a file that is cut short, altered or of
another ledger is refused. A restored week stays until it is archived again with --drop.`,
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "restore", Subject: args[0]})
			}
			return p.kept(c.Context(), k, func(kept *server.Keeper) error {
				r, err := kept.Restore(c.Context(), args[0])
				if errors.Is(err, ledger.ErrArchive) {
					return &failure{code: exitFindings, err: err}
				}
				if err != nil {
					return err
				}
				var rows int64
				for _, n := range r.Rows {
					rows += n
				}
				p.note("epoch %d is back: %d rows", r.Epoch, rows)
				return nil
			})
		},
	}))
}
