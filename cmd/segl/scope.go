package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/tenancy/api"
)

// A level is one kind of scope: a tenant, a project of a tenant, or an environment of a project.
type level struct {
	name, form string
	depth      int
}

var levels = []level{{"tenant", "TENANT", 1}, {"project", "TENANT/PROJECT", 2}, {"environment", "TENANT/PROJECT/ENVIRONMENT", 3}}

func (p *program) tenant() *cobra.Command      { return p.scopes(levels[0]) }
func (p *program) project() *cobra.Command     { return p.scopes(levels[1]) }
func (p *program) environment() *cobra.Command { return p.scopes(levels[2]) }

// scopes are the commands of one level.
func (p *program) scopes(l level) *cobra.Command {
	commands := []*cobra.Command{p.scopeCreate(l), p.scopeList(l), p.scopeShow(l), p.scopeSetRights(l), p.scopeSuspend(l), p.scopeResume(l)}
	if l.depth == 1 {
		commands = append(commands, p.tenantDelete())
	}
	return p.connects(group(l.name, "Create, list and change "+l.name+"s (operators)", commands...))
}

// parse reads the path of a scope of this level.
func (l level) parse(s string) (identity.Scope, error) {
	scope, err := identity.ParseScope(s)
	if err != nil {
		return scope, misuse("%w", err)
	}
	if scope.IsPlatform() && l.name == "tenant" {
		return scope, nil // the platform's own scope has rights too
	}
	if scope.IsPlatform() || strings.Count(s, "/")+1 != l.depth {
		return scope, misuse("%q is no %s", s, l.name).hinted("want %s", l.form)
	}
	return scope, nil
}

func (p *program) scopeCreate(l level) *cobra.Command {
	var r rightsFlags
	c := p.changes(p.prints(&cobra.Command{
		Use: "create " + l.form, Short: "Create a " + l.name, Args: exactly(l.form),
		Long: "Creates a " + l.name + " that may bear the names given. Of a kind that is not given the scopes\n" +
			"above decide; a name must be allowed by every scope above that says anything of its kind.",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := l.parse(args[0])
			if err != nil {
				return err
			}
			rights, err := r.over(api.Declared{})
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "create " + l.name, Subject: s.String(), Names: r.spell()})
			}
			collection, name := collectionOf(s)
			ask := bodyOf(rights)
			ask["name"] = name
			return p.scopeDo(c.Context(), client.Request{Method: http.MethodPost, Path: collection, Body: ask})
		},
	}))
	r.register(c)
	return c
}

// collectionOf is where s is created, and its name there.
func collectionOf(s identity.Scope) (path, name string) {
	path = pathOf(s)
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

func (p *program) scopeShow(l level) *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "show " + l.form, Short: "Show a " + l.name + " and the names it may bear", Args: exactly(l.form),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := l.parse(args[0])
			if err != nil {
				return err
			}
			return p.scopeDo(c.Context(), client.Request{Method: http.MethodGet, Path: pathOf(s)})
		},
	})
}

func (p *program) scopeSetRights(l level) *cobra.Command {
	var r rightsFlags
	c := p.changes(p.prints(&cobra.Command{
		Use: "set-rights " + l.form, Short: "Change the names that a " + l.name + " may bear", Args: exactly(l.form),
		Long: `Replaces the rights of the kinds that are given; the others stay. Certificates that
were issued are not touched: their renewal is decided anew.`,
		Example: "  segl " + l.name + " set-rights " + strings.ToLower(l.form) + " --dns shop.test --dns '*.shop.test' --none ip",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := l.parse(args[0])
			if err != nil {
				return err
			}
			if len(r.spell()) == 0 {
				return misuse("nothing to change").hinted("give --dns, --ip, --spiffe, --none or --inherit")
			}
			return p.setRights(c.Context(), s, r)
		},
	}))
	r.register(c)
	return c
}

// setRights reads the rights as they are and writes them back with what was given.
func (p *program) setRights(ctx context.Context, s identity.Scope, r rightsFlags) error {
	remote, err := p.dial(operator)
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(ctx)
	defer cancel()
	var now api.Scope
	if err := remote.Do(ctx, client.Request{Method: http.MethodGet, Path: pathOf(s)}, &now); err != nil {
		return err
	}
	then, err := r.over(now.Rights)
	if err != nil {
		return err
	}
	if p.plan {
		return p.rightsImpact(ctx, remote, s, then)
	}
	err = remote.Do(ctx, client.Request{Method: http.MethodPut, Path: pathOf(s) + "/rights", Idempotent: true, Body: bodyOf(then)}, &now)
	if err != nil {
		return err
	}
	return output.One(p.out, p.form, now, scopeView)
}

// rightsImpact says which live certificates would not be renewed.
func (p *program) rightsImpact(ctx context.Context, remote *client.Client, s identity.Scope, then api.Declared) error {
	var out api.RightsImpact
	if err := remote.Do(ctx, client.Request{Method: http.MethodPost, Path: pathOf(s) + "/rights:preview", Body: bodyOf(then)}, &out); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.err, "segl: %d of %d live certificates would not be renewed (all looked at: %t)\n", out.Refused, out.Live, out.Complete); err != nil {
		return err
	}
	if p.form != output.Table {
		return output.One(p.out, p.form, out, output.View[api.RightsImpact]{Name: func(v api.RightsImpact) string { return fmt.Sprint(v.Refused) }})
	}
	return output.List(p.out, p.form, each(out.First), output.View[api.RefusedRenewal]{
		Name: func(a api.RefusedRenewal) string { return a.Serial },
		Columns: []output.Column[api.RefusedRenewal]{
			{Head: "SERIAL", Cell: func(a api.RefusedRenewal) string { return a.Serial }},
			{Head: "SCOPE", Cell: func(a api.RefusedRenewal) string { return a.Scope }},
			{Head: "NAMES", Cell: func(a api.RefusedRenewal) string { return strings.Join(a.Names, " ") }},
			{Head: "RULE", Cell: func(a api.RefusedRenewal) string { return a.Rule }},
		},
	})
}

// scopeDo asks for one scope and prints it.
func (p *program) scopeDo(ctx context.Context, r client.Request) error {
	var out api.Scope
	if err := p.asked(ctx, r, &out); err != nil {
		return err
	}
	return output.One(p.out, p.form, out, scopeView)
}

func (p *program) scopeList(l level) *cobra.Command {
	use, args := "list", exactly()
	if l.depth > 1 {
		use, args = "list ["+levels[l.depth-2].form+"]", atMost(1)
	}
	return p.prints(&cobra.Command{
		Use: use, Short: "List " + l.name + "s", Args: args,
		RunE: func(c *cobra.Command, args []string) error {
			var parent identity.Scope
			if len(args) == 1 {
				var err error
				if parent, err = levels[l.depth-2].parse(args[0]); err != nil {
					return err
				}
			}
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			return output.List(p.out, p.form, below(c.Context(), remote, parent, l.depth), scopeView)
		},
	})
}

// below yields the scopes of a depth below parent, walking down from the tenants where that is the zero Scope.
func below(ctx context.Context, c *client.Client, parent identity.Scope, depth int) iter.Seq2[api.Scope, error] {
	at, path := 0, "/v1/tenants"
	if !parent.IsZero() {
		at = strings.Count(parent.String(), "/") + 1
		path = pathOf(parent) + []string{"", "/projects", "/environments"}[at]
	}
	children := client.List[api.Scope](ctx, c, client.Listing{Path: path, Member: "scopes"})
	if at+1 == depth {
		return children
	}
	return func(yield func(api.Scope, error) bool) {
		for child, err := range children {
			var s identity.Scope
			if err == nil {
				s, err = identity.ParseScope(child.Scope)
			}
			if err != nil {
				yield(api.Scope{}, err)
				return
			}
			for v, err := range below(ctx, c, s, depth) {
				if !yield(v, err) || err != nil {
					return
				}
			}
		}
	}
}

var scopeView = output.View[api.Scope]{
	Name: func(s api.Scope) string { return s.Scope },
	Columns: []output.Column[api.Scope]{
		{Head: "SCOPE", Cell: func(s api.Scope) string { return s.Scope }},
		{Head: "DNS", Cell: func(s api.Scope) string { return said(s.Rights.DNS) }},
		{Head: "IP", Cell: func(s api.Scope) string { return said(s.Rights.IP) }},
		{Head: "SPIFFE", Cell: func(s api.Scope) string { return said(s.Rights.SPIFFE) }},
		{Head: "STATE", Cell: standing},
		{Head: "CREATED", Cell: func(s api.Scope) string { return stamp(s.CreatedAt.Time) }},
	},
}

// said spells the rights of one kind.
func said(list *[]string) string {
	switch {
	case list == nil:
		return "(inherited)"
	case len(*list) == 0:
		return "(none)"
	}
	return strings.Join(*list, " ")
}

func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return misuse("unexpected argument %q", args[n]).hinted("use: %s", c.UseLine())
		}
		return nil
	}
}
