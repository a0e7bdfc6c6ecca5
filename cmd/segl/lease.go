package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/credentials/api"
)

// lease is `segl lease`.
func (p *program) lease() *cobra.Command {
	return p.connects(group("lease", "List and end logins that were derived from certificates", p.leaseList(), p.leaseShow(), p.leaseEnd()))
}

func (p *program) leaseList() *cobra.Command {
	var scope string
	var limit int
	filter := map[string]*string{}
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List logins, and what each came from", Args: exactly(),
		Example: "  segl lease list --scope demo/shop/dev --state overdue",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			remote, err := p.dial(p.forScope(s))
			if err != nil {
				return err
			}
			defer remote.Close()
			q := url.Values{}
			for name, value := range filter {
				if *value != "" {
					q.Set(name, *value)
				}
			}
			return output.List(p.out, p.form, client.List[api.Lease](c.Context(), remote, client.Listing{Path: pathOf(s) + "/leases", Member: "leases", Limit: limit, Query: q}), p.leaseView())
		},
	})
	scopeFlag(c, &scope)
	f := c.Flags()
	f.IntVar(&limit, "limit", 0, "list `N` at most")
	for name, use := range map[string]string{
		"identity": "list those of the SPIFFE `ID` only", "serial": "list those that hang on the certificate `SERIAL` only", "target": "list those at target `NAME` only",
		"binding": "list those by binding `NAME` only", "state": "list those in `STATE` only: open, live, ending, overdue or gone",
	} {
		filter[name] = f.String(name, "", use)
	}
	choices(c, "state", "open", "live", "ending", "overdue", "gone")
	return c
}

func (p *program) leaseView() output.View[api.Lease] {
	columns := []output.Column[api.Lease]{
		{Head: "LEASE", Cell: func(l api.Lease) string { return l.Lease.String() }},
		{Head: "STATE", Cell: func(l api.Lease) string { return l.State }},
		{Head: "IDENTITY", Cell: func(l api.Lease) string { return l.Identity }},
		{Head: "SERIAL", Cell: func(l api.Lease) string { return l.Serial.String() }},
		{Head: "BINDING", Cell: func(l api.Lease) string { return l.Binding }},
		{Head: "TARGET", Cell: func(l api.Lease) string { return l.Target }},
		{Head: "USER", Cell: func(l api.Lease) string { return l.Username }},
		{Head: "EXPIRES", Cell: func(l api.Lease) string { return p.instant(l.ExpiresAt.Time) }},
	}
	details := append(columns[:len(columns):len(columns)],
		output.Column[api.Lease]{Head: "why", Cell: func(l api.Lease) string { return l.Why }},
		output.Column[api.Lease]{Head: "trouble", Cell: func(l api.Lease) string { return l.Trouble }},
		output.Column[api.Lease]{Head: "receipts", Cell: func(l api.Lease) string {
			var lines []string
			for _, r := range l.Receipts {
				lines = append(lines, stamp(r.At.Time)+" "+r.Effect)
			}
			return strings.Join(lines, "\n")
		}})
	for i := range details {
		details[i].Head = strings.ToLower(details[i].Head)
	}
	return output.View[api.Lease]{Name: func(l api.Lease) string { return l.Lease.String() }, Columns: columns, Details: details}
}

func (p *program) leaseShow() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "show LEASE", Short: "Show one login, and what was done for it", Args: exactly("LEASE"),
		RunE: func(c *cobra.Command, args []string) error { return p.oneLease(c, http.MethodGet, args[0]) },
	})
}

func (p *program) leaseEnd() *cobra.Command {
	return p.changes(p.prints(&cobra.Command{
		Use: "end LEASE", Short: "End a login, its sessions too", Args: exactly("LEASE"),
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "end lease", Subject: args[0]})
			}
			return p.oneLease(c, http.MethodDelete, args[0])
		},
	}))
}

func (p *program) oneLease(c *cobra.Command, method, id string) error {
	remote, err := p.dial(p.anybody())
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(c.Context())
	defer cancel()
	var out api.Lease
	if err := remote.Do(ctx, client.Request{Method: method, Path: "/v1/leases/" + url.PathEscape(id), Idempotent: true}, &out); err != nil {
		return p.suggestOperator(err)
	}
	return output.One(p.out, p.form, out, p.leaseView())
}
