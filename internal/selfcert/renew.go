package selfcert

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/certmagic"
)

// due reports whether c should be replaced: a third of its life or less is left, or it has not begun.
func (s *Source) due(c *x509.Certificate) bool {
	now := s.cfg.Now()
	return now.Before(c.NotBefore) || !now.Before(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore)/3))
}

// errFresh stops a renewal that another replica did while we waited for the lock.
var errFresh = errors.New("renewed by another replica")

// tend sees to it that the certificate served for name is not due.
func (s *Source) tend(ctx context.Context, name string) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c, ok := s.served(name); ok && !s.due(c.Leaf) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tendTimeout)
	defer cancel()
	stored, err := s.load(ctx, name)
	if err == nil && !s.due(stored.Leaf) {
		return nil
	}
	if err := s.replace(ctx, name, err); err != nil {
		return err
	}
	_, err = s.load(ctx, name)
	return err
}

// replace obtains a certificate, given what loading the stored one said. Both of certmagic's calls hold the lock of the
// name meanwhile and look again once they have it; see onEvent.
func (s *Source) replace(ctx context.Context, name string, loading error) error {
	if errors.Is(loading, fs.ErrNotExist) {
		return s.config().ObtainCertSync(ctx, name)
	}
	const force = true // due or not by the machine's clock
	err := s.config().RenewCertSync(ctx, name, force)
	if errors.Is(err, errFresh) {
		return nil
	}
	return err
}

// onEvent is called by certmagic, under the lock of the name, before it asks for a certificate: whoever held the lock
// before us may have renewed it already. A stored certificate that does not load is what a crash between writing its key
// and writing it leaves behind, and is replaced.
func (s *Source) onEvent(ctx context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	if event != "cert_obtaining" || data["renewal"] != true {
		return nil
	}
	if stored, err := s.load(ctx, name); err == nil && !s.due(stored.Leaf) {
		return errFresh
	}
	return nil
}

func (s *Source) served(name string) (certmagic.Certificate, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.live[name]
	return c, ok
}

// load serves what is in storage for name from now on, in place of what was served before.
func (s *Source) load(ctx context.Context, name string) (certmagic.Certificate, error) {
	c, err := s.config().CacheManagedCertificate(ctx, name)
	if err != nil {
		return certmagic.Certificate{}, fmt.Errorf("loading it: %w", err)
	}
	s.mu.Lock()
	before, had := s.live[name]
	s.live[name] = c
	s.mu.Unlock()
	if had && before.Hash() == c.Hash() {
		return c, nil
	}
	if had {
		s.cache.Remove([]string{before.Hash()})
	}
	s.cfg.Log.Info("listener certificate in use", "name", name, "serial", fmt.Sprintf("%x", c.Leaf.SerialNumber), "not_after", c.Leaf.NotAfter)
	return c, nil
}
