package e2e_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// boundScope is one whose directory takes no account that is not bound to a key made by its operator (RFC 8555 §7.3.4).
const boundScope = "demo/shop/bound"

func newBoundSite(t *testing.T, s *acmeSite) *acmeSite {
	t.Helper()
	s.operate(t, "environment", "create", boundScope)
	s.operate(t, "acme", "set", "--scope", boundScope, "--eab", "required")
	return s.at(strings.Replace(s.directory, "/demo/shop/dev/", "/"+boundScope+"/", 1))
}

// operate runs a command of ours as the operator.
func (s *acmeSite) operate(t *testing.T, args ...string) string {
	t.Helper()
	return s.Run(t, "segl", append(args, "--url", s.Env["SEGL_OPERATOR_URL"], "--cert", s.Env["SEGL_OPERATOR_CERT"], "--key", s.Env["SEGL_OPERATOR_KEY"])...)
}

// An accountKey is one made elsewhere, as a client is told it.
type accountKey struct {
	ID   string `json:"id"`
	HMAC string `json:"secret"`
}

func (s *acmeSite) accountKey(t *testing.T, label string) (k accountKey) {
	t.Helper()
	text := s.operate(t, "acme", "eab", "create", "--scope", boundScope, "--label", label, "--json")
	if err := json.Unmarshal([]byte(text), &k); err != nil || k.ID == "" || k.HMAC == "" {
		t.Fatalf("an external account key: %v in %s", err, text)
	}
	return k
}

func clientsBind(t *testing.T, all *acmeSite) {
	s := newBoundSite(t, all)
	for client, f := range map[string]func(*testing.T, *acmeSite, accountKey){
		"certbot": certbotBinds, "lego": legoBinds, "uacme": uacmeBinds, "dehydrated": dehydratedBinds, "Apache mod_md": apacheBinds, "Caddy": caddyBinds,
		"acmez": acmezBinds, "x/crypto/acme": xacmeBinds, "acme-client (node)": nodeBinds,
	} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			f(t, s, s.accountKey(t, client))
			if !t.Failed() {
				s.matrix.note(client, binds)
			}
		})
	}
}

func certbotBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "certbot-bound.demo.test"
	c := newCertbot(t, s, name)
	c.failsWith(t, "externalAccountRequired", c.order(name)...)
	c.does(t, "Successfully received certificate.", append(c.order(name), "--eab-kid", k.ID, "--eab-hmac-key", k.HMAC)...)
	s.read(t, c.live("fullchain.pem"), name)
}

func legoBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "lego-bound.demo.test"
	l := newLego(t, s)
	s.holdsTLS(t, l.port, name)
	l.does(t, "Server responded with a certificate.", "--eab", "--kid", k.ID, "--hmac", k.HMAC, "--tls", "--tls.port", "127.0.0.1:"+l.port, "--domains", name, "run")
	s.read(t, l.file(name), name)
}

func uacmeBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "uacme-bound.demo.test"
	u := uacmeProgram(t, s, s.webroot(t, name))
	u.does(t, "account created at", "--yes", "--eab", k.ID+":"+k.HMAC, "new", "ops@demo.test")
	u.does(t, "saving certificate to", "issue", name)
	s.read(t, u.cert(name), name)
}

func dehydratedBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "dehydrated-bound.demo.test"
	d, dir := newDehydrated(t, s, name)
	config := d.call[len(d.call)-1]
	text := readFile(t, config) + fmt.Sprintf("EAB_KID=%q\nEAB_HMAC_KEY=%q\n", k.ID, k.HMAC)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.does(t, "+ Done!", "--cron", "--domain", name, "--accept-terms")
	s.read(t, filepath.Join(dir, name, "fullchain.pem"), name)
}

func apacheBinds(t *testing.T, s *acmeSite, k accountKey) {
	a := newApache(t, s, "apache-bound.demo.test", fmt.Sprintf("MDExternalAccountBinding %s %s", k.ID, k.HMAC))
	a.serve(t, func(issued) error { return nil })
}

func caddyBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "caddy-bound.demo.test"
	config, port := newCaddy(t, s, name, fmt.Sprintf("acme_eab {\n\t\tkey_id %s\n\t\tmac_key %s\n\t}", k.ID, k.HMAC))
	s.caddy(t, config, name, port)
}

func acmezBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "acmez-bound.demo.test"
	d, key := new(desk), e2e.NewKey(t)
	s.holds(t, d, name)
	c := &acmez.Client{
		Client:           &acmezacme.Client{Directory: s.directory, HTTPClient: s.Client(t, "", "")},
		ChallengeSolvers: map[string]acmez.Solver{"http-01": d},
	}
	a := acmezacme.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if err := a.SetExternalAccountBinding(t.Context(), c.Client, acmezacme.EAB{KeyID: k.ID, MACKey: k.HMAC}); err != nil {
		t.Fatal(err)
	}
	a, err := c.NewAccount(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := obtainByAcmez(t.Context(), c, a, name, e2e.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	s.judge(t, chain, name)
}

func xacmeBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "xacme-bound.demo.test"
	d, key := new(desk), e2e.NewKey(t)
	s.holds(t, d, name)
	secret, err := base64.RawURLEncoding.DecodeString(k.HMAC)
	if err != nil {
		t.Fatal(err)
	}
	c := &xacme.Client{Key: key, DirectoryURL: s.directory, HTTPClient: s.Client(t, "", "")}
	account := &xacme.Account{ExternalAccountBinding: &xacme.ExternalAccountBinding{KID: k.ID, Key: secret}}
	if _, err := c.Register(t.Context(), account, xacme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	chain, err := s.xacme(t, key).obtain(t.Context(), d, name, e2e.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	s.judge(t, chain, name)
}

func nodeBinds(t *testing.T, s *acmeSite, k accountKey) {
	const name = "node-bound.demo.test"
	said := nodeSays(t, s, []string{name}, "EAB_KID="+k.ID, "EAB_KEY="+k.HMAC)
	for lines := bufio.NewScanner(strings.NewReader(said)); lines.Scan(); {
		var step struct{ Certificate string }
		if json.Unmarshal(lines.Bytes(), &step) == nil && step.Certificate != "" {
			s.judge(t, []byte(step.Certificate), name)
			return
		}
	}
	t.Errorf("acme-client got no certificate: %s", said)
}
