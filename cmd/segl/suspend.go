package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/internal/tenancy/api"
)

// scopeSuspend is `segl tenant suspend`, and the same of projects and environments.
func (p *program) scopeSuspend(l level) *cobra.Command {
	return p.suspension(l, "suspend", "Stop issuing in a "+l.name+" and below it", `Nothing is issued or renewed in the `+l.name+` and below it, at any door, ACME's among
them, from the moment the command returns. What was issued stays valid and its status is
served; renewal windows move to now. At a terminal it asks for confirmation; elsewhere it
does not.`)
}

// scopeResume is `segl tenant resume`, and the same of projects and environments.
func (p *program) scopeResume(l level) *cobra.Command {
	return p.suspension(l, "resume", "Issue again in a "+l.name+" that was suspended", `Ends a suspension. A scope above that is suspended still stops it.`)
}

func (p *program) suspension(l level, verb, short, long string) *cobra.Command {
	var why string
	var yes bool
	c := p.changes(p.prints(&cobra.Command{
		Use: verb + " " + l.form, Short: short, Args: exactly(l.form), Long: long,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := l.parse(args[0])
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: verb + " " + l.name, Subject: s.String()})
			}
			if verb == "suspend" && !yes && p.interactive() {
				if err := p.confirmed("This stops issuing and renewing in "+s.String()+" and everything below it.", s.String()); err != nil {
					return err
				}
			}
			return p.scopeDo(c.Context(), client.Request{Method: http.MethodPost, Path: pathOf(s) + ":" + verb, Body: map[string]string{"why": why}})
		},
	}))
	c.Flags().StringVar(&why, "why", "", "write down `REASON`")
	if verb == "suspend" {
		c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	}
	return c
}

// standing says whether anything is issued in a scope.
func standing(s api.Scope) string {
	switch s.SuspendedBy {
	case "":
		return "active"
	case s.Scope:
		return "suspended " + stamp(s.SuspendedAt.Time)
	}
	return "suspended with " + s.SuspendedBy
}
