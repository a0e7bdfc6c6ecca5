package softkms

import (
	"context"
	"crypto"
	"crypto/rand"
	"fmt"

	"codeberg.org/dataverket/segl/kms"
)

// A key has its private half in a closure, where no printing of the struct finds it.
type key struct {
	name   string
	public crypto.PublicKey
	sign   func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func newKey(name string, private crypto.Signer) kms.Key {
	return &key{name: name, public: private.Public(), sign: func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return private.Sign(rand.Reader, digest, opts)
	}}
}

func (k *key) Name() string             { return k.name }
func (k *key) Public() crypto.PublicKey { return k.public }

func (k *key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", k.name, err)
	}
	signature, err := k.sign(digest, opts)
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", k.name, err)
	}
	return signature, nil
}
