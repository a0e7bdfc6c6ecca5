package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/e2e"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
)

// page returns a block of docs/databases.md by its name.
func page(t *testing.T, name string) string {
	t.Helper()
	return block(t, "databases.md", name)
}

// A database is a PostgreSQL server configured as docs/databases.md says.
type database struct {
	s     *e2e.Segl
	pg    *cluster.Cluster
	port  string
	admin *pgx.Conn
}

// newDatabase starts it. Beside the page's lines there is one that lets the test administer it over the socket.
func newDatabase(t *testing.T, s *e2e.Segl) *database {
	t.Helper()
	d := &database{s: s, port: freePort(t)}
	var err error
	d.pg, err = cluster.Start(t.Context(), cluster.Config{
		Dir: filepath.Join(s.Temp(t), "p"), Settings: map[string]string{"listen_addresses": "127.0.0.1", "port": d.port},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PostgreSQL: %s", readFile(t, d.pg.LogFile()))
		}
		if err := d.pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	d.admin, err = pgx.Connect(t.Context(), strings.Replace(d.pg.SuperuserURL(), ":5432/", ":"+d.port+"/", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.admin.Close(context.Background()) })
	for _, sql := range []string{"CREATE ROLE app LOGIN", "CREATE ROLE other LOGIN", "CREATE DATABASE shop OWNER app"} {
		d.sql(t, sql)
	}
	server := s.Issue(t, e2e.Order{Profile: "database-server", Names: []string{"127.0.0.1"}})
	d.file(t, "segl/server.pem", server.PEM)
	d.file(t, "segl/server-key.pem", readFile(t, server.KeyFile))
	d.file(t, "segl/root.pem", readFile(t, s.Env["SEGL_ROOT"]))
	if out, err := d.script(t, "segl-lists", s.Env["SEGL_PUBLIC_URL"]); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	conf := readFile(t, filepath.Join(d.pg.DataDir(), "postgresql.conf"))
	d.file(t, "postgresql.conf", conf+page(t, "postgresql.conf"))
	d.file(t, "pg_hba.conf", "local all all scram-sha-256\n"+page(t, "pg_hba.conf"))
	d.file(t, "pg_ident.conf", page(t, "pg_ident.conf"))
	d.sql(t, "SELECT pg_reload_conf()")
	return d
}

func (d *database) sql(t *testing.T, sql string) {
	t.Helper()
	if _, err := d.admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// owner is the account PostgreSQL runs as.
func (d *database) owner(t *testing.T) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(d.pg.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	return st
}

// file writes a file of PostgreSQL's, by its name in the data directory.
func (d *database) file(t *testing.T, name, text string) {
	t.Helper()
	path, own := filepath.Join(d.pg.DataDir(), name), d.owner(t)
	err := os.Mkdir(filepath.Dir(path), 0o700)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	err = errors.Join(err, os.Chown(filepath.Dir(path), int(own.Uid), int(own.Gid)),
		os.WriteFile(path, []byte(text), 0o600), os.Chown(path, int(own.Uid), int(own.Gid)))
	if err != nil {
		t.Fatal(err)
	}
}

// script runs a block of the page as the account that PostgreSQL runs as.
func (d *database) script(t *testing.T, name, publicURL string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-c", page(t, name))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PGDATA=" + d.pg.DataDir(), "SEGL_PUBLIC_URL=" + publicURL}
	if own := d.owner(t); os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: own.Uid, Gid: own.Gid}}
	}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A client is a directory with the files that the page's psql names.
type client struct {
	d   *database
	dir string
}

func (d *database) client(t *testing.T, cert, key string) client {
	t.Helper()
	c := client{d, d.s.Temp(t)}
	put(t, c.dir, "root.pem", d.s.Env["SEGL_ROOT"])
	put(t, c.dir, "app.pem", cert)
	put(t, c.dir, "app-key.pem", key)
	return c
}

func (d *database) holder(t *testing.T, p *e2e.Pair) client {
	t.Helper()
	return d.client(t, p.CertFile, p.KeyFile)
}

// login runs the page's psql, after replacing words of it in turn, and returns who it is in.
func (c client) login(t *testing.T, replace ...string) (string, error) {
	t.Helper()
	e2e.Need(t, "psql", "postgresql-client")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	line := strings.NewReplacer(replace...).Replace(strings.TrimSpace(page(t, "client")))
	cmd := exec.CommandContext(ctx, "sh", "-c", line+" -XAtc 'SELECT current_user'")
	cmd.Dir, cmd.Env = c.dir, []string{"PATH=" + c.d.pg.BinDir() + ":/usr/bin:/bin", "HOME=" + c.dir, "PGPORT=" + c.d.port}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c client) getsIn(t *testing.T, when string) {
	t.Helper()
	if out, err := c.login(t); err != nil || out != "app" {
		t.Errorf("%s: not let in: %v %s", when, err, out)
	}
}

func (c client) staysOut(t *testing.T, when string, replace ...string) string {
	t.Helper()
	out, err := c.login(t, replace...)
	if err == nil {
		t.Errorf("%s: let in as %s", when, out)
	}
	return out
}

// app orders a certificate for role app.
func app(t *testing.T, s *e2e.Segl) *e2e.Pair {
	t.Helper()
	return s.Issue(t, e2e.Order{Profile: "database-client", Workload: "app", CommonName: "app"})
}

// The lists that this Segl made at its first start are a hundred hours old: they have ended.
func TestPostgresLetsInWhomTheListsLetIn(t *testing.T) {
	e2e.Need(t, "openssl", "openssl")
	s := e2e.New(t)
	s.Begin(t, "--clock-offset", "-100h")
	stale := string(s.Public(t, "/crls.pem").Body)
	s.Stop(t)
	s.Begin(t)
	d := newDatabase(t, s)
	leaver, stayer := app(t, s), app(t, s)
	a, b := d.holder(t, leaver), d.holder(t, stayer)
	e2e.Eventually(t, 10*time.Second, func() error { // the reload takes its moment
		out, err := a.login(t)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	a.getsIn(t, "a good certificate")
	b.getsIn(t, "another one of the same role")
	t.Run("whom else it refuses", func(t *testing.T) { refusals(t, d, stayer) })
	t.Run("a renewed certificate", func(t *testing.T) {
		key := e2e.NewKey(t)
		ans, err := renewWith(t, s, stayer, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ans.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		d.holder(t, s.Keep(t, c, key)).getsIn(t, "the successor")
	})
	t.Run("a revoked one", func(t *testing.T) { revoked(t, d, leaver, a, b) })
	t.Run("stale lists", func(t *testing.T) { staleLists(t, d, stale, a, b) })
}

func refusals(t *testing.T, d *database, good *e2e.Pair) {
	const notMapped = "certificate authentication failed for user"
	c := d.holder(t, good)
	for _, v := range []struct{ what, old, new, words string }{
		{"another role than the certificate's", "user=app", "user=other", notMapped},
		{"the administrator", "user=app", "user=postgres", notMapped},
		{"no certificate", "sslcert=app.pem", "sslcert=none.pem", "requires a valid client certificate"},
		{"no TLS", "sslmode=verify-full", "sslmode=disable", "no encryption"},
		{"the server by another name", "host=127.0.0.1", "host=localhost", "does not match host name"},
	} {
		if out := c.staysOut(t, v.what, v.old, v.new); !strings.Contains(out, v.words) {
			t.Errorf("%s: refused for another reason: %s", v.what, out)
		}
	}
	for _, v := range []struct {
		what  string
		who   *e2e.Pair
		words string
	}{
		{"a workload's certificate", d.s.Issue(t, e2e.Order{Profile: "workload", Workload: "app"}), notMapped},
		{"a client's certificate", d.s.Issue(t, e2e.Order{Profile: "client", Workload: "app"}), notMapped},
		{"a server's certificate", d.s.Issue(t, e2e.Order{Profile: "database-server", Names: []string{"app.demo.test"}}), "unsupported certificate"},
		{"role app of another scope", elsewhere(t, d.s), notMapped},
		{"the same name under another root", forged(t, d.s), "unknown ca"},
	} {
		if out := d.holder(t, v.who).staysOut(t, v.what); !strings.Contains(out, v.words) {
			t.Errorf("%s: refused for another reason: %s", v.what, out)
		}
	}
}

// elsewhere is role app of the project, not of the environment.
func elsewhere(t *testing.T, s *e2e.Segl) *e2e.Pair {
	t.Helper()
	key := e2e.NewKey(t)
	o := e2e.Order{Profile: "database-client", Workload: "app", CommonName: "app"}
	a, err := e2e.Ask(t.Context(), s.Operator(t), http.MethodPost, s.Env["SEGL_OPERATOR_URL"]+"/v1/tenants/demo/projects/shop/certificates", o.Body(request(t, o, key)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	p := s.Keep(t, c, key)
	if p.X509.Subject.CommonName != "app@shop.demo" {
		t.Fatalf("common name %q", p.X509.Subject.CommonName)
	}
	return p
}

// forged signs itself.
func forged(t *testing.T, s *e2e.Segl) *e2e.Pair {
	t.Helper()
	key := e2e.NewKey(t)
	return s.Keep(t, e2e.Certificate{PEM: selfSigned(t, key, "app@dev.shop.demo")}, key)
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey, name string) string {
	t.Helper()
	like := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, like, like, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// revoked ends a; b, of the same role, stays. The script runs as its timer would have it, only more often.
func revoked(t *testing.T, d *database, leaver *e2e.Pair, a, b client) {
	session, err := pgx.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%s dbname=shop user=app sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s",
		d.port, d.s.Env["SEGL_ROOT"], leaver.CertFile, leaver.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.Background())

	d.s.Revoke(t, leaver.Serial, "cessationOfOperation")
	took := e2e.Eventually(t, 15*time.Second, func() error {
		if out, err := d.script(t, "segl-lists", d.s.Env["SEGL_PUBLIC_URL"]); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := a.login(t); err == nil {
			return fmt.Errorf("let in as %s", out)
		}
		return nil
	})
	t.Logf("refused %s after the revocation was answered, fetching without pause", took.Round(time.Millisecond))
	if out := a.staysOut(t, "a revoked certificate"); !strings.Contains(out, "certificate revoked") {
		t.Errorf("refused for another reason: %s", out)
	}
	b.getsIn(t, "another certificate of the same role")

	if _, err := session.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the page says that an open session goes on, but: %v", err)
	}
	d.sql(t, page(t, "end-sessions"))
	if _, err := session.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on after the page's statement")
	}
	if out, err := d.script(t, "alarm", ""); err != nil {
		t.Errorf("lists are fresh, and the alarm says %v: %s", err, out)
	}
}

// staleLists shows what happens when nobody fetches: everybody is out, the alarm fails, and the ways back in work.
func staleLists(t *testing.T, d *database, stale string, revoked, good client) {
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, stale) }))
	defer old.Close()
	if out, err := d.script(t, "segl-lists", old.URL); err == nil || !strings.Contains(out, "CRL has expired") {
		t.Errorf("the script took lists that have ended: %v %s", err, out)
	}
	for name, body := range map[string]string{"nothing": "", "a page": "<html>hello</html>", "a part": stale[:len(stale)/2]} {
		broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		if out, err := d.script(t, "segl-lists", broken.URL); err == nil {
			t.Errorf("the script took %s: %s", name, out)
		}
		broken.Close()
	}
	good.getsIn(t, "after lists that were not taken")

	d.file(t, "segl/crls.pem", stale)
	d.sql(t, "SELECT pg_reload_conf()")
	e2e.Eventually(t, 10*time.Second, func() error {
		if out, err := good.login(t); err == nil {
			return fmt.Errorf("let in as %s", out)
		}
		return nil
	})
	t.Logf("with lists that have ended a good client reads: %s", good.staysOut(t, "stale lists"))
	if out, err := d.script(t, "alarm", ""); err == nil || !strings.Contains(out, "CRL has expired") {
		t.Errorf("the alarm says %v: %s", err, out)
	}
	gate(t, d, "without-lists", good, true)
	gate(t, d, "without-lists", revoked, true) // the price that the page names
	if out, err := d.script(t, "segl-lists", d.s.Env["SEGL_PUBLIC_URL"]); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	gate(t, d, "with-lists", revoked, false)
	gate(t, d, "with-lists", good, true)
}

// gate runs the page's statements and waits until a client is let in, or is not.
func gate(t *testing.T, d *database, statements string, c client, open bool) { //nolint:revive // the word at the call site
	t.Helper()
	for line := range strings.Lines(page(t, statements)) {
		d.sql(t, line)
	}
	e2e.Eventually(t, 10*time.Second, func() error {
		if out, err := c.login(t); (err == nil) != open {
			return fmt.Errorf("%s: %w %s", statements, err, out)
		}
		return nil
	})
}
