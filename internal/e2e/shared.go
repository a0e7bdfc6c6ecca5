package e2e

import (
	"errors"
	"sync"
	"testing"
)

// shared is the one segl of a test binary whose tests do not disturb each other.
var shared struct {
	sync.Mutex
	*Segl
}

// Shared returns a running segl that other tests use too: whoever stops, crashes or reconfigures one has its own, by
// Start. It is started when first asked for, stopped by Main, and shows its log to a test that failed.
func Shared(t testing.TB) *Segl {
	t.Helper()
	bin := Binary(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.Segl == nil {
		s, err := prepare(bin, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.begin(); err != nil {
			t.Fatal(errors.Join(err, s.end()))
		}
		shared.Segl = s
	}
	s, from := shared.Segl, len(shared.log.String())
	t.Cleanup(func() { s.explain(t, from) })
	return s
}

func unshare() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.Segl == nil {
		return nil
	}
	return shared.end()
}
