package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/credentials/api"
)

// target is `segl target`.
func (p *program) target() *cobra.Command {
	return p.connects(group("target", "Say at which servers logins are made (operators)", p.targetAdd(), p.targetList(), p.targetEnd()))
}

var targetView = output.View[api.Target]{
	Name: func(t api.Target) string { return t.Name },
	Columns: []output.Column[api.Target]{
		{Head: "TARGET", Cell: func(t api.Target) string { return t.Name }},
		{Head: "SCOPE", Cell: func(t api.Target) string { return t.Scope }},
		{Head: "KIND", Cell: func(t api.Target) string { return t.Kind }},
		{Head: "ADDRESS", Cell: func(t api.Target) string { return t.Address }},
		{Head: "MANAGER", Cell: func(t api.Target) string { return t.Manager }},
	},
}

func (p *program) targetAdd() *cobra.Command {
	var scope, kind, authority, manager, database string
	c := p.changes(p.prints(&cobra.Command{
		Use: "add NAME HOST:PORT", Short: "Name a server at which logins are made", Args: exactly("NAME", "HOST:PORT"),
		Long: `Names a server at which logins are made, after a look at it: it must answer, know us by our
certificate, keep the time, and allow us no more than the file of its kind in deploy/targets.`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0], "address": args[1], "kind": kind}
			if authority != "" {
				b, err := os.ReadFile(authority)
				if err != nil {
					return fmt.Errorf("reading --authority: %w", err)
				}
				body["authority"] = string(b)
			}
			for k, v := range map[string]string{"manager": manager, "database": database} {
				if v != "" {
					body[k] = v
				}
			}
			if p.plan {
				return p.show(plan{Do: "add target", Subject: args[0] + " at " + args[1], Scope: s.String()})
			}
			var out api.Target
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: pathOf(s) + "/targets", Body: body}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, targetView)
		},
	}))
	scopeFlag(c, &scope)
	f := c.Flags()
	f.StringVar(&kind, "kind", "postgresql", "it is a `KIND`: postgresql, mysql (MariaDB) or redis (Valkey)")
	f.StringVar(&authority, "authority", "", "its certificate is vouched for by those in `FILE`, PEM (default: our own roots)")
	f.StringVar(&manager, "manager", "", "log in there as `USER` (default segl)")
	f.StringVar(&database, "database", "", "of PostgreSQL: the functions of the manager are in database `NAME` (default postgres)")
	choices(c, "kind", "postgresql", "mysql", "redis")
	return c
}

func (p *program) targetList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the servers of a scope and below", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			var out api.TargetList
			if err := p.inScope(c, scope, "/targets", &out); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(out.Targets), targetView)
		},
	})
	scopeFlag(c, &scope)
	return c
}

// inScope reads a list of a scope that comes whole.
func (p *program) inScope(c *cobra.Command, scope, path string, out any) error {
	s, err := p.scope(scope)
	if err != nil {
		return err
	}
	remote, err := p.dial(p.forScope(s))
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(c.Context())
	defer cancel()
	return remote.Do(ctx, client.Request{Method: http.MethodGet, Path: pathOf(s) + path}, out)
}

func (p *program) targetEnd() *cobra.Command {
	return p.endOf("target", "/targets/", "End a server's use, and every login that was made there")
}

// endOf is the command that ends a target or a binding.
func (p *program) endOf(what, path, short string) *cobra.Command {
	var scope string
	c := p.changes(&cobra.Command{
		Use: "end NAME", Short: short, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "end " + what, Subject: args[0], Scope: s.String()})
			}
			return p.asked(c.Context(), client.Request{Method: http.MethodDelete, Path: pathOf(s) + path + url.PathEscape(args[0])}, nil)
		},
	})
	scopeFlag(c, &scope)
	return c
}

// binding is `segl binding`.
func (p *program) binding() *cobra.Command {
	return p.connects(group("binding", "Say whose identity gets which login or token (operators)", p.bindingAdd(), p.bindingList(),
		p.endOf("binding", "/bindings/", "End a binding, and everything derived by it")))
}

var bindingView = output.View[api.Binding]{
	Name: func(b api.Binding) string { return b.Name },
	Columns: []output.Column[api.Binding]{
		{Head: "BINDING", Cell: func(b api.Binding) string { return b.Name }},
		{Head: "SCOPE", Cell: func(b api.Binding) string { return b.Scope }},
		{Head: "FOR", Cell: func(b api.Binding) string { return b.For }},
		{Head: "TARGET", Cell: func(b api.Binding) string { return b.Target }},
		{Head: "WAY", Cell: func(b api.Binding) string { return b.Way }},
		{Head: "GROUP", Cell: func(b api.Binding) string { return b.Group }},
		{Head: "AUDIENCES", Cell: func(b api.Binding) string { return strings.Join(b.Audiences, " ") }},
		{Head: "LIFE", Cell: func(b api.Binding) string { return time.Duration(b.Life).String() }},
	},
}

func (p *program) bindingAdd() *cobra.Command {
	var scope string
	var audiences, scopes []string
	var connections, leases int
	words := map[string]*string{}
	c := p.changes(p.prints(&cobra.Command{
		Use: "add NAME --for ID --life DURATION", Short: "Let identities have a login or tokens", Args: exactly("NAME"),
		Example: "  segl binding add orders --for 'spiffe://segl.test/tenant/demo/project/shop/environment/dev/*' --target db --database shop --group writers --life 1h\n" +
			"  segl binding add api --for 'spiffe://segl.test/tenant/demo/**' --audience https://api.example.org --life 10m",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0]}
			for k, v := range words {
				if *v != "" {
					body[strings.ReplaceAll(k, "-", "_")] = *v
				}
			}
			for k, v := range map[string]int{"connections": connections, "leases": leases} {
				if v != 0 {
					body[k] = v
				}
			}
			for k, v := range map[string][]string{"audiences": audiences, "scopes": scopes} {
				if len(v) > 0 {
					body[k] = v
				}
			}
			if p.plan {
				return p.show(plan{Do: "add binding", Subject: args[0], Scope: s.String()})
			}
			var out api.Binding
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: pathOf(s) + "/bindings", Body: body}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, bindingView)
		},
	}))
	scopeFlag(c, &scope)
	f := c.Flags()
	for name, use := range map[string]string{
		"for": "for the SPIFFE `ID`; its last part may be * (any workload of that scope) or ** (and below)", "life": "a login or token lasts `DURATION` at most",
		"target": "for logins at target `NAME`", "target-scope": "which is `SCOPE`'s, where several have one of that name", "way": "they get in by `WAY`: leased, certificate or static",
		"database": "in database `NAME`", "group": "with the rights of `GROUP`", "role": "as `ROLE`, unless the login is leased",
	} {
		words[name] = f.String(name, "", use)
	}
	f.IntVar(&connections, "connections", 0, "a login has `N` connections at once (default 10)")
	f.IntVar(&leases, "leases", 0, "an identity has `N` logins at once (default 10)")
	f.StringArrayVar(&audiences, "audience", nil, "for tokens for `AUDIENCE`; may be repeated")
	f.StringArrayVar(&scopes, "token-scope", nil, "which may carry `SCOPE`; may be repeated")
	choices(c, "way", "leased", "certificate", "static")
	return c
}

func (p *program) bindingList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the bindings of a scope and below", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			var out api.BindingList
			if err := p.inScope(c, scope, "/bindings", &out); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(out.Bindings), bindingView)
		},
	})
	scopeFlag(c, &scope)
	return c
}
