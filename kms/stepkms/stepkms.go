// Package stepkms lets go.step.sm/crypto's key managers keep our keys: PKCS #11 tokens, TPMs and the clouds' KMS.
//
// Which of them a program has is decided when it is built, by a tag each (pkcs11, tpmkms, awskms, cloudkms, azurekms), because
// some need a C compiler and others an SDK larger than everything else here. Without the tag, Open says so. The package keeps no
// list of keys: it makes each at a place of its own, and kms/softkms writes down whose it is.
//
// A Provider may be called concurrently, as far as its token allows sessions; calls may hang for as long as the token does. What
// changes or looks through a token's objects is done one at a time, since tokens lose objects to one another's changes (SoftHSM
// answers CKR_GENERAL_ERROR); signatures are not.
package stepkms

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	step "go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/uri"

	"codeberg.org/dataverket/segl/kms"
)

// A Provider is a softkms.Provider.
type Provider struct {
	kind    step.Type
	at      *uri.URI
	manager step.KeyManager
	turn    chan struct{} // holds one element while somebody is at the token's objects
}

// await takes the turn; done gives it back. A caller that gives up waiting has not had it.
func (p *Provider) await(ctx context.Context) (done func(), err error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the token: %w: %w", kms.ErrUnavailable, ctx.Err())
	}
}

// Open connects to the key manager that a URI names, such as
// pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=segl?pin-source=/run/credentials/segl/pin. A PIN stands in a file of its own.
func Open(ctx context.Context, rawURI string) (*Provider, error) {
	at, err := uri.Parse(rawURI)
	if err != nil {
		return nil, errors.New("key provider: want a URI such as pkcs11:module-path=…;token=…?pin-source=FILE (RFC 7512)") // not the URI itself: it may hold a PIN
	}
	if at.Has("pin-value") {
		return nil, errors.New("key provider: pin-value is refused: put the PIN into a file only we can read and name it with pin-source")
	}
	kind := step.Type(at.Scheme)
	open, ok := step.LoadKeyManagerNewFunc(kind)
	if !ok || names[kind] == nil {
		return nil, fmt.Errorf("key provider: %s is not in this program: build it with -tags %[1]s (bin/segl-pkcs11 has pkcs11)", kind)
	}
	manager, err := open(ctx, step.Options{Type: kind, URI: rawURI})
	if err != nil {
		return nil, fmt.Errorf("opening key provider %s: %w: %w", kind, kms.ErrUnavailable, err)
	}
	return &Provider{kind: kind, at: at, manager: manager, turn: make(chan struct{}, 1)}, nil
}

// Close lets go of the key manager.
func (p *Provider) Close() error { return p.manager.Close() }

// names says, for each kind, how a new key's place is spelt.
var names = map[step.Type]func(p *Provider, label, id string) string{
	step.PKCS11: func(_ *Provider, label, id string) string { return "pkcs11:id=" + id + ";object=" + label },
	step.TPMKMS: func(_ *Provider, label, _ string) string { return "tpmkms:name=" + label },
	step.AmazonKMS: func(_ *Provider, label, _ string) string { // it chooses the place and tells
		return "awskms:name=" + label
	},
	step.CloudKMS: func(p *Provider, label, _ string) string {
		return strings.TrimSuffix(p.at.Get("resource"), "/") + "/cryptoKeys/" + label
	},
	step.AzureKMS: func(p *Provider, label, _ string) string {
		return "azurekms:name=" + label + ";vault=" + p.at.Get("vault")
	},
}

// algorithms are go.step.sm/crypto's words for ours.
var algorithms = map[kms.Algorithm]struct {
	signature step.SignatureAlgorithm
	bits      int
}{
	kms.P256:    {signature: step.ECDSAWithSHA256},
	kms.P384:    {signature: step.ECDSAWithSHA384},
	kms.Ed25519: {signature: step.PureEd25519},
	kms.RSA2048: {step.SHA256WithRSA, 2048},
	kms.RSA3072: {step.SHA256WithRSA, 3072},
	kms.RSA4096: {step.SHA256WithRSA, 4096},
}

// Create implements softkms.Provider.
func (p *Provider) Create(ctx context.Context, hint string, alg kms.Algorithm) (string, crypto.Signer, error) {
	want, ok := algorithms[alg]
	if !ok || !p.has(alg) {
		return "", nil, fmt.Errorf("%w by %s: %.40q", kms.ErrUnsupported, p.kind, string(alg))
	}
	done, err := p.await(ctx)
	if err != nil {
		return "", nil, err
	}
	defer done()
	var id [16]byte
	rand.Read(id[:]) //nolint:errcheck // never fails
	unique := hex.EncodeToString(id[:])
	made, err := p.manager.CreateKey(&step.CreateKeyRequest{
		Name: names[p.kind](p, label(hint)+"-"+unique[:12], unique), SignatureAlgorithm: want.signature, Bits: want.bits,
	})
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", kms.ErrUnavailable, err)
	}
	signer, err := p.load(made.Name)
	return made.Name, signer, err
}

// has reports whether the kind knows an algorithm. Asking for one that it does not know is not the same as it being down.
func (p *Provider) has(alg kms.Algorithm) bool {
	return alg != kms.Ed25519 || p.kind != step.PKCS11 && p.kind != step.TPMKMS && p.kind != step.AzureKMS
}

// label is a name as every provider can write it.
func label(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name[:min(len(name), 40)])
}

// Load implements softkms.Provider.
func (p *Provider) Load(ctx context.Context, place string) (crypto.Signer, error) {
	done, err := p.await(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return p.load(place)
}

func (p *Provider) load(place string) (crypto.Signer, error) {
	signer, err := p.manager.CreateSigner(&step.CreateSignerRequest{SigningKey: place})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kms.ErrUnavailable, err)
	}
	return signer, nil
}

// Delete implements softkms.Provider. A cloud's key cannot be deleted by us, and stays.
func (p *Provider) Delete(ctx context.Context, place string) error {
	m, ok := p.manager.(interface{ DeleteKey(uri string) error })
	if !ok {
		return nil
	}
	done, err := p.await(ctx)
	if err != nil {
		return err
	}
	defer done()
	return m.DeleteKey(place)
}
