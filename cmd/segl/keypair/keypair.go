// Package keypair keeps a private key and its certificate chain in two files.
//
// Keys are made here and never leave. A key is on disk, durably and readable by its owner alone, before a certificate is
// asked for it, under a name of its own (KEY.pending): so when the answer is lost, asking again with the same key gets the
// same certificate. Files appear whole or not at all: each is written beside its place, synced and renamed.
//
// Between the two renames of Install a reader may meet the new chain with the old key; the next Recover, or the next
// Stage, finishes what was begun. Processes that renew one pair at once stage one key.
package keypair

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files is where one pair is.
type Files struct {
	Chain string // the certificate and those above it, PEM
	Key   string // the private key, PKCS #8 in PEM, mode 0600
}

// At returns the files of prefix: PREFIX.pem and PREFIX-key.pem.
func At(prefix string) Files { return Files{prefix + ".pem", prefix + "-key.pem"} }

// pending is where a staged key is: in the directory that the key is really in, so that it only needs a rename.
func (f Files) pending() string { return follow(f.Key) + ".pending" }

// follow follows symbolic links as far as path exists.
func follow(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// ErrForeign says that the key file holds a key that does not belong to the chain file beside it.
var ErrForeign = errors.New("holds a key that is not of the certificate beside it")

// Load reads a pair that is there.
func (f Files) Load() (tls.Certificate, error) {
	chain, err := os.ReadFile(f.Chain)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading certificate: %w", err)
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading %s with %s: %w", f.Chain, f.Key, err)
	}
	return pair, nil
}

// CheckOurs returns nil when there is no key yet, or when it is the one of the chain beside it: then it may be replaced by a
// newer pair. ErrForeign: it is somebody else's.
func (f Files) CheckOurs() (replaces bool, err error) {
	if _, err := os.Lstat(f.Key); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if _, err := f.Load(); err != nil {
		return true, fmt.Errorf("%s %w", f.Key, ErrForeign)
	}
	return true, nil
}

// Staged reports whether an earlier attempt left a key.
func (f Files) Staged() bool {
	_, err := os.Lstat(f.pending())
	return err == nil
}

// Stage returns the key to ask a certificate for: the one that an earlier attempt left, unless that is not of type t, else
// a new one. The zero Type is any. The key is on disk when Stage returns.
func (f Files) Stage(t Type) (crypto.Signer, error) {
	if err := f.Recover(); err != nil {
		return nil, err
	}
	key, err := ReadKey(f.pending())
	if err == nil && (t == "" || TypeOf(key) == t) {
		return key, nil
	}
	if err == nil {
		err = f.Discard()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if key, err = t.generate(); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := f.stage(text); err != nil {
		return nil, err
	}
	return ReadKey(f.pending()) // another process may have been faster
}

// stage keeps a key. Unless what is staged already is of no use, that stays.
func (f Files) stage(text []byte) error {
	err := create(f.pending(), text, keyMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keeping the new key: %w", err)
	}
	return nil
}

// Discard removes the staged key: no certificate is coming for it.
func (f Files) Discard() error {
	if err := os.Remove(f.pending()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the unused key: %w", err)
	}
	return nil
}

// Install puts chain in its place, and the staged key in its own. A chain for another key than that is refused.
func (f Files) Install(chain []byte, key crypto.Signer) error {
	if err := matches(chain, key.Public()); err != nil {
		return err
	}
	if err := write(f.Chain, chain, chainMode); err != nil {
		return fmt.Errorf("writing certificate: %w", err)
	}
	return f.promote(key)
}

// InstallWith puts chain and a key that was not staged in their places.
func (f Files) InstallWith(chain []byte, key crypto.Signer) error {
	if err := matches(chain, key.Public()); err != nil {
		return err
	}
	if there, err := ReadKey(f.Key); err != nil || !same(there.Public(), key.Public()) {
		text, err := encodeKey(key)
		if err != nil {
			return err
		}
		if err := write(f.Key, text, keyMode); err != nil {
			return fmt.Errorf("writing key: %w", err)
		}
	}
	if err := write(f.Chain, chain, chainMode); err != nil {
		return fmt.Errorf("writing certificate: %w", err)
	}
	return nil
}

// WriteChain puts chain at path, for a key that is elsewhere.
func WriteChain(path string, chain []byte, pub crypto.PublicKey) error {
	if err := matches(chain, pub); err != nil {
		return err
	}
	if err := write(path, chain, chainMode); err != nil {
		return fmt.Errorf("writing certificate: %w", err)
	}
	return nil
}

// Recover finishes an Install that was cut short after the chain: then the staged key is the chain's.
func (f Files) Recover() error {
	key, err := ReadKey(f.pending())
	if err != nil {
		return nil //nolint:nilerr // nothing staged, or nothing readable: Stage says so
	}
	chain, err := os.ReadFile(f.Chain)
	if err != nil || matches(chain, key.Public()) != nil {
		return nil //nolint:nilerr // the chain is not that key's: nothing was cut short
	}
	return f.promote(key)
}

// promote puts the staged key in its place, unless another process just did.
func (f Files) promote(key crypto.Signer) error {
	to := follow(f.Key)
	err := os.Rename(f.pending(), to)
	if errors.Is(err, fs.ErrNotExist) {
		if there, kerr := ReadKey(f.Key); kerr == nil && same(there.Public(), key.Public()) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("putting the key in its place: %w", err)
	}
	return syncDir(filepath.Dir(to))
}

// matches refuses a chain whose first certificate is not for pub.
func matches(chain []byte, pub crypto.PublicKey) error {
	leaf, err := Leaf(chain)
	if err != nil {
		return err
	}
	if !same(pub, leaf.PublicKey) {
		return errors.New("checking the certificate: it is for another key than the one asked for")
	}
	return nil
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// Leaf returns the first certificate of a PEM file.
func Leaf(text []byte) (*x509.Certificate, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("reading certificate: there is no PEM block of type CERTIFICATE (RFC 7468 §5)")
		}
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("reading certificate: %w", err)
			}
			return c, nil
		}
		text = rest
	}
}
