package rootkey_test

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"codeberg.org/dataverket/segl/cmd/segl/rootkey"
	"codeberg.org/dataverket/segl/kms"
)

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASealedKeyOpensForItsOwnLockAlone(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	lock := rootkey.Lock{Recipients: []string{identity.Recipient().String()}}
	made, err := lock.Create(t.Context(), "root", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, made.File), made.Text, 0o400); err != nil {
		t.Fatal(err)
	}
	mine := rootkey.Lock{IdentityFile: write(t, "identity", identity.String()+"\n", 0o600)}
	opened, err := mine.Open(t.Context(), dir, "root", made.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := kms.Prove(t.Context(), opened); err != nil {
		t.Error(err)
	}
	another, err := lock.Create(t.Context(), "root", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Open(t.Context(), dir, "root", another.Public()); err == nil {
		t.Error("a key that is not the root's was opened")
	}
	for name, l := range map[string]rootkey.Lock{
		"nothing":            {},
		"another identity":   {IdentityFile: write(t, "identity", other.String()+"\n", 0o600)},
		"a passphrase":       {PassphraseFile: write(t, "pass", "long enough to be one\n", 0o600)},
		"no identity at all": {IdentityFile: write(t, "identity", "nonsense\n", 0o600)},
	} {
		if _, err := l.Open(t.Context(), dir, "root", made.Public()); err == nil {
			t.Errorf("%s opened it", name)
		}
	}
}

func TestALockThatIsNoneSealsNothing(t *testing.T) {
	for name, l := range map[string]rootkey.Lock{
		"nothing":                    {},
		"a short passphrase":         {PassphraseFile: write(t, "pass", "short\n", 0o600)},
		"a passphrase others read":   {PassphraseFile: write(t, "pass", "long enough to be one\n", 0o644)},
		"two locks":                  {PassphraseFile: write(t, "pass", "long enough to be one\n", 0o600), Recipients: []string{"age1x"}},
		"nonsense for a recipient":   {Recipients: []string{"age1x"}},
		"a token and a passphrase":   {Provider: "pkcs11:token=x", PassphraseFile: "x"},
		"a provider that is not one": {Provider: "no uri"},
	} {
		if _, err := l.Create(t.Context(), "root", kms.P256); err == nil {
			t.Errorf("%s sealed a key", name)
		}
	}
}
