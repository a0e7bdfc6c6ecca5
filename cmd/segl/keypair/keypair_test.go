package keypair_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/internal/cert"
)

// certify returns a certificate for key, self-signed: enough for whoever looks at keys only.
func certify(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func at(t *testing.T) keypair.Files { return keypair.At(filepath.Join(t.TempDir(), "p")) }

func stage(t *testing.T, f keypair.Files, kind keypair.Type) crypto.Signer {
	t.Helper()
	key, err := f.Stage(kind)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func install(t *testing.T, f keypair.Files) crypto.Signer {
	t.Helper()
	key := stage(t, f, "")
	if err := f.Install(certify(t, key), key); err != nil {
		t.Fatal(err)
	}
	return key
}

func same(a, b crypto.Signer) bool {
	return a.Public().(interface{ Equal(x crypto.PublicKey) bool }).Equal(b.Public())
}

// entries are the names in the directory of f.
func entries(t *testing.T, f keypair.Files) string {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(f.Key))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestInstallLeavesTwoFilesAndTheKeyToItsOwner(t *testing.T) {
	f := at(t)
	install(t, f)
	if got := entries(t, f); got != "p-key.pem p.pem" {
		t.Errorf("the directory has %s", got)
	}
	if _, err := f.Load(); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]fs.FileMode{f.Key: 0o600, f.Chain: 0o644} {
		if s, err := os.Stat(path); err != nil || s.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, s.Mode(), err)
		}
	}
}

func TestAStagedKeyIsDurableAndAskedForAgain(t *testing.T) {
	f := at(t)
	first := stage(t, f, keypair.P256)
	if got := entries(t, f); got != "p-key.pem.pending" {
		t.Errorf("the directory has %s", got)
	}
	if s, err := os.Stat(f.Key + ".pending"); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", s.Mode(), err)
	}
	if !f.Staged() || !same(first, stage(t, f, keypair.P256)) || !same(first, stage(t, f, "")) {
		t.Error("another key was made: a lost answer could not be asked for again")
	}
	if other := stage(t, f, keypair.P384); same(first, other) || keypair.TypeOf(other) != keypair.P384 {
		t.Error("a key of another type was asked for")
	}
	if err := errors.Join(f.Discard(), f.Discard()); err != nil || f.Staged() {
		t.Errorf("discarding: %v", err)
	}
}

func TestEveryTypeIsMadeAndReadBack(t *testing.T) {
	for _, kind := range keypair.Types {
		f := at(t)
		key := stage(t, f, keypair.Type(kind))
		if keypair.TypeOf(key) != keypair.Type(kind) {
			t.Errorf("%s: got a %s", kind, keypair.TypeOf(key))
		}
		if err := f.Install(certify(t, key), key); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		read, err := keypair.ReadKey(f.Key)
		if err != nil || !same(key, read) {
			t.Errorf("%s: read back %v", kind, err)
		}
		if err := cert.CheckKey(read.Public()); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	var kind keypair.Type
	if err := kind.Set("dsa"); err == nil || kind != "" {
		t.Error("dsa was taken")
	}
}

func TestProcessesThatStageAtOnceGetOneKey(t *testing.T) {
	f := at(t)
	keys := make([]crypto.Signer, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i], _ = f.Stage("") })
	}
	wg.Wait()
	chain := certify(t, keys[0])
	for i, k := range keys {
		if k == nil || !same(k, keys[0]) {
			t.Fatalf("process %d has another key", i)
		}
		if err := f.Install(chain, k); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
	if _, err := f.Load(); err != nil {
		t.Error(err)
	}
}

func TestInstallRefusesAnotherKeysCertificate(t *testing.T) {
	f := at(t)
	install(t, f)
	before, _ := os.ReadFile(f.Chain)
	key := stage(t, f, "")
	other := stage(t, at(t), "")
	for name, chain := range map[string][]byte{
		"another key's": certify(t, other), "none": nil, "mangled": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if err := f.Install(chain, key); err == nil {
			t.Errorf("%s was installed", name)
		}
		if err := f.InstallWith(chain, key); err == nil {
			t.Errorf("%s was installed", name)
		}
		if err := keypair.WriteChain(f.Chain, chain, key.Public()); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if after, _ := os.ReadFile(f.Chain); !bytes.Equal(before, after) {
		t.Error("the old certificate is gone")
	}
	if _, err := f.Load(); err != nil {
		t.Error(err)
	}
}

// The chain is in its place and the key is not: whatever comes next finishes that.
func TestAnInstallCutShortIsFinished(t *testing.T) {
	cut := func(t *testing.T) (keypair.Files, crypto.Signer) {
		f := at(t)
		install(t, f)
		key := stage(t, f, "")
		if err := os.WriteFile(f.Chain, certify(t, key), 0o600); err != nil {
			t.Fatal(err)
		}
		return f, key
	}
	t.Run("by Recover", func(t *testing.T) {
		f, key := cut(t)
		if err := f.Recover(); err != nil {
			t.Fatal(err)
		}
		if now, err := keypair.ReadKey(f.Key); err != nil || !same(now, key) || f.Staged() {
			t.Errorf("%v", err)
		}
	})
	t.Run("by Stage, which then makes a new key", func(t *testing.T) {
		f, key := cut(t)
		if next := stage(t, f, ""); same(next, key) {
			t.Error("the key of the certificate in place was staged again")
		}
		if _, err := f.Load(); err != nil {
			t.Error(err)
		}
	})
}

func TestRecoverLeavesWhatWasNotCutShort(t *testing.T) {
	f := at(t)
	if err := f.Recover(); err != nil {
		t.Error(err)
	}
	key := install(t, f)
	stage(t, f, "")
	if err := f.Recover(); err != nil || !f.Staged() {
		t.Errorf("the staged key was lost: %v", err)
	}
	if now, err := keypair.ReadKey(f.Key); err != nil || !same(now, key) {
		t.Errorf("the old key was lost: %v", err)
	}
}

func TestAForeignKeyIsRecognized(t *testing.T) {
	f := at(t)
	if replaces, err := f.CheckOurs(); replaces || err != nil {
		t.Errorf("nothing there: %v, %v", replaces, err)
	}
	install(t, f)
	if replaces, err := f.CheckOurs(); !replaces || err != nil {
		t.Errorf("a pair: %v, %v", replaces, err)
	}
	if err := os.Remove(f.Chain); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CheckOurs(); !errors.Is(err, keypair.ErrForeign) {
		t.Errorf("a key without a certificate: %v", err)
	}
	if err := os.WriteFile(f.Key, []byte("somebody's notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CheckOurs(); !errors.Is(err, keypair.ErrForeign) {
		t.Errorf("no key at all: %v", err)
	}
}

func TestLinksStayLinks(t *testing.T) {
	dir := t.TempDir()
	f, real := keypair.At(filepath.Join(dir, "p")), keypair.At(filepath.Join(t.TempDir(), "r"))
	install(t, real)
	for link, to := range map[string]string{f.Key: real.Key, f.Chain: real.Chain} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	key := install(t, f)
	if got := entries(t, f); got != "p-key.pem p.pem" {
		t.Errorf("the directory of links has %s", got)
	}
	for _, path := range []string{f.Key, f.Chain} {
		if s, err := os.Lstat(path); err != nil || s.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s is no link any more", path)
		}
	}
	if now, err := keypair.ReadKey(real.Key); err != nil || !same(now, key) {
		t.Errorf("the key behind the link is the old one: %v", err)
	}
}

func TestReadKeySaysWhatIsWrongAndNothingOfTheKey(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {"", "no PEM block"},
		"certificate": {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no PEM block"},
		"encrypted":   {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "encrypted"},
		"damaged":     {"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "damaged"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keypair.ReadKey(path); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keypair.ReadKey(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestOlderKeyFormsAreRead(t *testing.T) {
	f := at(t)
	for kind, encode := range map[keypair.Type]func(crypto.Signer) *pem.Block{
		keypair.P256:    sec1,
		keypair.RSA2048: pkcs1,
	} {
		key := stage(t, f, kind)
		b := encode(key)
		text := append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), pem.EncodeToMemory(b)...)
		if err := os.WriteFile(f.Key, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if read, err := keypair.ReadKey(f.Key); err != nil || !same(read, key) {
			t.Errorf("%s: %v", b.Type, err)
		}
	}
}

func TestARequestAsksWhatItWasGiven(t *testing.T) {
	key := stage(t, at(t), "")
	var names []cert.Name
	for _, s := range []string{"dns:a.test", "ip:192.0.2.1", "ip:2001:db8::1", "uri:spiffe://segl.test/tenant/demo/w"} {
		n, err := cert.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	text, err := keypair.Request(key, "app", names)
	if err != nil {
		t.Fatal(err)
	}
	read, err := cert.ParseRequestPEM(text)
	if err != nil || read.CommonName != "app" || len(read.Names) != len(names) {
		t.Fatalf("%+v, %v", read, err)
	}
	for i, n := range names {
		if read.Names[i] != n {
			t.Errorf("name %d is %s, want %s", i, read.Names[i], n)
		}
	}
}
