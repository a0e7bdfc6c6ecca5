package postgres_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/credentialstest"
	"codeberg.org/dataverket/segl/credentials/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
)

// A house is a PostgreSQL server prepared as docs/databases.md says.
type house struct {
	*cluster.Cluster
	ca      *credentialstest.CA
	port    string
	backend *postgres.Backend
	target  credentials.Target
	now     func() time.Time
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{ca: credentialstest.NewCA(t), port: freePort(t), now: time.Now}
	dir, err := os.MkdirTemp("", "segl-target-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.Cluster, err = cluster.Start(t.Context(), cluster.Config{Dir: filepath.Join(dir, "p"), Test: true, Settings: map[string]string{"listen_addresses": "127.0.0.1", "port": h.port}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	chain, key := h.ca.Issue(t, "server")
	h.file(t, "server.pem", string(chain))
	h.file(t, "server-key.pem", string(key))
	h.file(t, "root.pem", string(h.ca.PEM))
	h.file(t, "pg_hba.conf", "local all all scram-sha-256\nhostssl all segl 127.0.0.1/32 cert\nhostssl all postgres 127.0.0.1/32 cert map=super\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
	h.file(t, "pg_ident.conf", "super segl postgres\n")
	conf, err := os.ReadFile(filepath.Join(h.DataDir(), "postgresql.conf"))
	if err != nil {
		t.Fatal(err)
	}
	h.file(t, "postgresql.conf", string(conf)+"\nssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server-key.pem'\nssl_ca_file = 'root.pem'\n")
	h.sql(t, "postgres", "SELECT pg_reload_conf()", "REVOKE segl_service FROM segl" /* a cluster for tests has a ledger's owner of that name */, "CREATE DATABASE shop", "CREATE ROLE writers", "CREATE ROLE nobodys", "CREATE ROLE legacy LOGIN")
	text, err := os.ReadFile("../../deploy/targets/postgresql.sql")
	if err != nil {
		t.Fatal(err)
	}
	h.sql(t, "postgres", string(text), string(text)) // it may be run again
	h.sql(t, "shop", string(text), "GRANT writers TO segl_owner WITH ADMIN OPTION", "CREATE TABLE orders (n integer)", "CREATE TABLE wages (n integer)",
		"GRANT SELECT, INSERT ON orders TO writers", "GRANT CREATE ON SCHEMA public TO writers", "INSERT INTO segl.static (role) VALUES ('legacy')")
	h.backend = h.with(t, postgres.Config{})
	h.target = credentials.Target{Name: "db", Kind: credentials.PostgreSQL, Address: "127.0.0.1:" + h.port, Manager: "segl", Database: "postgres"}
	return h
}

func (h *house) with(t testing.TB, c postgres.Config) *postgres.Backend {
	t.Helper()
	c.Certificate, c.Roots = h.ca.Client(t, "segl"), pool(h.ca)
	if c.Now == nil {
		c.Now = time.Now
	}
	b := postgres.New(c)
	t.Cleanup(b.Close)
	return b
}

func (h *house) file(t testing.TB, name, text string) {
	t.Helper()
	info, err := os.Stat(h.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	own, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	path := filepath.Join(h.DataDir(), name)
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, int(own.Uid), int(own.Gid))); err != nil {
		t.Fatal(err)
	}
}

func (h *house) admin(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	url := strings.Replace(h.SuperuserURL(), ":5432/", ":"+h.port+"/", 1)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = database
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (h *house) sql(t testing.TB, database string, list ...string) {
	t.Helper()
	conn := h.admin(t, database)
	for _, s := range list {
		if _, err := conn.PgConn().Exec(t.Context(), s).ReadAll(); err != nil {
			t.Fatalf("%.60s: %v", s, err)
		}
	}
}

func (h *house) says(t testing.TB, database, sql string) (s string) {
	t.Helper()
	if err := h.admin(t, database).QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

type session struct{ *pgx.Conn }

func (s session) Alive(ctx context.Context) error {
	_, err := s.Exec(ctx, "INSERT INTO orders VALUES (1)")
	return err
}

func (s session) Forbidden(ctx context.Context) error {
	_, err := s.Exec(ctx, "SELECT n FROM wages")
	return err
}

func (s session) Close() { s.Conn.Close(context.Background()) } //nolint:errcheck // over

func (h *house) login(ctx context.Context, user, password string) (credentialstest.Session, error) {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%s dbname=shop user=%s sslmode=require", h.port, user))
	if err != nil {
		return nil, err
	}
	cfg.Password = password
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return session{conn}, nil
}

func TestConformance(t *testing.T) {
	h := newHouse(t)
	credentialstest.Run(t, credentialstest.Server{Backend: h.backend, Target: h.target, Login: h.login})
	t.Run("roots are those of the moment", func(t *testing.T) {
		roots := x509.NewCertPool()
		b := postgres.New(postgres.Config{Certificate: h.ca.Client(t, "segl"), Roots: func() *x509.CertPool { return roots }, Now: time.Now})
		defer b.Close()
		if _, err := b.Principals(t.Context(), h.target); err == nil {
			t.Error("a server that nobody vouches for is believed")
		}
		roots = h.ca.Pool
		if _, err := b.Principals(t.Context(), h.target); err != nil {
			t.Errorf("after the roots changed: %v", err)
		}
	})
	t.Run("what it owns is its group's, never dropped", func(t *testing.T) { owned(t, h) })
	t.Run("what is elsewhere keeps the role, and nobody else", func(t *testing.T) { elsewhere(t, h) })
	t.Run("a superuser is refused", func(t *testing.T) { powerful(t, h) })
	t.Run("wrong clocks are refused", func(t *testing.T) { clocks(t, h) })
	t.Run("names that are none are refused", func(t *testing.T) { injection(t, h) })
	t.Run("the login may do nothing but its functions", func(t *testing.T) { least(t, h) })
	t.Run("a password rotates, and is taken back by its own lease alone", func(t *testing.T) { static(t, h) })
	t.Run("no log and no catalog has the password", func(t *testing.T) { silent(t, h) })
	t.Run("a database without the functions says what to run", func(t *testing.T) { unprepared(t, h) })
}

func made(t *testing.T, h *house, password string) credentials.Grant {
	t.Helper()
	g := credentialstest.Grant(password)
	if _, err := h.backend.Make(t.Context(), h.target, g); err != nil {
		t.Fatal(err)
	}
	return g
}

func end(t *testing.T, h *house, list ...credentials.Grant) map[string]credentials.Ended {
	t.Helper()
	done, err := h.backend.End(t.Context(), h.target, list)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]credentials.Ended)
	for _, d := range done {
		out[d.Principal] = d
	}
	return out
}

func owned(t *testing.T, h *house) {
	g := made(t, h, "owner")
	in, err := h.login(t.Context(), g.Principal, "owner")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	conn := in.(session).Conn
	for _, sql := range []string{"SET ROLE writers", "CREATE TABLE asgroup (n integer)", "RESET ROLE", "CREATE TABLE asitself (n integer)", "INSERT INTO asitself VALUES (7)", "BEGIN", "LOCK TABLE asitself"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	d := end(t, h, g)[g.Principal]
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	if got := h.says(t, "shop", "SELECT string_agg(tablename || ' ' || tableowner, ', ' ORDER BY tablename) FROM pg_tables WHERE tablename LIKE 'as%'"); got != "asgroup writers, asitself writers" {
		t.Errorf("owners: %s", got)
	}
	if got := h.says(t, "shop", "SELECT n::text FROM asitself"); got != "7" {
		t.Errorf("its rows: %s", got)
	}
	if fmt.Sprint(d.Receipts) == "" || d.Receipts[2].Effect != credentials.OwnedReassigned || d.Receipts[2].Count < 1 {
		t.Errorf("receipts %v", d.Receipts)
	}
}

func elsewhere(t *testing.T, h *house) {
	stuck, other := made(t, h, "stuck"), made(t, h, "other")
	h.sql(t, "postgres", "CREATE TABLE far (n integer)", "ALTER TABLE far OWNER TO "+stuck.Principal)
	done := end(t, h, stuck, other)
	if err := done[stuck.Principal].Err; err == nil || !strings.Contains(err.Error(), "in: postgres") {
		t.Errorf("what owns something elsewhere: %v", err)
	}
	if err := done[other.Principal].Err; err != nil {
		t.Errorf("the other: %v", err)
	}
	if _, err := h.login(t.Context(), stuck.Principal, "stuck"); err == nil {
		t.Error("what could not be dropped is not closed")
	}
	h.sql(t, "postgres", "ALTER TABLE far OWNER TO writers")
	if d := end(t, h, stuck)[stuck.Principal]; d.Err != nil {
		t.Errorf("once it owns nothing: %v", d.Err)
	}
}

func powerful(t *testing.T, h *house) {
	super := h.target
	super.Manager = "postgres"
	g := credentialstest.Grant("x")
	_, err := h.backend.Make(t.Context(), super, g)
	for _, err := range []error{err, h.backend.Check(t.Context(), super)} {
		if !errors.Is(err, credentials.ErrTooPowerful) {
			t.Errorf("a superuser: %v", err)
		}
	}
	for _, right := range []string{"CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"} {
		h.sql(t, "postgres", "ALTER ROLE segl "+right)
		if err := h.backend.Check(t.Context(), h.target); !errors.Is(err, credentials.ErrTooPowerful) {
			t.Errorf("%s: %v", right, err)
		}
		h.sql(t, "postgres", "ALTER ROLE segl NO"+right)
	}
}

func clocks(t *testing.T, h *house) {
	for _, off := range []time.Duration{-time.Minute, time.Minute} {
		b := h.with(t, postgres.Config{Now: func() time.Time { return time.Now().Add(off) }})
		if _, err := b.Make(t.Context(), h.target, credentialstest.Grant("x")); !errors.Is(err, credentials.ErrClock) {
			t.Errorf("%s off: %v", off, err)
		}
	}
}

func injection(t *testing.T, h *house) {
	for _, name := range []string{
		"", "postgres", "segl", "segl_owner", "segl_short", `segl_aaaaaaaaaaaaaaaaaaa"`, "segl_aaaaaaaaaaaaaaaaaaaaa; DROP ROLE segl", "legacy", "segl_AAAAAAAAAAAAAAAAAAAAA", "segl_aaaaaaaaaaaaaaaaaaaaa\n",
	} {
		g := credentialstest.Grant("x")
		g.Principal = name
		if _, err := h.backend.Make(t.Context(), h.target, g); err == nil {
			t.Errorf("made %q", name)
		}
		if d := end(t, h, g)[name]; d.Err != nil || d.Receipts[0].Effect != credentials.WasNotThere {
			t.Errorf("ended %q: %v", name, d)
		}
	}
	for _, heir := range []string{"segl_owner", "postgres", "pg_read_all_data", `writers"; --`, ""} {
		g := credentialstest.Grant("x")
		g.Group = heir
		if _, err := h.backend.Make(t.Context(), h.target, g); !errors.Is(err, credentials.ErrGroup) {
			t.Errorf("group %q: %v", heir, err)
		}
	}
}

func least(t *testing.T, h *house) {
	get := h.ca.Client(t, "segl")
	cert, err := get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%s dbname=shop user=segl sslmode=require", h.port))
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLSConfig.GetClientCertificate = nil
	cfg.TLSConfig.Certificates = append(cfg.TLSConfig.Certificates, *cert)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		"CREATE ROLE evil", "GRANT writers TO segl", "SET ROLE writers", "SET ROLE segl_owner", "SELECT n FROM orders", "SELECT n FROM wages", "CREATE TABLE evil (n integer)",
		"INSERT INTO segl.static (role) VALUES ('postgres')", "SELECT segl.judge(NULL, 'x', now(), now())", "ALTER ROLE legacy PASSWORD 'x'", "CREATE FUNCTION segl.evil() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
		"SELECT segl.rotate('postgres', 'SCRAM-SHA-256$4096:YQ==$YQ==:YQ==', now(), 'x', now(), now() + interval '5 s')",
		"SELECT segl.certify('postgres', 1, 'writers', now(), now() + interval '5 s')", "SELECT segl.certify('legacy', 1, 'writers', now(), now() + interval '5 s')",
		"SELECT segl.make('segl_aaaaaaaaaaaaaaaaaaaaa', 'clear', now(), 1, 'writers', now(), now() + interval '5 s')",
		"SELECT segl.make('segl_aaaaaaaaaaaaaaaaaaaaa', 'SCRAM-SHA-256$4096:YQ==$YQ==:YQ==', now(), 1, 'writers', now(), now() - interval '1 s')",
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("segl may: %s", sql)
		}
	}
}

func static(t *testing.T, h *house) {
	g := credentialstest.Grant("first")
	g.Way, g.Principal, g.Lease = credentials.Static, "legacy", "one"
	if _, err := h.backend.Make(t.Context(), h.target, g); err != nil {
		t.Fatal(err)
	}
	next := g
	next.Password, next.Lease = credentials.NewSecret("second"), "two"
	if _, err := h.backend.Make(t.Context(), h.target, next); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login(t.Context(), "legacy", "first"); err == nil {
		t.Error("the password before the last gets in")
	}
	if d := end(t, h, g)["legacy"]; d.Err != nil || d.Receipts[0].Effect != credentials.WasNotThere {
		t.Errorf("ending the lease before: %v", d)
	}
	in, err := h.login(t.Context(), "legacy", "second")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	end(t, h, next)
	if _, err := h.login(t.Context(), "legacy", "second"); err == nil {
		t.Error("the ended lease gets in")
	}
	if err := in.(session).Ping(t.Context()); err == nil {
		t.Error("its session goes on")
	}
}

func silent(t *testing.T, h *house) {
	h.sql(t, "postgres", "ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
	defer h.sql(t, "postgres", "ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
	const word = "hunter2hunter2hunter2"
	g := made(t, h, word)
	end(t, h, g)
	log, err := os.ReadFile(h.LogFile())
	if err != nil || strings.Contains(string(log), word) {
		t.Errorf("the log has the password: %v", err)
	}
}

func unprepared(t *testing.T, h *house) {
	h.sql(t, "postgres", "CREATE DATABASE bare")
	g := credentialstest.Grant("x")
	g.Database = "bare"
	if _, err := h.backend.Make(t.Context(), h.target, g); !errors.Is(err, credentials.ErrUnprepared) || !strings.Contains(err.Error(), "postgresql.sql") {
		t.Errorf("%v", err)
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only asks for a port
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func pool(ca *credentialstest.CA) func() *x509.CertPool {
	return func() *x509.CertPool { return ca.Pool }
}
