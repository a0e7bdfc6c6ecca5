package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/e2e"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
)

// leasePage returns a block of docs/leases.md by its name.
func leasePage(t *testing.T, name string) string {
	t.Helper()
	text := readFile(t, filepath.Join("..", "..", "docs", "leases.md"))
	found := regexp.MustCompile("(?ms)^```[a-z]+ file=" + regexp.QuoteMeta(name) + "\n(.*?)^```$").FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("docs/leases.md has no block %q", name)
	}
	return found[1]
}

// A leasing is a PostgreSQL server prepared as docs/leases.md says.
type leasing struct {
	s    *e2e.Segl
	pg   *cluster.Cluster
	port string
	dir  string
}

func newLeasing(t *testing.T, s *e2e.Segl) *leasing {
	t.Helper()
	e2e.Need(t, "psql", "postgresql-client")
	l := &leasing{s: s, port: freePort(t), dir: s.Temp(t)}
	var err error
	l.pg, err = cluster.Start(t.Context(), cluster.Config{Dir: filepath.Join(s.Temp(t), "p"), Settings: map[string]string{"listen_addresses": "127.0.0.1", "port": l.port}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	server := s.Issue(t, e2e.Order{Profile: "database-server", Names: []string{"127.0.0.1"}})
	l.file(t, "server.pem", server.PEM)
	l.file(t, "server-key.pem", readFile(t, server.KeyFile))
	l.file(t, "root.pem", readFile(t, s.Env["SEGL_ROOT"]))
	conf := readFile(t, filepath.Join(l.pg.DataDir(), "postgresql.conf"))
	l.file(t, "postgresql.conf", conf+"\nssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server-key.pem'\nssl_ca_file = 'root.pem'\n")
	l.file(t, "pg_hba.conf", "local all all scram-sha-256\n"+leasePage(t, "pg_hba.conf"))
	l.file(t, "pg_ident.conf", leasePage(t, "pg_ident.conf"))
	l.admin(t, "postgres", "SELECT pg_reload_conf()")
	l.admin(t, "postgres", "REVOKE segl_service FROM segl") // a private cluster has a ledger's owner of that name
	l.admin(t, "postgres", "CREATE DATABASE shop")
	put(t, l.dir, "postgresql.sql", filepath.Join("..", "..", "deploy", "targets", "postgresql.sql"))
	u, err := pgx.ParseConfig(l.pg.SuperuserURL())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := l.sh(t, leasePage(t, "prepare"), "PGHOST="+u.Host, "PGPORT="+l.port, "PGUSER="+u.User, "PGPASSWORD="+u.Password); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.admin(t, "shop", "CREATE TABLE orders (n integer)")
	l.admin(t, "shop", "GRANT SELECT, INSERT ON orders TO shop_writers")
	return l
}

func (l *leasing) file(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(l.pg.DataDir(), name)
	info, err := os.Stat(l.pg.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	own := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // it is that on Unix
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, int(own.Uid), int(own.Gid))); err != nil {
		t.Fatal(err)
	}
}

func (l *leasing) connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(strings.Replace(l.pg.SuperuserURL(), ":5432/", ":"+l.port+"/", 1))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = database
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (l *leasing) admin(t *testing.T, database, sql string) {
	t.Helper()
	conn := l.connect(t, database)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// roles counts the leased roles at the target.
func (l *leasing) roles(t *testing.T) (n int) {
	t.Helper()
	conn := l.connect(t, "postgres")
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname ~ '^segl_[a-z2-7]{21}$'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// sh runs a block of the page as an operator or a workload of the demo would.
func (l *leasing) sh(t *testing.T, script string, env ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put(t, l.dir, "root.pem", l.s.Env["SEGL_ROOT"])
	bin := filepath.Join(l.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(e2e.Binary(t), filepath.Join(bin, "segl")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-euc", strings.ReplaceAll(script, ":5432", ":"+l.port))
	cmd.Dir = l.dir
	cmd.Env = append([]string{"PATH=" + bin + ":" + l.pg.BinDir() + ":/usr/bin:/bin", "HOME=" + l.dir}, env...)
	for k, v := range l.s.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// A loginAnswer is what POST /v1/leases gives.
type loginAnswer struct {
	Lease, State, Host, Port, Database, Username, Password string
}

func (l *leasing) lease(t *testing.T, who *http.Client) loginAnswer {
	t.Helper()
	a, err := e2e.Ask(t.Context(), who, http.MethodPost, l.s.Env["SEGL_URL"]+"/v1/leases", map[string]any{"binding": "orders"})
	if err != nil || a.Status != http.StatusCreated {
		t.Fatalf("%v: %d %s", err, a.Status, a.Body)
	}
	var out loginAnswer
	if err := json.Unmarshal(a.Body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// A Login is what docs/leases.md calls it.
type Login struct {
	Host, Database, Username, Password string
	Port                               uint16
}

// connect is the page's, as it stands: TestLeasedLogins compares them.
func connect(ctx context.Context, login Login, roots *x509.CertPool) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("sslmode=verify-full")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.Database, cfg.User, cfg.Password = login.Host, login.Port, login.Database, login.Username, login.Password
	cfg.Fallbacks, cfg.TLSConfig = nil, &tls.Config{RootCAs: roots, ServerName: login.Host, MinVersion: tls.VersionTLS13}
	return pgx.ConnectConfig(ctx, cfg)
}

func (l *leasing) open(t *testing.T, a loginAnswer) (*pgx.Conn, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(t, l.s.Env["SEGL_ROOT"])))
	port, err := strconv.ParseUint(a.Port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t.Context(), Login{a.Host, a.Database, a.Username, a.Password, uint16(port)}, pool)
}

func TestLeasedLoginsLiveAndDieWithTheCertificate(t *testing.T) {
	if own := readFile(t, "lease_test.go"); !strings.Contains(own, leasePage(t, "pgx")) {
		t.Error("the page's Go is not what runs here")
	}
	s := e2e.New(t)
	s.Begin(t)
	l := newLeasing(t, s)
	if out, err := l.sh(t, leasePage(t, "add")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Run("by the command line", func(t *testing.T) { byCommandLine(t, l) })
	t.Run("revoked", func(t *testing.T) { leaseRevoked(t, l) })
	t.Run("the program is killed", func(t *testing.T) { leaseKilled(t, l) })
	t.Run("the target is killed", func(t *testing.T) { targetKilled(t, l) })
}

func byCommandLine(t *testing.T, l *leasing) {
	out, err := l.sh(t, leasePage(t, "login"))
	if err != nil || out != "shop_writers" { // it acts as its group
		t.Errorf("psql: %v %s", err, out)
	}
	if n := l.roles(t); n != 0 {
		t.Errorf("%d roles once psql has ended", n)
	}
	if out, err := l.sh(t, leasePage(t, "service")); err != nil || !strings.HasSuffix(out, "\n0") {
		t.Errorf("service file: %v %s", err, out)
	}
	info, err := os.Stat(filepath.Join(l.dir, "pg_service.conf"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v", err)
	}
	if out, err = l.sh(t, leasePage(t, "see")); err != nil || !strings.Contains(out, "orders") || !strings.Contains(out, "live") {
		t.Errorf("list: %v %s", err, out)
	}
	if out, err = l.sh(t, "segl cert show \"$SEGL_CERT\""); err != nil || !strings.Contains(out, "orders at db, live") {
		t.Errorf("what hangs on the certificate: %v %s", err, out)
	}
	for what, c := range map[string]struct{ script, says string }{
		"an unknown binding": {"segl db login nothing", "not-found"},
		"too long a life":    {"segl db login orders --ttl 2h", "at most 1h"},
		"no such target":     {"segl binding add x --scope demo/shop/dev --for 'spiffe://segl.test/tenant/demo/**' --target none --database shop --group shop_writers --life 1h", ""},
		"no such group":      {"segl binding add x --scope demo/shop/dev --for 'spiffe://segl.test/tenant/demo/project/shop/environment/dev/*' --target db --database shop --group none --life 1h >/dev/null && segl db login x", ""},
		"an injection":       {"segl binding add y --scope demo/shop/dev --for 'spiffe://segl.test/tenant/demo/project/shop/environment/dev/*' --target db --database 'shop;drop' --group shop_writers --life 1h", ""},
		"a dead target":      {"segl target add dead 127.0.0.1:1 --scope demo", "does not answer"},
	} {
		if out, err := l.sh(t, c.script); err == nil {
			t.Errorf("%s: taken: %s", what, out)
		}
	}
}

// leaseRevoked measures from the answer of the revocation to the end of an open session.
func leaseRevoked(t *testing.T, l *leasing) {
	var took []time.Duration
	for i := range 10 {
		pair := l.s.Issue(t, e2e.Order{Profile: "workload", Workload: fmt.Sprintf("api%d", i)})
		login := l.lease(t, l.s.Client(t, pair.CertFile, pair.KeyFile))
		in, err := l.open(t, login)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Exec(t.Context(), "INSERT INTO orders VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		l.s.Revoke(t, pair.Serial, "cessationOfOperation")
		took = append(took, e2e.Eventually(t, 10*time.Second, func() error {
			if _, err := in.Exec(t.Context(), "SELECT 1"); err == nil {
				return errors.New("the session goes on")
			}
			return nil
		}))
		in.Close(context.Background())
		if in, err := l.open(t, login); err == nil {
			in.Close(context.Background())
			t.Error("let in again")
		}
	}
	slowest := time.Duration(0)
	for _, d := range took {
		slowest = max(slowest, d)
	}
	t.Logf("from a revocation's answer to the end of the session: at most %s of %d", slowest.Round(time.Millisecond), len(took))
	if slowest > 2*time.Second {
		t.Errorf("took %s", slowest)
	}
}

// leaseKilled kills the program while it makes logins and ends them, and looks at what is left.
func leaseKilled(t *testing.T, l *leasing) {
	pair := l.s.Issue(t, e2e.Order{Profile: "workload", Workload: "crash"})
	who := l.s.Client(t, pair.CertFile, pair.KeyFile)
	stays := l.lease(t, who)
	for range 3 {
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := e2e.Ask(t.Context(), who, http.MethodPost, l.s.Env["SEGL_URL"]+"/v1/leases", map[string]any{"binding": "orders"})
				var out loginAnswer
				if err == nil && json.Unmarshal(a.Body, &out) == nil && out.Lease != "" {
					e2e.Ask(t.Context(), who, http.MethodDelete, l.s.Env["SEGL_URL"]+"/v1/leases/"+out.Lease, nil) //nolint:errcheck // it is killed
				}
			}
		}()
		time.Sleep(400 * time.Millisecond) // somewhere in the middle
		l.s.Kill(t)
		close(stop)
		<-done
		l.s.Begin(t)
	}
	settled(t, l, stays)
}

// settled waits until exactly one login is there beside the service file's, and it is the one that lives.
func settled(t *testing.T, l *leasing, stays loginAnswer) {
	t.Helper()
	e2e.Eventually(t, 90*time.Second, func() error {
		a, err := e2e.Ask(t.Context(), l.s.Operator(t), http.MethodGet, l.s.Env["SEGL_OPERATOR_URL"]+"/v1/tenants/demo/leases?state=live&page_size=100", nil)
		if err != nil {
			return err
		}
		var out struct{ Leases []loginAnswer }
		if err := json.Unmarshal(a.Body, &out); err != nil {
			return err
		}
		if n := l.roles(t); n != len(out.Leases) {
			return fmt.Errorf("%d roles, %d live leases", n, len(out.Leases))
		}
		return nil
	})
	in, err := l.open(t, stays)
	if err != nil {
		t.Fatalf("what lives is gone: %v", err)
	}
	in.Close(context.Background())
}

// targetKilled kills the target while a certificate is revoked: the debt is paid once it is back.
func targetKilled(t *testing.T, l *leasing) {
	pair := l.s.Issue(t, e2e.Order{Profile: "workload", Workload: "away"})
	login := l.lease(t, l.s.Client(t, pair.CertFile, pair.KeyFile))
	other := l.s.Issue(t, e2e.Order{Profile: "workload", Workload: "stays"})
	stays := l.lease(t, l.s.Client(t, other.CertFile, other.KeyFile))
	p, err := os.FindProcess(l.pg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil { // its supervisor starts it again
		t.Fatal(err)
	}
	l.s.Revoke(t, pair.Serial, "cessationOfOperation")
	e2e.Eventually(t, 60*time.Second, func() error {
		a, err := e2e.Ask(t.Context(), l.s.Operator(t), http.MethodGet, l.s.Env["SEGL_OPERATOR_URL"]+"/v1/leases/"+login.Lease, nil)
		var out loginAnswer
		if err == nil {
			err = json.Unmarshal(a.Body, &out)
		}
		if err == nil && out.State != "gone" {
			err = fmt.Errorf("it is %s: %s", out.State, a.Body)
		}
		return err
	})
	settled(t, l, stays)
}
