package server

import (
	"context"

	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/kms"
)

// apartKeys is a keyring that gives out no key of an emergency CA, whoever put it there and whatever it is for.
type apartKeys struct {
	kms.Keyring
	guard *breakglass.Guard
}

// Key implements kms.Keyring.
func (k apartKeys) Key(ctx context.Context, name string) (kms.Key, error) {
	return k.check(k.Keyring.Key(ctx, name))
}

// Create implements kms.Keyring.
func (k apartKeys) Create(ctx context.Context, name string, alg kms.Algorithm) (kms.Key, error) {
	return k.check(k.Keyring.Create(ctx, name, alg))
}

func (k apartKeys) check(key kms.Key, err error) (kms.Key, error) {
	if err == nil {
		err = k.guard.Key("key "+key.Name(), key.Public())
	}
	if err != nil {
		return nil, err
	}
	return key, nil
}
