package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/audit"
)

// follow hands the facts that q chooses to take, as they become known, until interrupted, which is no failure. opened is
// called once nothing that happens from then on is missed.
func follow(ctx context.Context, remote *client.Client, path string, q url.Values, opened func() error, take func(api.Fact) error) error {
	ready := false
	err := remote.Follow(ctx, client.Request{Method: http.MethodGet, Path: path, Query: q}, func(e client.Event) error {
		if !ready { // the first event says from where on the stream goes
			ready = true
			if err := opened(); err != nil {
				return err
			}
		}
		if e.Name != "fact" {
			return nil
		}
		var f api.Fact
		if err := json.Unmarshal(e.Data, &f); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		return take(f)
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// watch lists certificates and then tells of each that is issued, renewed or revoked.
func (p *program) watch(ctx context.Context, remote *client.Client, base string, q url.Values, l listing) error {
	show := output.Follow(p.out, p.form, p.listView())
	list := func() error {
		for c, err := range p.certificates(ctx, remote, client.Listing{Path: base + "/certificates", Member: "certificates", Query: q}) {
			if err != nil {
				return err
			}
			if err := show(c); err != nil {
				return err
			}
		}
		return nil
	}
	return follow(ctx, remote, base+"/facts:follow", nil, list, func(f api.Fact) error {
		if !f.Allowed || f.Serial == "" || !slices.Contains([]string{audit.Issue, audit.Renew, audit.Revoke}, f.What) {
			return nil
		}
		if l.requester != "" && f.What != audit.Revoke && f.Actor != l.requester {
			return nil
		}
		var found api.Certificate
		err := remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/certificates/" + f.Serial}, &found)
		if client.Named(err, "not-found") { // its epoch has been dropped meanwhile
			return nil
		}
		if err != nil || !p.chosen(q, found.Summary) {
			return err
		}
		return show(listed{found.Summary, p.status(found.Summary)})
	})
}

// chosen reports whether the server would list a certificate for q. Its key and who asked for it a summary does not tell:
// of those, what has changed is shown.
func (p *program) chosen(q url.Values, s api.Summary) bool {
	is := func(name, v string) bool { return q.Get(name) == "" || q.Get(name) == v }
	return is("profile", s.Profile) && is("authority", s.Authority) && is("identity", s.Identity) &&
		(q.Get("name") == "" || slices.Contains(s.Names, q.Get("name"))) &&
		(q.Get("revoked") == "" || s.Revoked != nil)
}

// listRefused lists what was refused, and goes on with what is.
func (p *program) listRefused(ctx context.Context, remote *client.Client, base string, l listing) error {
	q := url.Values{}
	if l.requester != "" {
		q.Set("actor", l.requester)
	}
	refusals := client.Listing{Path: base + "/refusals", Member: "facts", Query: q, Limit: l.limit}
	if !l.watch {
		return output.List(p.out, p.form, client.List[api.Fact](ctx, remote, refusals), factView)
	}
	show := output.Follow(p.out, p.form, factView)
	old := func() error {
		for f, err := range client.List[api.Fact](ctx, remote, refusals) {
			if err != nil {
				return err
			}
			if err := show(f); err != nil {
				return err
			}
		}
		return nil
	}
	only := url.Values{"refused": {"true"}}
	if l.requester != "" {
		only.Set("actor", l.requester)
	}
	return follow(ctx, remote, base+"/facts:follow", only, old, show)
}

// ledgerFollow is `segl ledger follow`.
func (p *program) ledgerFollow() *cobra.Command {
	var s selection
	var after string
	var limit int
	c := p.prints(&cobra.Command{
		Use: "follow", Short: "Show facts as they become known, until interrupted", Args: exactly(),
		Long: `Shows facts as they become known. A connection that breaks is made again and goes on where
it was: no fact is missed, none is shown twice. The name of a fact (-o name) says where to
go on another time, with --after.`,
		Example: "  segl ledger follow --what certificate.revoke\n  segl ledger follow --since 1h --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if after != "" && s.since != "" {
				return misuse("--after and --since exclude each other").hinted("leave one out")
			}
			if limit < 0 {
				return misuse("--limit %d: want a number above zero", limit)
			}
			return p.followFacts(c.Context(), s, after, limit)
		},
	})
	s.flags(c)
	c.Flags().StringVar(&after, "after", "", "go on after the fact `ID` (default: begin now)")
	c.Flags().IntVar(&limit, "limit", 0, "end after `NUMBER` (default: go on)")
	return c
}

// errEnough ends following where as much has been shown as was asked for.
var errEnough = errors.New("enough was shown")

func (p *program) followFacts(ctx context.Context, s selection, after string, limit int) error {
	who, base, q, err := p.selected(s)
	if err != nil {
		return err
	}
	if after != "" {
		q.Set("after", after)
	}
	remote, err := p.dial(who)
	if err != nil {
		return err
	}
	defer remote.Close()
	show, shown := output.Follow(p.out, p.form, factView), 0
	err = follow(ctx, remote, base+"/facts:follow", q, func() error { return nil }, func(f api.Fact) error {
		if err := show(f); err != nil {
			return err
		}
		if shown++; shown == limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// why is `segl why`.
func (p *program) why() *cobra.Command {
	c := p.prints(&cobra.Command{
		Use: "why REFERENCE", Short: "Explain a refusal", Args: exactly("REFERENCE"),
		Long: `Shows what a request was refused, by whom it was made and which rule refused it. The
reference is the instance of the problem that told of the refusal, the request's id in a
log, or the id of a fact.`,
		Example: "  segl why urn:segl:request:3CQ7ZQ2NQK6FXN4BWHZ1Q6Q7AV",
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := p.dial(p.anybody())
			if err != nil {
				return err
			}
			defer remote.Close()
			ctx, cancel := p.within(c.Context())
			defer cancel()
			var found api.Explanation
			reference := strings.TrimPrefix(args[0], "urn:segl:request:")
			err = remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/refusals/" + url.PathEscape(reference)}, &found)
			if err != nil {
				return p.suggestOperator(err)
			}
			view := factView
			view.Details = refusalDetails
			if len(found.Refusals) == 1 {
				return output.One(p.out, p.form, found.Refusals[0], view)
			}
			return output.List(p.out, p.form, func(yield func(api.Fact, error) bool) {
				for _, f := range found.Refusals {
					if !yield(f, nil) {
						return
					}
				}
			}, view)
		},
	})
	return p.connects(c)
}

var refusalDetails = []output.Column[api.Fact]{
	{Head: "refused", Cell: func(f api.Fact) string { return f.What }},
	{Head: "rule", Cell: func(f api.Fact) string { return f.Why }},
	{Head: "subject", Cell: func(f api.Fact) string { return f.Subject }},
	{Head: "actor", Cell: func(f api.Fact) string { return f.Actor }},
	{Head: "scope", Cell: func(f api.Fact) string { return f.Scope }},
	{Head: "serial", Cell: func(f api.Fact) string { return f.Serial }},
	{Head: "at", Cell: func(f api.Fact) string { return stamp(f.At.Time) }},
	{Head: "request", Cell: func(f api.Fact) string { return f.Request }},
	{Head: "fact", Cell: func(f api.Fact) string { return f.ID }},
}
