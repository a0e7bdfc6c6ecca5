package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// A finding is one thing that was looked at.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it, where it is not well
}

func well(check, format string, args ...any) finding {
	return finding{Check: check, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func ill(check string, why error, fix string) finding {
	if _, hint := explain(why); fix == "" {
		fix = hint
	}
	return finding{Check: check, Detail: oneLine(why.Error()), Fix: fix}
}

var findingView = output.View[finding]{
	Name: func(f finding) string { return f.Check },
	Columns: []output.Column[finding]{
		{Head: "CHECK", Cell: func(f finding) string { return f.Check }},
		{Head: "WELL", Cell: func(f finding) string { return map[bool]string{true: "yes", false: "NO"}[f.OK] }},
		{Head: "DETAIL", Cell: func(f finding) string {
			if f.Fix != "" {
				return f.Detail + "; fix: " + f.Fix
			}
			return f.Detail
		}},
	},
}

// doctor is `segl doctor`.
func (p *program) doctor() *cobra.Command {
	var x examination
	c := p.connects(p.prints(&cobra.Command{
		Use: "doctor", Short: "Look for what is wrong, and say how to mend it", Args: exactly(),
		Long: `Looks at the root and the identities in use, the listeners, readiness with the database
behind it, the clocks, the revocation lists and OCSP. What is not configured here is
not looked at. Exit code 7 says that something is not well.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := p.within(c.Context())
			defer cancel()
			x.program = p
			findings := x.run(ctx)
			if err := output.List(p.out, p.form, sequence(findings), findingView); err != nil {
				return err
			}
			bad := slices.DeleteFunc(findings, func(f finding) bool { return f.OK })
			if len(bad) == 0 {
				return nil
			}
			return failing(exitFindings, "%s not well", count(len(bad), "check is", "checks are")).hinted("%s", bad[0].Fix)
		},
	}))
	f := c.Flags()
	text(f, &p.remote.publicURL, "public-url", "SEGL_PUBLIC_URL", "find the public listener at `URL`")
	text(f, &p.remote.privateURL, "private-url", "SEGL_PRIVATE_URL", "find the private listener at `URL`, on the server's own machine")
	text(f, &x.database, "database-url", "SEGL_DATABASE_URL", "ask the database at `URL` directly")
	return c
}

func sequence(list []finding) func(func(finding, error) bool) {
	return func(yield func(finding, error) bool) {
		for _, f := range list {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// plainClient returns a client for a listener that speaks plain HTTP, or nil where it is not configured.
func (p *program) plainClient(flag, variable string) (*client.Client, error) {
	base := strings.TrimRight(p.or(flag, variable), "/")
	if base == "" {
		return nil, nil
	}
	return client.New(client.Config{URL: base, UserAgent: "segl/" + release()})
}

// An examination is one run of doctor: what it found so far, and what later checks need of earlier ones.
type examination struct {
	*program
	database string
	trust    trust
	found    []finding
}

func (x *examination) add(f ...finding) { x.found = append(x.found, f...) }

// run makes every check that the configuration allows.
func (x *examination) run(ctx context.Context) []finding {
	x.checkRoot()
	x.checkIdentity(workload)
	x.checkIdentity(operator)
	x.checkListener(ctx, "service", x.or(x.remote.url, "SEGL_URL"))
	x.checkListener(ctx, "operator", x.or(x.remote.operatorURL, "SEGL_OPERATOR_URL"))
	x.checkReadiness(ctx)
	x.checkDatabase(ctx)
	x.checkPublic(ctx)
	if len(x.found) == 0 {
		x.add(ill("configuration", misuse("there is nothing to look at"), "set SEGL_URL, SEGL_ROOT and their like, or give the flags; segl doctor --help lists them"))
	}
	return x.found
}
