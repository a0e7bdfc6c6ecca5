package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// freePort returns a port that nobody has just now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
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

// unprivileged returns how to start a program as nobody, who then owns dir, if we are root; else as ourselves.
func unprivileged(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error { return errors.Join(err, os.Lchown(path, uid, gid)) })
	if err := errors.Join(err1, err2, err); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}} //nolint:gosec // ids of the system
}

// nginx runs an nginx of our own with further directives in its server block, and returns the address.
func nginx(t *testing.T, s *e2e.Segl, dir string, directives ...string) (port string, reload func()) {
	t.Helper()
	program := e2e.Need(t, "nginx", "nginx-light")
	port = freePort(t)
	conf := fmt.Sprintf(`
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr info;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:%s ssl;
        %s
        location / { return 200 "hello $ssl_client_verify\n"; }
    }
}
`, port, strings.Join(directives, "\n        "))
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	cmd.SysProcAttr = unprivileged(t, dir)
	log, err := os.Create(filepath.Join(s.Temp(t), "nginx.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	said := func() string {
		text, err := os.ReadFile(log.Name())
		return fmt.Sprint(string(text), err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("nginx: %s", said())
		}
	})
	e2e.Eventually(t, 20*time.Second, func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("nginx ended: %v: %s", err, said())
		default:
		}
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return port, func() {
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
}

// put copies a file into dir.
func put(t *testing.T, dir, name, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNginxServesCurlThatTrustsOnlyTheRoot(t *testing.T) {
	e2e.Need(t, "curl", "curl")
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"web.demo.test", "127.0.0.1"}})
	dir := s.Temp(t)
	put(t, dir, "cert.pem", p.CertFile)
	put(t, dir, "key.pem", p.KeyFile)
	port, _ := nginx(t, s, dir, "ssl_certificate cert.pem;", "ssl_certificate_key key.pem;")

	root := []string{"-sS", "--max-time", "10", "--cacert", s.Env["SEGL_ROOT"]}
	byName := append(root, "--resolve", "web.demo.test:"+port+":127.0.0.1", "https://web.demo.test:"+port+"/")
	saying(t, s, true, "hello", "curl", byName...)
	saying(t, s, true, "hello", "curl", append(root, "https://127.0.0.1:"+port+"/")...)
	saying(t, s, true, "hello", "curl", append(byName, "--crlfile", lists(t, s))...)
	saying(t, s, false, "no alternative certificate subject name", "curl", append(root, "--resolve", "else.demo.test:"+port+":127.0.0.1", "https://else.demo.test:"+port+"/")...)
	saying(t, s, false, "SSL certificate problem", "curl", "-sS", "--max-time", "10", "https://127.0.0.1:"+port+"/") // the system's roots are not ours

	s.Revoke(t, p.Serial, "keyCompromise")
	awaitRevoked(t, s, p)
	saying(t, s, false, "certificate revoked", "curl", append(byName, "--crlfile", lists(t, s))...)
}

func TestNginxRefusesARevokedClient(t *testing.T) {
	e2e.Need(t, "curl", "curl")
	s := e2e.Shared(t)
	web := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"127.0.0.1"}})
	good := s.Issue(t, e2e.Order{Profile: "workload", Workload: "good"})
	leaver := s.Issue(t, e2e.Order{Profile: "workload", Workload: "leaver"})
	dir := s.Temp(t)
	put(t, dir, "cert.pem", web.CertFile)
	put(t, dir, "key.pem", web.KeyFile)
	put(t, dir, "root.pem", s.Env["SEGL_ROOT"])
	put(t, dir, "crls.pem", lists(t, s))
	port, reload := nginx(t, s, dir, "ssl_certificate cert.pem;", "ssl_certificate_key key.pem;",
		"ssl_client_certificate root.pem;", "ssl_verify_client on;", "ssl_verify_depth 2;", "ssl_crl crls.pem;")
	as := func(p *e2e.Pair) []string {
		return []string{
			"-sS", "--max-time", "10", "--cacert", s.Env["SEGL_ROOT"], "--cert", p.CertFile, "--key", p.KeyFile, "https://127.0.0.1:" + port + "/",
		}
	}
	saying(t, s, true, "hello SUCCESS", "curl", as(good)...)
	saying(t, s, true, "hello SUCCESS", "curl", as(leaver)...)
	saying(t, s, true, "No required SSL certificate was sent", "curl", "-sS", "--cacert", s.Env["SEGL_ROOT"], "https://127.0.0.1:"+port+"/")

	s.Revoke(t, leaver.Serial, "cessationOfOperation")
	awaitRevoked(t, s, leaver)
	put(t, dir, "crls.pem", lists(t, s))
	reload()
	e2e.Eventually(t, 10*time.Second, func() error {
		out, err := s.Try(t, "curl", as(leaver)...)
		if err != nil || !strings.Contains(out, "The SSL certificate error") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	saying(t, s, true, "hello SUCCESS", "curl", as(good)...)
}

// A workloadCertificate renews itself while others use it.
type workloadCertificate struct {
	s       *e2e.Segl
	current atomic.Pointer[e2e.Pair]
}

func (w *workloadCertificate) get() (*tls.Certificate, error) {
	c := w.current.Load().TLS()
	return &c, nil
}

// renew asks with the certificate in use, with a new key, and uses the answer from then on.
func (w *workloadCertificate) renew(t *testing.T) {
	t.Helper()
	old, key := w.current.Load(), e2e.NewKey(t)
	a, err := renewWith(t, w.s, old, key)
	if err != nil {
		t.Error(err)
		return
	}
	c, err := a.Certificate()
	if err != nil {
		t.Errorf("renewing %s: %v", old.Serial, err)
		return
	}
	w.current.Store(w.s.Keep(t, c, key))
}

func renewWith(t *testing.T, s *e2e.Segl, old *e2e.Pair, key *ecdsa.PrivateKey) (e2e.Answer, error) {
	t.Helper()
	csr, err := e2e.Order{}.Request(key)
	if err != nil {
		return e2e.Answer{}, err
	}
	client := s.Client(t, old.CertFile, old.KeyFile)
	return e2e.Ask(t.Context(), client, http.MethodPost, s.Env["SEGL_URL"]+"/v1/certificates:renew", map[string]string{"csr": csr})
}

// Two services speak mTLS with certificates that live ten seconds and are renewed each second, until the first ones have
// expired: every request is answered, on new connections and on kept ones, whoever renewed meanwhile.
func TestServicesRenewUnderTrafficWithoutAFailedRequest(t *testing.T) {
	const (
		rounds = 11
		life   = 10 * time.Second
	)
	s := e2e.Shared(t)
	roots := x509.NewCertPool()
	roots.AddCert(certificates(t, []byte(readFile(t, s.Env["SEGL_ROOT"])))[0])
	ends := [2]*workloadCertificate{{s: s}, {s: s}}
	for i, name := range []string{"caller", "callee"} {
		ends[i].current.Store(s.Issue(t, e2e.Order{Profile: "workload", Workload: name, Names: []string{"127.0.0.1"}, Life: life}))
	}
	caller, callee := ends[0], ends[1]
	first := caller.current.Load()

	server := &http.Server{
		TLSConfig: &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return callee.get() },
			ClientAuth:     tls.RequireAndVerifyClientCert, ClientCAs: roots, MinVersion: tls.VersionTLS13,
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.TLS.PeerCertificates[0].URIs[0].String())
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.ServeTLS(ln, "", "")
	defer server.Close()

	ctx, stop := context.WithCancel(t.Context())
	var answered atomic.Int64
	var busy sync.WaitGroup
	for i := range 4 {
		busy.Go(func() {
			tr := &http.Transport{DisableKeepAlives: i%2 == 0, TLSClientConfig: &tls.Config{
				RootCAs: roots, MinVersion: tls.VersionTLS13, // tickets are for sessions that may outlive a certificate
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return caller.get() },
			}}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
			for ctx.Err() == nil {
				if err := call(client, "https://"+ln.Addr().String()+"/"); err != nil {
					t.Errorf("after %d answers: %v", answered.Load(), err)
					return
				}
				answered.Add(1)
			}
		})
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range rounds {
		<-tick.C
		caller.renew(t)
		callee.renew(t)
	}
	stop()
	busy.Wait()
	if !time.Now().After(first.X509.NotAfter) {
		t.Errorf("the first certificate is good until %s: nothing was shown", first.X509.NotAfter)
	}
	t.Logf("%d renewals on either side, %d requests answered, none failed", rounds, answered.Load())
}

func call(client *http.Client, url string) error {
	res, err := client.Get(url) //nolint:noctx // the client has a timeout
	if err != nil {
		return err
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err == nil && !strings.HasSuffix(string(said), "/environment/dev/caller") {
		err = fmt.Errorf("the callee saw %q", said)
	}
	return err
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestARenewalRepeatedIsTheSameAndByAnotherKeyRefused(t *testing.T) {
	s := e2e.Shared(t)
	old := s.Issue(t, e2e.Order{Profile: "workload", Workload: "again", Names: []string{"again.demo.test"}})
	key := e2e.NewKey(t)
	var first e2e.Certificate
	for i := range 3 {
		a, err := renewWith(t, s, old, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = c
		}
		if c.Serial != first.Serial || c.PEM != first.PEM {
			t.Errorf("time %d: another certificate, %s and not %s", i+1, c.Serial, first.Serial)
		}
	}
	next := s.Keep(t, first, key)
	if fmt.Sprint(next.X509.URIs, next.X509.DNSNames) != fmt.Sprint(old.X509.URIs, old.X509.DNSNames) {
		t.Errorf("the successor is %v %v", next.X509.URIs, next.X509.DNSNames)
	}
	a, err := renewWith(t, s, old, e2e.NewKey(t))
	if err != nil || a.Status != http.StatusConflict || !strings.Contains(string(a.Body), first.Serial) {
		t.Errorf("with another key: %d %s %v, want 409 naming %s", a.Status, a.Body, err, first.Serial)
	}
	if a, err := renewWith(t, s, next, e2e.NewKey(t)); err != nil || a.Status != http.StatusCreated {
		t.Errorf("the successor's own renewal: %d %s %v", a.Status, a.Body, err)
	}
	s.Revoke(t, first.Serial, "superseded")
	if a, err := renewWith(t, s, next, e2e.NewKey(t)); err != nil || a.Status != http.StatusForbidden {
		t.Errorf("renewing what is revoked: %d %s %v, want 403", a.Status, a.Body, err)
	}
}
