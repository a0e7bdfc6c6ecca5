package server_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A tenant's admin chooses where its targets are: what is sent there must open nothing of anybody else's.
func TestNoTenantIsSentAnothersRedisPassword(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l := server.Leases{RedisPasswordFile: file("ours"), RedisPasswordFiles: map[string]string{"demo": file("theirs"), "gone": filepath.Join(dir, "missing")}}
	for at, want := range map[string]string{"platform": "ours", "demo": "theirs", "demo/shop/dev": "theirs", "other": "", "gone": ""} {
		scope, err := identity.ParseScope(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.RedisPassword(credentials.Target{Scope: scope}).Reveal(); got != want {
			t.Errorf("%s is sent %q, want %q", at, got, want)
		}
	}
}

// A hung book lists targets only when its reader gives up, as a target does that hangs while it is swept.
type hung struct {
	credentials.Book
	ended chan struct{}
}

func (h hung) Targets(ctx context.Context, _ identity.Scope) ([]credentials.Target, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (h hung) Forget(context.Context, time.Time, int) (int, error) { return 0, nil }

func (h hung) Living(context.Context, cert.Serial, int) ([]cert.Serial, error) { return nil, nil }

func (h hung) EndDue(ctx context.Context, _, _ time.Time, _ int, _ identity.Caller) (int, error) {
	select {
	case h.ended <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (h hung) Due(context.Context, time.Time, int) ([]credentials.Lease, error) { return nil, nil }

type nobodys struct{ credentials.Certificates }

// What has ended is made true outside, time and again, whatever a sweep is waiting for.
func TestASweepThatHangsKeepsNoLeaseAlive(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	book := hung{ended: make(chan struct{})}
	now := time.Now
	for _, d := range server.LeaseDuties(credentials.New(credentials.Config{Book: book, Certificates: nobodys{}, Now: now}), now) {
		wait.Go(func() {
			for ctx.Err() == nil {
				d.Once(ctx, 1) //nolint:errcheck // it ends with the test
			}
		})
	}
	for range 3 {
		select {
		case <-book.ended:
		case <-time.After(10 * time.Second):
			t.Fatal("no lease ends while targets are swept")
		}
	}
}
