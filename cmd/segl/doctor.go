package main

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/doctor"
	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// doctor is `segl doctor`.
func (p *program) doctor() *cobra.Command {
	var database string
	c := p.connects(p.prints(&cobra.Command{
		Use: "doctor", Short: "Look for what is wrong, and say how to mend it", Args: exactly(),
		Long: `Looks at the root and the identities in use, the listeners, readiness with the database
behind it, the clocks, the revocation lists and OCSP. What is not configured here is
not looked at. Exit code 7 says that something is not well.`,
		RunE: func(c *cobra.Command, _ []string) error { return p.examine(c.Context(), database) },
	}))
	f := c.Flags()
	text(f, &p.remote.publicURL, "public-url", "SEGL_PUBLIC_URL", "find the public listener at `URL`")
	text(f, &p.remote.privateURL, "private-url", "SEGL_PRIVATE_URL", "find the private listener at `URL`, on the server's own machine")
	text(f, &database, "database-url", "SEGL_DATABASE_URL", "ask the database at `URL` directly")
	return c
}

func (p *program) examine(ctx context.Context, database string) error {
	ctx, cancel := p.within(ctx)
	defer cancel()
	findings := doctor.Examine(ctx, doctor.Patient{
		Root: p.or(p.remote.root, "SEGL_ROOT"),
		Identities: []doctor.Identity{
			{Name: string(workload), Files: p.identityFiles(workload)}, {Name: string(operator), Files: p.identityFiles(operator)},
		},
		Listeners: []doctor.Listener{
			{Name: "service", URL: p.or(p.remote.url, "SEGL_URL")}, {Name: "operator", URL: p.or(p.remote.operatorURL, "SEGL_OPERATOR_URL")},
		},
		Public: p.or(p.remote.publicURL, "SEGL_PUBLIC_URL"), Private: p.or(p.remote.privateURL, "SEGL_PRIVATE_URL"),
		Database: p.or(database, "SEGL_DATABASE_URL"), Agent: agent(), Now: p.now,
	})
	if err := output.List(p.out, p.form, sequence(findings), findingView); err != nil {
		return err
	}
	bad := 0
	for _, f := range findings {
		if !f.OK {
			bad++
		}
	}
	switch bad {
	case 0:
		return nil
	case 1:
		return failing(exitFindings, "1 check of %d found something", len(findings))
	}
	return failing(exitFindings, "%d checks of %d found something", bad, len(findings))
}

func sequence[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

var findingView = output.View[doctor.Finding]{
	Name: func(f doctor.Finding) string { return f.Check },
	Columns: []output.Column[doctor.Finding]{
		{Head: "CHECK", Cell: func(f doctor.Finding) string { return f.Check }},
		{Head: "WELL", Cell: func(f doctor.Finding) string { return map[bool]string{true: "yes", false: "NO"}[f.OK] }},
		{Head: "DETAIL", Cell: func(f doctor.Finding) string {
			if f.Fix != "" {
				return f.Detail + "; fix: " + f.Fix
			}
			return f.Detail
		}},
	},
}
