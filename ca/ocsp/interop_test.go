package ocsp_test

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zmap/zlint/v3"
	zresult "github.com/zmap/zlint/v3/lint"
	xocsp "golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// A house with a responder on a listener, and what outside programs read.
type house struct {
	*pkitest.House
	responder *ocsp.Responder
	srv       *httptest.Server
	dir       string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{House: pkitest.New(t), dir: t.TempDir()}
	h.responder = ocsp.New(ocsp.Config{Ledger: h.Ledger, Enroller: h.CA, Now: h.Now, Authorities: func() []ocsp.Authority {
		var list []ocsp.Authority
		for _, a := range h.Authorities() {
			list = append(list, ocsp.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate})
		}
		return list
	}})
	if err := h.responder.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.srv = httptest.NewServer(h.responder)
	t.Cleanup(h.srv.Close)
	return h
}

func (h *house) issue(t *testing.T, names ...string) ca.Certificate {
	t.Helper()
	c, err := h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), names...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *house) pem(t *testing.T, name string, ders ...[]byte) string {
	t.Helper()
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: deploy/tools/need test", name)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Logf("%s: %v", name, err)
	}
	return string(out)
}

// One house, one certificate that stands and one revoked, and everybody else's clients.
func TestOthersReadTheAnswers(t *testing.T) {
	h := newHouse(t)
	good, revoked := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test")
	if _, err := h.Revoke(t.Context(), identity.System("test"), revoked.Serial, cert.KeyCompromise); err != nil {
		t.Fatal(err)
	}
	roots, issuer := h.pem(t, "root.pem", h.Roots()[0].Raw), h.pem(t, "issuer.pem", good.Chain[0])
	leaves := map[string]string{"good": h.pem(t, "good.pem", good.DER), "revoked": h.pem(t, "revoked.pem", revoked.DER)}

	for want, leaf := range leaves {
		for _, options := range [][]string{{}, {"-sha256"}, {"-no_nonce"}, {"-no_nonce", "-sha256"}} {
			args := append([]string{"ocsp", "-url", h.srv.URL + "/ocsp", "-CAfile", roots, "-verify_other", issuer, "-issuer", issuer}, options...)
			out := run(t, "openssl", append(args, "-cert", leaf)...)
			if !strings.Contains(out, "Response verify OK") || !strings.Contains(out, ": "+want) || strings.Contains(out, "WARNING") {
				t.Errorf("openssl %v: want %s: %s", options, want, out)
			}
		}
		for _, options := range [][]string{{}, {"--nonce"}} {
			args := append([]string{"--ask=" + h.srv.URL + "/ocsp", "--load-issuer", issuer, "--load-cert", leaf, "--load-signer", issuer}, options...)
			if out := run(t, "ocsptool", args...); !strings.Contains(out, "Verifying OCSP Response: Success") || !strings.Contains(out, "Certificate Status: "+want) {
				t.Errorf("ocsptool %v: want %s: %s", options, want, out)
			}
		}
	}
	both := run(t, "openssl", "ocsp", "-url", h.srv.URL+"/ocsp", "-CAfile", roots, "-verify_other", issuer, "-issuer", issuer, "-cert", leaves["good"], "-cert", leaves["revoked"], "-serial", "0x10ff", "-serial", "0x"+cert.NewSerial(1, h.Now()).String())
	if !strings.Contains(both, "good.pem: good") || !strings.Contains(both, "revoked.pem: revoked") || strings.Count(both, "unknown") != 2 || !strings.Contains(both, "Response verify OK") {
		t.Errorf("openssl, four at once: %s", both)
	}
	above := run(t, "openssl", "ocsp", "-url", h.srv.URL+"/ocsp", "-CAfile", roots, "-issuer", roots, "-cert", issuer)
	if !strings.Contains(above, "issuer.pem: good") || !strings.Contains(above, "Response verify OK") {
		t.Errorf("openssl about the authority: %s", above)
	}
	zlintFindsNothing(t, h, issuer, leaves)
}

func zlintFindsNothing(t *testing.T, h *house, issuer string, leaves map[string]string) {
	t.Helper()
	for want, leaf := range leaves {
		file := filepath.Join(h.dir, want+".req")
		run(t, "openssl", "ocsp", "-no_nonce", "-issuer", issuer, "-cert", leaf, "-reqout", file)
		der, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		resp, out := get(t, h.srv, "/ocsp/"+url.PathEscape(base64.StdEncoding.EncodeToString(der)), "")
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.StatusCode)
		}
		parsed, err := xocsp.ParseResponse(out, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, r := range zlint.LintOcspResponse(parsed).Results {
			if r.Status >= zresult.Warn {
				t.Errorf("%s: %s: %s: %s", want, r.Status, name, r.Details)
			}
		}
	}
}

// The revocation's own notice is not even needed by who asks with a nonce, and is by who does not.
func TestARevocationShowsInTheNextAnswer(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	issuer, leaf, roots := h.pem(t, "issuer.pem", c.Chain[0]), h.pem(t, "leaf.pem", c.DER), h.pem(t, "root.pem", h.Roots()[0].Raw)
	ask := func(options ...string) string {
		return run(t, "openssl", append([]string{"ocsp", "-url", h.srv.URL + "/ocsp", "-CAfile", roots, "-verify_other", issuer, "-issuer", issuer, "-cert", leaf}, options...)...)
	}
	if out := ask("-no_nonce"); !strings.Contains(out, "leaf.pem: good") {
		t.Fatal(out)
	}
	if _, err := h.Revoke(t.Context(), identity.System("test"), c.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if out := ask(); !strings.Contains(out, "leaf.pem: revoked") || !strings.Contains(out, "Reason: superseded") {
		t.Errorf("with a nonce: %s", out)
	}
	h.responder.Drop(c.Serial)
	if out := ask("-no_nonce"); !strings.Contains(out, "leaf.pem: revoked") {
		t.Errorf("after the notice: %s", out)
	}
}
