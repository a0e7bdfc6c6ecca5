package main

import (
	"context"
	"net/http"
	"regexp"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/cert"
)

// authority is `segl ca`.
func (p *program) authority() *cobra.Command {
	return p.connects(group("ca", "Prepare, activate, retire and revoke authorities (operators)",
		p.caList(), p.caCreate(), p.caActivate(), p.caRetire(), p.caRevoke(),
		p.caRequest(), p.caImport(), p.caInit(), p.caSign(), p.caCrossSign(), p.caRootList(), p.caVerifyTranscript()))
}

func (p *program) caList() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "list", Short: "List the authorities, parents first", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			return output.List(p.out, p.form, client.List[api.Authority](c.Context(), remote, client.Listing{Path: "/v1/authorities", Member: "authorities"}), authorityView)
		},
	})
}

func (p *program) caCreate() *cobra.Command {
	var name string
	var v preparing
	c := p.changes(p.prints(&cobra.Command{
		Use: "create PURPOSE", Short: "Prepare an authority: it is published and does not sign yet", Args: exactly("PURPOSE"),
		Long: `Makes a key and a certificate for root, servers, workloads or databases. The authority is
in the bundle, has its lists and answers for its status at once; it signs once it is
activated. A root should be in every trust store before that. One with --scope signs for that
scope alone, and its certificate says which names it may certify (--permit).`,
		Example: "  segl ca create servers",
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "prepare authority", Subject: join(name, "for "+args[0])})
			}
			body := map[string]any{"purpose": args[0]}
			if name != "" {
				body["name"] = name
			}
			if err := v.into(body); err != nil {
				return err
			}
			return p.caDo(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/authorities", Body: body})
		},
	}))
	v.register(c)
	c.Flags().StringVar(&name, "name", "", "call it `NAME` (default: the purpose, the site and a number)")
	return c
}

func (p *program) caActivate() *cobra.Command {
	var spread duration
	var yes bool
	c := p.changes(p.prints(&cobra.Command{
		Use: "activate NAME", Short: "Have a prepared authority sign from now on", Args: exactly("NAME"),
		Long: `The authority that signed for the same purpose retires: its lists and answers go on, and
the renewal windows of what it signed move, over --spread. No request is lost over it.
At a terminal it asks for confirmation; elsewhere it does not.`,
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]string{}
			if spread > 0 {
				body["spread"] = spread.String()
			}
			return p.caChange(c.Context(), args[0], caChange{
				verb: "activate", said: "This has authority " + args[0] + " sign, and the one that does retire.", body: body, yes: yes,
			})
		},
	}))
	c.Flags().Var(&spread, "spread", "have what the former one signed renewed over `DURATION` (default: 7d)")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

func (p *program) caRetire() *cobra.Command {
	var yes bool
	c := p.changes(p.prints(&cobra.Command{
		Use: "retire NAME", Short: "End an authority that nothing valid hangs on", Args: exactly("NAME"),
		Long: `Ends a retiring authority whose certificates have all expired or are revoked, or a
prepared one that is not to be used. It leaves the bundle, for ever. An active one is not
retired: activate another in its place. At a terminal it asks for confirmation; elsewhere
it does not.`,
		RunE: func(c *cobra.Command, args []string) error {
			return p.caChange(c.Context(), args[0], caChange{verb: "retire", said: "This retires authority " + args[0] + " for ever.", body: map[string]string{}, yes: yes})
		},
	}))
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

func (p *program) caRevoke() *cobra.Command {
	var reason string
	var yes bool
	c := p.changes(p.prints(&cobra.Command{
		Use: "revoke NAME --reason REASON", Short: "Revoke an authority and everything it signed, for ever", Args: exactly("NAME"),
		Long: `Revokes an authority's own certificate and everything that it signed. An active one is
not revoked: activate another first, and renew your own certificate. At a terminal it
asks for confirmation; elsewhere it does not.`,
		RunE: func(c *cobra.Command, args []string) error {
			why, err := cert.ParseReason(reason)
			if err != nil {
				return misuse("--%w", err)
			}
			return p.caChange(c.Context(), args[0], caChange{
				verb: "revoke", said: "This ends authority " + args[0] + " and every certificate that it signed, for ever.",
				body: map[string]string{"reason": why.String()}, yes: yes,
			})
		},
	}))
	c.Flags().StringVar(&reason, "reason", "cACompromise", "revoke for `REASON`")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

// A caChange is one step of an authority's life.
type caChange struct {
	verb, said string
	body       map[string]string
	yes        bool
}

var authorityName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (p *program) caChange(ctx context.Context, name string, v caChange) error {
	if !authorityName.MatchString(name) {
		return failing(exitNotFound, "%.80q is no authority's name", name).hinted("segl ca list shows them")
	}
	if p.plan {
		return p.show(plan{Do: v.verb + " authority", Subject: name})
	}
	if !v.yes && p.interactive() {
		if err := p.confirmed(v.said, name); err != nil {
			return err
		}
	}
	return p.caDo(ctx, client.Request{Method: http.MethodPost, Path: "/v1/authorities/" + name + ":" + v.verb, Body: v.body})
}

func (p *program) caDo(ctx context.Context, r client.Request) error {
	var out api.Authority
	if err := p.asked(ctx, r, &out); err != nil {
		return err
	}
	return output.One(p.out, p.form, out, authorityView)
}

var authorityView = output.View[api.Authority]{
	Name: func(a api.Authority) string { return a.Name },
	Columns: []output.Column[api.Authority]{
		{Head: "NAME", Cell: func(a api.Authority) string { return a.Name }},
		{Head: "PURPOSE", Cell: func(a api.Authority) string { return a.Purpose }},
		{Head: "STATE", Cell: func(a api.Authority) string { return a.State }},
		{Head: "SINCE", Cell: func(a api.Authority) string { return stamp(a.Since.Time) }},
		{Head: "PARENT", Cell: func(a api.Authority) string { return a.Parent }},
		{Head: "EXPIRES", Cell: func(a api.Authority) string { return stamp(a.NotAfter.Time) }},
	},
}
