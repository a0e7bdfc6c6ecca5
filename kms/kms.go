// Package kms is what the service knows of keys: a named key that signs under a deadline, and a keyring that keeps them.
//
// A private key never leaves its keyring; what leaves is signatures. A keyring also seals the service's own small secrets,
// bound to what they are for. Providers are packages of their own (kms/softkms keeps keys in the ledger's database), held
// to kms/kmstest. The package does not store, does no network I/O and makes no policy: which key signs what is the
// caller's.
//
// The invariant: a name means one key for ever. A key is never replaced under its name, so a name in the ledger says
// which key signed. Algorithms are the short list in algorithm.go.
//
// Everything here may be called concurrently, and so must be every Key and Keyring.
package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
)

var (
	// ErrNotFound: the keyring has no key of that name.
	ErrNotFound = errors.New("no such key")
	// ErrExists: the keyring has a key of that name, perhaps made by another replica a moment ago. Load it; see Ensure.
	ErrExists = errors.New("key exists")
	// ErrUnavailable: the key or its keyring cannot be asked just now. The same call may succeed later; RetryAfter says when
	// to try.
	ErrUnavailable = errors.New("key unavailable")
	// ErrUnsupported: the algorithm is not one of ours, or not one this keyring offers.
	ErrUnsupported = errors.New("algorithm not supported")
	// ErrSealed: sealed bytes do not open: sealed for another purpose, under another keyring, or altered.
	ErrSealed = errors.New("sealed value does not open")
)

// A Key is a private key that somebody else keeps for us.
type Key interface {
	// Name is the key's name in its keyring. It never changes and stands in the ledger.
	Name() string
	// Public is the public half.
	Public() crypto.PublicKey
	// Sign signs digest, which opts.HashFunc made, or the message itself where that is zero (Ed25519), as crypto.Signer
	// does. It may be repeated. It does no work once ctx is done. An error for which ErrUnavailable holds says nothing
	// against the request: try again later.
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// A Keyring keeps keys. Every implementation passes kmstest.Run.
type Keyring interface {
	// Key returns the key called name, or ErrNotFound.
	Key(ctx context.Context, name string) (Key, error)
	// Create makes a key called name. On return it is durable and every replica can load it. When the name is taken the
	// error is ErrExists, whatever the algorithm of the key that has it.
	Create(ctx context.Context, name string, alg Algorithm) (Key, error)
	// Seal encrypts a small secret for purpose. The same secret sealed twice gives different bytes.
	Seal(ctx context.Context, purpose string, plaintext []byte) ([]byte, error)
	// Open returns what was sealed for the same purpose by any replica, or ErrSealed.
	Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error)
}

// Ensure returns the key called name, making it if there is none. Of several replicas doing so at once one makes it and
// all return it. A key of another algorithm under that name is refused.
func Ensure(ctx context.Context, keyring Keyring, name string, alg Algorithm) (Key, error) {
	key, err := keyring.Key(ctx, name)
	if errors.Is(err, ErrNotFound) {
		key, err = keyring.Create(ctx, name, alg)
	}
	if errors.Is(err, ErrExists) {
		key, err = keyring.Key(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	has, err := AlgorithmOf(key.Public())
	if err != nil {
		return nil, fmt.Errorf("loading key %s: %w", name, err)
	}
	if has != alg {
		return nil, fmt.Errorf("loading key %s: it is %s, not %s: a name means one key for ever; choose another name", name, has, alg)
	}
	return key, nil
}

// Ready returns why key would refuse to sign at once, an ErrUnavailable, or nil where nothing speaks against trying.
func Ready(key Key) error {
	if k, ok := key.(interface{ Ready() error }); ok {
		return k.Ready()
	}
	return nil
}

const maxName = 128

// CheckName refuses what cannot name a key: 1 to 128 of a-z, 0-9, hyphen, dot, underscore and slash, beginning with a
// letter or digit. Every provider can express these.
func CheckName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > maxName || strings.Trim(name, first+"-._/") != "" || !strings.Contains(first, name[:1]) {
		return fmt.Errorf("key name %.140q: want 1 to %d of a-z, 0-9, hyphen, dot, underscore and slash, the first a letter or digit",
			name, maxName)
	}
	return nil
}

// Signer returns key as the standard library wants it, every signature under ctx.
func Signer(ctx context.Context, key Key) crypto.Signer { return signer{ctx, key} }

// A signer holds a context because crypto.Signer has no room for one: it lives for one operation.
type signer struct {
	ctx context.Context //nolint:containedctx // see above
	key Key
}

func (s signer) Public() crypto.PublicKey { return s.key.Public() }

// Sign implements crypto.Signer. The keyring has randomness of its own.
func (s signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(s.ctx, digest, opts)
}
