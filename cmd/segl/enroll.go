package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/web"
)

// An enrolment is what `segl enroll` was asked.
type enrolment struct {
	token, out, method string
	names              []string
	key                keypair.Type
	force              bool
}

// enroll is `segl enroll`.
func (p *program) enroll() *cobra.Command {
	var e enrolment
	c := p.connects(p.changes(p.prints(&cobra.Command{
		Use: "enroll --token TOKEN --out PREFIX", Short: "Trade a one-time token for a workload's first certificate", Args: exactly(),
		Long: `Makes a key, trades the token for a certificate of the workload that the token is for,
and writes PREFIX.pem and PREFIX-key.pem. No identity is needed. A token is good once;
after a lost answer the same command gets the same certificate. With --method the token
is a proof of another kind, such as a service account's, and is good once as well.`,
		Example: `  segl enroll token --scope demo/shop/dev --workload billing >token
  segl enroll --token - --out billing <token`,
		RunE: func(c *cobra.Command, _ []string) error { return p.useToken(c.Context(), e) },
	})))
	f := c.Flags()
	f.StringVar(&e.token, "token", "", "trade `TOKEN`; - reads it from stdin, where other users of this machine do not see it")
	f.StringVar(&e.method, "method", "", "trade a proof that method `SCOPE:NAME` takes; TOKEN is the proof")
	f.StringVar(&e.out, "out", "", "write `PREFIX`.pem and PREFIX-key.pem")
	f.StringSliceVarP(&e.names, "name", "n", nil, "have host `NAME` besides, one of those that the token allows; may be repeated")
	keyType(c, &e.key)
	f.BoolVar(&e.force, "force", false, "replace a key that is not of the certificate beside it")
	c.AddCommand(p.enrollToken(), p.enrollMethod())
	return c
}

func (p *program) useToken(ctx context.Context, e enrolment) error {
	switch {
	case e.token == "":
		return misuse("--token is missing").hinted("segl enroll token makes one; it is used with segl enroll --token TOKEN --out PREFIX")
	case e.out == "":
		return misuse("--out is missing").hinted("name where the certificate and its key are to be: --out PREFIX writes PREFIX.pem and PREFIX-key.pem")
	}
	names, err := parseNames(e.names)
	if err != nil {
		return err
	}
	if e.token == "-" {
		b, err := p.readFile("-")
		if err != nil {
			return fmt.Errorf("reading the token from stdin: %w", err)
		}
		e.token = strings.TrimSpace(string(b))
	}
	files := keypair.At(e.out)
	if p.plan {
		return p.show(plan{Do: "enroll", Names: spell(names), Writes: []string{files.Chain, files.Key}})
	}
	remote, err := p.dial(nobody)
	if err != nil {
		return err
	}
	defer remote.Close()
	if err := p.mayReplace(files, e.force); err != nil {
		return err
	}
	key, err := files.Stage(e.key)
	if err != nil {
		return err
	}
	csr, err := keypair.Request(key, "", names)
	if err != nil {
		return err
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	var out api.Certificate
	err = remote.Do(ctx, client.Request{
		Method: http.MethodPost, Path: "/v1/certificates:enroll", Idempotent: true, // the same token and key get the same certificate
		Body: api.EnrollRequest{Token: e.token, Method: e.method, CSR: string(csr)},
	}, &out)
	return p.install(files, key, out, err)
}

// enrollToken is `segl enroll token`.
func (p *program) enrollToken() *cobra.Command {
	var scope, profile, name string
	var names []string
	var ttl duration
	c := p.changes(p.prints(&cobra.Command{
		Use: "token --workload NAME [--name NAME]...", Short: "Make a one-time token that lets one workload in", Args: exactly(),
		Long: `Makes a token with which one workload gets its first certificate. The token is printed
once and kept nowhere: hand it over as you would a password.`,
		Example: "  segl enroll token --scope demo/shop/dev --workload billing --ttl 15m",
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" {
				return misuse("--workload is missing").hinted("name the workload that the token lets in")
			}
			list, err := parseNames(names)
			if err != nil {
				return err
			}
			return p.makeToken(c.Context(), scope, api.InviteRequest{Workload: name, Profile: profile, Names: spell(list), TTL: web.Duration(ttl)})
		},
	}))
	f := c.Flags()
	scopeFlag(c, &scope)
	f.StringVar(&name, "workload", "", "let workload `NAME` in: the last part of its SPIFFE ID")
	f.StringVar(&profile, "profile", "", "issue for `PROFILE`: workload or client (default workload)")
	f.StringSliceVarP(&names, "name", "n", nil, "allow host `NAME` besides; may be repeated")
	f.Var(&ttl, "ttl", "let the token be used for `DURATION` (default 1h)")
	return c
}

func (p *program) makeToken(ctx context.Context, scope string, in api.InviteRequest) error {
	s, err := p.scope(scope)
	if err != nil {
		return err
	}
	if p.plan {
		return p.show(plan{Do: "make an enrolment token", Scope: s.String(), Profile: in.Profile, Subject: in.Workload, Names: in.Names})
	}
	remote, err := p.dial(p.forScope(s))
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(ctx)
	defer cancel()
	var out api.Invitation
	// Not repeated after a lost answer: each time makes another token. One that nobody has lets nobody in.
	err = remote.Do(ctx, client.Request{Method: http.MethodPost, Path: pathOf(s) + "/enrollment-tokens", Body: in}, &out)
	if err != nil {
		return p.suggestOperator(err)
	}
	if p.form == output.Table {
		p.note("a token for %s, good once, until %s", out.Identity, stamp(out.Expires.Time))
		_, err := fmt.Fprintln(p.out, out.Token)
		return err
	}
	return output.One(p.out, p.form, out, tokenView)
}

var tokenView = output.View[api.Invitation]{
	Name: func(i api.Invitation) string { return i.ID },
	Columns: []output.Column[api.Invitation]{
		{Head: "ID", Cell: func(i api.Invitation) string { return i.ID }},
		{Head: "TOKEN", Cell: func(i api.Invitation) string { return i.Token }},
		{Head: "IDENTITY", Cell: func(i api.Invitation) string { return i.Identity }},
		{Head: "PROFILE", Cell: func(i api.Invitation) string { return i.Profile }},
		{Head: "NAMES", Cell: func(i api.Invitation) string { return strings.Join(i.Names, " ") }},
		{Head: "EXPIRES", Cell: func(i api.Invitation) string { return stamp(i.Expires.Time) }},
	},
}
