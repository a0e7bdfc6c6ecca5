package selfcert

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lockTTL is how long a replica that vanished keeps the others, or itself restarted, waiting. Issuing takes
	// milliseconds; where it outlives the lock there is one certificate more, or a torn pair, which the next check mends.
	lockTTL       = 10 * time.Second
	lockPoll      = 100 * time.Millisecond
	unlockTimeout = 5 * time.Second
)

// errLockLost: the lock's time was over and another replica may have it.
var errLockLost = errors.New("the lock has ended")

// Lock implements certmagic.Locker: a row of site_lock with an end, by the database's clock. Two goroutines of one
// process exclude each other too.
func (s *storage) Lock(ctx context.Context, name string) error {
	for {
		ok, err := s.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(lockPoll + mathrand.N(lockPoll)) //nolint:gosec // parts replicas, guards nothing
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for lock %s: %w", name, ctx.Err())
		}
	}
}

// TryLock implements certmagic.TryLocker. Each change of holder raises the term.
func (s *storage) TryLock(ctx context.Context, name string) (bool, error) {
	holder := rand.Text()
	tag, err := s.db.Exec(ctx, `
		INSERT INTO site_lock AS l (key, holder, term, expires_at)
		VALUES (@key, @holder, 1, clock_timestamp() + @ttl)
		ON CONFLICT ON CONSTRAINT site_lock_pk DO UPDATE
		SET    holder = excluded.holder, term = l.term + 1, expires_at = clock_timestamp() + @ttl
		WHERE  l.expires_at <= clock_timestamp()`,
		pgx.NamedArgs{"key": name, "holder": holder, "ttl": lockTTL})
	if err != nil {
		return false, fmt.Errorf("taking lock %s: %w", name, err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	s.mu.Lock()
	s.held[name] = holder
	s.mu.Unlock()
	return true, nil
}

// RenewLockLease implements certmagic.LockLeaseRenewer.
func (s *storage) RenewLockLease(ctx context.Context, name string, ttl time.Duration) error {
	s.mu.Lock()
	holder := s.held[name]
	s.mu.Unlock()
	tag, err := s.db.Exec(ctx, `
		UPDATE site_lock
		SET    expires_at = clock_timestamp() + @ttl
		WHERE  key = @key AND holder = @holder AND expires_at > clock_timestamp()`,
		pgx.NamedArgs{"key": name, "holder": holder, "ttl": ttl})
	if err == nil && tag.RowsAffected() == 0 {
		err = errLockLost
	}
	if err != nil {
		return fmt.Errorf("renewing lock %s: %w", name, err)
	}
	return nil
}

// Unlock implements certmagic.Locker. A lock that has passed to another stays with that one. The row stays, for its term.
func (s *storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	holder := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout) // certmagic's own has none
	defer cancel()
	_, err := s.db.Exec(ctx, `
		UPDATE site_lock
		SET    expires_at = clock_timestamp()
		WHERE  key = @key AND holder = @holder AND expires_at > clock_timestamp()`,
		pgx.NamedArgs{"key": name, "holder": holder})
	if err != nil {
		return fmt.Errorf("releasing lock %s: %w", name, err)
	}
	return nil
}
