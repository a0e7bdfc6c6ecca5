package softkms

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A Passphrase prints as nothing, even inside somebody's unexported field. Reveal is the only way out.
type Passphrase struct{ reveal func() string }

// NewPassphrase returns a passphrase that the caller already has. Services read theirs with ReadPassphrase.
func NewPassphrase(s string) (Passphrase, error) {
	if s == "" {
		return Passphrase{}, errors.New("passphrase is empty: give one of 20 characters or more")
	}
	return Passphrase{func() string { return s }}, nil
}

// Reveal returns the passphrase.
func (p Passphrase) Reveal() string {
	if p.reveal == nil {
		return ""
	}
	return p.reveal()
}

// IsZero reports whether p is no passphrase.
func (p Passphrase) IsZero() bool { return p.reveal == nil }

func (Passphrase) String() string { return "REDACTED" }

// MarshalText implements encoding.TextMarshaler, for logs.
func (Passphrase) MarshalText() ([]byte, error) { return []byte("REDACTED"), nil }

const maxPassphrase = 4096

// ReadPassphrase reads a passphrase from a file that not everybody on the machine may read: one made with CreatePassphrase,
// a mounted secret, or a systemd credential ($CREDENTIALS_DIRECTORY/name). A newline at the end is not part of it.
func ReadPassphrase(path string) (Passphrase, error) {
	f, err := os.Open(path)
	if err != nil {
		return Passphrase{}, fmt.Errorf("reading passphrase: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return Passphrase{}, fmt.Errorf("reading passphrase: %w", err)
	}
	if mode := info.Mode(); mode.IsDir() || mode.Perm()&0o007 != 0 {
		return Passphrase{}, fmt.Errorf("passphrase file %s: mode is %s: want a file that others cannot use; run chmod o= %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	if err != nil {
		return Passphrase{}, fmt.Errorf("reading passphrase: %w", err)
	}
	if len(text) > maxPassphrase {
		return Passphrase{}, fmt.Errorf("passphrase file %s: is longer than %d octets: is it the right file?", path, maxPassphrase)
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(bytes.TrimSpace(text)) == 0 {
		return Passphrase{}, fmt.Errorf("passphrase file %s: is empty: write 20 characters or more into it", path)
	}
	return NewPassphrase(string(text))
}

// CreatePassphrase writes a new random passphrase of 130 bits into a file only its owner may read, durably. It never
// replaces a file: the error is then fs.ErrExist.
func CreatePassphrase(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".passphrase-*") // mode 0600
	if err != nil {
		return fmt.Errorf("making passphrase: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // its other name stays
	_, err = f.WriteString(rand.Text() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path) // whole or not at all, whenever we are killed; and never in place of another
	}
	if err := errors.Join(err, syncDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("making passphrase: %w", err)
	}
	return nil
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
