package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// DevOptions are the flags of `segl dev`.
type DevOptions struct {
	Data        string // directory of everything; made when missing
	Listen      Listen
	URLs        URLs   // handed out in place of the listeners' own addresses
	DatabaseURL string // used in place of a private Postgres
	ACME        ACME
	Clock       time.Duration // added to the machine's clock
	LogLevel    string
	OIDC        OIDC // an identity provider, if it has an issuer
}

// providers is the one of the flags.
func (o DevOptions) providers() []OIDC {
	if o.OIDC.Issuer == "" {
		return nil
	}
	o.OIDC.Audience, o.OIDC.ClientID = "segl", "segl-cli"
	return []OIDC{o.OIDC}
}

const (
	devDomain = "segl.test"
	devScope  = "demo/shop/dev"
	envFile   = "dev.env"
)

// Dev runs a whole segl in one process tree, on a private Postgres unless told otherwise, with tenant demo, project shop
// and environment dev. When every listener answers it writes dev.env and one line, beginning "ready", to out.
func Dev(ctx context.Context, o DevOptions, out io.Writer, log *slog.Logger) error {
	ctx = postgres.AsOwner(ctx)
	for flag, u := range map[string]*string{"service-url": &o.URLs.Service, "public-url": &o.URLs.Public} {
		if err := checkURL(flag, u); err != nil {
			return err
		}
	}
	dir, err := filepath.Abs(o.Data)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	database := o.DatabaseURL
	if database == "" {
		pg, err := cluster.Start(ctx, cluster.Config{Dir: filepath.Join(dir, "postgres"), Log: log})
		if err != nil {
			return err
		}
		defer pg.Stop() //nolint:errcheck // what it may say is in its log
		database = pg.URL()
		alive, lost := context.WithCancelCause(ctx)
		defer lost(nil)
		go func() { // the cluster restarts a Postgres that was killed; when it gives up there is no going on
			<-pg.Stopped()
			lost(errors.New("the private Postgres stays down: see " + pg.LogFile()))
		}()
		ctx = alive
	}
	last := filepath.Join(dir, envFile+".last") // whoever waits for dev.env must not find that of a run gone by
	if err := os.Rename(filepath.Join(dir, envFile), last); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("putting the last run's %s aside: %w", envFile, err)
	}
	before := readEnv(last)
	if o.URLs.Service != "" { // then it says nothing of where we listened
		delete(before, "SEGL_URL")
	}
	if o.URLs.Public != "" {
		delete(before, "SEGL_PUBLIC_URL")
	}
	passphrase := filepath.Join(dir, "passphrase")
	if err := softkms.CreatePassphrase(passphrase); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s, err := Open(ctx, Config{
		Site: 1, TrustDomain: devDomain, Database: Database{URL: database}, PassphraseFile: passphrase,
		Listen: o.Listen.again(before), URLs: o.URLs, ACME: o.ACME, OIDC: o.providers(), LogLevel: o.LogLevel, clock: o.Clock, loopback: true,
		Limits: devLimits(), Ledger: Ledger{CheckpointFile: filepath.Join(dir, "checkpoint")},
		names: []string{"127.0.0.1", "localhost", "::1"},
	}, log)
	if err != nil {
		return err
	}
	defer s.Close()
	err = s.Run(ctx, func(a Addresses) error {
		if err := s.demonstrate(ctx, dir); err != nil {
			return err
		}
		if err := writeEnv(filepath.Join(dir, envFile), s.env(dir, database, a)); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "ready: %s (tenants) %s (operators) %s (public); variables in %s\n", a.Service, a.Operator, a.Public, filepath.Join(dir, envFile))
		return err
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	return err
}

// again replaces port 0 by the port of the last run in the same directory, if that is free: the public URL stands in
// certificates.
func (l Listen) again(before map[string]string) Listen {
	for key, addr := range map[string]*string{
		"SEGL_URL": &l.Service, "SEGL_OPERATOR_URL": &l.Operator, "SEGL_PUBLIC_URL": &l.Public, "SEGL_PRIVATE_URL": &l.Private,
	} {
		host, port, err := net.SplitHostPort(*addr)
		u, err2 := url.Parse(before[key])
		if err != nil || err2 != nil || port != "0" || u.Port() == "" {
			continue
		}
		if ln, err := net.Listen("tcp", net.JoinHostPort(host, u.Port())); err == nil { //nolint:noctx // at once
			*addr = ln.Addr().String()
			ln.Close() //nolint:errcheck // only tried
		}
	}
	return l
}

// demonstrate makes the demo scopes and the two identities where they are missing.
func (s *Server) demonstrate(ctx context.Context, dir string) error {
	ctx = postgres.AsOwner(ctx)
	who := identity.System("dev")
	rights := policy.Rights{
		DNS: []string{"localhost", "*.localhost", "*.demo.test"}, IP: []string{"127.0.0.0/8", "::1"}, SPIFFE: []string{"*"},
	}
	for _, v := range []struct {
		path   string
		rights policy.Rights
	}{{"demo", rights}, {"demo/shop", policy.Rights{}}, {devScope, rights}} {
		scope, err := identity.ParseScope(v.path)
		if err != nil {
			return err
		}
		if _, err := s.scopes.Create(ctx, who, scope, v.rights); err != nil && !errors.Is(err, tenancy.ErrExists) {
			return err
		}
	}
	scope, err := identity.ParseScope(devScope)
	if err != nil {
		return err
	}
	operator, err := s.identify(ctx, identity.Platform, "operator", filepath.Join(dir, "operator"))
	if err != nil {
		return err
	}
	if err := s.makeAdmin(ctx, "dev", operator); err != nil {
		return err
	}
	if _, err := s.identify(ctx, scope, "demo", filepath.Join(dir, "demo")); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "root.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.ca.Roots()[0].Raw}), 0o644)
}

// identify makes sure that PREFIX.pem and PREFIX-key.pem hold a workload certificate with half its life left.
func (s *Server) identify(ctx context.Context, scope identity.Scope, workload, prefix string) (identity.ID, error) {
	id, err := identity.NewID(s.cfg.TrustDomain, scope, workload)
	if err != nil {
		return id, err
	}
	if s.stands(ctx, prefix+".pem", prefix+"-key.pem") {
		return id, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return id, err
	}
	csr, err := cert.ParseRequest(der)
	if err != nil {
		return id, err
	}
	c, err := s.ca.Issue(ctx, identity.System("dev"), ca.Request{Scope: scope, Profile: "workload", CSR: csr, Identity: id, Life: 7 * 24 * time.Hour})
	if err != nil {
		return id, err
	}
	var chain []byte
	for _, der := range append([][]byte{c.DER}, c.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return id, err
	}
	return id, errors.Join(
		writeFile(prefix+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
		writeFile(prefix+".pem", chain, 0o644))
}

// stands reports whether the files hold a certificate of ours that is good for half its life yet.
func (s *Server) stands(ctx context.Context, certFile, keyFile string) bool {
	text, err := os.ReadFile(certFile)
	if err != nil {
		return false
	}
	if _, err := os.Stat(keyFile); err != nil {
		return false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	x, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	serial, err := cert.SerialFromInt(x.SerialNumber)
	half := x.NotBefore.Add(x.NotAfter.Sub(x.NotBefore) / 2)
	return err == nil && s.now().After(x.NotBefore) && s.now().Before(half) && s.ledger.Stands(ctx, serial) == nil
}

// env is what dev.env says.
func (s *Server) env(dir, database string, a Addresses) [][2]string {
	vars := [][2]string{
		{"SEGL_PID", fmt.Sprint(os.Getpid())},
		{"SEGL_DATA", dir},
		{"SEGL_DATABASE_URL", database},
		{"SEGL_URL", a.Service},
		{"SEGL_OPERATOR_URL", a.Operator},
		{"SEGL_PUBLIC_URL", a.Public},
		{"SEGL_PRIVATE_URL", a.Private},
		{"SEGL_ROOT", filepath.Join(dir, "root.pem")},
		{"SEGL_SCOPE", devScope},
		{"SEGL_ACME_DIRECTORY", a.Service + "/acme/" + devScope + "/directory"},
		{"SEGL_OPERATOR_CERT", filepath.Join(dir, "operator.pem")},
		{"SEGL_OPERATOR_KEY", filepath.Join(dir, "operator-key.pem")},
		{"SEGL_CERT", filepath.Join(dir, "demo.pem")},
		{"SEGL_KEY", filepath.Join(dir, "demo-key.pem")},
	}
	if s.cfg.clock != 0 {
		vars = append(vars, [2]string{"SEGL_CLOCK_OFFSET", s.cfg.clock.String()}) // the command line follows
	}
	return vars
}

// writeEnv writes KEY=value lines that a shell reads back as they are.
func writeEnv(path string, vars [][2]string) error {
	var b strings.Builder
	for _, v := range vars {
		fmt.Fprintf(&b, "%s=%s\n", v[0], quote(v[1]))
	}
	return writeFile(path, []byte(b.String()), 0o600)
}

// quote quotes for a shell only what needs it.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:+,@%?=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func readEnv(path string) map[string]string {
	vars := map[string]string{}
	f, err := os.Open(path)
	if err != nil {
		return vars
	}
	defer f.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), "="); ok {
			vars[k] = v
		}
	}
	return vars
}

// writeFile replaces a file as a whole: a reader sees the old one or the new one.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // already failing
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
