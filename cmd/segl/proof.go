package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/seal"
	sealstore "codeberg.org/dataverket/segl/ca/seal/store"
	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// ledgerVerify is `segl ledger verify`.
func (p *program) ledgerVerify() *cobra.Command {
	var file, url, key string
	var kept []string
	c := p.prints(&cobra.Command{
		Use: "verify [--checkpoint FILE]…", Short: "Replay the whole ledger against its tree, and name what was tampered with", Args: exactly(),
		Long: `Reads every fact, certificate and revocation from the database and compares them with the
tree that was sealed, and the tree with its checkpoint. It holds little in memory, however
large the ledger is, and needs no running server. Exit code 7 says that something is not
as it was; the first row named is where to begin.

A tree that was cut, or made anew with the ledger's own key, is right in itself: only a
checkpoint kept elsewhere shows it. Give those with --checkpoint, and the ledger's key, as
it was when they were kept, with --key.`,
		Example: "  segl ledger verify --config /etc/segl/segl.yaml --checkpoint yesterday.txt",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.databaseConfig(file, url)
			if err != nil {
				return err
			}
			var checkpoints []string
			for _, f := range kept {
				b, err := os.ReadFile(f)
				if err != nil {
					return fmt.Errorf("reading a checkpoint: %w", err)
				}
				checkpoints = append(checkpoints, string(b))
			}
			report, err := replay(c.Context(), cfg, key, checkpoints)
			if err != nil {
				return ofDatabase(err)
			}
			if err := p.showReport(report); err != nil {
				return err
			}
			if n := len(report.Findings); n > 0 {
				return failing(exitFindings, "the ledger is not what was sealed: %s: %s", report.Findings[0].Row, report.Findings[0].What)
			}
			return nil
		},
	})
	f := c.Flags()
	f.StringVar(&file, "config", "", "read in `FILE`, a configuration, where the database is")
	text(f, &url, "database-url", "SEGL_DATABASE_URL", "read the database at `URL`, without a configuration")
	f.StringArrayVar(&kept, "checkpoint", nil, "compare the tree with the checkpoint in `FILE`; may be repeated")
	f.StringVar(&key, "key", "", "trust `KEY`, as segl ledger checkpoint --key printed it (default: the one in the database)")
	return c
}

func replay(ctx context.Context, cfg server.Config, key string, kept []string) (report seal.Report, err error) {
	url, err := cfg.DatabaseURL()
	if err != nil {
		return report, err
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: 2})
	if err != nil {
		return report, err
	}
	defer db.Close()
	store := sealstore.New(db)
	log, err := store.Log(ctx)
	if errors.Is(err, seal.ErrNotFound) {
		return report, failing(exitNotFound, "this ledger was never served: there is no tree").hinted("run segl serve first")
	}
	if err != nil {
		return report, err
	}
	if key != "" {
		if log, err = seal.ParseLog(key); err != nil {
			return report, misuse("--key: %w", err)
		}
	}
	err = store.Replay(ctx, func(s seal.Snapshot) error {
		report, err = seal.Verify(ctx, s, log, kept...)
		return err
	})
	return report, err
}

func (p *program) showReport(r seal.Report) error {
	if p.form == output.Table && len(r.Findings) == 0 {
		_, err := fmt.Fprintf(p.out, "good: %d facts of %s, root %s, %d not sealed yet\n", r.Size, r.Origin, r.Root, r.Unsealed)
		return err
	}
	if p.form != output.Table {
		return output.One(p.out, p.form, r, output.View[seal.Report]{Name: func(r seal.Report) string { return r.Root }})
	}
	return output.List(p.out, p.form, func(yield func(seal.Finding, error) bool) {
		for _, f := range r.Findings {
			if !yield(f, nil) {
				return
			}
		}
	}, output.View[seal.Finding]{
		Name: func(f seal.Finding) string { return f.Row },
		Columns: []output.Column[seal.Finding]{
			{Head: "ROW", Cell: func(f seal.Finding) string { return f.Row }},
			{Head: "FOUND", Cell: func(f seal.Finding) string { return f.What }},
		},
	})
}

// ledgerProve is `segl ledger prove`.
func (p *program) ledgerProve() *cobra.Command {
	return &cobra.Command{
		Use: "prove {SERIAL|FILE}", Short: "Get the proof that a certificate is in the ledger", Args: exactly("SERIAL or FILE"),
		Long: `Prints a document (C2SP tlog-proof) that anybody verifies without this program, who has the
certificate and the ledger's key: docs/ledger-proof.md says how. A certificate that was
issued within the last second is waited for.`,
		Example: "  segl ledger prove web.pem >web.tlog-proof",
		RunE: func(c *cobra.Command, args []string) error {
			serial, err := p.serialOf(args[0])
			if err != nil {
				return err
			}
			who := workload
			if p.identityFiles(workload).Chain == "" {
				who = operator
			}
			remote, err := p.dial(who)
			if err != nil {
				return err
			}
			defer remote.Close()
			ctx, cancel := p.within(c.Context())
			defer cancel()
			body, _, err := remote.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/v1/certificates/" + serial + "/proof"})
			if err != nil {
				return p.suggestOperator(err)
			}
			if _, err := seal.ParseProof(string(body)); err != nil {
				return fmt.Errorf("the server's answer is no proof: %w", err)
			}
			_, err = p.out.Write(body)
			return err
		},
	}
}

// serialOf reads a serial, or takes it from the first certificate of a file.
func (p *program) serialOf(arg string) (string, error) {
	if s, err := cert.ParseSerial(arg); err == nil {
		return s.String(), nil
	}
	certs, err := p.readCertificates(arg)
	if err != nil {
		return "", err
	}
	return chain.Serial(certs[0]), nil
}

// ledgerCheckpoint is `segl ledger checkpoint`.
func (p *program) ledgerCheckpoint() *cobra.Command {
	var key bool
	c := &cobra.Command{
		Use: "checkpoint", Short: "Get the ledger's newest checkpoint, to keep it elsewhere", Args: exactly(),
		Long: `Prints the signed size and hash of the ledger's tree (C2SP tlog-checkpoint). Who keeps one
can see later that nothing before it was altered: segl ledger verify --checkpoint.`,
		RunE: func(c *cobra.Command, _ []string) error {
			base := p.or(p.remote.publicURL, "SEGL_PUBLIC_URL")
			if base == "" {
				return misuse("there is no URL of the public listener").hinted("give --public-url or set SEGL_PUBLIC_URL")
			}
			ctx, cancel := p.within(c.Context())
			defer cancel()
			path := "/ledger/checkpoint"
			if key {
				path = "/ledger/key"
			}
			body, err := plain(ctx, strings.TrimRight(base, "/")+path)
			if err != nil {
				return err
			}
			_, err = p.out.Write(body)
			return err
		},
	}
	text(c.Flags(), &p.remote.publicURL, "public-url", "SEGL_PUBLIC_URL", "find the public listener at `URL`")
	c.Flags().BoolVar(&key, "key", false, "print the key that checkpoints are verified with, in place of one")
	return c
}

// ledgerAcceptGap is `segl ledger accept-gap`.
func (p *program) ledgerAcceptGap() *cobra.Command {
	var file, evidence string
	var o server.GapOptions
	c := p.prints(&cobra.Command{
		Use: "accept-gap --config FILE", Short: "Let a ledger that has forgotten something issue again", Args: exactly(),
		Long: `Shows what a fenced ledger has forgotten, as far as can be known, and what accepting that
does; with --confirm and the words it asked for, does it. It cannot be undone. It works on
the database itself and needs no running server; those that run notice within seconds.

What was issued in the gap and is not named stays good for whoever asks lists, and what was
revoked in it is good again. Give all evidence there is: --serials takes a file of
certificates and revocation lists (PEM), and of lines with a serial and the name of its
authority. What the ledger does not know is revoked; what a list had is revoked again.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			if evidence != "" {
				if o.Evidence, err = os.ReadFile(evidence); err != nil {
					return fmt.Errorf("reading --serials: %w", err)
				}
			}
			g, done, err := server.AcceptGap(c.Context(), cfg, o)
			switch {
			case errors.Is(err, seal.ErrNotFenced):
				return &failure{code: exitConflict, err: err}
			case errors.Is(err, seal.ErrMoved):
				return (&failure{code: exitConflict, err: errors.New("the ledger has changed meanwhile")}).hinted("run the command again and read what it shows now")
			case err != nil:
				return ofDatabase(err)
			}
			if err := p.showGap(g); err != nil || done {
				return err
			}
			if o.Confirm != "" {
				return failing(exitConflict, "--confirm %s: that is not what this gap is confirmed by", o.Confirm).hinted("read the plan again; it asks for --confirm %s", g.Confirmation())
			}
			p.note("nothing was done; to do this say --confirm %s", g.Confirmation())
			return nil
		},
	})
	f := c.Flags()
	f.StringVar(&file, "config", "", "read the configuration in `FILE`")
	f.StringVar(&evidence, "serials", "", "revoke what `FILE` has evidence of and the ledger does not know")
	f.StringVar(&o.Confirm, "confirm", "", "do it, confirmed by `WORDS` that the plan asked for")
	return c
}

// A gapView is what accepting a gap does.
type gapView struct {
	Why     string `json:"why"`
	Facts   int64  `json:"facts"`
	Begins  string `json:"begins"`
	Ends    string `json:"ends"`
	Era     int    `json:"era"`
	Revokes int    `json:"revokes"`
	Again   int    `json:"revokes_again"`
	Confirm string `json:"confirm"`
}

func (p *program) showGap(g seal.Gap) error {
	v := gapView{g.Why, g.Head.Size, stamp(g.Begins), g.Ends.UTC().Format(time.RFC3339), g.Era(), len(g.Lost), len(g.Undone), g.Confirmation()}
	return output.One(p.out, p.form, v, output.View[gapView]{
		Name: func(v gapView) string { return v.Confirm },
		Columns: []output.Column[gapView]{
			{Head: "FENCED BECAUSE", Cell: func(v gapView) string { return v.Why }},
			{Head: "SEALED FACTS", Cell: func(v gapView) string { return fmt.Sprint(v.Facts) }},
			{Head: "GAP BEGINS", Cell: func(v gapView) string { return v.Begins }},
			{Head: "GAP ENDS", Cell: func(v gapView) string { return v.Ends }},
			{Head: "BEGINS ERA", Cell: func(v gapView) string { return fmt.Sprint(v.Era) }},
			{Head: "REVOKES", Cell: func(v gapView) string { return fmt.Sprintf("%d lost serials; %d again", v.Revokes, v.Again) }},
		},
	})
}

// plain fetches from the public listener, which has no TLS: what it serves is signed.
func plain(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, misuse("%w", err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return nil, &failure{code: exitTemporary, err: err}
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := readAll(res.Body)
	if err != nil {
		return nil, &failure{code: exitTemporary, err: err}
	}
	if res.StatusCode != http.StatusOK {
		return nil, failing(problemCode(res.StatusCode), "%s answered %s", url, res.Status)
	}
	return body, nil
}
