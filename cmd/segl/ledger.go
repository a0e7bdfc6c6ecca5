package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/identity"
)

// ledger is `segl ledger`.
func (p *program) ledger() *cobra.Command {
	return p.connects(group("ledger", "Read what the ledger knows (operators)", p.ledgerShow(), p.ledgerSerials(), p.ledgerEpochs(), p.ledgerArchive(), p.ledgerRestore(), p.ledgerVerify(), p.ledgerProve(), p.ledgerCheckpoint(), p.ledgerAcceptGap()))
}

// ledgerShow is `segl ledger show`.
func (p *program) ledgerShow() *cobra.Command {
	var scope, what, actor, serial, since string
	var limit int
	c := p.prints(&cobra.Command{
		Use: "show", Short: "Show the facts: who did what, allowed or refused, and why", Args: exactly(),
		Long:    "Shows facts in the order they became known, the oldest first.",
		Example: "  segl ledger show --since 1h\n  segl ledger show --scope demo --what certificate.revoke -o csv",
		RunE: func(c *cobra.Command, _ []string) error {
			from, err := p.since(since)
			if err != nil {
				return err
			}
			q := url.Values{}
			for name, v := range map[string]string{"scope": scope, "what": what, "actor": actor, "serial": serial, "since": from} {
				if v != "" {
					q.Set(name, v)
				}
			}
			if _, err := identity.ParseScope(scope); scope != "" && err != nil {
				return misuse("%w", err)
			}
			if limit < 0 {
				return misuse("--limit %d: want a number above zero", limit)
			}
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			facts := client.List[api.Fact](c.Context(), remote, client.Listing{Path: "/v1/facts", Member: "facts", Query: q, Limit: limit})
			return output.List(p.out, p.form, facts, factView)
		},
	})
	f := c.Flags()
	f.StringVar(&scope, "scope", "", "only those of `SCOPE` and below")
	f.StringVar(&what, "what", "", "only those of `KIND`, such as certificate.issue")
	f.StringVar(&actor, "actor", "", "only what `WHO` did, such as a SPIFFE ID")
	f.StringVar(&serial, "serial", "", "only those about the certificate `SERIAL`")
	f.StringVar(&since, "since", "", "only those since `WHEN`: a time ago, such as 1h or 7d, or an instant (RFC 3339)")
	f.IntVar(&limit, "limit", 0, "show `NUMBER` at most (default: all)")
	return c
}

// since reads an instant, or how long ago it was.
func (p *program) since(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	var ago duration
	if err := ago.Set(s); err == nil {
		return stamp(p.now().Add(-time.Duration(ago))), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "", misuse("--since %q: want a time ago such as 1h or 7d, or an instant such as 2026-01-02T15:04:05Z", s)
	}
	return stamp(t), nil
}

var factView = output.View[api.Fact]{
	Name: func(f api.Fact) string { return f.ID },
	Columns: []output.Column[api.Fact]{
		{Head: "AT", Cell: func(f api.Fact) string { return stamp(f.At.Time) }},
		{Head: "WHAT", Cell: func(f api.Fact) string { return f.What }},
		{Head: "ALLOWED", Cell: func(f api.Fact) string { return fmt.Sprint(f.Allowed) }},
		{Head: "ACTOR", Cell: func(f api.Fact) string { return f.Actor }},
		{Head: "SCOPE", Cell: func(f api.Fact) string { return f.Scope }},
		{Head: "SERIAL", Cell: func(f api.Fact) string { return f.Serial }},
		{Head: "SUBJECT", Cell: func(f api.Fact) string { return f.Subject }},
		{Head: "WHY", Cell: func(f api.Fact) string { return f.Why }},
	},
}

// ledgerSerials is `segl ledger serials`.
func (p *program) ledgerSerials() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "serials", Short: "List every serial the ledger knows, one a line", Args: exactly(),
		Long: `Lists every serial that was ever intended, in the order of their making: certificates,
those revoked, intents that are still open, and intents that were abandoned. Other
forms than a table say which is which.`,
		RunE: func(c *cobra.Command, _ []string) error {
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			if p.form == output.Table {
				p.form = output.Name
			}
			return output.List(p.out, p.form, client.List[api.Known](c.Context(), remote, client.Listing{Path: "/v1/serials", Member: "serials"}), knownView)
		},
	})
}

var knownView = output.View[api.Known]{
	Name: func(k api.Known) string { return k.Serial },
	Columns: []output.Column[api.Known]{
		{Head: "SERIAL", Cell: func(k api.Known) string { return k.Serial }},
		{Head: "STATE", Cell: func(k api.Known) string { return k.State }},
	},
}
