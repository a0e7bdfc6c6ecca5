package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// profile is `segl profile`.
func (p *program) profile() *cobra.Command {
	return p.connects(group("profile", "See and change what certificates may be (operators)", p.profileList(), p.profileShow(), p.profileSet()))
}

// placed returns the scope that a command about profiles means: the platform unless one is given.
func (p *program) placed(scope string) (identity.Scope, error) {
	if scope == "" {
		return identity.Platform, nil
	}
	return p.scope(scope)
}

func (p *program) profileList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the profiles as they hold for the platform, or in a scope", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.placed(scope)
			if err != nil {
				return err
			}
			var out api.ProfileList
			if err := p.asked(c.Context(), client.Request{Method: http.MethodGet, Path: pathOf(s) + "/profiles"}, &out); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(out.Profiles), profileView)
		},
	})
	c.Flags().StringVar(&scope, "scope", "", "as they hold in `SCOPE` (default: the platform)")
	return c
}

func (p *program) profileShow() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "show NAME", Short: "Show one profile as it holds, and, with -o yaml, what is declared there", Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.placed(scope)
			if err != nil {
				return err
			}
			var out api.Profile
			if err := p.asked(c.Context(), client.Request{Method: http.MethodGet, Path: profilePath(s, args[0])}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, profileView)
		},
	})
	c.Flags().StringVar(&scope, "scope", "", "as it holds in `SCOPE` (default: the platform)")
	return c
}

func profilePath(s identity.Scope, name string) string {
	return pathOf(s) + "/profiles/" + url.PathEscape(name)
}

func (p *program) profileSet() *cobra.Command {
	var scope, file string
	c := p.changes(p.prints(&cobra.Command{
		Use: "set NAME [--file FILE | --FLAG …]", Short: "Declare a profile, or change what is declared of it", Args: exactly("NAME"),
		Long: `Declares a profile from the next certificate on, in place of what the scope declared: with
--file all that FILE says (YAML or JSON), otherwise what is declared now with the flags
given in its place. Below the platform a scope narrows: life, max-life, keys, must-staple
and withdrawn. Every kind of certificate that the profile allows is linted before it is
taken. With --dry-run the server says which live certificates would not be renewed, and
changes nothing.`,
		Example: `  segl profile set server --max-life 45d --dry-run
  segl profile set server --max-life 14d --life 7d --scope demo`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.placed(scope)
			if err != nil {
				return err
			}
			if err := ca.CheckProfileName(args[0]); err != nil {
				return misuse("%w", err)
			}
			body, err := p.declaring(c, s, args[0], file)
			if err != nil {
				return err
			}
			if p.plan {
				return p.profileImpact(c, profilePath(s, args[0]), body)
			}
			var out api.Profile
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPut, Path: profilePath(s, args[0]), Body: body}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, profileView)
		},
	}))
	f := c.Flags()
	f.StringVar(&scope, "scope", "", "declare it in `SCOPE` (default: the platform)")
	f.StringVar(&file, "file", "", "declare what `FILE` says, YAML or JSON; - is stdin")
	for name, about := range map[string]string{
		"summary": "say `TEXT` of it to people", "purpose": "have the authorities for `PURPOSE` sign it: servers, workloads or databases",
		"life": "certificates live `DURATION` where none is asked for", "max-life": "certificates live at most `DURATION`",
		"hosts": "host names are `refused`, allowed or required", "identity": "a SPIFFE ID is `refused`, allowed or required",
	} {
		f.String(name, "", about)
	}
	f.StringSlice("usage", nil, "extended key usage: `USAGES` server, client or both")
	f.StringSlice("keys", nil, "take keys of `KINDS`: p256, p384, ed25519, rsa2048, rsa3072, rsa4096, RSA meaning that size and above")
	f.StringSlice("addresses", nil, "certificates say where to ask: `ADDRESSES` crl, ocsp, issuers")
	f.Bool("role", false, "the common name is a database role")
	f.Bool("no-rev-avail", false, "certificates say that nobody tells of their end (RFC 9608)")
	f.Bool("must-staple", false, "certificates say that their server staples its status (RFC 7633)")
	f.Bool("withdrawn", false, "issue nothing more by it")
	return c
}

// declaring returns what is to be declared: a file, or what is declared now, with the flags given.
func (p *program) declaring(c *cobra.Command, s identity.Scope, name, file string) (map[string]any, error) {
	body := map[string]any{}
	f := c.Flags()
	for _, flag := range specFlags {
		if !f.Changed(flag) {
			continue
		}
		var v any
		var err error
		switch f.Lookup(flag).Value.Type() {
		case "bool":
			v, err = f.GetBool(flag)
		case "stringSlice":
			v, err = f.GetStringSlice(flag)
		default:
			v, err = f.GetString(flag)
		}
		if err != nil {
			return nil, misuse("--%s: %w", flag, err)
		}
		body[strings.ReplaceAll(flag, "-", "_")] = v
	}
	given := len(body)
	switch {
	case file != "" && given > 0:
		return nil, misuse("--file says all of it").hinted("leave the other flags out")
	case file != "":
		return p.specFile(file)
	case given == 0:
		return nil, misuse("nothing is to be changed").hinted("give --file, or what is to be otherwise")
	}
	var had api.Profile
	err := p.asked(c.Context(), client.Request{Method: http.MethodGet, Path: profilePath(s, name)}, &had)
	var fails *failure
	if err != nil && !(errors.As(err, &fails) && fails.code == exitNotFound) {
		return nil, err
	}
	body["after"] = 0
	if had.Declared != nil {
		body["after"] = had.Declared.Revision
		was := map[string]any{}
		if err := again(had.Declared.ProfileSpec, &was); err != nil {
			return nil, err
		}
		for k, v := range was {
			if _, over := body[k]; !over {
				body[k] = v
			}
		}
	}
	return body, nil
}

// specFlags are the flags that say something of the profile.
var specFlags = []string{
	"summary", "purpose", "life", "max-life", "hosts", "identity", "role", "usage", "keys", "no-rev-avail", "must-staple", "addresses", "withdrawn",
}

const maxSpecFile = 64 << 10

func (p *program) specFile(path string) (map[string]any, error) {
	in := p.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the profile: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSpecFile))
	if err != nil {
		return nil, fmt.Errorf("reading the profile: %w", err)
	}
	body := map[string]any{}
	if err := yaml.Unmarshal(text, &body); err != nil {
		return nil, misuse("%s: %w", path, err)
	}
	return body, nil
}

// again has v as JSON would read it into out.
func again(v, out any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding what is declared: %w", err)
	}
	return json.Unmarshal(text, out)
}

// profileImpact asks what a change would do.
func (p *program) profileImpact(c *cobra.Command, path string, body map[string]any) error {
	var out api.ProfileImpact
	if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: path + ":preview", Body: body}, &out); err != nil {
		return err
	}
	if p.form != output.Table {
		return output.One(p.out, p.form, out, output.View[api.ProfileImpact]{Name: func(v api.ProfileImpact) string { return fmt.Sprint(v.Refused) }})
	}
	whole := ""
	if !out.Complete {
		whole = ", and there are more than could be looked at"
	}
	p.note("of %d live certificates %d would not be renewed and %d would be renewed for a shorter life%s", out.Live, out.Refused, out.Shorter, whole)
	return output.List(p.out, p.form, each(out.First), output.View[api.AffectedCertificate]{
		Name: func(v api.AffectedCertificate) string { return v.Serial },
		Columns: []output.Column[api.AffectedCertificate]{
			{Head: "SERIAL", Cell: func(v api.AffectedCertificate) string { return v.Serial }},
			{Head: "SCOPE", Cell: func(v api.AffectedCertificate) string { return v.Scope }},
			{Head: "NAMES", Cell: func(v api.AffectedCertificate) string { return strings.Join(v.Names, "\n") }},
			{Head: "EXPIRES", Cell: func(v api.AffectedCertificate) string { return stamp(v.NotAfter.Time) }},
			{Head: "RULE", Cell: func(v api.AffectedCertificate) string { return v.Rule }},
		},
	})
}

var profileView = output.View[api.Profile]{
	Name: func(v api.Profile) string { return v.Name },
	Columns: []output.Column[api.Profile]{
		{Head: "NAME", Cell: func(v api.Profile) string { return v.Name }},
		{Head: "REVISION", Cell: func(v api.Profile) string { return fmt.Sprint(v.Revision) }},
		{Head: "PURPOSE", Cell: func(v api.Profile) string { return v.Purpose }},
		{Head: "LIFE", Cell: func(v api.Profile) string { return inDays(v.Life) }},
		{Head: "AT MOST", Cell: func(v api.Profile) string { return inDays(v.MaxLife) }},
		{Head: "HOSTS", Cell: func(v api.Profile) string { return v.Hosts }},
		{Head: "IDENTITY", Cell: func(v api.Profile) string { return v.Identity }},
		{Head: "USAGE", Cell: func(v api.Profile) string { return strings.Join(v.Usage, ",") }},
		{Head: "KEYS", Cell: func(v api.Profile) string { return strings.Join(v.Keys, ",") }},
		{Head: "STATUS", Cell: statusOf},
	},
}

// statusOf is how a certificate's end is told.
func statusOf(v api.Profile) string {
	words := append([]string{}, v.Addresses...)
	if v.NoRevAvail {
		words = append(words, "noRevAvail")
	}
	if v.MustStaple {
		words = append(words, "mustStaple")
	}
	if v.Withdrawn {
		words = append(words, "withdrawn")
	}
	return strings.Join(words, ",")
}

func inDays(d web.Duration) string {
	text, err := ca.Span(d).MarshalText()
	if err != nil {
		return ""
	}
	return string(text)
}
