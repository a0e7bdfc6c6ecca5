// Package kmstest is what every kms.Keyring must do, as a test, and a keyring in memory that does it.
//
// A provider's test calls Run. Tests of those who use keys take NewKeyring, which needs no database and forgets
// everything. Nothing here is for production.
package kmstest

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"testing"

	"codeberg.org/dataverket/segl/kms"
)

// Run holds a provider to the contract of kms.Keyring. Each call of open returns a keyring as another replica, or this
// one after a restart, would have it: all of them keep their keys in the same place, which was empty at first. An
// algorithm for which Create answers kms.ErrUnsupported is passed over, except the default.
func Run(t *testing.T, open func(t *testing.T) kms.Keyring) {
	t.Run("keys", func(t *testing.T) {
		for _, alg := range kms.Algorithms() {
			t.Run(string(alg), func(t *testing.T) { testKey(t, open, alg) })
		}
	})
	for name, test := range map[string]func(*testing.T, func(*testing.T) kms.Keyring){
		"unknown key is not found":                 testUnknown,
		"bad name is refused":                      testBadName,
		"unknown algorithm is refused":             testUnknownAlgorithm,
		"duplicate is refused and changes nothing": testDuplicate,
		"race has one winner":                      testRace,
		"concurrent use":                           testConcurrent,
		"cancelled context is refused":             testCancelled,
		"seal and open":                            testSeal,
		"sealed for another purpose is refused":    testWrongPurpose,
		"altered sealed value is refused":          testTampered,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func testKey(t *testing.T, open func(*testing.T) kms.Keyring, alg kms.Algorithm) {
	name := "conformance/" + string(alg)
	key, err := open(t).Create(t.Context(), name, alg)
	if errors.Is(err, kms.ErrUnsupported) && alg != kms.P256 {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := kms.AlgorithmOf(key.Public()); err != nil || got != alg {
		t.Errorf("made a key of %s: %v", got, err)
	}
	again := load(t, open(t), name)
	if key.Name() != name || again.Name() != name {
		t.Errorf("names: made %s, loaded %s", key.Name(), again.Name())
	}
	if !same(key, again) {
		t.Error("loaded another key than was made")
	}
	for _, k := range []kms.Key{key, again} {
		if err := kms.Prove(t.Context(), k); err != nil {
			t.Error(err)
		}
	}
}

func testUnknown(t *testing.T, open func(*testing.T) kms.Keyring) {
	for _, name := range []string{"conformance/nobody", "", "No Such Name", "nul\x00"} {
		if _, err := open(t).Key(t.Context(), name); !errors.Is(err, kms.ErrNotFound) {
			t.Errorf("key %q: %v", name, err)
		}
	}
}

func testBadName(t *testing.T, open func(*testing.T) kms.Keyring) {
	ring := open(t)
	for _, name := range []string{"", "Upper", "a b", "-first", "nul\x00", "ærlig", string(make([]byte, 129))} {
		if _, err := ring.Create(t.Context(), name, kms.P256); err == nil {
			t.Errorf("made a key called %q", name)
		}
	}
}

func testUnknownAlgorithm(t *testing.T, open func(*testing.T) kms.Keyring) {
	const name = "conformance/dsa"
	ring := open(t)
	if _, err := ring.Create(t.Context(), name, "dsa1024"); !errors.Is(err, kms.ErrUnsupported) {
		t.Errorf("creating: %v", err)
	}
	if _, err := ring.Key(t.Context(), name); !errors.Is(err, kms.ErrNotFound) {
		t.Errorf("a refused key was made: %v", err)
	}
}

func testDuplicate(t *testing.T, open func(*testing.T) kms.Keyring) {
	const name = "conformance/duplicate"
	first := create(t, open(t), name)
	for what, ring := range map[string]kms.Keyring{"the same keyring": open(t), "another replica": open(t)} {
		for _, alg := range []kms.Algorithm{kms.P256, kms.P384} {
			if _, err := ring.Create(t.Context(), name, alg); !errors.Is(err, kms.ErrExists) {
				t.Errorf("%s, %s: %v", what, alg, err)
			}
		}
		if !same(first, load(t, ring, name)) {
			t.Errorf("%s: the key was replaced", what)
		}
	}
	if _, err := kms.Ensure(t.Context(), open(t), name, kms.P384); err == nil {
		t.Error("a key of another algorithm passed for the one asked")
	}
}

func testRace(t *testing.T, open func(*testing.T) kms.Keyring) {
	const name = "conformance/race"
	rings := []kms.Keyring{open(t), open(t), open(t), open(t)}
	keys := make([]kms.Key, len(rings))
	var wg sync.WaitGroup
	for i, ring := range rings {
		wg.Go(func() {
			key, err := kms.Ensure(t.Context(), ring, name, kms.P256)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, key := range keys {
		if key != nil && !same(key, load(t, open(t), name)) {
			t.Error("two keys have one name")
		}
	}
}

func testConcurrent(t *testing.T, open func(*testing.T) kms.Keyring) {
	const name = "conformance/concurrent"
	create(t, open(t), name)
	ring := open(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			message := fmt.Appendf(nil, "message %d", i)
			key, err := ring.Key(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			signature, err := kms.SignMessage(t.Context(), key, message)
			if err != nil {
				t.Error(err)
				return
			}
			if err := kms.Verify(key.Public(), message, signature); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func testCancelled(t *testing.T, open func(*testing.T) kms.Keyring) {
	const name = "conformance/cancelled"
	ring := open(t)
	key := create(t, ring, name)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(what string, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := kms.SignMessage(ctx, key, []byte("m"))
	check("signing", err)
	_, err = ring.Create(ctx, name+"/new", kms.P256)
	check("creating", err)
	_, err = open(t).Key(ctx, name)
	check("loading", err)
	_, err = ring.Seal(ctx, "p", []byte("secret"))
	check("sealing", err)
	_, err = ring.Open(ctx, "p", []byte("sealed"))
	check("opening", err)
	if _, err := open(t).Key(t.Context(), name+"/new"); !errors.Is(err, kms.ErrNotFound) {
		t.Errorf("a cancelled key was made: %v", err)
	}
}

func testSeal(t *testing.T, open func(*testing.T) kms.Keyring) {
	for _, secret := range [][]byte{{}, []byte("s"), bytes.Repeat([]byte("secret"), 4096)} {
		one, two := seal(t, open(t), "purpose", secret), seal(t, open(t), "purpose", secret)
		if bytes.Equal(one, two) {
			t.Error("the same secret sealed twice gives the same bytes")
		}
		if len(secret) > 1 && bytes.Contains(one, secret) {
			t.Error("the secret can be read in what was sealed")
		}
		got, err := open(t).Open(t.Context(), "purpose", one)
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("opening %d octets: %v", len(secret), err)
		}
	}
}

func testWrongPurpose(t *testing.T, open func(*testing.T) kms.Keyring) {
	ring := open(t)
	sealed := seal(t, ring, "purpose/a", []byte("secret"))
	for _, purpose := range []string{"", "purpose", "purpose/b", "purpose/a ", "purpose/a\x00"} {
		if _, err := ring.Open(t.Context(), purpose, sealed); !errors.Is(err, kms.ErrSealed) {
			t.Errorf("opened for %q: %v", purpose, err)
		}
	}
}

func testTampered(t *testing.T, open func(*testing.T) kms.Keyring) {
	ring := open(t)
	sealed := seal(t, ring, "purpose", []byte("secret"))
	refused := func(what string, b []byte) {
		if _, err := ring.Open(t.Context(), "purpose", b); !errors.Is(err, kms.ErrSealed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range sealed {
		b := bytes.Clone(sealed)
		b[i] ^= 0x80
		refused(fmt.Sprintf("octet %d altered", i), b)
		refused(fmt.Sprintf("cut to %d octets", i), sealed[:i])
	}
	refused("one octet more", append(bytes.Clone(sealed), 0))
}

func create(t *testing.T, ring kms.Keyring, name string) kms.Key {
	t.Helper()
	key, err := ring.Create(t.Context(), name, kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func load(t *testing.T, ring kms.Keyring, name string) kms.Key {
	t.Helper()
	key, err := ring.Key(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t *testing.T, ring kms.Keyring, purpose string, secret []byte) []byte {
	t.Helper()
	sealed, err := ring.Seal(t.Context(), purpose, secret)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func same(a, b kms.Key) bool {
	k, ok := a.Public().(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b.Public())
}
