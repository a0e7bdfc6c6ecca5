package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/internal/web"
)

// choiceFlags choose certificates by what they are. No environment variable fills one in: what is not given chooses all.
type choiceFlags struct {
	authority, profile, scope, name, key, after, before string
}

func (c *choiceFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.authority, "authority", "", "choose what authority `NAME` signed")
	f.StringVar(&c.profile, "profile", "", "choose those of profile `NAME`")
	f.StringVar(&c.scope, "scope", "", "choose those of `SCOPE` and everything below it")
	f.StringVar(&c.name, "name", "", "choose those with `NAME`, as dns:a.test; .a.test is every DNS name below a.test")
	f.StringVar(&c.key, "key", "", "choose those with the key whose SubjectPublicKeyInfo has this `SHA256`, in hex")
	f.StringVar(&c.after, "issued-after", "", "choose those issued at `TIME` (RFC 3339) or later")
	f.StringVar(&c.before, "issued-before", "", "choose those issued before `TIME` (RFC 3339)")
}

// given reports whether anything is chosen by.
func (c *choiceFlags) given() bool { return *c != choiceFlags{} }

// chosen is c as the API takes it.
func (c *choiceFlags) chosen() (api.IncidentChoice, error) {
	out := api.IncidentChoice{Authority: c.authority, Profile: c.profile, Scope: c.scope, Name: c.name, Key: strings.ToLower(c.key)}
	if !c.given() {
		return out, misuse("nothing is chosen").hinted("give --authority, --profile, --scope, --name, --key, --issued-after or --issued-before")
	}
	if out.Name != "" && !strings.HasPrefix(out.Name, ".") && !strings.Contains(out.Name, ":") {
		out.Name = "dns:" + out.Name
	}
	for flag, at := range map[string]struct {
		text string
		into *web.Time
	}{"--issued-after": {c.after, &out.IssuedAfter}, "--issued-before": {c.before, &out.IssuedBefore}} {
		if at.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, at.text)
		if err != nil {
			return out, misuse("%s %q: want a time such as 2026-05-04T06:00:00Z", flag, at.text)
		}
		at.into.Time = t
	}
	return out, nil
}

// saidOf spells a choice for people.
func saidOf(c api.IncidentChoice) string {
	var said []string
	for _, v := range [][2]string{{"authority", c.Authority}, {"profile", c.Profile}, {"scope", c.Scope}, {"name", c.Name}, {"key", c.Key}} {
		if v[1] != "" {
			said = append(said, v[0]+" "+v[1])
		}
	}
	if !c.IssuedAfter.IsZero() {
		said = append(said, "issued from "+stamp(c.IssuedAfter.Time))
	}
	if !c.IssuedBefore.IsZero() {
		said = append(said, "issued before "+stamp(c.IssuedBefore.Time))
	}
	return strings.Join(said, "\n")
}

// counted says how many certificates, and whether there are more.
func counted(t api.Tally) string {
	if !t.Complete {
		return fmt.Sprintf("more than %d", t.Chosen)
	}
	return fmt.Sprint(t.Chosen)
}
