package e2e_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// nodeModules is where the packages of testdata/node were installed, once a test run, at the versions and with the checksums
// of package-lock.json.
var nodeModules = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "segl-node-")
	if err != nil {
		return "", err
	}
	return dir, os.CopyFS(dir, os.DirFS("testdata/node"))
})

// node returns node's arguments to run a file of testdata/node.
func node(t *testing.T, s *e2e.Segl, file string) []string {
	t.Helper()
	program := e2e.Need(t, "node", "nodejs")
	npm := e2e.Need(t, "npm", "npm")
	dir, err := nodeModules()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		s.Run(t, npm, "ci", "--prefix", dir, "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts")
	}
	return []string{program, filepath.Join(dir, file)}
}

func nodeLives(t *testing.T, s *acmeSite) {
	names := []string{"node-a.demo.test", "node-b.demo.test"}
	root := s.webroot(t, names...)
	call := append([]string{
		"NODE_EXTRA_CA_CERTS=" + s.Env["SEGL_ROOT"], "NAMES=" + strings.Join(names, ","), "CHALLENGES=" + filepath.Join(root, wellKnown),
	}, node(t, s.Segl, "client.js")...)
	said := s.Run(t, "env", call...)
	var did []string
	var got issued
	for lines := bufio.NewScanner(strings.NewReader(said)); lines.Scan(); {
		var step struct{ Did, Certificate string }
		if err := json.Unmarshal(lines.Bytes(), &step); err != nil {
			t.Fatalf("acme-client says %q", lines.Text())
		}
		if did = append(did, step.Did); step.Certificate != "" {
			got = s.judge(t, []byte(step.Certificate), names...)
		}
	}
	if want := "issued, changed its key, revoked, left"; strings.Join(did, ", ") != want {
		t.Fatalf("acme-client did %q, want %s", did, want)
	}
	s.ended(t, got, 4)
	s.matrix.note("acme-client (node)", issues, byHTTP, changesKey, revokes, leaves)
}
