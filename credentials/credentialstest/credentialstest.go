// Package credentialstest holds the test that every credentials.Backend passes, on a real server, and the certificates for one.
//
// A Server is what differs between kinds: how somebody logs in with a password, and how a session is seen to live. It is for
// tests alone.
package credentialstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Server is a target that runs, with a group called writers and, but for Redis, a database called shop.
type Server struct {
	Backend credentials.Backend
	Target  credentials.Target
	// Login opens a session. Its error says that the server refused.
	Login func(ctx context.Context, user, password string) (Session, error)
}

// A Session is somebody logged in.
type Session interface {
	// Alive does something that the group may do.
	Alive(ctx context.Context) error
	// Forbidden does something that it may not.
	Forbidden(ctx context.Context) error
	Close()
}

// Grant returns one for a login of its own.
func Grant(password string) credentials.Grant {
	id := uid.New(uid.Lease, 1, time.Now())
	return credentials.Grant{
		Way: credentials.Leased, Lease: id.String(), Principal: credentials.PrincipalOf(id), Password: credentials.NewSecret(password), Group: "writers", Database: "shop",
		Until: time.Now().Add(time.Hour), Connections: 5,
	}
}

// Run runs the test.
func Run(t *testing.T, s Server) {
	for name, f := range map[string]func(*testing.T, Server){
		"what is made lets in by its password alone":         lets,
		"making again changes the password":                  again,
		"what ends is out, its sessions too":                 ends,
		"ending many leaves the others":                      others,
		"what never was ends, and again":                     never,
		"a group that nobody may hand out is refused":        group,
		"extending what is not there says so":                extends,
		"a target that is away says so":                      away,
		"a server that another authority vouches for is not": stranger,
	} {
		t.Run(name, func(t *testing.T) { f(t, s) })
	}
}

func (s Server) make(t *testing.T, password string) credentials.Grant {
	t.Helper()
	g := Grant(password)
	got, err := s.Backend.Make(t.Context(), s.Target, g)
	if err != nil || len(got) == 0 || got[0].Effect != credentials.LoginMade || got[0].At.IsZero() {
		t.Fatalf("making: %v, %v", got, err)
	}
	t.Cleanup(func() { s.Backend.End(context.WithoutCancel(t.Context()), s.Target, []credentials.Grant{g}) }) //nolint:errcheck // only tidies
	return g
}

func (s Server) login(t *testing.T, g credentials.Grant) Session {
	t.Helper()
	in, err := s.Login(t.Context(), g.Principal, g.Password.Reveal())
	if err != nil {
		t.Fatalf("logging in: %v", err)
	}
	t.Cleanup(in.Close)
	return in
}

func (s Server) staysOut(t *testing.T, user, password string) {
	t.Helper()
	if in, err := s.Login(t.Context(), user, password); err == nil {
		in.Close()
		t.Errorf("%s is let in", user)
	}
}

func (s Server) end(t *testing.T, list ...credentials.Grant) []credentials.Ended {
	t.Helper()
	done, err := s.Backend.End(t.Context(), s.Target, list)
	if err != nil || len(done) != len(list) {
		t.Fatalf("ending %d: %v, %v", len(list), done, err)
	}
	for _, d := range done {
		if d.Err != nil || len(d.Receipts) == 0 {
			t.Errorf("ending %s: %v, %v", d.Principal, d.Receipts, d.Err)
		}
	}
	return done
}

func (s Server) has(t *testing.T, g credentials.Grant) bool {
	t.Helper()
	list, err := s.Backend.Principals(t.Context(), s.Target)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(list, g.Principal)
}

func lets(t *testing.T, s Server) {
	if err := s.Backend.Check(t.Context(), s.Target); err != nil {
		t.Fatal(err)
	}
	g := s.make(t, "right-horse")
	in := s.login(t, g)
	if err := in.Alive(t.Context()); err != nil {
		t.Errorf("what the group may: %v", err)
	}
	if err := in.Forbidden(t.Context()); err == nil {
		t.Error("may do what the group may not")
	}
	s.staysOut(t, g.Principal, "wrong-horse")
	s.staysOut(t, g.Principal, "")
	s.staysOut(t, Grant("").Principal, "right-horse")
	if !s.has(t, g) {
		t.Error("is not listed")
	}
}

func again(t *testing.T, s Server) {
	g := s.make(t, "first-horse")
	g.Password = credentials.NewSecret("second-horse")
	if _, err := s.Backend.Make(t.Context(), s.Target, g); err != nil {
		t.Fatal(err)
	}
	s.login(t, g)
	s.staysOut(t, g.Principal, "first-horse")
}

func ends(t *testing.T, s Server) {
	g := s.make(t, "battery-staple")
	in := s.login(t, g)
	if err := in.Alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := s.end(t, g)
	if in.Alive(t.Context()) == nil {
		t.Error("its session goes on")
	}
	s.staysOut(t, g.Principal, g.Password.Reveal())
	effects := map[credentials.Effect]int{}
	for _, r := range done[0].Receipts {
		effects[r.Effect] += max(1, r.Count)
	}
	if effects[credentials.LoginDropped] != 1 || effects[credentials.SessionsEnded] != 1 || s.has(t, g) {
		t.Errorf("receipts %v, listed %t", done[0].Receipts, s.has(t, g))
	}
}

func others(t *testing.T, s Server) {
	stays := s.make(t, "stays")
	in := s.login(t, stays)
	var leave []credentials.Grant
	for range 5 {
		leave = append(leave, s.make(t, "leaves"))
	}
	s.end(t, leave...)
	if err := in.Alive(t.Context()); err != nil || !s.has(t, stays) {
		t.Errorf("who stays: %v", err)
	}
	for _, g := range leave {
		if s.has(t, g) {
			t.Errorf("%s is listed yet", g.Principal)
		}
	}
}

func never(t *testing.T, s Server) {
	g := Grant("never")
	for range 2 {
		if done := s.end(t, g); done[0].Receipts[0].Effect != credentials.WasNotThere {
			t.Errorf("%v", done)
		}
	}
}

func group(t *testing.T, s Server) {
	g := Grant("nobody")
	g.Group = "nobodys"
	if _, err := s.Backend.Make(t.Context(), s.Target, g); !errors.Is(err, credentials.ErrGroup) {
		t.Errorf("%v, want %v", err, credentials.ErrGroup)
	}
	if s.has(t, g) {
		t.Error("half made")
	}
}

func extends(t *testing.T, s Server) {
	g := Grant("nobody")
	if _, err := s.Backend.Extend(t.Context(), s.Target, g); !errors.Is(err, credentials.ErrNotFound) {
		t.Errorf("%v, want %v", err, credentials.ErrNotFound)
	}
	g = s.make(t, "longer")
	g.Until = g.Until.Add(time.Hour)
	if _, err := s.Backend.Extend(t.Context(), s.Target, g); err != nil {
		t.Error(err)
	}
	s.login(t, g)
}

func away(t *testing.T, s Server) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a port that nobody answers at
	if err != nil {
		t.Fatal(err)
	}
	there := s.Target
	there.Address = ln.Addr().String()
	ln.Close() //nolint:errcheck // that is what makes it be away
	g := Grant("away")
	_, err = s.Backend.Make(t.Context(), there, g)
	_, err2 := s.Backend.End(t.Context(), there, []credentials.Grant{g})
	_, err3 := s.Backend.Principals(t.Context(), there)
	for _, err := range []error{err, err2, err3, s.Backend.Check(t.Context(), there)} {
		if !errors.Is(err, credentials.ErrUnreachable) {
			t.Errorf("%v, want %v", err, credentials.ErrUnreachable)
		}
	}
}

func stranger(t *testing.T, s Server) {
	there := s.Target
	there.Authority = string(NewCA(t).PEM)
	if err := s.Backend.Check(t.Context(), there); !errors.Is(err, credentials.ErrUnreachable) {
		t.Errorf("%v, want %v", err, credentials.ErrUnreachable)
	}
}

// A CA makes certificates for a test's servers and clients.
type CA struct {
	PEM  []byte
	Pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA returns one of its own.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key := newKey(t)
	der := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, key, key)
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &CA{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pool, c, key}
}

// Issue returns a certificate of common name name, for 127.0.0.1 and localhost too, and its key, in PEM.
func (c *CA) Issue(t testing.TB, name string) (chain, key []byte) {
	t.Helper()
	k := newKey(t)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	der := sign(t, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, c, k, c.key)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// Client returns a function that shows one certificate of common name name.
func (c *CA) Client(t testing.TB, name string) func(context.Context) (*tls.Certificate, error) {
	t.Helper()
	chain, key := c.Issue(t, name)
	pair, err := tls.X509KeyPair(chain, key)
	return func(context.Context) (*tls.Certificate, error) { return &pair, err }
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, like *x509.Certificate, by *CA, own, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	like.NotBefore, like.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := like
	if by != nil {
		parent = by.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, like, parent, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
