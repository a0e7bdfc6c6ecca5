package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/access/api"
)

// access is `segl access`.
func (p *program) access() *cobra.Command {
	return p.connects(group("access", "Give roles, take them away, and see who has which (operators)", p.accessGrant(), p.accessRevoke(), p.accessList()))
}

// A subject says whom a role is for.
type subject struct{ identity, issuer, claim string }

func (s *subject) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.identity, "identity", "", "whoever has SPIFFE `ID`; its last part may be * for any there, or ** for any there and below")
	f.StringVar(&s.claim, "claim", "", "whoever has `NAME=VALUE` among the claims of an access token")
	f.StringVar(&s.issuer, "issuer", "", "who makes that claim, by its `URL`")
	c.MarkFlagsMutuallyExclusive("identity", "claim")
	c.MarkFlagsRequiredTogether("claim", "issuer")
}

func (s *subject) body(into map[string]any) error {
	if s.identity != "" {
		into["identity"] = s.identity
	}
	if s.claim == "" {
		return nil
	}
	name, value, ok := strings.Cut(s.claim, "=")
	if !ok || name == "" || value == "" {
		return misuse("--claim %q: want NAME=VALUE", s.claim)
	}
	into["claim"], into["value"], into["issuer"] = name, value, s.issuer
	return nil
}

func (p *program) accessGrant() *cobra.Command {
	var who subject
	var scope string
	c := p.changes(p.prints(&cobra.Command{
		Use: "grant ROLE", Short: "Bind a role to an identity or a claim, at a scope and below it", Args: exactly("ROLE"),
		Long: `Roles are reader, issuer, revoker, auditor and admin. At platform a role holds everywhere. Where two
operators have to agree, a role of the platform waits until a second one has confirmed it.`,
		Example: "  segl access grant issuer --scope demo/shop --identity spiffe://segl.test/tenant/demo/ci\n" +
			"  segl access grant auditor --scope platform --claim groups=audit --issuer https://login.test",
		RunE: func(c *cobra.Command, args []string) error {
			role, err := access.ParseRole(args[0])
			if err != nil {
				return misuse("%w", err)
			}
			at, err := p.scope(scope)
			if err != nil {
				return err
			}
			body := map[string]any{"role": string(role), "scope": at.String()}
			if err := who.body(body); err != nil {
				return err
			}
			if who.identity+who.claim == "" {
				return misuse("a role for whom").hinted("give --identity, or --claim and --issuer")
			}
			if p.plan {
				return p.show(plan{Do: "grant " + string(role) + " to " + who.identity + who.claim, Subject: at.String()})
			}
			var out api.RoleBinding
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/bindings", Body: body}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, roleView)
		},
	}))
	who.register(c)
	scopeFlag(c, &scope)
	return c
}

func (p *program) accessRevoke() *cobra.Command {
	var why string
	c := p.changes(p.prints(&cobra.Command{
		Use: "revoke NUMBER", Short: "Take a role away", Args: exactly("NUMBER"),
		Long: "Ends the binding of that number, as list shows it. It no longer counts from the next request on.",
		RunE: func(c *cobra.Command, args []string) error {
			id, err := numbered(args[0])
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "take away a role", Subject: "binding " + id})
			}
			var out api.RoleBinding
			ask := client.Request{Method: http.MethodPost, Path: "/v1/bindings/" + id + ":end", Body: map[string]any{"why": why}}
			if err := p.asked(c.Context(), ask, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, roleView)
		},
	}))
	c.Flags().StringVar(&why, "why", "", "say `WHY`, for the record")
	return c
}

// numbered reads what a list calls its items.
func numbered(s string) (string, error) {
	if n, err := strconv.ParseInt(s, 10, 32); err != nil || n < 1 {
		return "", misuse("%q: want a number, as the list shows it", s)
	}
	return s, nil
}

func (p *program) accessList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List who was given which role, in a scope and below it", Args: exactly(),
		Long: "Lists bindings of the scope and those below it, or of everything where none is given.",
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{"page_size": {"1000"}}
			if scope != "" {
				at, err := p.scope(scope)
				if err != nil {
					return err
				}
				query.Set("scope", at.String())
			}
			var all []api.RoleBinding
			for {
				var page api.RoleBindingList
				if err := p.asked(c.Context(), client.Request{Method: http.MethodGet, Path: "/v1/bindings", Query: query}, &page); err != nil {
					return err
				}
				all = append(all, page.Bindings...)
				if page.NextPageToken == nil {
					return output.List(p.out, p.form, each(all), roleView)
				}
				next, err := page.NextPageToken.MarshalText()
				if err != nil {
					return err
				}
				query.Set("page_token", string(next))
			}
		},
	})
	scopeFlag(c, &scope)
	return c
}

func roleSubject(b api.RoleBinding) string {
	return access.Subject{Identity: b.Identity, Issuer: b.Issuer, Claim: b.Claim, Value: b.Value}.String()
}

var roleView = output.View[api.RoleBinding]{
	Name: func(b api.RoleBinding) string { return fmt.Sprint(b.ID) },
	Columns: []output.Column[api.RoleBinding]{
		{Head: "NUMBER", Cell: func(b api.RoleBinding) string { return fmt.Sprint(b.ID) }},
		{Head: "ROLE", Cell: func(b api.RoleBinding) string { return b.Role }},
		{Head: "SCOPE", Cell: func(b api.RoleBinding) string { return b.Scope }},
		{Head: "FOR", Cell: roleSubject},
		{Head: "BY", Cell: func(b api.RoleBinding) string { return b.MadeBy }},
	},
}

// explain is `segl explain`.
func (p *program) explain() *cobra.Command {
	var who subject
	var scope string
	c := p.connects(p.prints(&cobra.Command{
		Use: "explain ACTION", Short: "Say whether somebody may do something in a scope, and which rule decides", Args: exactly("ACTION"),
		Long: `Asks about the caller itself or, for who may read roles there, about an identity or a claim.
Actions are words such as certificate.issue; an unknown one is answered with the list.`,
		Example: "  segl explain certificate.revoke --scope demo/shop --identity spiffe://segl.test/tenant/demo/ci",
		RunE: func(c *cobra.Command, args []string) error {
			at, err := p.scope(scope)
			if err != nil {
				return err
			}
			body := map[string]any{"action": args[0], "scope": at.String()}
			if err := who.body(body); err != nil {
				return err
			}
			var out api.Judgement
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/access:explain", Body: body}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, judgementView)
		},
	}))
	who.register(c)
	scopeFlag(c, &scope)
	return c
}

var judgementView = output.View[api.Judgement]{
	Name: func(e api.Judgement) string { return e.Who },
	Columns: []output.Column[api.Judgement]{
		{Head: "WHO", Cell: func(e api.Judgement) string { return e.Who }},
		{Head: "ACTION", Cell: func(e api.Judgement) string { return e.Action }},
		{Head: "SCOPE", Cell: func(e api.Judgement) string { return e.Scope }},
		{Head: "ALLOWED", Cell: func(e api.Judgement) string { return fmt.Sprint(e.Allowed) }},
		{Head: "RULE", Cell: func(e api.Judgement) string { return e.Rule }},
		{Head: "ROLES", Cell: func(e api.Judgement) string { return strings.Join(e.Roles, "; ") }},
		{Head: "REMEDY", Cell: func(e api.Judgement) string { return e.Remedy }},
	},
}

// approval is `segl approval`.
func (p *program) approval() *cobra.Command {
	return p.connects(group("approval", "See and confirm what needs a second operator (operators)", p.approvalList(), p.approvalDecide("approve"), p.approvalDecide("reject")))
}

func (p *program) approvalList() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "list", Short: "List what waits, or waited, for a second operator; the newest first", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			var out api.ApprovalList
			ask := client.Request{Method: http.MethodGet, Path: "/v1/approvals", Query: url.Values{"page_size": {"100"}}}
			if err := p.asked(c.Context(), ask, &out); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(out.Approvals), approvalView)
		},
	})
}

func (p *program) approvalDecide(verb string) *cobra.Command {
	short, long := "Confirm what another operator asked for", "Whoever asked then asks again, within the time that list shows, and it is done once."
	if verb == "reject" {
		short, long = "Turn down what another operator asked for, or take your own request back", ""
	}
	return p.changes(p.prints(&cobra.Command{
		Use: verb + " NUMBER", Short: short, Long: long, Args: exactly("NUMBER"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := numbered(args[0])
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: verb, Subject: "request " + id})
			}
			return p.decide(c.Context(), id, verb)
		},
	}))
}

func (p *program) decide(ctx context.Context, id, verb string) error {
	var out api.Approval
	if err := p.asked(ctx, client.Request{Method: http.MethodPost, Path: "/v1/approvals/" + id + ":" + verb, Body: map[string]any{}}, &out); err != nil {
		return err
	}
	return output.One(p.out, p.form, out, approvalView)
}

var approvalView = output.View[api.Approval]{
	Name: func(a api.Approval) string { return fmt.Sprint(a.ID) },
	Columns: []output.Column[api.Approval]{
		{Head: "NUMBER", Cell: func(a api.Approval) string { return fmt.Sprint(a.ID) }},
		{Head: "STATE", Cell: func(a api.Approval) string { return a.State }},
		{Head: "KIND", Cell: func(a api.Approval) string { return a.Kind }},
		{Head: "TERMS", Cell: func(a api.Approval) string { return a.Terms }},
		{Head: "BY", Cell: func(a api.Approval) string { return a.AskedBy }},
		{Head: "UNTIL", Cell: func(a api.Approval) string { return a.Expires.UTC().Format("2006-01-02T15:04:05Z") }},
	},
}
