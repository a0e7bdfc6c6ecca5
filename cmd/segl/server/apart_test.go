package server_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func TestNothingStartsThatSharesARootOrAKeyWithBreakGlass(t *testing.T) {
	url := postgrestest.Empty(t)
	cfg := configure(t, url)
	cfg.BreakGlass = []breakglass.Entry{{Name: "absent", Certificate: strings.Repeat("ab", 32), Key: strings.Repeat("cd", 32)}}
	at, stop := run(t, cfg) // break-glass is nowhere to be found, and nothing asks for it
	_, text := get(t, at.Public+"/roots.pem")
	block, _ := pem.Decode([]byte(text))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	asSSH, err := ssh.NewPublicKey(root.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	hexOf := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	for name, e := range map[string]breakglass.Entry{
		"is its certificate": {Certificate: hexOf(root.Raw)},
		"has its key":        {Key: hexOf(root.RawSubjectPublicKeyInfo)},
		"has its SSH key":    {SSH: ssh.FingerprintSHA256(asSSH)},
	} {
		e.Name = "oob-2026"
		cfg.BreakGlass = []breakglass.Entry{e}
		s, err := server.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "oob-2026") || !strings.Contains(err.Error(), "root-1-1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
