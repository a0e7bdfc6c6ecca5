package mysql_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/credentialstest"
	"codeberg.org/dataverket/segl/credentials/mysql"
)

type house struct {
	ca      *credentialstest.CA
	socket  string
	address string
	backend *mysql.Backend
	target  credentials.Target
}

// newHouse starts a MariaDB server of the test's own, prepared as docs/databases.md says.
func newHouse(t *testing.T) *house {
	t.Helper()
	for _, p := range []string{"mariadbd", "mariadb-install-db", "mariadb"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is missing: apt-get install mariadb-server", p)
		}
	}
	dir, err := os.MkdirTemp("", "segl-mariadb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &house{ca: credentialstest.NewCA(t), socket: filepath.Join(dir, "s"), address: freeAddress(t)}
	chain, key := h.ca.Issue(t, "server")
	data := filepath.Join(dir, "data")
	for name, text := range map[string][]byte{"server.pem": chain, "key.pem": key, "root.pem": h.ca.PEM} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user := "--user=root"
	run(t, "", "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db", user)
	_, port, _ := net.SplitHostPort(h.address)
	cmd := exec.Command("mariadbd", "--no-defaults", "--datadir="+data, "--socket="+h.socket, "--bind-address=127.0.0.1", "--port="+port, user,
		"--ssl-cert="+filepath.Join(dir, "server.pem"), "--ssl-key="+filepath.Join(dir, "key.pem"), "--ssl-ca="+filepath.Join(dir, "root.pem"),
		"--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--pid-file="+filepath.Join(dir, "pid"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &strings.Builder{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // killed
		if t.Failed() {
			t.Logf("MariaDB: %s", log)
		}
	})
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if exec.Command("mariadb", "--no-defaults", "--socket="+h.socket, "-uroot", "-e", "SELECT 1").Run() == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("MariaDB does not answer")
		}
	}
	text, err := os.ReadFile("../../deploy/targets/mariadb.sql")
	if err != nil {
		t.Fatal(err)
	}
	h.sql(t, string(text))
	h.sql(t, string(text)) // it may be run again
	h.sql(t, `CREATE DATABASE shop; CREATE TABLE shop.orders (n int); CREATE TABLE shop.wages (n int); CREATE ROLE writers; CREATE ROLE nobodys;
		GRANT SELECT, INSERT ON shop.orders TO writers; GRANT writers TO segl_owner@localhost WITH ADMIN OPTION;`)
	h.backend = mysql.New(mysql.Config{Certificate: h.ca.Client(t, "segl@platform"), Roots: func() *x509.CertPool { return h.ca.Pool }, Now: time.Now})
	t.Cleanup(h.backend.Close)
	h.target = credentials.Target{Name: "db", Kind: credentials.MySQL, Address: h.address, Manager: "segl"}
	return h
}

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, out)
	}
}

func (h *house) sql(t *testing.T, text string) {
	t.Helper()
	run(t, text, "mariadb", "--no-defaults", "--socket="+h.socket, "-uroot")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only asks for a port
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

type session struct {
	db   *sql.DB
	conn *sql.Conn
}

func (s session) Alive(ctx context.Context) error {
	_, err := s.conn.ExecContext(ctx, "INSERT INTO shop.orders VALUES (1)")
	return err
}

func (s session) Forbidden(ctx context.Context) error {
	_, err := s.conn.ExecContext(ctx, "INSERT INTO shop.wages VALUES (1)")
	return err
}

func (s session) Close() { s.conn.Close(); s.db.Close() } //nolint:errcheck // over

// dial logs in, with a certificate or without.
func (h *house) dial(ctx context.Context, user, password string, certificate func(context.Context) (*tls.Certificate, error)) (credentialstest.Session, error) {
	c := driver.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr, c.Logger = user, password, "tcp", h.address, &driver.NopLogger{}
	c.TLS = &tls.Config{ServerName: "127.0.0.1", RootCAs: h.ca.Pool, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		pair, err := certificate(ctx)
		if err != nil {
			return nil, err
		}
		c.TLS.Certificates = []tls.Certificate{*pair}
	}
	connector, err := driver.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	conn, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, err
	}
	return session{db, conn}, nil
}

func (h *house) login(ctx context.Context, user, password string) (credentialstest.Session, error) {
	return h.dial(ctx, user, password, nil)
}

func TestConformance(t *testing.T) {
	h := newHouse(t)
	credentialstest.Run(t, credentialstest.Server{Backend: h.backend, Target: h.target, Login: h.login})
	t.Run("roots are those of the moment", func(t *testing.T) {
		roots := x509.NewCertPool()
		b := mysql.New(mysql.Config{Certificate: h.ca.Client(t, "segl@platform"), Roots: func() *x509.CertPool { return roots }, Now: time.Now})
		defer b.Close()
		if _, err := b.Principals(t.Context(), h.target); err == nil {
			t.Error("a server that nobody vouches for is believed")
		}
		roots = h.ca.Pool
		if _, err := b.Principals(t.Context(), h.target); err != nil {
			t.Errorf("after the roots changed: %v", err)
		}
	})
	t.Run("an administrator is refused", func(t *testing.T) {
		h.sql(t, "GRANT SELECT ON shop.wages TO segl@'%'")
		if _, err := h.backend.Make(t.Context(), h.target, credentialstest.Grant("x")); !errors.Is(err, credentials.ErrTooPowerful) {
			t.Errorf("%v", err)
		}
		h.sql(t, "REVOKE SELECT ON shop.wages FROM segl@'%'")
	})
	t.Run("names that are none are refused", func(t *testing.T) {
		for _, name := range []string{"", "root", "segl", "segl_owner", "x'@'%' IDENTIFIED BY ''; DROP USER root; --", "segl_aaaaaaaaaaaaaaaaaaaa'"} {
			g := credentialstest.Grant("x")
			g.Principal = name
			if _, err := h.backend.Make(t.Context(), h.target, g); err == nil {
				t.Errorf("made %q", name)
			}
			done, err := h.backend.End(t.Context(), h.target, []credentials.Grant{g})
			if err != nil || done[0].Err != nil || done[0].Receipts[0].Effect != credentials.WasNotThere {
				t.Errorf("ended %q: %v %v", name, done, err)
			}
		}
	})
	t.Run("another certificate of ours is not the manager", func(t *testing.T) {
		other := mysql.New(mysql.Config{Certificate: h.ca.Client(t, "segl@demo"), Roots: func() *x509.CertPool { return h.ca.Pool }, Now: time.Now})
		defer other.Close()
		if err := other.Check(t.Context(), h.target); !errors.Is(err, credentials.ErrUnprepared) {
			t.Errorf("%v", err)
		}
	})
	t.Run("wrong clocks are refused", func(t *testing.T) {
		late := mysql.New(mysql.Config{Certificate: h.ca.Client(t, "segl@platform"), Roots: func() *x509.CertPool { return h.ca.Pool }, Now: func() time.Time { return time.Now().Add(time.Minute) }})
		defer late.Close()
		if _, err := late.Make(t.Context(), h.target, credentialstest.Grant("x")); !errors.Is(err, credentials.ErrClock) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a certificate lets in by its subject", func(t *testing.T) { certified(t, h) })
}

func certified(t *testing.T, h *house) {
	g := credentialstest.Grant("")
	g.Way, g.Principal, g.Subject = credentials.Certificate, "app", "app@dev.shop.demo"
	for range 2 {
		if _, err := h.backend.Make(t.Context(), h.target, g); err != nil {
			t.Fatal(err)
		}
	}
	in, err := h.dial(t.Context(), "app", "", h.ca.Client(t, "app@dev.shop.demo"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]func(context.Context) (*tls.Certificate, error){"another subject": h.ca.Client(t, "app@shop.demo"), "none": nil} {
		if s, err := h.dial(t.Context(), "app", "", c); err == nil {
			s.Close()
			t.Errorf("%s is let in", name)
		}
	}
	done, err := h.backend.End(t.Context(), h.target, []credentials.Grant{g})
	if err != nil || done[0].Receipts[0].Effect != credentials.SessionsEnded || in.Alive(t.Context()) == nil {
		t.Errorf("its session goes on: %v, %v", done, err)
	}
}
