package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A feature is what a client can do with a server.
type feature int

const (
	issues feature = iota
	renews
	byHTTP
	byDNS
	byALPN
	wildcard
	byAddress
	revokes
	revokesByKey
	changesKey
	leaves
	binds
	asksARI
	choosesProfile
	features
)

var featureNames = [features]string{
	"issue", "renew", "http-01", "dns-01", "tls-alpn-01", "wildcard", "IP address", "revoke", "revoke by the certificate's key", "key-change",
	"deactivate", "EAB", "ARI", "profiles",
}

// A matrix is what each client did in this run.
type matrix struct {
	mu  sync.Mutex
	did map[string]map[feature]bool
}

// A client as the page shows it: who it is, how it says its version, and which features it does not have.
type matrixRow struct {
	name    string
	version []string // a command, or the path of a module of ours
	lacks   string
}

var matrixRows = []matrixRow{
	{"certbot", []string{"certbot", "--version"}, "no tls-alpn-01, key-change, and, before 2.12 or so, no ARI, profiles and addresses"},
	{"lego", []string{"dpkg-query", "--show", "lego"}, "4.9 has no ARI, profiles, key-change and deactivation, and orders addresses as DNS names"},
	{"uacme", []string{"uacme", "--version"}, "no ARI and profiles; dns-01, wildcards and tls-alpn-01 by hooks that were not tried"},
	{"dehydrated", []string{"dehydrated", "--version"}, "0.7.0 has no ARI, profiles and key-change, and orders addresses as DNS names"},
	{"Apache mod_md", []string{"apache2", "-v"}, "revocation and key-change are not its business; renewal of one revoked comes by ARI"},
	{"Caddy", []string{"caddy", "version"}, "2.6 has no ARI and profiles; revocation only of compromised keys"},
	{"acmez", []string{"github.com/mholt/acmez/v3"}, ""},
	{"x/crypto/acme", []string{"golang.org/x/crypto"}, "no ARI and profiles"},
	{"acme-client (node)", []string{"testdata/node/package.json"}, "no ARI, profiles and tls-alpn-01"},
}

// note notes what a client has just done.
func (m *matrix) note(client string, what ...feature) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.did == nil {
		m.did = map[string]map[feature]bool{}
	}
	if m.did[client] == nil {
		m.did[client] = map[feature]bool{}
	}
	for _, f := range what {
		m.did[client][f] = true
	}
}

const matrixPage = "../../docs/acme-clients.md"

var versionNumber = regexp.MustCompile(`v?\d+\.\d+(\.\d+)*`)

// says returns what a client says it is.
func (r matrixRow) says(t *testing.T) string {
	t.Helper()
	switch {
	case strings.HasPrefix(r.version[0], "testdata/"):
		text, err := os.ReadFile(r.version[0])
		if err != nil {
			t.Fatal(err)
		}
		return versionNumber.FindString(string(text))
	case strings.Contains(r.version[0], "."):
		text, err := os.ReadFile("../../go.mod")
		if err != nil {
			t.Fatal(err)
		}
		_, behind, _ := strings.Cut(string(text), r.version[0]+" ")
		return versionNumber.FindString(behind)
	}
	cmd := exec.Command(r.version[0], r.version[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "HOME="+t.TempDir())
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", r.version[0])); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, _ := cmd.CombinedOutput() // some fail at it
	return versionNumber.FindString(string(out))
}

// page writes docs/acme-clients.md; versions differ from machine to machine and are left out unless it is to be written.
func (m *matrix) page(version func(matrixRow) string) string {
	var b strings.Builder
	b.WriteString(`# ACME clients

After reading this page you know which unmodified clients work with Segl, and for what.

The tests run each of them against a whole Segl and write this page (` + "`SEGL_UPDATE=1 go test -run TestACMEClients ./internal/e2e`" + `); they
fail when a client no longer does what stands here. *yes* was seen in the run that wrote the page. An empty field means that the
client cannot, or that nobody has tried: the last column says which.

| client | version | ` + strings.Join(featureNames[:], " | ") + ` | cannot |
|---|---|` + strings.Repeat("---|", int(features)) + `---|
`)
	for _, r := range matrixRows {
		fmt.Fprintf(&b, "| %s | %s |", r.name, version(r))
		for f := range features {
			cell := ""
			if m.did[r.name][f] {
				cell = "yes"
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		fmt.Fprintf(&b, " %s |\n", r.lacks)
	}
	return b.String()
}

// check compares the page with what happened, versions aside, or writes it.
func (m *matrix) check(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for client := range maps.Keys(m.did) {
		if !slices.ContainsFunc(matrixRows, func(r matrixRow) bool { return r.name == client }) {
			t.Errorf("docs/acme-clients.md has no row for %s", client)
		}
	}
	if len(m.did) < len(matrixRows) {
		return // only some were asked to run
	}
	if os.Getenv("SEGL_UPDATE") != "" {
		page := m.page(func(r matrixRow) string { return r.says(t) })
		if err := os.WriteFile(matrixPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(matrixPage)
	if err != nil {
		t.Fatal(err)
	}
	blank := regexp.MustCompile(`(?m)^(\| [^|]* \|)[^|]*\|`)
	plain := func(s string) string { return blank.ReplaceAllString(s, "$1 |") }
	if want := m.page(func(matrixRow) string { return "" }); plain(string(text)) != plain(want) {
		t.Errorf("docs/acme-clients.md does not say what the clients did; SEGL_UPDATE=1 writes it anew\n%s", want)
	}
}
