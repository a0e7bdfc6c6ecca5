package softkms

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/kms"
)

// A Provider keeps private halves: an HSM, or a KMS over a network. It knows places, not names; which name a place has is the
// keyring's. Its methods may hang, and may be called concurrently.
type Provider interface {
	// Create makes a key and returns where it is, in a spelling that Load takes for ever and that holds no secret. No two calls
	// return one place, whatever the hint, which is for people who look into the provider. It returns kms.ErrUnsupported for an
	// algorithm it does not have.
	Create(ctx context.Context, hint string, alg kms.Algorithm) (place string, key crypto.Signer, err error)
	// Load returns the key at a place, or kms.ErrUnavailable.
	Load(ctx context.Context, place string) (crypto.Signer, error)
	// Delete removes a key that never got a name.
	Delete(ctx context.Context, place string) error
}

// askFor bounds making, loading and deleting a key. HSMs take seconds over RSA.
const askFor = time.Minute

// make has the provider make a key and then takes the name for it. Of several replicas one has the name; the others' keys
// are deleted again.
func (r *Keyring) make(ctx context.Context, name string, alg kms.Algorithm) (kms.Key, error) {
	if _, err := kms.ParseAlgorithm(string(alg)); err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	switch _, err := r.load(ctx, name); { // most who come too late need not bother the provider
	case err == nil:
		return nil, fmt.Errorf("making key %s: %w", name, kms.ErrExists)
	case !errors.Is(err, kms.ErrNotFound):
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	var place string
	signer, err := within(ctx, func(ctx context.Context) (s crypto.Signer, err error) {
		place, s, err = r.provider.Create(ctx, name, alg)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	k := row{name: name, algorithm: alg, heldAt: &place}
	if k.public, err = x509.MarshalPKIXPublicKey(signer.Public()); err == nil {
		err = r.insert(ctx, k)
	}
	if err != nil {
		return nil, fmt.Errorf("storing key %s: %w", name, errors.Join(err, r.discard(ctx, name, place)))
	}
	return r.keep(kms.NewPool(newKey(name, signer), r.limits)), nil
}

// discard removes a key at a place unless the row did become its own: a commit whose answer was lost.
func (r *Keyring) discard(ctx context.Context, name, place string) error {
	ctx = context.WithoutCancel(ctx)
	k, err := r.load(ctx, name)
	if err != nil || k.heldAt != nil && *k.heldAt == place {
		return nil //nolint:nilerr // better a key too many in the provider than one too few
	}
	_, err = within(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, r.provider.Delete(ctx, place) })
	return err
}

// fetch finds a key at its provider and sees that it is the one that the row names.
func (r *Keyring) fetch(ctx context.Context, k row) (kms.Key, error) {
	if r.provider == nil {
		return nil, errors.New("a key provider has it, and none is configured: name it under keys.provider")
	}
	signer, err := within(ctx, func(ctx context.Context) (crypto.Signer, error) { return r.provider.Load(ctx, *k.heldAt) })
	if err != nil {
		return nil, err
	}
	if !k.isOf(signer.Public()) {
		return nil, errors.New("its provider has another key in its place: a name means one key for ever; look for the token that was in use before")
	}
	return kms.NewPool(newKey(k.name, signer), r.limits), nil
}

// within waits for a call that may hang, for as long as its caller does and no longer than askFor. What comes too late is
// dropped.
func within[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	done := make(chan answer, 1)
	go func() {
		defer cancel()
		v, err := call(ctx)
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return none, fmt.Errorf("%w: its provider did not answer within %s", kms.ErrUnavailable, askFor)
		}
		return none, ctx.Err()
	}
}
