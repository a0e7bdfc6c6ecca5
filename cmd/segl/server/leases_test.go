package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A tenant's admin chooses where its targets are: what is sent there must open nothing of anybody else's.
func TestNoTenantIsSentAnothersRedisPassword(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l := server.Leases{RedisPasswordFile: file("ours"), RedisPasswordFiles: map[string]string{"demo": file("theirs"), "gone": filepath.Join(dir, "missing")}}
	for at, want := range map[string]string{"platform": "ours", "demo": "theirs", "demo/shop/dev": "theirs", "other": "", "gone": ""} {
		scope, err := identity.ParseScope(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.RedisPassword(credentials.Target{Scope: scope}).Reveal(); got != want {
			t.Errorf("%s is sent %q, want %q", at, got, want)
		}
	}
}
