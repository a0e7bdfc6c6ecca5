package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// An issuance is what `segl cert issue` was asked.
type issuance struct {
	scope, profile, workload, role, csr, out, repeat string

	names []string
	ttl   duration
	key   keypair.Type
	force bool
}

// certIssue is `segl cert issue`.
func (p *program) certIssue() *cobra.Command {
	var i issuance
	c := p.changes(p.prints(&cobra.Command{
		Use: "issue --profile PROFILE [--name NAME]... --out PREFIX", Short: "Issue a certificate for a key made here", Args: exactly(),
		Long: `Makes a key, asks for a certificate, and writes PREFIX.pem (the certificate and its
chain) and PREFIX-key.pem (the key, mode 0600). The key never leaves this machine. A
pair that is there already is replaced, a key of anything else only with --force.

With --csr the key is elsewhere: only PREFIX.pem is written, or without --out the chain
is printed.`,
		Example: `  segl cert issue --profile server --name web.demo.test --out web
  segl cert issue --profile client --workload billing --ttl 8h --out billing
  segl cert issue --profile database-client --workload billing --role app --out db`,
		RunE: func(c *cobra.Command, _ []string) error { return p.issue(c.Context(), i) },
	}))
	f := c.Flags()
	scopeFlag(c, &i.scope)
	f.StringVar(&i.profile, "profile", "server", "issue for `PROFILE`: "+strings.Join(ca.StandardProfiles, ", "))
	f.StringSliceVarP(&i.names, "name", "n", nil, "ask for `NAME`: DNS name, IP address or SPIFFE ID; may be repeated")
	f.StringVar(&i.workload, "workload", "", "carry the SPIFFE ID of workload `NAME`")
	f.StringVar(&i.role, "role", "", "log in as database `ROLE` (profile database-client)")
	f.Var(&i.ttl, "ttl", "live for `DURATION`, such as 8h or 30d (default: the profile's)")
	f.StringVar(&i.out, "out", "", "write `PREFIX`.pem and PREFIX-key.pem")
	f.StringVar(&i.csr, "csr", "", "use the certificate request in `FILE`, PEM; - is stdin")
	f.StringVar(&i.repeat, "idempotency-key", "", "call this request `NAME`: repeating it gives the same certificate (with --csr)")
	choices(c, "profile", ca.StandardProfiles...)
	keyType(c, &i.key)
	f.BoolVar(&i.force, "force", false, "replace a key that is not of the certificate beside it")
	return c
}

func keyType(c *cobra.Command, into *keypair.Type) {
	c.Flags().Var(into, "key-type", "make a key of `TYPE`: "+strings.Join(keypair.Types, ", ")+" (default p256)")
	choices(c, "key-type", keypair.Types...)
}

func (i *issuance) check() error {
	switch {
	case i.csr == "" && i.out == "":
		return misuse("--out is missing").hinted("name where the certificate and its key are to be: --out PREFIX writes PREFIX.pem and PREFIX-key.pem")
	case i.csr != "" && (len(i.names) > 0 || i.role != "" || i.key != ""):
		return misuse("--csr excludes --name, --role and --key-type").hinted("the certificate request says them")
	case i.csr == "" && i.repeat != "":
		return misuse("--idempotency-key needs --csr").hinted("a key made here makes every request a new one")
	case i.role != "" && i.profile != "database-client":
		return misuse("--role is for profile database-client, not %s", i.profile)
	}
	return nil
}

func (p *program) issue(ctx context.Context, i issuance) error {
	if err := i.check(); err != nil {
		return err
	}
	names, err := parseNames(i.names)
	if err != nil {
		return err
	}
	if i.csr != "" {
		return p.issueRequest(ctx, i)
	}
	scope, err := p.scope(i.scope)
	if err != nil {
		return err
	}
	files := keypair.At(i.out)
	if p.plan {
		return p.show(plan{Do: "issue", Scope: scope.String(), Profile: i.profile, Names: spell(names), Writes: []string{files.Chain, files.Key}})
	}
	remote, err := p.dial(p.forScope(scope))
	if err != nil {
		return err
	}
	defer remote.Close()
	if err := p.mayReplace(files, i.force); err != nil {
		return err
	}
	key, err := files.Stage(i.key)
	if err != nil {
		return err
	}
	csr, err := keypair.Request(key, i.role, names)
	if err != nil {
		return err
	}
	issued, err := p.order(ctx, remote, scope, i.asking(csr))
	return p.install(files, key, issued, err)
}

// issueRequest takes a certificate request whose key is elsewhere.
func (p *program) issueRequest(ctx context.Context, i issuance) error {
	csr, err := p.readFile(i.csr)
	if err != nil {
		return fmt.Errorf("reading certificate request: %w", err)
	}
	read, err := cert.ParseRequestPEM(csr)
	if err != nil {
		return failing(exitFailed, "reading %s: %w", i.csr, err)
	}
	scope, err := p.scope(i.scope)
	if err != nil {
		return err
	}
	if p.plan {
		return p.show(plan{Do: "issue", Scope: scope.String(), Profile: i.profile, Names: spell(read.Names)})
	}
	remote, err := p.dial(p.forScope(scope))
	if err != nil {
		return err
	}
	defer remote.Close()
	issued, err := p.order(ctx, remote, scope, i.asking(csr))
	if err != nil {
		return err
	}
	if i.out == "" && p.form == output.Table {
		_, err := fmt.Fprint(p.out, issued.Certificate)
		return err
	}
	where := ""
	if i.out != "" {
		where = keypair.At(i.out).Chain
		if err := keypair.WriteChain(where, []byte(issued.Certificate), read.Key); err != nil {
			return err
		}
	}
	return p.printMade(made{Certificate: issued, Status: p.status(issued.Summary), ChainFile: where})
}

// asking is what the server is asked for csr. Each run is a request of its own unless it was given a name.
func (i *issuance) asking(csr []byte) client.Request {
	key := i.repeat
	if key == "" {
		key = client.NewKey()
	}
	return client.Request{
		Method: http.MethodPost, Key: key,
		Body: api.Order{CSR: string(csr), Profile: i.profile, TTL: web.Duration(i.ttl), Workload: i.workload},
	}
}

// order asks for the certificate.
func (p *program) order(ctx context.Context, remote *client.Client, scope identity.Scope, r client.Request) (api.Certificate, error) {
	ctx, cancel := p.within(ctx)
	defer cancel()
	r.Path = pathOf(scope) + "/certificates"
	var out api.Certificate
	err := remote.Do(ctx, r, &out)
	return out, p.suggestOperator(err)
}

// mayReplace refuses to replace a key that is not of the certificate beside it.
func (p *program) mayReplace(files keypair.Files, force bool) error { //nolint:revive // it is the flag --force
	replaces, err := files.CheckOurs()
	if errors.Is(err, keypair.ErrForeign) && force {
		err = nil
	}
	if err == nil && replaces {
		p.note("replacing %s and %s", files.Chain, files.Key)
	}
	return err
}

// install puts what was issued in its place and says so. A key for which no certificate is coming is thrown away; where
// one may be coming it stays, so that asking again gets it.
func (p *program) install(files keypair.Files, key crypto.Signer, issued api.Certificate, err error) error {
	if err != nil {
		if client.Definite(err) {
			err = errors.Join(err, files.Discard())
		}
		return err
	}
	if err := files.Install([]byte(issued.Certificate), key); err != nil {
		return err
	}
	return p.printMade(made{issued, p.status(issued.Summary), files.Chain, files.Key})
}

// made is a certificate that was just issued, and where it is.
type made struct {
	api.Certificate
	Status    string `json:"status"`
	ChainFile string `json:"certificate_file,omitempty"`
	KeyFile   string `json:"key_file,omitempty"`
}

func (p *program) printMade(m made) error {
	column := func(head string, cell func(made) string) output.Column[made] {
		return output.Column[made]{Head: head, Cell: cell}
	}
	return output.One(p.out, p.form, m, output.View[made]{
		Name: func(m made) string { return m.Serial },
		Columns: []output.Column[made]{
			column("SERIAL", func(m made) string { return m.Serial }),
			column("IDENTITY", func(m made) string { return m.Identity }),
			column("ROLE", func(m made) string { return m.Role }),
			column("NAMES", func(m made) string { return strings.Join(m.Names, "\n") }),
			column("NOT AFTER", func(m made) string {
				return fmt.Sprintf("%s (%s)", stamp(m.NotAfter.Time), output.Until(p.now(), m.NotAfter.Time))
			}),
			column("CERTIFICATE", func(m made) string { return m.ChainFile }),
			column("KEY", func(m made) string { return m.KeyFile }),
		},
	})
}

// readFile reads a file, or stdin where it is called -.
func (p *program) readFile(file string) ([]byte, error) {
	if file == "-" {
		return readAll(p.in)
	}
	return os.ReadFile(file)
}

func spell(names []cert.Name) []string {
	var list []string
	for _, n := range names {
		list = append(list, n.String())
	}
	return list
}
