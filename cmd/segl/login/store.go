package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/oauth2"

	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// A Store is the file of one person's logins, one for each service.
type Store struct {
	Path string
	Now  func() time.Time
}

// A Session is one login.
type Session struct {
	Provider
	Access  string    `json:"access_token"`
	Refresh string    `json:"refresh_token,omitempty"`
	Expires time.Time `json:"expires"`
}

// ErrNone: nobody is logged in at that service.
var ErrNone = errors.New("not logged in")

const (
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700
	// early is how long before its end a token is refreshed: it must last for the request.
	early = 30 * time.Second
)

// Save keeps a login at service, the URL of a listener.
func (s Store) Save(service string, p Provider, t *oauth2.Token) error {
	return s.change(func(all map[string]Session) error {
		all[service] = session(p, t)
		return nil
	})
}

func session(p Provider, t *oauth2.Token) Session {
	return Session{Provider: p, Access: t.AccessToken, Refresh: t.RefreshToken, Expires: t.Expiry}
}

// Remove forgets the login at service, or returns ErrNone.
func (s Store) Remove(service string) error {
	return s.change(func(all map[string]Session) error {
		if _, ok := all[service]; !ok {
			return ErrNone
		}
		delete(all, service)
		return nil
	})
}

// Has reports whether there is a login at service.
func (s Store) Has(service string) bool {
	all, err := s.read()
	_, ok := all[service]
	return err == nil && ok
}

// Token returns an access token for service that is good for a while, refreshing it where it is not. ErrNone: log in.
func (s Store) Token(ctx context.Context, service string) (string, error) {
	all, err := s.read()
	if err != nil {
		return "", err
	}
	had, ok := all[service]
	if !ok {
		return "", ErrNone
	}
	if s.good(had) {
		return had.Access, nil
	}
	err = s.change(func(all map[string]Session) error {
		if had, ok = all[service]; !ok {
			return ErrNone
		}
		if s.good(had) { // another process was faster
			return nil
		}
		if had.Refresh == "" {
			return fmt.Errorf("%w: the login ended at %s", ErrNone, had.Expires.UTC().Format(time.RFC3339))
		}
		fresh, err := had.Provider.refresh(ctx, had.Refresh)
		if err != nil {
			return err
		}
		if fresh.RefreshToken == "" {
			fresh.RefreshToken = had.Refresh // RFC 6749 §6: "The authorization server MAY issue a new refresh token"
		}
		had = session(had.Provider, fresh)
		all[service] = had
		return nil
	})
	if errors.Is(err, ErrRefused) {
		return "", fmt.Errorf("%w: %w", ErrNone, err)
	}
	return had.Access, err
}

func (s Store) good(had Session) bool {
	return had.Expires.IsZero() || s.Now().Add(early).Before(had.Expires)
}

// change reads, changes and writes the file; processes take turns.
func (s Store) change(change func(map[string]Session) error) error {
	if err := os.MkdirAll(filepath.Dir(s.Path), dirMode); err != nil {
		return fmt.Errorf("keeping logins: %w", err)
	}
	lock, err := os.OpenFile(s.Path+".lock", os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return fmt.Errorf("keeping logins: %w", err)
	}
	defer lock.Close()                                                     //nolint:errcheck // lets the lock go
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a descriptor
		return fmt.Errorf("keeping logins: %w", err)
	}
	all, err := s.read()
	if err != nil {
		return err
	}
	if err := change(all); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping logins: %w", err)
	}
	if err := keypair.WriteFile(s.Path, append(text, '\n'), fileMode); err != nil {
		return fmt.Errorf("keeping logins: %w", err)
	}
	return nil
}

// read reads the file. One that others may read is not believed: it may be known to them, or theirs.
func (s Store) read() (map[string]Session, error) {
	all := make(map[string]Session)
	info, err := os.Stat(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading logins: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading logins: others may read %s: segl logout, then chmod 600 it", s.Path)
	}
	text, err := os.ReadFile(s.Path)
	if err != nil {
		return nil, fmt.Errorf("reading logins: %w", err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("reading logins: %s is damaged: remove it and log in again", s.Path)
	}
	return all, nil
}
