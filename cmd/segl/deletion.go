package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/tenancy/api"
)

// tenantDelete is `segl tenant delete`.
func (p *program) tenantDelete() *cobra.Command {
	var why string
	var yes bool
	c := p.changes(p.prints(&cobra.Command{
		Use: "delete TENANT", Short: "Delete a tenant and everything it has", Args: exactly("TENANT"),
		Long: `Stops the tenant at once, revokes its certificates, ends its accounts, keys, roles, methods of enrolment
and credentials, and then sets its name free; it waits until that is done and prints what was
ended, as the ledger has it. Whoever is made under that name later, a day after at the
earliest, gets nothing of it. With --dry-run it prints how much there is. At a terminal it asks for
confirmation; elsewhere it does not.`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := levels[0].parse(args[0])
			if err != nil {
				return err
			}
			var out api.Deletion
			path := pathOf(s)
			ask := client.Request{Method: http.MethodPost, Path: path + ":previewDeletion", Body: map[string]any{}}
			if err := p.asked(c.Context(), ask, &out); err != nil {
				return err
			}
			if p.plan {
				return output.One(p.out, p.form, out, deletionView)
			}
			if !yes && p.interactive() {
				what := fmt.Sprintf("This deletes %s: %d scopes, %d certificates, %d accounts, for ever.", s, out.Scopes, out.Certificates, out.Accounts)
				if err := p.confirmed(what, s.String()); err != nil {
					return err
				}
			}
			ask = client.Request{Method: http.MethodPost, Path: path + ":delete", Body: map[string]any{"why": why}, Idempotent: true}
			if err := p.asked(c.Context(), ask, &out); err != nil {
				return err
			}
			return p.awaitDeletion(c.Context(), out)
		},
	}))
	c.Flags().StringVar(&why, "why", "", "say `WHY`, for the record")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

// deletionPoll is how often a deletion is looked at, and deletionFor how long.
const (
	deletionPoll = time.Second
	deletionFor  = 10 * time.Minute
)

func (p *program) awaitDeletion(ctx context.Context, out api.Deletion) error {
	path, end := fmt.Sprintf("/v1/deletions/%d", out.ID), time.After(deletionFor)
	poll := time.NewTicker(deletionPoll)
	defer poll.Stop()
	for out.State != "deleted" {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return output.One(p.out, p.form, out, deletionView)
		case <-poll.C:
		}
		if err := p.asked(ctx, client.Request{Method: http.MethodGet, Path: path}, &out); err != nil {
			return err
		}
	}
	return output.One(p.out, p.form, out, deletionView)
}

var deletionView = output.View[api.Deletion]{
	Name: func(d api.Deletion) string { return d.Tenant },
	Columns: []output.Column[api.Deletion]{
		{Head: "TENANT", Cell: func(d api.Deletion) string { return d.Tenant }},
		{Head: "STATE", Cell: func(d api.Deletion) string { return d.State }},
		{Head: "SCOPES", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Scopes) }},
		{Head: "CERTIFICATES", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Certificates) }},
		{Head: "ACCOUNTS", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Accounts) }},
		{Head: "KEYS", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Keys) }},
		{Head: "ROLES", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Roles) }},
		{Head: "METHODS", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Methods) }},
		{Head: "TARGETS", Cell: func(d api.Deletion) string { return fmt.Sprint(d.Targets) }},
		{Head: "GONE", Cell: func(d api.Deletion) string { return d.Gone }},
	},
}
