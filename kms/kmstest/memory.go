package kmstest

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"sync"

	"codeberg.org/dataverket/segl/kms"
)

// A Keyring keeps its keys in memory.
type Keyring struct {
	aead cipher.AEAD

	mu   sync.Mutex
	keys map[string]kms.Key
}

var _ kms.Keyring = (*Keyring)(nil)

// NewKeyring returns an empty keyring.
func NewKeyring() *Keyring {
	secret := make([]byte, 32)
	rand.Read(secret) //nolint:errcheck // never returns one
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic("kmstest: internal error: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("kmstest: internal error: " + err.Error())
	}
	return &Keyring{aead: aead, keys: make(map[string]kms.Key)}
}

// Key implements kms.Keyring.
func (r *Keyring) Key(ctx context.Context, name string) (kms.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.keys[name]; ok {
		return key, nil
	}
	return nil, fmt.Errorf("loading key %q: %w", name, kms.ErrNotFound)
}

// Create implements kms.Keyring.
func (r *Keyring) Create(ctx context.Context, name string, alg kms.Algorithm) (kms.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := kms.CheckName(name); err != nil {
		return nil, err
	}
	private, err := alg.Generate()
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys[name] != nil {
		return nil, fmt.Errorf("making key %s: %w", name, kms.ErrExists)
	}
	r.keys[name] = key{name, private}
	return r.keys[name], nil
}

// Seal implements kms.Keyring.
func (r *Keyring) Seal(ctx context.Context, purpose string, plaintext []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.aead.Seal(nil, nil, plaintext, []byte(purpose)), nil
}

// Open implements kms.Keyring.
func (r *Keyring) Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plaintext, err := r.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, kms.ErrSealed
	}
	return plaintext, nil
}

type key struct {
	name    string
	private crypto.Signer
}

func (k key) Name() string             { return k.name }
func (k key) Public() crypto.PublicKey { return k.private.Public() }

func (k key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.private.Sign(rand.Reader, digest, opts)
}
