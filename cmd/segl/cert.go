package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	leases "codeberg.org/dataverket/segl/credentials/api"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// cert is `segl cert`.
func (p *program) cert() *cobra.Command {
	return p.connects(group("cert", "Issue, renew, revoke and look up certificates",
		p.certIssue(), p.certRenew(), p.certRevoke(), p.certList(), p.certShow()))
}

// pathOf is where the resources of s are.
func pathOf(s identity.Scope) string {
	if s.IsPlatform() {
		return "/v1/platform"
	}
	path := "/v1/tenants/" + s.Tenant()
	if s.Project() != "" {
		path += "/projects/" + s.Project()
	}
	if s.Environment() != "" {
		path += "/environments/" + s.Environment()
	}
	return path
}

// A listed certificate is the server's words, and what they come to at this moment.
type listed struct {
	api.Summary
	Status string `json:"status"` // valid, expired, revoked, or early
}

// status says whether a certificate is good now, by this machine's clock.
func (p *program) status(s api.Summary) string {
	switch now := p.now(); {
	case s.Revoked != nil:
		return "revoked"
	case now.After(s.NotAfter.Time):
		return "expired"
	case now.Before(s.NotBefore.Time):
		return "early"
	}
	return "valid"
}

func (p *program) listView() output.View[listed] {
	return output.View[listed]{
		Name: func(l listed) string { return l.Serial },
		Columns: []output.Column[listed]{
			{Head: "SERIAL", Cell: func(l listed) string { return l.Serial }},
			{Head: "STATUS", Cell: func(l listed) string { return l.Status }},
			{Head: "EXPIRES", Cell: func(l listed) string { return p.instant(l.NotAfter.Time) }},
			{Head: "SCOPE", Cell: func(l listed) string { return l.Scope }},
			{Head: "PROFILE", Cell: func(l listed) string { return l.Profile }},
			{Head: "NAMES", Cell: func(l listed) string { return strings.Join(l.Names, " ") }},
		},
	}
}

// instant is a time for eyes in a table, and for programs elsewhere.
func (p *program) instant(t time.Time) string {
	if p.form == output.Table {
		return output.Until(p.now(), t)
	}
	return stamp(t)
}

// certShow is `segl cert show`.
func (p *program) certShow() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "show {SERIAL|FILE}", Short: "Show one certificate and whether it is good", Args: exactly("SERIAL or FILE"),
		Long: "Shows what the ledger knows of a certificate, named by its serial or by a file that holds it.",
		RunE: func(c *cobra.Command, args []string) error {
			serial, err := p.serial(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := p.within(c.Context())
			defer cancel()
			found, err := p.find(ctx, serial)
			if err != nil {
				return err
			}
			hangs, err := p.hanging(ctx, found)
			if err != nil {
				return err
			}
			return output.One(p.out, p.form, shown{found, p.status(found.Summary), hangs}, p.certView())
		},
	})
}

// find looks a certificate up, in every scope that who asks may see.
func (p *program) find(ctx context.Context, serial cert.Serial) (api.Certificate, error) {
	remote, err := p.dial(p.anybody())
	if err != nil {
		return api.Certificate{}, err
	}
	defer remote.Close()
	var found api.Certificate
	err = remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/certificates/" + serial.String()}, &found)
	return found, p.suggestOperator(err)
}

// anybody is whose identity to show where the scope is not known: the workload's if there is one.
func (p *program) anybody() party {
	if p.identityFiles(workload).Chain == "" && p.identityFiles(operator).Chain != "" {
		return operator
	}
	return workload
}

// suggestOperator adds to a refusal for want of scope that there is another identity to ask with.
func (p *program) suggestOperator(err error) error {
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || p.remote.as != "" || p.anybody() == operator || p.identityFiles(operator).Chain == "" {
		return err
	}
	if problem.Status != http.StatusNotFound && !strings.HasPrefix(problem.Rule, "roles") && !strings.HasPrefix(problem.Rule, "the role ") {
		return err
	}
	return (&failure{code: problemCode(problem.Status), err: err}).hinted("%s", join(problem.Remedy, "operators see every scope: add --as operator"))
}

func join(parts ...string) string {
	var said []string
	for _, s := range parts {
		if s != "" {
			said = append(said, s)
		}
	}
	return strings.Join(said, "; ")
}

// serial reads a serial, or takes it out of the certificate in a file.
func (p *program) serial(arg string) (cert.Serial, error) {
	if s, err := cert.ParseSerial(strings.ToLower(strings.ReplaceAll(arg, ":", ""))); err == nil {
		return s, nil
	}
	if _, err := os.Stat(arg); err != nil && arg != "-" {
		return cert.Serial{}, failing(exitNotFound, "%q is neither a serial nor a file", arg).hinted("a serial is 36 hex digits, the first two 10; segl cert list shows them")
	}
	certs, err := p.readCertificates(arg)
	if err != nil {
		return cert.Serial{}, err
	}
	s, err := cert.SerialFromInt(certs[0].SerialNumber)
	if err != nil {
		return cert.Serial{}, failing(exitNotFound, "the certificate in %s has a serial of another authority: %s", arg, chain.Serial(certs[0]))
	}
	return s, nil
}

// A shown certificate is the server's words, and what they come to at this moment.
type shown struct {
	api.Certificate
	Status string `json:"status"`
	// Leases are the logins that hang on it, those that have ended too, the newest first.
	Leases []leases.Lease `json:"leases,omitempty"`
}

func (p *program) certView() output.View[shown] {
	list := p.listView()
	v := output.View[shown]{Name: func(s shown) string { return s.Serial }}
	for _, c := range list.Columns {
		v.Columns = append(v.Columns, output.Column[shown]{Head: c.Head, Cell: func(s shown) string { return c.Cell(listed{s.Summary, s.Status}) }})
	}
	v.Details = []output.Column[shown]{
		{Head: "serial", Cell: func(s shown) string { return s.Serial }},
		{Head: "status", Cell: func(s shown) string { return s.Status }},
		{Head: "revoked", Cell: revocation},
		{Head: "identity", Cell: func(s shown) string { return s.Identity }},
		{Head: "role", Cell: func(s shown) string { return s.Role }},
		{Head: "names", Cell: func(s shown) string { return strings.Join(s.Names, "\n") }},
		{Head: "scope", Cell: func(s shown) string { return s.Scope }},
		{Head: "profile", Cell: func(s shown) string { return s.Profile }},
		{Head: "authority", Cell: func(s shown) string { return s.Authority }},
		{Head: "issued", Cell: func(s shown) string { return stamp(s.IssuedAt.Time) }},
		{Head: "not before", Cell: func(s shown) string { return stamp(s.NotBefore.Time) }},
		{Head: "not after", Cell: func(s shown) string {
			return fmt.Sprintf("%s (%s)", stamp(s.NotAfter.Time), output.Until(p.now(), s.NotAfter.Time))
		}},
		{Head: "chain", Cell: chainOf},
		{Head: "look-up", Cell: func(s shown) string { return s.StatusURL }},
		{Head: "logins", Cell: func(s shown) string {
			var lines []string
			for _, l := range s.Leases {
				lines = append(lines, fmt.Sprintf("%s at %s, %s", l.Binding, l.Target, l.State))
			}
			return strings.Join(lines, "\n")
		}},
	}
	return v
}

func revocation(s shown) string {
	if s.Revoked == nil {
		return ""
	}
	return fmt.Sprintf("%s, %s", stamp(s.Revoked.At.Time), s.Revoked.Reason)
}

// chainOf names the authorities above a certificate, the nearest first, and the root that the last was issued by.
func chainOf(s shown) string {
	certs, err := chain.Parse([]byte(s.Certificate.Certificate))
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, c := range certs[1:] {
		names = append(names, c.Subject.String())
	}
	return strings.Join(append(names, certs[len(certs)-1].Issuer.String()), "\n")
}

// A duration is a span of time on the command line, in the form of the API: 90m, 24h, 7d.
type duration time.Duration

// Set implements pflag.Value.
func (d *duration) Set(s string) error { return (*web.Duration)(d).UnmarshalText([]byte(s)) }

// String implements pflag.Value.
func (d *duration) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Type implements pflag.Value.
func (*duration) Type() string { return "duration" }

// hanging returns the logins that hang on a certificate. Who may see the certificate and no logins sees none.
func (p *program) hanging(ctx context.Context, c api.Certificate) ([]leases.Lease, error) {
	scope, err := identity.ParseScope(c.Scope)
	if err != nil {
		return nil, fmt.Errorf("reading the scope of %s: %w", c.Serial, err)
	}
	remote, err := p.dial(p.anybody())
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	var out leases.LeaseList
	err = remote.Do(ctx, client.Request{
		Method: http.MethodGet, Path: pathOf(scope) + "/leases", Query: url.Values{"serial": {c.Serial}, "page_size": {"100"}},
	}, &out)
	if problem, ok := errors.AsType[*client.Problem](err); ok && (problem.Status == http.StatusForbidden || problem.Status == http.StatusNotFound) {
		return nil, nil
	}
	return out.Leases, err
}
