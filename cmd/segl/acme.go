package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// acme is `segl acme`.
func (p *program) acme() *cobra.Command {
	return p.connects(group("acme", "Decide who may use ACME, and for what (operators)",
		group("eab", "Make, list and revoke external account keys", p.eabCreate(), p.eabList(), p.eabRevoke()), p.acmeShow(), p.acmeSet()))
}

// keysOf is where the external account keys of s are.
func keysOf(s identity.Scope) string { return pathOf(s) + "/acme/external-account-keys" }

// eabCreate is `segl acme eab create`.
func (p *program) eabCreate() *cobra.Command {
	var scope string
	var in api.CreateKeyRequest
	var ttl duration
	c := p.changes(p.prints(&cobra.Command{
		Use: "create --label TEXT [--name PATTERN]...", Short: "Make an external account key", Args: exactly(),
		Long: `Makes a key with which ACME clients make accounts in the scope (RFC 8555 §7.3.4). Its
secret is printed once and kept sealed: hand both over as you would a password.

A PATTERN is dns:NAME, where *.shop.test is one label below shop.test and that wildcard
itself, or ip:ADDRESS or ip:RANGE. Without --name its accounts may order whatever the scope
may have. Names of --approve they get without a challenge, for as long as the key stands;
each such name of each order is a fact in the ledger.`,
		Example: `  segl acme eab create --scope demo/shop/dev --label "ingress, cluster 3" --uses 1 --ttl 24h
  segl acme eab create --scope demo/shop/dev --label printers --name 'dns:*.print.demo.test' --approve 'dns:*.print.demo.test'`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if in.Label == "" {
				return misuse("--label is missing").hinted("say whose key it is")
			}
			if p.plan {
				return p.show(plan{Do: "make an external account key", Scope: s.String(), Subject: in.Label, Names: in.Names})
			}
			in.TTL = web.Duration(ttl)
			return p.makeKey(c.Context(), s, in)
		},
	}))
	f := c.Flags()
	scopeFlag(c, &scope)
	f.StringVar(&in.Label, "label", "", "note whose it is: `TEXT`")
	f.StringArrayVarP(&in.Names, "name", "n", nil, "let its accounts order `PATTERN` only; may be repeated")
	f.StringArrayVar(&in.Approved, "approve", nil, "give its accounts `PATTERN` without a challenge; may be repeated")
	f.IntVar(&in.Uses, "uses", 0, "let it bind `N` accounts (default any number)")
	f.Var(&ttl, "ttl", "let it bind accounts for `DURATION` (default until it is revoked)")
	return c
}

func (p *program) makeKey(ctx context.Context, s identity.Scope, in api.CreateKeyRequest) error {
	var out api.NewKey
	// Not repeated after a lost answer: each time makes another key. One whose secret nobody has binds nobody.
	if err := p.asked(ctx, client.Request{Method: http.MethodPost, Path: keysOf(s), Body: in}, &out); err != nil {
		return err
	}
	if p.form == output.Table {
		p.note("an external account key for %s; its secret is told this once", out.Scope)
	}
	return output.One(p.out, p.form, out, output.View[api.NewKey]{
		Name: func(k api.NewKey) string { return k.ID },
		Columns: []output.Column[api.NewKey]{
			{Head: "ID", Cell: func(k api.NewKey) string { return k.ID }},
			{Head: "SECRET", Cell: func(k api.NewKey) string { return k.Secret }},
			{Head: "SCOPE", Cell: func(k api.NewKey) string { return k.Scope }},
			{Head: "LABEL", Cell: func(k api.NewKey) string { return k.Label }},
		},
	})
}

// eabList is `segl acme eab list`.
func (p *program) eabList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the external account keys of a scope", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			keys := client.List[api.Key](c.Context(), remote, client.Listing{Path: keysOf(s), Member: "external_account_keys"})
			return output.List(p.out, p.form, keys, p.keyView())
		},
	})
	scopeFlag(c, &scope)
	return c
}

// eabRevoke is `segl acme eab revoke`.
func (p *program) eabRevoke() *cobra.Command {
	var scope string
	c := p.changes(p.prints(&cobra.Command{
		Use: "revoke ID", Short: "End an external account key and what its accounts may order", Args: exactly("ID"),
		Long: `Ends a key for ever: it binds no account any more, and the accounts it bound order nothing
any more, from their next order on. Certificates that they have stand: segl cert revoke
ends those. Revoking again changes nothing and is no error.`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "revoke an external account key", Scope: s.String(), Subject: args[0]})
			}
			if strings.Trim(args[0], "0123456789abcdef") != "" || args[0] == "" {
				return misuse("key %q: want its ID, hex digits", args[0]).hinted("segl acme eab list prints them")
			}
			var out api.Key
			err = p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: keysOf(s) + "/" + args[0] + ":revoke", Idempotent: true}, &out)
			if err != nil {
				return err
			}
			return output.One(p.out, p.form, out, p.keyView())
		},
	}))
	scopeFlag(c, &scope)
	return c
}

func (p *program) keyView() output.View[api.Key] {
	orAll := func(list *[]string) string {
		if list == nil {
			return "(all of the scope)"
		}
		return strings.Join(*list, " ")
	}
	return output.View[api.Key]{
		Name: func(k api.Key) string { return k.ID },
		Columns: []output.Column[api.Key]{
			{Head: "ID", Cell: func(k api.Key) string { return k.ID }},
			{Head: "LABEL", Cell: func(k api.Key) string { return k.Label }},
			{Head: "STATE", Cell: func(k api.Key) string { return k.State }},
			{Head: "USED", Cell: func(k api.Key) string {
				if k.Uses == nil {
					return strconv.Itoa(k.Used)
				}
				return fmt.Sprintf("%d of %d", k.Used, *k.Uses)
			}},
			{Head: "NAMES", Cell: func(k api.Key) string { return orAll(k.Names) }},
			{Head: "APPROVED", Cell: func(k api.Key) string { return strings.Join(k.Approved, " ") }},
			{Head: "EXPIRES", Cell: func(k api.Key) string {
				if k.Expires == nil {
					return ""
				}
				return p.instant(k.Expires.Time)
			}},
		},
	}
}

// acmeShow is `segl acme show`.
func (p *program) acmeShow() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "show", Short: "Show what a scope's ACME directory asks and offers", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			return p.setting(c.Context(), client.Request{Method: http.MethodGet, Path: pathOf(s) + "/acme/settings"})
		},
	})
	scopeFlag(c, &scope)
	return c
}

// acmeSet is `segl acme set`.
func (p *program) acmeSet() *cobra.Command {
	var scope, binding string
	var profiles, inherit []string
	c := p.changes(p.prints(&cobra.Command{
		Use: "set [--eab WHETHER] [--profile NAME]...", Short: "Change what a scope's ACME directory asks and offers", Args: exactly(),
		Long: `Changes what is given and leaves the rest. What a scope does not say itself is as the
scope above it says. The first profile is what an order gets that names none.`,
		Example: "  segl acme set --scope demo --eab required\n  segl acme set --scope demo/shop/dev --profile server --profile database-server",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if binding == "" && len(profiles) == 0 && len(inherit) == 0 {
				return misuse("nothing to change").hinted("give --eab, --profile or --inherit")
			}
			return p.changeSetting(c.Context(), s, func(d *api.Declares) error { return declare(d, binding, profiles, inherit) })
		},
	}))
	f := c.Flags()
	scopeFlag(c, &scope)
	f.StringVar(&binding, "eab", "", "say `WHETHER` a new account needs an external account key: required or optional")
	f.StringArrayVar(&profiles, "profile", nil, "offer profile `NAME`; may be repeated")
	f.StringSliceVar(&inherit, "inherit", nil, "leave `WHAT` to the scope above: eab, profiles")
	choices(c, "eab", "required", "optional")
	choices(c, "inherit", "eab", "profiles")
	return c
}

// declare changes d as the flags say.
func declare(d *api.Declares, binding string, profiles, inherit []string) error {
	for _, what := range inherit {
		switch {
		case what == "eab" && binding == "":
			d.BindingRequired = nil
		case what == "profiles" && len(profiles) == 0:
			d.Profiles = nil
		case what == "eab" || what == "profiles":
			return misuse("--inherit %s contradicts what is set of it", what).hinted("leave one out")
		default:
			return misuse("--inherit %q: want eab or profiles", what)
		}
	}
	switch binding {
	case "":
	case "required", "optional":
		required := binding == "required"
		d.BindingRequired = &required
	default:
		return misuse("--eab %q: want required or optional", binding)
	}
	if len(profiles) > 0 {
		d.Profiles = profiles
	}
	return nil
}

// changeSetting reads what s says itself and writes it back changed.
func (p *program) changeSetting(ctx context.Context, s identity.Scope, change func(*api.Declares) error) error {
	if err := change(&api.Declares{}); err != nil { // before anybody is asked
		return err
	}
	path := pathOf(s) + "/acme/settings"
	var now api.Settings
	if err := p.asked(ctx, client.Request{Method: http.MethodGet, Path: path}, &now); err != nil {
		return err
	}
	if err := change(&now.Own); err != nil {
		return err
	}
	if p.plan {
		return p.show(plan{Do: "change what the ACME directory asks and offers", Scope: s.String(), Names: now.Own.Profiles})
	}
	return p.setting(ctx, client.Request{Method: http.MethodPut, Path: path, Idempotent: true, Body: now.Own})
}

func (p *program) setting(ctx context.Context, r client.Request) error {
	var out api.Settings
	if err := p.asked(ctx, r, &out); err != nil {
		return err
	}
	own := func(is bool) string {
		if is {
			return ""
		}
		return " (inherited)"
	}
	return output.One(p.out, p.form, out, output.View[api.Settings]{
		Name: func(s api.Settings) string { return s.Scope },
		Columns: []output.Column[api.Settings]{
			{Head: "SCOPE", Cell: func(s api.Settings) string { return s.Scope }},
			{Head: "EAB", Cell: func(s api.Settings) string {
				return map[bool]string{true: "required", false: "optional"}[s.BindingRequired] + own(s.Own.BindingRequired != nil)
			}},
			{Head: "PROFILES", Cell: func(s api.Settings) string { return strings.Join(s.Profiles, " ") + own(s.Own.Profiles != nil) }},
		},
	})
}
