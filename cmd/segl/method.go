package main

import (
	"context"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// enrollMethod is `segl enroll method`.
func (p *program) enrollMethod() *cobra.Command {
	return group("method", "Say whose proofs let whom in, beside one-time tokens", p.methodAdd(), p.methodList(), p.methodEnd())
}

// A newMethod is what `segl enroll method add` was asked.
type newMethod struct {
	scope, keys, roots string
	names              []string
	spec               api.MethodSpec
}

func (p *program) methodAdd() *cobra.Command {
	var m newMethod
	c := p.changes(p.prints(&cobra.Command{
		Use: "add NAME --kind KIND --subject SUBJECT", Short: "Let in who proves to be somebody", Args: exactly("NAME"),
		Long: `Makes an enrolment method: a kind of proof, whom it must be about, and who that is here.
A proof is a JWT, good once. oidc believes an OpenID provider, kubernetes a cluster about
a service account (by its issuer, by --keys, or by asking the API server that the
service's configuration calls --cluster), jwk registered keys, x5c certificates below
registered roots. A subject may end in *. Without --workload the workload is called as
the proof's subject, or as the service account.`,
		Example: `  segl enroll method add pods --scope demo/shop/dev --kind kubernetes --issuer https://kubernetes.default.svc --keys jwks.json --subject 'system:serviceaccount:shop:*'
  segl enroll method add ci --scope demo/shop/dev --kind oidc --issuer https://ci.example --subject 'project_path:shop/*' --claim ref_protected=true --workload deployer`,
		RunE: func(c *cobra.Command, args []string) error {
			m.spec.Name = args[0]
			return p.addMethod(c.Context(), m)
		},
	}))
	f := c.Flags()
	scopeFlag(c, &m.scope)
	f.StringVar(&m.spec.Kind, "kind", "", "take proofs of `KIND`: oidc, kubernetes, jwk or x5c")
	choices(c, "kind", "oidc", "kubernetes", "jwk", "x5c")
	f.StringVar(&m.spec.Subject, "subject", "", "let in whom the proof calls `SUBJECT` (sub); it may end in *")
	f.StringVar(&m.spec.Issuer, "issuer", "", "believe proofs from `ISSUER` (iss)")
	f.StringVar(&m.spec.Audience, "audience", "", "want proofs for `AUDIENCE` (aud; default segl:TRUST-DOMAIN:SCOPE:NAME)")
	f.StringToStringVar(&m.spec.Claims, "claim", nil, "want the claim `NAME=VALUE` besides; may be repeated")
	f.StringVar(&m.spec.Workload, "workload", "", "let in as workload `NAME` (default: whom the proof is about)")
	f.StringVar(&m.spec.Profile, "profile", "", "issue for `PROFILE`: workload or client (default workload)")
	f.StringSliceVarP(&m.names, "name", "n", nil, "allow host `NAME` besides; may be repeated")
	f.StringVar(&m.keys, "keys", "", "register the public keys in `FILE`, a JWK set")
	f.StringVar(&m.roots, "roots", "", "register the root certificates in `FILE`, PEM")
	f.StringVar(&m.spec.Cluster, "cluster", "", "ask the API server that the service calls `NAME`")
	return c
}

func (p *program) addMethod(ctx context.Context, m newMethod) error {
	s, err := p.scope(m.scope)
	if err != nil {
		return err
	}
	if m.spec.Kind == "" || m.spec.Subject == "" {
		return misuse("--kind and --subject are needed").hinted("say which proofs are taken, and whom they must be about")
	}
	names, err := parseNames(m.names)
	if err != nil {
		return err
	}
	for _, n := range names {
		m.spec.Names = append(m.spec.Names, n.String())
	}
	for path, into := range map[string]*string{m.keys: &m.spec.Keys, m.roots: &m.spec.Roots} {
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		*into = string(text)
	}
	if p.plan {
		return p.show(plan{Do: "make an enrolment method", Scope: s.String(), Profile: m.spec.Profile, Subject: m.spec.Name + " for " + m.spec.Subject, Names: m.spec.Names})
	}
	var out api.EnrollmentMethod
	err = p.asked(ctx, client.Request{Method: http.MethodPost, Path: pathOf(s) + "/enrollment-methods", Body: m.spec}, &out)
	if err != nil {
		return err
	}
	return output.One(p.out, p.form, out, methodView)
}

func (p *program) methodList() *cobra.Command {
	var scope string
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List the enrolment methods of a scope and below, ended ones too", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			return output.List(p.out, p.form, client.List[api.EnrollmentMethod](c.Context(), remote, client.Listing{Path: pathOf(s) + "/enrollment-methods", Member: "methods"}), methodView)
		},
	})
	scopeFlag(c, &scope)
	return c
}

func (p *program) methodEnd() *cobra.Command {
	var scope string
	c := p.changes(p.prints(&cobra.Command{
		Use: "end NAME", Short: "Let nobody in by a method any more", Args: exactly("NAME"),
		Long: `Ends a method. Who came by it stays: their certificates are revoked by segl cert revoke or
by an incident.`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := p.scope(scope)
			if err != nil {
				return err
			}
			if p.plan {
				return p.show(plan{Do: "end an enrolment method", Scope: s.String(), Subject: args[0]})
			}
			var out api.EnrollmentMethod
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: pathOf(s) + "/enrollment-methods/" + args[0] + ":end"}, &out); err != nil {
				return err
			}
			return output.One(p.out, p.form, out, methodView)
		},
	}))
	scopeFlag(c, &scope)
	return c
}

var methodView = output.View[api.EnrollmentMethod]{
	Name: func(m api.EnrollmentMethod) string { return m.Ref },
	Columns: []output.Column[api.EnrollmentMethod]{
		{Head: "METHOD", Cell: func(m api.EnrollmentMethod) string { return m.Ref }},
		{Head: "KIND", Cell: func(m api.EnrollmentMethod) string { return m.Kind }},
		{Head: "SUBJECT", Cell: func(m api.EnrollmentMethod) string { return m.Subject }},
		{Head: "ISSUER", Cell: func(m api.EnrollmentMethod) string { return m.Issuer + m.Cluster }},
		{Head: "AUDIENCE", Cell: func(m api.EnrollmentMethod) string { return m.Audience }},
		{Head: "WORKLOAD", Cell: func(m api.EnrollmentMethod) string { return m.Workload }},
		{Head: "PROFILE", Cell: func(m api.EnrollmentMethod) string { return m.Profile }},
		{Head: "NAMES", Cell: func(m api.EnrollmentMethod) string { return strings.Join(m.Names, " ") }},
		{Head: "MADE", Cell: func(m api.EnrollmentMethod) string { return stamp(m.MadeAt.Time) }},
		{Head: "ENDED", Cell: func(m api.EnrollmentMethod) string {
			if m.EndedAt == nil {
				return ""
			}
			return stamp(m.EndedAt.Time)
		}},
	},
}
