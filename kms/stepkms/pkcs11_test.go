//go:build pkcs11

package stepkms_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
	"codeberg.org/dataverket/segl/kms/softkms"
	"codeberg.org/dataverket/segl/kms/stepkms"
)

// token makes a SoftHSM token of its own and returns its URI. The library reads where its tokens are once a process.
var token = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "segl-hsm-")
	if err != nil {
		return "", err
	}
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	err = errors.Join(
		os.Mkdir(filepath.Join(dir, "tokens"), 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nlog.level = ERROR\n"), 0o600),
		os.WriteFile(pin, []byte("271828"), 0o600),
		os.Setenv("SOFTHSM2_CONF", conf))
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "segl", "--so-pin", "314159", "--pin", "271828").CombinedOutput(); err != nil {
		return "", fmt.Errorf("softhsm2-util: %w: %s (install softhsm2, or run make test as root)", err, out)
	}
	return "pkcs11:module-path=" + module() + ";token=segl;max-sessions=8?pin-source=" + pin, nil
})

func module() string {
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "libsofthsm2.so"
}

func TestMain(m *testing.M) {
	code := m.Run()
	if conf := os.Getenv("SOFTHSM2_CONF"); strings.Contains(conf, "segl-hsm-") {
		os.RemoveAll(filepath.Dir(conf))
	}
	os.Exit(code)
}

var shared = sync.OnceValues(func() (*stepkms.Provider, error) {
	uri, err := token()
	if err != nil {
		return nil, err
	}
	return stepkms.Open(context.Background(), uri)
})

func provider(t *testing.T) *stepkms.Provider {
	t.Helper()
	p, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func config(t *testing.T, p softkms.Provider) softkms.Config {
	t.Helper()
	pass, err := softkms.NewPassphrase("correct horse battery staple")
	if err != nil {
		t.Fatal(err)
	}
	return softkms.Config{DB: postgrestest.Open(t), Passphrase: pass, Now: time.Now, Provider: p, Iterations: 1000, Limits: kms.Limits{Workers: 4, Deadline: 2 * time.Second}}
}

func open(t *testing.T, cfg softkms.Config) *softkms.Keyring {
	t.Helper()
	ring, err := softkms.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestATokenConforms(t *testing.T) {
	cfg := config(t, provider(t))
	kmstest.Run(t, func(t *testing.T) kms.Keyring { return open(t, cfg) })
}

// A name that two replicas wanted at once has one key, and the token keeps no other.
func TestLosersOfARaceLeaveNoKeyInTheToken(t *testing.T) {
	p := &counted{Provider: provider(t)}
	cfg := config(t, p)
	rings := []*softkms.Keyring{open(t, cfg), open(t, cfg), open(t, cfg)}
	var all sync.WaitGroup
	for _, ring := range rings {
		all.Go(func() {
			if _, err := kms.Ensure(t.Context(), ring, "race", kms.P256); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.places) != 1 {
		t.Errorf("the token keeps %d keys for one name", len(p.places))
	}
}

// A counted knows which places have a key.
type counted struct {
	softkms.Provider
	mu     sync.Mutex
	places map[string]bool
}

func (c *counted) Create(ctx context.Context, hint string, alg kms.Algorithm) (string, crypto.Signer, error) {
	place, key, err := c.Provider.Create(ctx, hint, alg)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.places == nil {
		c.places = map[string]bool{}
	}
	if err == nil {
		c.places[place] = true
	}
	return place, key, err
}

func (c *counted) Delete(ctx context.Context, place string) error {
	err := c.Provider.Delete(ctx, place)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.places, place)
	}
	return err
}

// An HSM that hangs refuses at once after the first miss, and is asked again by itself.
func TestAHungTokenRefusesAndComesBack(t *testing.T) {
	p := &hanging{Provider: provider(t), release: make(chan struct{})}
	cfg := config(t, p)
	cfg.Limits = kms.Limits{Workers: 2, Deadline: 100 * time.Millisecond, Cooldown: 50 * time.Millisecond}
	key, err := kms.Ensure(t.Context(), open(t, cfg), "hung", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	p.hang(true)
	for range 2 {
		if _, err := kms.SignMessage(t.Context(), key, []byte("m")); !errors.Is(err, kms.ErrUnavailable) || kms.RetryAfter(err) < time.Second {
			t.Fatalf("a hung token: %v", err)
		}
	}
	p.hang(false)
	for end := time.Now().Add(30 * time.Second); ; {
		if err := kms.Prove(t.Context(), key); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatalf("the token answers again, and: %v", err)
		}
	}
}

// A hanging provider gives out keys that can be made to hang.
type hanging struct {
	softkms.Provider
	mu      sync.Mutex
	hung    bool
	release chan struct{}
}

func (h *hanging) hang(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hung = on; !on {
		close(h.release)
	}
}

func (h *hanging) Create(ctx context.Context, hint string, alg kms.Algorithm) (string, crypto.Signer, error) {
	place, key, err := h.Provider.Create(ctx, hint, alg)
	return place, hangingKey{key, h}, err
}

type hangingKey struct {
	crypto.Signer
	h *hanging
}

func (k hangingKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.h.mu.Lock()
	hung := k.h.hung
	k.h.mu.Unlock()
	if hung {
		<-k.h.release
	}
	return k.Signer.Sign(r, digest, opts)
}

func TestAKeyOfAnotherTokenIsRefused(t *testing.T) {
	cfg := config(t, provider(t))
	ring := open(t, cfg)
	if _, err := ring.Create(t.Context(), "one", kms.P256); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Create(t.Context(), "two", kms.P256); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.DB.Exec(t.Context(), `
		UPDATE kms_key
		SET    held_at = (SELECT held_at FROM kms_key WHERE name = 'two')
		WHERE  name = 'one'`); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, cfg).Key(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), "another key in its place") {
		t.Errorf("a key under another's name: %v", err)
	}
	cfg.Provider = nil
	if _, err := open(t, cfg).Key(t.Context(), "two"); err == nil || !strings.Contains(err.Error(), "keys.provider") {
		t.Errorf("a key whose provider is not configured: %v", err)
	}
}
