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
	return p.connects(group("ledger", "Read what the ledger knows (operators)", p.ledgerShow(), p.ledgerFollow(), p.ledgerSerials(), p.ledgerEpochs(), p.ledgerArchive(), p.ledgerRestore(), p.ledgerVerify(), p.ledgerProve(), p.ledgerCheckpoint(), p.ledgerAcceptGap()))
}

// A selection is which facts are asked for.
type selection struct {
	scope, what, actor, serial, since string
	refused                           bool
}

func (s *selection) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.scope, "scope", "", "only those of `SCOPE` and below (needed by who is no operator)")
	f.StringVar(&s.what, "what", "", "only those of `KIND`, such as certificate.issue")
	f.StringVar(&s.actor, "actor", "", "only what `WHO` did, such as a SPIFFE ID")
	f.StringVar(&s.serial, "serial", "", "only those about the certificate `SERIAL`")
	f.StringVar(&s.since, "since", "", "only those since `WHEN`: a time ago, such as 1h or 7d, or an instant (RFC 3339)")
	f.BoolVar(&s.refused, "refused", false, "only what was refused")
}

// selected says whom to ask, where the facts of s are, and what to ask.
func (p *program) selected(s selection) (who party, base string, q url.Values, err error) {
	q = url.Values{}
	from, err := p.instantOf("--since", s.since)
	if err != nil {
		return "", "", nil, err
	}
	for name, v := range map[string]string{"what": s.what, "actor": s.actor, "serial": s.serial, "since": from} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if s.refused {
		q.Set("refused", "true")
	}
	if p.remote.as != workload && (p.remote.as == operator || p.anybody() == operator || p.identityFiles(operator).Chain != "") {
		if s.scope != "" {
			if _, err := identity.ParseScope(s.scope); err != nil {
				return "", "", nil, misuse("%w", err)
			}
			q.Set("scope", s.scope)
		}
		return operator, "/v1", q, nil
	}
	scope, err := p.scope(s.scope)
	return workload, pathOf(scope), q, err
}

// ledgerShow is `segl ledger show`.
func (p *program) ledgerShow() *cobra.Command {
	var s selection
	var until string
	var limit int
	var oldest, onward bool
	c := p.prints(&cobra.Command{
		Use: "show", Short: "Show the facts: who did what, allowed or refused, and why", Args: exactly(),
		Long: `Shows facts, the newest first. With --oldest it shows them in the order they became known,
and with --follow it then goes on with what happens, until interrupted.`,
		Example: "  segl ledger show --limit 20\n  segl ledger show --scope demo --what certificate.revoke -o csv\n  segl ledger show --since 1h --follow",
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case limit < 0:
				return misuse("--limit %d: want a number above zero", limit)
			case onward && (limit > 0 || until != ""):
				return misuse("--follow excludes --limit and --until").hinted("say with --since where to begin")
			case onward:
				return p.followFacts(c.Context(), s, "", 0)
			}
			who, base, q, err := p.selected(s)
			if err != nil {
				return err
			}
			to, err := p.instantOf("--until", until)
			if err != nil {
				return err
			}
			if to != "" {
				q.Set("until", to)
			}
			if !oldest {
				q.Set("order", "newest")
			}
			remote, err := p.dial(who)
			if err != nil {
				return err
			}
			defer remote.Close()
			facts := client.List[api.Fact](c.Context(), remote, client.Listing{Path: base + "/facts", Member: "facts", Query: q, Limit: limit})
			return output.List(p.out, p.form, facts, factView)
		},
	})
	s.flags(c)
	f := c.Flags()
	f.StringVar(&until, "until", "", "only those before `WHEN`")
	f.BoolVar(&oldest, "oldest", false, "the oldest first")
	f.BoolVarP(&onward, "follow", "f", false, "go on with what happens, the oldest first")
	f.IntVar(&limit, "limit", 0, "show `NUMBER` at most (default: all)")
	return c
}

// instantOf reads an instant, or how long ago it was, from a flag.
func (p *program) instantOf(flag, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	var ago duration
	if err := ago.Set(s); err == nil {
		return stamp(p.now().Add(-time.Duration(ago))), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "", misuse("%s %q: want a time ago such as 1h or 7d, or an instant such as 2026-01-02T15:04:05Z", flag, s)
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
