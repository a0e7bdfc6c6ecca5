package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/cmd/segl/login"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A remote is what flags and environment say about the server and about who asks it.
type remote struct {
	url, operatorURL, publicURL, privateURL  string
	root                                     string
	cert, key, operatorCert, operatorKeyFile string
	as                                       party
	timeout                                  time.Duration
}

// A party is whose identity a command shows, and at which listener.
type party string

const (
	workload party = "workload" // the workload identity, at the service listener
	operator party = "operator" // the operator identity, at the operator listener
	nobody   party = "nobody"   // none, at the service listener
)

// Set implements pflag.Value.
func (a *party) Set(s string) error {
	if s != string(workload) && s != string(operator) {
		return fmt.Errorf("want %s or %s", operator, workload)
	}
	*a = party(s)
	return nil
}

// String implements pflag.Value.
func (a *party) String() string { return string(*a) }

// Type implements pflag.Value.
func (*party) Type() string { return "who" }

const defaultTimeout = time.Minute

// connects gives c and what is below it the flags of commands that talk to a server.
func (p *program) connects(c *cobra.Command) *cobra.Command {
	f, r := c.PersistentFlags(), &p.remote
	text(f, &r.url, "url", "SEGL_URL", "find the service listener at `URL`")
	text(f, &r.operatorURL, "operator-url", "SEGL_OPERATOR_URL", "find the operator listener at `URL`")
	text(f, &r.root, "root", "SEGL_ROOT", "trust the roots in `FILE`, PEM, and nothing else")
	text(f, &r.cert, "cert", "SEGL_CERT", "show the workload's certificate in `FILE`, PEM with its chain")
	text(f, &r.key, "key", "SEGL_KEY", "with its key in `FILE`, PEM")
	text(f, &r.operatorCert, "operator-cert", "SEGL_OPERATOR_CERT", "show the operator's certificate in `FILE`, PEM with its chain")
	text(f, &r.operatorKeyFile, "operator-key", "SEGL_OPERATOR_KEY", "with its key in `FILE`, PEM")
	f.Var(&r.as, "as", "ask as `WHO`: operator or workload (default: as the command and the scope want)")
	choices(c, "as", string(operator), string(workload))
	f.DurationVar(&r.timeout, "timeout", defaultTimeout, "try for `DURATION` at most")
	return c
}

// or returns the flag's value, else the environment's.
func (p *program) or(flag, variable string) string {
	if flag != "" {
		return flag
	}
	return p.env(variable)
}

// within bounds ctx by --timeout.
func (p *program) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.remote.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, p.remote.timeout)
}

// dial returns a client for who, or for whom --as names.
func (p *program) dial(who party) (*client.Client, error) {
	if p.remote.as != "" && who != nobody {
		who = p.remote.as
	}
	base, err := p.base(who)
	if err != nil {
		return nil, err
	}
	roots, err := p.roots()
	if err != nil {
		return nil, err
	}
	config := client.Config{URL: base, Roots: roots, UserAgent: agent(), Now: p.now}
	if who != nobody {
		if err := p.authenticate(&config, who); err != nil {
			return nil, err
		}
	}
	c, err := client.New(config)
	if err != nil {
		return nil, misuse("%w", err)
	}
	return c, nil
}

// base returns where the listener for who is.
func (p *program) base(who party) (string, error) {
	base, variable, flag := p.or(p.remote.url, "SEGL_URL"), "SEGL_URL", "--url"
	if who == operator {
		base, variable, flag = p.or(p.remote.operatorURL, "SEGL_OPERATOR_URL"), "SEGL_OPERATOR_URL", "--operator-url"
	}
	if base == "" {
		return "", misuse("there is no URL of the %s listener", listener(who)).hinted("give %s or set %s", flag, variable)
	}
	return base, nil
}

// authenticate gives a client the certificate of who or, where none is named and a person is logged in there, their token.
func (p *program) authenticate(config *client.Config, who party) error {
	if files := p.identityFiles(who); files.Chain == "" && files.Key == "" {
		store, err := p.logins()
		if err == nil && store.Has(config.URL) {
			service := config.URL
			config.Token = func(ctx context.Context) (string, error) {
				token, err := store.Token(ctx, service)
				if errors.Is(err, login.ErrNone) {
					return "", &failure{code: exitDenied, err: err, hint: "segl login"}
				}
				return token, err
			}
			return nil
		}
	}
	pair, err := p.identity(who)
	if err != nil {
		return err
	}
	config.Certificate = &pair
	return nil
}

func listener(who party) string {
	if who == operator {
		return "operator"
	}
	return "service"
}

// roots reads the trust anchors.
func (p *program) roots() (*x509.CertPool, error) {
	path := p.or(p.remote.root, "SEGL_ROOT")
	if path == "" {
		return nil, misuse("there is no root to trust the server by").hinted("give --root or set SEGL_ROOT; segl serves it at /roots.pem of the public listener")
	}
	certs, err := chain.Read(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// identityFiles says where the pair of who is, as far as that is known.
func (p *program) identityFiles(who party) keypair.Files {
	if who == operator {
		return keypair.Files{Chain: p.or(p.remote.operatorCert, "SEGL_OPERATOR_CERT"), Key: p.or(p.remote.operatorKeyFile, "SEGL_OPERATOR_KEY")}
	}
	return keypair.Files{Chain: p.or(p.remote.cert, "SEGL_CERT"), Key: p.or(p.remote.key, "SEGL_KEY")}
}

// identity reads the certificate that who shows.
func (p *program) identity(who party) (tls.Certificate, error) {
	files := p.identityFiles(who)
	if files.Chain == "" || files.Key == "" {
		prefix, variable := "--", "SEGL_"
		if who == operator {
			prefix, variable = "--operator-", "SEGL_OPERATOR_"
		}
		return tls.Certificate{}, misuse("there is no %s identity to show", who).hinted("give %scert and %skey, or set %sCERT and %sKEY; or segl login", prefix, prefix, variable, variable)
	}
	return files.Load()
}

// forScope says who usually acts in s: operators for the platform, else the workload identity, unless only an operator's
// is there.
func (p *program) forScope(s identity.Scope) party {
	if s.IsPlatform() || p.identityFiles(workload).Chain == "" && p.identityFiles(operator).Chain != "" {
		return operator
	}
	return workload
}

// scopeFlag gives c the flag --scope.
func scopeFlag(c *cobra.Command, into *string) {
	text(c.Flags(), into, "scope", "SEGL_SCOPE", "in `SCOPE`: platform, tenant, tenant/project or tenant/project/environment")
}

// scope reads --scope.
func (p *program) scope(flag string) (identity.Scope, error) {
	s := p.or(flag, "SEGL_SCOPE")
	if s == "" {
		return identity.Scope{}, misuse("there is no scope").hinted("give --scope or set SEGL_SCOPE, such as demo/shop/dev")
	}
	v, err := identity.ParseScope(s)
	if err != nil {
		return identity.Scope{}, misuse("%w", err)
	}
	return v, nil
}

// asked asks the operators' listener once and decodes the answer into out.
func (p *program) asked(ctx context.Context, r client.Request, out any) error {
	remote, err := p.dial(operator)
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(ctx)
	defer cancel()
	return remote.Do(ctx, r, out)
}
