package store_test

import (
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The verifier is built from a directory of its own, by a compiler that sees nothing else of this module.
func TestAProgramThatSharesNoCodeVerifiesProofsOffline(t *testing.T) {
	h, good, revoked := filled(t)
	dir := t.TempDir()
	source, err := os.ReadFile("../testdata/verifier/main.go")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), source, 0o600))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "verifier"), filepath.Join(dir, "main.go"))
	build.Dir, build.Env = dir, append(os.Environ(), "GO111MODULE=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	proof, err := h.prover.Prove(t.Context(), demo, good.Serial)
	must(t, err)
	key, err := h.log.VKey(1)
	must(t, err)
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	certificate := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	altered := func(from, to string) string {
		leaf := base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(proof.Leaf), from, to, 1)))
		return strings.Replace(proof.String(), base64.StdEncoding.EncodeToString(proof.Leaf), leaf, 1)
	}
	other := newHouseKey(t)
	for name, c := range map[string]struct{ key, certificate, proof, want string }{
		"as it is":            {key, certificate(good.DER), proof.String(), ""},
		"another certificate": {key, certificate(revoked.DER), proof.String(), "about another certificate"},
		"another key":         {other, certificate(good.DER), proof.String(), "did not sign"},
		"an altered leaf":     {key, certificate(good.DER), altered("certificate.issue", "certificate.renew"), "does not lead to the root"},
		"another index":       {key, certificate(good.DER), strings.Replace(proof.String(), "\nindex ", "\nindex 1", 1), ""},
		"an altered size":     {key, certificate(good.DER), strings.Replace(proof.String(), h.log.Base+"\n", h.log.Base+"\n1", 1), "the signature is wrong"},
	} {
		cmd := exec.Command(filepath.Join(dir, "verifier"), c.key, file("certificate.pem", c.certificate), file("proof", c.proof))
		out, err := cmd.CombinedOutput()
		if name == "as it is" {
			if err != nil || string(out) != "good\n" {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		} else if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func newHouseKey(t *testing.T) string {
	t.Helper()
	key, err := opened(t).log.VKey(1)
	must(t, err)
	return key
}
