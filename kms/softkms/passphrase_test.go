package softkms_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/kms/softkms"
)

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadPassphraseLeavesOutTheLastNewline(t *testing.T) {
	for text, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", "secret\n\n": "secret\n", " sec ret ": " sec ret ",
	} {
		p, err := softkms.ReadPassphrase(write(t, text, 0o440))
		if err != nil || p.Reveal() != want {
			t.Errorf("%q: %q, %v", text, p.Reveal(), err)
		}
	}
}

func TestReadPassphraseRefuses(t *testing.T) {
	for what, c := range map[string]struct{ path, says string }{
		"empty file":      {write(t, "", 0o400), "is empty"},
		"only a newline":  {write(t, "\n", 0o400), "is empty"},
		"only blanks":     {write(t, " \t\n", 0o400), "is empty"},
		"world-readable":  {write(t, "secret", 0o444), "chmod o="},
		"world-writable":  {write(t, "secret", 0o602), "chmod o="},
		"a whole library": {write(t, strings.Repeat("secret", 1000), 0o400), "is it the right file"},
		"a directory":     {t.TempDir(), "want a file"},
		"no file":         {filepath.Join(t.TempDir(), "none"), "no such file"},
	} {
		_, err := softkms.ReadPassphrase(c.path)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCreatePassphraseNeverReplacesOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := softkms.CreatePassphrase(path); err != nil {
		t.Fatal(err)
	}
	first, err := softkms.ReadPassphrase(path)
	if err != nil || len(first.Reveal()) < 26 {
		t.Fatal(err)
	}
	if err := softkms.CreatePassphrase(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if again, err := softkms.ReadPassphrase(path); err != nil || again.Reveal() != first.Reveal() {
		t.Errorf("the passphrase changed: %v", err)
	}
}
