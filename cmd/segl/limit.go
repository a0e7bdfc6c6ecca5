package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/limit/api"
)

// limit is `segl limit`.
func (p *program) limit() *cobra.Command {
	return p.connects(group("limit", "See and change how often things may be done (operators)",
		p.limitList(), p.limitUsage(), p.limitSet(), p.limitClear(), p.limitForget()))
}

// limitList is `segl limit list`.
func (p *program) limitList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the limits, and how much a scope may have", Args: exactly(),
		Long: `Lists every limit with the rate that holds in the scope, or, without one, where no scope
has its own. A rate of 100/1h is 100 at once and 100 an hour.`,
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{}
			if p.or(scope, "SEGL_SCOPE") != "" {
				s, err := p.scope(scope)
				if err != nil {
					return err
				}
				query.Set("scope", s.String())
			}
			return p.printLimits(c.Context(), client.Request{Method: http.MethodGet, Path: "/v1/limits", Query: query})
		},
	})
	scopeFlag(c, &scope)
	return c
}

// printLimits prints the limits that a request is answered with.
func (p *program) printLimits(ctx context.Context, r client.Request) error {
	var out api.Limits
	if err := p.asked(ctx, r, &out); err != nil {
		return err
	}
	return output.List(p.out, p.form, each(out.Limits), limitView)
}

// each yields the items of a list that came whole.
func each[T any](list []T) func(yield func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

var limitView = output.View[api.Limit]{
	Name: func(l api.Limit) string { return string(l.Name) },
	Columns: []output.Column[api.Limit]{
		{Head: "LIMIT", Cell: func(l api.Limit) string { return string(l.Name) }},
		{Head: "RATE", Cell: func(l api.Limit) string { return l.Rate.String() }},
		{Head: "FROM", Cell: func(l api.Limit) string { return l.From }},
		{Head: "COUNTS", Cell: func(l api.Limit) string { return l.About }},
	},
}

// limitUsage is `segl limit usage`.
func (p *program) limitUsage() *cobra.Command {
	var name, subject string
	var percent int
	c := p.prints(&cobra.Command{
		Use: "usage [--limit NAME] [--subject PREFIX]", Short: "List who has used most of what is limited", Args: exactly(),
		Example: "  segl limit usage --limit acme-orders-per-account --from 80",
		RunE: func(c *cobra.Command, _ []string) error {
			if percent < 0 || percent > 100 {
				return misuse("--from %d: want 0 to 100", percent)
			}
			query := url.Values{"percent": {strconv.Itoa(percent)}, "page_size": {"1000"}}
			for k, v := range map[string]string{"limit": name, "subject": subject} {
				if v != "" {
					query.Set(k, v)
				}
			}
			var out api.Usage
			if err := p.asked(c.Context(), client.Request{Method: http.MethodGet, Path: "/v1/limits/usage", Query: query}, &out); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(out.Usage), output.View[api.Use]{
				Name: func(u api.Use) string { return u.Subject },
				Columns: []output.Column[api.Use]{
					{Head: "LIMIT", Cell: func(u api.Use) string { return string(u.Limit) }},
					{Head: "SUBJECT", Cell: func(u api.Use) string { return u.Subject }},
					{Head: "USED", Cell: func(u api.Use) string { return fmt.Sprintf("%d of %d", u.Used, u.Of) }},
					{Head: "FORGOTTEN", Cell: func(u api.Use) string { return p.instant(u.Clear.Time) }},
				},
			})
		},
	})
	f := c.Flags()
	f.StringVar(&name, "limit", "", "list uses of limit `NAME` only")
	f.StringVar(&subject, "subject", "", "list subjects that begin with `PREFIX` only")
	f.IntVar(&percent, "from", 50, "list those who used `N` of a hundred or more")
	return c
}

// limitSet is `segl limit set`.
func (p *program) limitSet() *cobra.Command {
	var scope string
	c := p.changes(p.prints(&cobra.Command{
		Use: "set LIMIT RATE", Short: "Give a scope a rate of its own", Args: exactly("LIMIT", "RATE"),
		Long: `Gives the scope, and those below it that have none of their own, a rate: 100/1h is 100 at
once and 100 an hour; unlimited counts nothing. Replicas heed it within seconds.`,
		Example: "  segl limit set acme-orders-per-account 500/1h --scope demo/shop",
		RunE: func(c *cobra.Command, args []string) error {
			rate, err := limit.ParseRate(args[1])
			if err != nil {
				return misuse("%w", err)
			}
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "set a limit to " + rate.String(), Scope: s.String(), Subject: args[0]})
			}
			return p.printLimits(c.Context(), client.Request{
				Method: http.MethodPut, Path: "/v1/limits/" + url.PathEscape(args[0]), Idempotent: true,
				Body: api.SetRequest{Scope: s.String(), Rate: rate.String()},
			})
		},
	}))
	scopeFlag(c, &scope)
	return c
}

// limitClear is `segl limit clear`.
func (p *program) limitClear() *cobra.Command {
	var scope string
	c := p.changes(p.prints(&cobra.Command{
		Use: "clear LIMIT", Short: "Take a scope's own rate away", Args: exactly("LIMIT"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "take a scope's own rate away", Scope: s.String(), Subject: args[0]})
			}
			return p.printLimits(c.Context(), client.Request{
				Method: http.MethodDelete, Path: "/v1/limits/" + url.PathEscape(args[0]), Query: url.Values{"scope": {s.String()}},
			})
		},
	}))
	scopeFlag(c, &scope)
	return c
}

// limitForget is `segl limit forget`.
func (p *program) limitForget() *cobra.Command {
	return p.changes(p.prints(&cobra.Command{
		Use: "forget LIMIT SUBJECT", Short: "Let somebody who has used a limit up begin anew", Args: exactly("LIMIT", "SUBJECT"),
		Example: "  segl limit forget acme-failures-per-name \"$(segl limit usage --limit acme-failures-per-name --from 100 -o name)\"",
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "forget what was used of a limit", Subject: args[0] + " of " + args[1]})
			}
			return p.asked(c.Context(), client.Request{
				Method: http.MethodPost, Path: "/v1/limits/" + url.PathEscape(args[0]) + ":forget", Body: map[string]string{"subject": args[1]},
			}, nil)
		},
	}))
}
