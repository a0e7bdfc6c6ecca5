package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// block returns a named block of a page in docs: what the page tells an operator is what runs here.
func block(t *testing.T, doc, name string) string {
	t.Helper()
	text := readFile(t, filepath.Join("..", "..", "docs", doc))
	found := regexp.MustCompile("(?ms)^```[a-z]+ file=" + regexp.QuoteMeta(name) + "\n(.*?)^```$").FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("docs/%s has no block %q", doc, name)
	}
	return found[1]
}

// An office is where emergency access is kept: a directory with a CA of its own that knows nothing of Segl.
type office struct {
	dir string
	s   *e2e.Segl
}

func (o office) sh(t *testing.T, script string) (string, error) {
	t.Helper()
	cmd := o.s.Command("sh", "-eu", "-c", script)
	cmd.Dir = o.dir
	cmd.Env = append(cmd.Env, "TRUST_DOMAIN="+o.domain(t), "PATH="+filepath.Dir(e2e.Binary(t))+":"+os.Getenv("PATH")+":/usr/sbin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (o office) must(t *testing.T, script string) string {
	t.Helper()
	out, err := o.sh(t, script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

// domain is the daily CA's trust domain, as its demo workload's certificate has it.
func (o office) domain(t *testing.T) string {
	t.Helper()
	return leafOf(t, o.s.Env["SEGL_CERT"]).URIs[0].Host
}

func leafOf(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(readFile(t, file)))
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openOffice makes the emergency CA as the page says, and an operator's SSH and TLS certificates.
func openOffice(t *testing.T, s *e2e.Segl) office {
	t.Helper()
	o := office{s.Temp(t), s}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	o.must(t, block(t, "break-glass.md", "emergency-ca"))
	o.must(t, `ssh-keygen -q -t ed25519 -N '' -f me && ssh-keygen -q -s emergency-ssh -I drill -n `+me.Username+` -V -1m:+1h me.pub`)
	o.must(t, o.client("oob", "URI:spiffe://break-glass.invalid/operator"))
	o.must(t, `cp emergency-ssh.pub trusted-user-ca-keys; cp emergency-root.pem emergency-client-ca.pem
printf 'apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: "https://127.0.0.1", certificate-authority: emergency-root.pem}\nusers:\n- name: me\n  user: {client-certificate: oob.pem}\n' >emergency-kubeconfig`)
	return o
}

// client is how the emergency CA signs a client certificate.
func (o office) client(name, san string) string {
	return `openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=` + name + ` -keyout ` + name + `-key.pem -out ` + name + `.csr 2>/dev/null
printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\nsubjectAltName=` + san + `\n' >` + name + `.ext
openssl x509 -req -in ` + name + `.csr -CA emergency-root.pem -CAkey emergency-root-key.pem -days 1 -extfile ` + name + `.ext -out ` + name + `.pem 2>/dev/null`
}

// sshd runs one that trusts the emergency CA for users, and returns how to log in with the operator's certificate.
func (o office) sshd(t *testing.T) (login func() (string, error)) {
	t.Helper()
	program := e2e.Need(t, "sshd", "openssh-server")
	if os.Geteuid() == 0 { // privilege separation wants its directory, which Debian's unit makes
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	o.must(t, `ssh-keygen -q -t ed25519 -N '' -f host`)
	conf := filepath.Join(o.dir, "sshd_config")
	text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nTrustedUserCAKeys %[2]s/trusted-user-ca-keys\nAuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n", port, o.dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-e", "-f", conf)
	log, err := os.Create(filepath.Join(o.dir, "sshd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may be gone
		cmd.Wait()         //nolint:errcheck // killed
		if t.Failed() {
			t.Log(readFile(t, log.Name()))
		}
	})
	e2e.Eventually(t, 20*time.Second, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return func() (string, error) {
		return o.sh(t, `ssh -F none -p `+port+` -i me -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR 127.0.0.1 'echo in by emergency'`)
	}
}

// apiserver asks for client certificates of emergency-client-ca.pem, as a kube-apiserver does, and answers with their name.
func (o office) apiserver(t *testing.T) *httptest.Server {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(o.dir, "emergency-client-ca.pem"))))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName) //nolint:errcheck // the test sees
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func asks(server *httptest.Server, cert, key string) (string, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return "", err
	}
	client := e2e.ClientShowing(server.Client(), &pair)
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL) //nolint:noctx // the client has a deadline
	if err != nil {
		return "", err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func TestEmergencyAccessIsUntouchedByTheDailyCAsDeath(t *testing.T) {
	s := e2e.Start(t)
	o := openOffice(t, s)
	login, server := o.sshd(t), o.apiserver(t)
	oob, oobKey := filepath.Join(o.dir, "oob.pem"), filepath.Join(o.dir, "oob-key.pem")
	o.must(t, block(t, "break-glass.md", "fingerprints"))
	o.must(t, block(t, "break-glass.md", "check"))

	// 1. The daily CA is gone, its database too.
	s.Kill(t)
	o.must(t, `for f in $(find "$SEGL_DATA" -name postmaster.pid); do kill -9 $(head -n 1 $f) || true; done`)
	if res, err := http.Get(s.Env["SEGL_PUBLIC_URL"] + "/roots.pem"); err == nil { //nolint:forbidigo,noctx // nobody should answer
		res.Body.Close() //nolint:errcheck // it is a failure anyway
		t.Fatal("the daily CA still answers")
	}
	// 2. Emergency access works.
	if out, err := login(); err != nil || !strings.Contains(out, "in by emergency") {
		t.Errorf("ssh by emergency certificate: %v: %s", err, out)
	}
	if who, err := asks(server, oob, oobKey); err != nil || who != "oob" {
		t.Errorf("TLS by emergency certificate: %q, %v", who, err)
	}
	// 3. A daily certificate does not open it.
	if who, err := asks(server, s.Env["SEGL_CERT"], s.Env["SEGL_KEY"]); err == nil {
		t.Errorf("a daily workload is let in as %q", who)
	}
	// 4. The daily CA comes back with break-glass locked away.
	if err := os.Rename(o.dir, o.dir+"-locked"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(o.dir+"-locked", o.dir) //nolint:errcheck // for what is still to be cleaned up
	s.Begin(t)
	s.Issue(t, e2e.Order{Profile: "server", Names: []string{"back.demo.test"}})
}

func TestNeitherCAStandsInForTheOtherEvenWhereBothAreTrusted(t *testing.T) {
	s := e2e.Shared(t)
	o := openOffice(t, s)
	o.must(t, o.client("usurper", "URI:spiffe://"+o.domain(t)+"/platform/admin"))
	server := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"oob.demo.test"}})
	o.must(t, `cat emergency-root.pem "$SEGL_ROOT" >both.pem`) // somebody's mistake
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(o.dir, "both.pem"))))
	for name, row := range map[string]struct{ file, purpose string }{
		"an emergency certificate with a daily identity":    {filepath.Join(o.dir, "usurper.pem"), "sslclient"},
		"an emergency certificate as a server":              {filepath.Join(o.dir, "oob.pem"), "sslserver"},
		"a daily server certificate as an emergency client": {server.CertFile, "sslclient"},
	} {
		usage := map[string]x509.ExtKeyUsage{"sslclient": x509.ExtKeyUsageClientAuth, "sslserver": x509.ExtKeyUsageServerAuth}[row.purpose]
		between := x509.NewCertPool()
		between.AppendCertsFromPEM([]byte(readFile(t, row.file)))
		if _, err := leafOf(t, row.file).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err == nil {
			t.Errorf("%s: Go takes it", name)
		}
		out, err := o.sh(t, `openssl verify -x509_strict -purpose `+row.purpose+` -CAfile both.pem -untrusted `+row.file+` `+row.file)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			t.Errorf("%s: OpenSSL takes it: %v %s", name, err, out)
		}
	}
	// The same judges take each in its own place.
	o.must(t, `openssl verify -x509_strict -purpose sslclient -CAfile emergency-root.pem oob.pem`)
	o.must(t, `openssl verify -x509_strict -purpose sslserver -CAfile "$SEGL_ROOT" -untrusted `+server.CertFile+` `+server.CertFile)
	o.must(t, `openssl verify -x509_strict -purpose sslclient -CAfile "$SEGL_ROOT" -untrusted "$SEGL_CERT" "$SEGL_CERT"`)
}
