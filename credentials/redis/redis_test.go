package redis_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	driver "github.com/redis/go-redis/v9"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/credentialstest"
	"codeberg.org/dataverket/segl/credentials/redis"
	"codeberg.org/dataverket/segl/internal/identity"
)

const password = "manager-password"

type house struct {
	ca      *credentialstest.CA
	address string
	backend *redis.Backend
	target  credentials.Target
}

func newHouse(t *testing.T) *house {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is missing: apt-get install redis-server")
	}
	dir, err := os.MkdirTemp("", "segl-redis-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only asks for a port
	if err != nil {
		t.Fatal(err)
	}
	h := &house{ca: credentialstest.NewCA(t), address: ln.Addr().String()}
	ln.Close()
	chain, key := h.ca.Issue(t, "server")
	acl, err := os.ReadFile("../../deploy/targets/redis.acl")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(password))
	lists := strings.Replace(string(acl), "SHA256-OF-A-LONG-RANDOM-PASSWORD", hex.EncodeToString(sum[:]), 1) + "user default off\nuser nobodys on nopass ~wages:* +@all\nuser root on >rootpw ~* &* +@all\n"
	for name, text := range map[string]string{"server.pem": string(chain), "key.pem": string(key), "root.pem": string(h.ca.PEM), "users.acl": lists} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := net.SplitHostPort(h.address)
	cmd := exec.Command(program, "--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", filepath.Join(dir, "server.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "root.pem"), "--tls-auth-clients", "optional", "--aclfile", filepath.Join(dir, "users.acl"), "--dir", dir, "--save", "")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // killed
	})
	h.backend = h.with(t, redis.Config{})
	h.target = credentials.Target{Name: "cache", Kind: credentials.Redis, Address: h.address, Manager: "segl"}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = h.backend.Check(t.Context(), h.target); err == nil {
			return h
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (h *house) with(t *testing.T, c redis.Config) *redis.Backend {
	t.Helper()
	c.Certificate, c.Roots = h.ca.Client(t, "segl@platform"), func() *x509.CertPool { return h.ca.Pool }
	if c.Password == nil {
		c.Password = func(credentials.Target) credentials.Secret { return credentials.NewSecret(password) }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	b := redis.New(c)
	t.Cleanup(b.Close)
	return b
}

func scope(t *testing.T, s string) identity.Scope {
	t.Helper()
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

type session struct{ *driver.Client }

func (s session) Alive(ctx context.Context) error     { return s.Set(ctx, "orders:1", "x", 0).Err() }
func (s session) Forbidden(ctx context.Context) error { return s.Get(ctx, "wages:1").Err() }
func (s session) Close()                              { s.Client.Close() } //nolint:errcheck // over

func (h *house) login(ctx context.Context, user, password string) (credentialstest.Session, error) {
	c := driver.NewClient(&driver.Options{
		Addr: h.address, Username: user, Password: password, PoolSize: 1, MaxRetries: -1, DisableIdentity: true,
		TLSConfig: &tls.Config{ServerName: "127.0.0.1", RootCAs: h.ca.Pool, MinVersion: tls.VersionTLS12},
	})
	if err := c.Ping(ctx).Err(); err != nil {
		c.Close()
		return nil, err
	}
	return session{c}, nil
}

func TestConformance(t *testing.T) {
	h := newHouse(t)
	credentialstest.Run(t, credentialstest.Server{Backend: h.backend, Target: h.target, Login: h.login})
	t.Run("roots are those of the moment", func(t *testing.T) {
		roots := x509.NewCertPool()
		b := redis.New(redis.Config{Certificate: h.ca.Client(t, "segl@platform"), Roots: func() *x509.CertPool { return roots }, Now: time.Now, Password: func(credentials.Target) credentials.Secret { return credentials.NewSecret(password) }})
		defer b.Close()
		if _, err := b.Principals(t.Context(), h.target); err == nil {
			t.Error("a server that nobody vouches for is believed")
		}
		roots = h.ca.Pool
		if _, err := b.Principals(t.Context(), h.target); err != nil {
			t.Errorf("after the roots changed: %v", err)
		}
	})
	t.Run("who may do everything is refused", func(t *testing.T) {
		super := h.target
		super.Manager = "root"
		b := redis.New(redis.Config{Certificate: h.ca.Client(t, "x"), Roots: func() *x509.CertPool { return h.ca.Pool }, Password: func(credentials.Target) credentials.Secret { return credentials.NewSecret("rootpw") }, Now: time.Now})
		defer b.Close()
		if _, err := b.Make(t.Context(), super, credentialstest.Grant("x")); !errors.Is(err, credentials.ErrTooPowerful) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a group that can log in is none", func(t *testing.T) {
		for _, group := range []string{"nobodys", "root", "segl"} {
			g := credentialstest.Grant("x")
			g.Group = group
			if _, err := h.backend.Make(t.Context(), h.target, g); !errors.Is(err, credentials.ErrGroup) {
				t.Errorf("%s: %v", group, err)
			}
		}
	})
	t.Run("users of others are not ended", func(t *testing.T) {
		for _, name := range []string{"root", "writers", "nobodys", "default"} {
			g := credentialstest.Grant("x")
			g.Principal = name
			if done, err := h.backend.End(t.Context(), h.target, []credentials.Grant{g}); err != nil || done[0].Receipts[0].Effect != credentials.WasNotThere {
				t.Errorf("%s: %v %v", name, done, err)
			}
		}
	})
	// Who names the server of another tenant as a target of its own gets in with neither the other's password nor its connections.
	t.Run("a tenant's password is for its own targets", func(t *testing.T) {
		b := h.with(t, redis.Config{Password: func(at credentials.Target) credentials.Secret {
			return credentials.NewSecret(map[string]string{"demo": password, "other": "another-password"}[at.Scope.Tenant()])
		}})
		for _, tenant := range []string{"demo", "other", "third"} {
			theirs := h.target
			theirs.Scope = scope(t, tenant)
			err := b.Check(t.Context(), theirs)
			if (tenant == "demo") != (err == nil) || err != nil && !errors.Is(err, credentials.ErrUnprepared) {
				t.Errorf("%s: %v", tenant, err)
			}
		}
	})
	t.Run("wrong clocks are refused", func(t *testing.T) {
		late := h.with(t, redis.Config{Now: func() time.Time { return time.Now().Add(time.Minute) }})
		if _, err := late.Make(t.Context(), h.target, credentialstest.Grant("x")); !errors.Is(err, credentials.ErrClock) {
			t.Errorf("%v", err)
		}
	})
}
