package e2e_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// node returns node's arguments to run a file of testdata/node, whose packages are installed once a site, at the versions and
// with the checksums of package-lock.json.
func node(t *testing.T, s *acmeSite, file string) []string {
	t.Helper()
	program, npm := e2e.Need(t, "node", "nodejs"), e2e.Need(t, "npm", "npm")
	s.nodeOnce.Do(func() {
		s.nodeDir = s.Temp(t)
		if err := os.CopyFS(s.nodeDir, os.DirFS("testdata/node")); err != nil {
			t.Fatal(err)
		}
		s.Run(t, npm, "ci", "--prefix", s.nodeDir, "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts")
	})
	return []string{program, filepath.Join(s.nodeDir, file)}
}

// nodeSays runs client.js for names, with further environment.
func nodeSays(t *testing.T, s *acmeSite, names []string, more ...string) string {
	t.Helper()
	root := s.webroot(t, names...)
	env := append(more, "SEGL_ACME_DIRECTORY="+s.directory, "NODE_EXTRA_CA_CERTS="+s.Env["SEGL_ROOT"], "NAMES="+strings.Join(names, ","),
		"CHALLENGES="+filepath.Join(root, wellKnown))
	return s.Run(t, "env", append(env, node(t, s, "client.js")...)...)
}

func nodeLives(t *testing.T, s *acmeSite) {
	names := []string{"node-a.demo.test", "node-b.demo.test"}
	said := nodeSays(t, s, names)
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
