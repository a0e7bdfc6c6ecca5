// Package rootkey keeps the private key of an offline root where no service is: in a file that age seals, or in a PKCS #11 token.
//
// It is for the ceremony's commands (ca/ceremony) and makes no decision. A key in a file is PKCS #8 in PEM, sealed with
// filippo.io/age under a passphrase or for age recipients: age opens it without us. A key in a token never leaves it; the file then says
// where it is, which is no secret. Nothing is ever overwritten. The package keeps no state.
package rootkey

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/stepkms"
)

// Names of the files in a root's directory.
const (
	SealedFile = "root-key.age"
	PlaceFile  = "root-key.place"
)

// A Lock is what seals a key, or opens it again.
type Lock struct {
	PassphraseFile string   // one line
	Recipients     []string // age1…, to seal for
	IdentityFile   string   // of age, to open with
	Provider       string   // URI of a PKCS #11 token, which keeps the key
}

const maxFile = 64 << 10

// passphrase reads the first line of a file that others may not read.
func passphrase(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("reading the passphrase: %s can be read by others: chmod 600 %[1]s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimRight(line, "\r"); len(line) < 12 {
		return "", errors.New("the passphrase is shorter than 12 characters: draw several words at random")
	}
	return line, nil
}

func (l Lock) recipients() ([]age.Recipient, error) {
	switch {
	case l.PassphraseFile != "" && len(l.Recipients) > 0: // age itself refuses the two in one file
		return nil, errors.New("a passphrase and recipients: choose one")
	case l.PassphraseFile != "":
		pass, err := passphrase(l.PassphraseFile)
		if err != nil {
			return nil, err
		}
		r, err := age.NewScryptRecipient(pass)
		return []age.Recipient{r}, err
	case len(l.Recipients) > 0:
		return age.ParseRecipients(strings.NewReader(strings.Join(l.Recipients, "\n")))
	}
	return nil, errors.New("nothing would seal the key: give a passphrase file, recipients or a key provider")
}

func (l Lock) identities() ([]age.Identity, error) {
	switch {
	case l.PassphraseFile != "":
		pass, err := passphrase(l.PassphraseFile)
		if err != nil {
			return nil, err
		}
		i, err := age.NewScryptIdentity(pass)
		return []age.Identity{i}, err
	case l.IdentityFile != "":
		f, err := os.Open(l.IdentityFile)
		if err != nil {
			return nil, fmt.Errorf("reading the identity file: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		return age.ParseIdentities(io.LimitReader(f, maxFile))
	}
	return nil, errors.New("the key is sealed: give the passphrase file, or age's identity file")
}

// A Kept key is open for as long as the program runs. Close lets go of its token.
type Kept struct {
	kms.Key
	File  string // that says where the key is, or holds it
	Text  []byte // of File
	close func() error
}

// Close lets go of the key's token.
func (k *Kept) Close() error {
	if k.close == nil {
		return nil
	}
	return k.close()
}

// Create makes a key. Its file is the caller's to write: Text.
func (l Lock) Create(ctx context.Context, name string, alg kms.Algorithm) (*Kept, error) {
	if l.Provider != "" {
		if l.PassphraseFile != "" || len(l.Recipients) > 0 {
			return nil, errors.New("a key provider keeps the key itself: leave out what would seal a file")
		}
		return l.createHeld(ctx, name, alg)
	}
	to, err := l.recipients()
	if err != nil {
		return nil, err
	}
	private, err := alg.Generate()
	if err != nil {
		return nil, fmt.Errorf("making the key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, errors.New("encoding the key") // what x509 says might quote it
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to...)
	if err == nil {
		err = pem.Encode(w, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("sealing the key: %w", err)
	}
	return &Kept{Key: signer{name, private}, File: SealedFile, Text: sealed.Bytes()}, nil
}

func (l Lock) createHeld(ctx context.Context, name string, alg kms.Algorithm) (*Kept, error) {
	token, err := stepkms.Open(ctx, l.Provider)
	if err != nil {
		return nil, err
	}
	place, private, err := token.Create(ctx, name, alg)
	if err != nil {
		token.Close() //nolint:errcheck // already failing
		return nil, fmt.Errorf("making the key in the token: %w", err)
	}
	return &Kept{Key: signer{name, private}, File: PlaceFile, Text: []byte(place + "\n"), close: token.Close}, nil
}

// Open opens the key that dir keeps, which must be the one whose public half is given.
func (l Lock) Open(ctx context.Context, dir, name string, pub crypto.PublicKey) (*Kept, error) {
	k, err := l.open(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	if same, ok := pub.(interface{ Equal(x crypto.PublicKey) bool }); !ok || !same.Equal(k.Public()) {
		return nil, errors.Join(errors.New("the key is not the root's"), k.Close())
	}
	return k, nil
}

func (l Lock) open(ctx context.Context, dir, name string) (*Kept, error) {
	place, err := os.ReadFile(filepath.Join(dir, PlaceFile))
	if err == nil {
		if l.Provider == "" {
			return nil, errors.New("a token keeps the key: give --key-provider")
		}
		token, err := stepkms.Open(ctx, l.Provider)
		if err != nil {
			return nil, err
		}
		private, err := token.Load(ctx, strings.TrimSpace(string(place)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("finding the key in the token: %w", err), token.Close())
		}
		return &Kept{Key: signer{name, private}, File: PlaceFile, Text: place, close: token.Close}, nil
	}
	sealed, err := os.ReadFile(filepath.Join(dir, SealedFile))
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	with, err := l.identities()
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), with...)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", SealedFile, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile))
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		return nil, errors.New("what age sealed is no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("what age sealed is no private key in PKCS #8")
	}
	return &Kept{Key: signer{name, private}, File: SealedFile, Text: sealed}, nil
}

// A signer is a kms.Key in this process's memory, or a token's.
type signer struct {
	name    string
	private crypto.Signer
}

func (s signer) Name() string             { return s.name }
func (s signer) Public() crypto.PublicKey { return s.private.Public() }

func (s signer) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.private.Sign(rand.Reader, digest, opts)
}
