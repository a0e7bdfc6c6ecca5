package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/credentials/api"
)

// In a directory that others write to as well, whatever they leave there beforehand.
func TestALoginIsWrittenForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	file, trap := filepath.Join(dir, "pg_service.conf"), filepath.Join(dir, "trap")
	if err := os.WriteFile(trap, nil, 0o644); err != nil { //nolint:gosec // that is the trap
		t.Fatal(err)
	}
	if err := os.Symlink(trap, file+".segl"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("[other]\nhost=there\n"), 0o644); err != nil { //nolint:gosec // as somebody left it
		t.Fatal(err)
	}
	p := &program{}
	p.remote.root = "root.pem"
	login := api.Login{Host: "db.test", Port: "5432", Password: "secret-of-orders"}
	if err := p.writeService(file, dir, "orders", login); err != nil {
		t.Fatal(err)
	}
	if caught, err := os.ReadFile(trap); err != nil || len(caught) > 0 {
		t.Errorf("somebody else's file has %d octets, %v", len(caught), err)
	}
	is, err := os.Lstat(file)
	if err != nil || is.Mode() != 0o600 {
		t.Errorf("mode %v, %v", is.Mode(), err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "[other]\nhost=there\n") || !strings.Contains(string(text), "password=secret-of-orders\n") {
		t.Errorf("%v", err)
	}
}
