package keypair

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	keyMode   fs.FileMode = 0o600
	chainMode fs.FileMode = 0o644
)

// write puts text at path, whole or not at all, durably. What was at path is replaced; a symbolic link is followed, so
// that a deployment's links stay links.
func write(path string, text []byte, mode fs.FileMode) error {
	return beside(follow(path), text, mode, os.Rename)
}

// create is write where nothing may be at path: else fs.ErrExist, and what was there stays.
func create(path string, text []byte, mode fs.FileMode) error {
	return beside(path, text, mode, func(from, to string) error {
		return errors.Join(os.Link(from, to), os.Remove(from))
	})
}

// beside writes a file in path's directory and has place put it there.
func beside(path string, text []byte, mode fs.FileMode, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := place(f.Name(), path); err != nil {
		os.Remove(f.Name()) //nolint:errcheck // gone already, or there is nothing more to do
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteFile puts text at path, whole or not at all, durably, for files that go with a pair. A symbolic link is followed.
func WriteFile(path string, text []byte, mode fs.FileMode) error { return write(path, text, mode) }
