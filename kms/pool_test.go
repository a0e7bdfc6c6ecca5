package kms_test

import (
	"context"
	"crypto"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"codeberg.org/dataverket/segl/kms"
)

// An hsm answers at once, with err, or hangs until it is let go. It heeds no context, as PKCS #11 does not.
type hsm struct {
	calls atomic.Int64
	hang  atomic.Bool
	err   atomic.Pointer[error]
	free  chan struct{}
}

func newHSM() *hsm { return &hsm{free: make(chan struct{})} }

func (*hsm) Name() string             { return "hsm" }
func (*hsm) Public() crypto.PublicKey { return nil }

func (h *hsm) Sign(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	h.calls.Add(1)
	if h.hang.Load() {
		<-h.free
	}
	if err := h.err.Load(); err != nil {
		return nil, *err
	}
	return []byte("signature"), nil
}

func (h *hsm) fail(err error) { h.err.Store(&err) }

// letGo returns every call that hangs, and hangs no more.
func (h *hsm) letGo() {
	h.hang.Store(false)
	close(h.free)
}

func sign(p *kms.Pool) error {
	_, err := p.Sign(context.Background(), []byte("digest"), crypto.SHA256)
	return err
}

var limits = kms.Limits{Workers: 2, Queue: 2, Deadline: 5 * time.Second, Cooldown: time.Second}

func TestPoolSigns(t *testing.T) {
	p := kms.NewPool(newHSM(), kms.Limits{})
	for range 1000 {
		if err := sign(p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPoolAnswersWithinItsDeadlineWhenTheKeyHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		began := time.Now()
		err := sign(p)
		if !errors.Is(err, kms.ErrUnavailable) || kms.RetryAfter(err) != time.Second {
			t.Errorf("got %v, retry after %s", err, kms.RetryAfter(err))
		}
		if took := time.Since(began); took != limits.Deadline {
			t.Errorf("answered after %s", took)
		}
		// What comes now is refused at once, and does not reach the key.
		for range 10 {
			if err := sign(p); !errors.Is(err, kms.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		if n := h.calls.Load(); n != 1 {
			t.Errorf("the key was called %d times", n)
		}
		if took := time.Since(began); took != limits.Deadline {
			t.Errorf("refusals took %s", took-limits.Deadline)
		}
		h.letGo()
	})
}

func TestPoolRecoversByItself(t *testing.T) {
	t.Run("when the call that hung comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHSM()
			h.hang.Store(true)
			p := kms.NewPool(h, limits)
			_ = sign(p)
			h.letGo()
			synctest.Wait()
			if err := sign(p); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("when the call never comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHSM()
			h.hang.Store(true)
			p := kms.NewPool(h, limits)
			_ = sign(p)
			h.hang.Store(false) // new calls are answered; the first stays lost
			<-time.After(limits.Cooldown)
			if err := sign(p); err != nil {
				t.Error(err)
			}
			h.letGo()
		})
	})
}

func TestPoolTriesAHungKeyLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		var waits []time.Duration
		for range 9 {
			err := sign(p)
			if !errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			waits = append(waits, kms.RetryAfter(err))
			<-time.After(kms.RetryAfter(err))
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
		for i := range want {
			if waits[i] != want[i]*time.Second {
				t.Fatalf("waits %v", waits)
			}
		}
		h.letGo()
	})
}

func TestPoolLetsOneCallTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		_ = sign(p)
		<-time.After(limits.Cooldown)
		before := h.calls.Load()
		refused := make(chan error, 3)
		for range 3 {
			go func() { refused <- sign(p) }()
		}
		synctest.Wait()
		if n := h.calls.Load() - before; n != 1 {
			t.Errorf("%d calls tried the key", n)
		}
		for range 3 {
			if err := <-refused; !errors.Is(err, kms.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		h.letGo()
	})
}

func TestPoolLosesABoundedNumberOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		for range 200 {
			if err := sign(p); !errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			<-time.After(time.Hour)
		}
		if n := h.calls.Load(); n > 32+int64(limits.Workers) {
			t.Errorf("%d calls hang", n)
		}
		h.letGo()
		synctest.Wait()
		if err := sign(p); err != nil {
			t.Error(err)
		}
	})
}

func TestPoolRefusesWhenItsQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		for range limits.Workers + limits.Queue {
			go sign(p) //nolint:errcheck // only in the way
		}
		synctest.Wait()
		began := time.Now()
		if err := sign(p); !errors.Is(err, kms.ErrUnavailable) || kms.RetryAfter(err) != limits.Deadline {
			t.Errorf("got %v, retry after %s", err, kms.RetryAfter(err))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("refused after %s", took)
		}
		h.letGo()
	})
}

func TestPoolCountsUnavailableAgainstTheKeyAndRefusalsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		p := kms.NewPool(h, limits)
		refusal := errors.New("wrong mechanism")
		h.fail(refusal)
		for range 3 {
			if err := sign(p); !errors.Is(err, refusal) || errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
		}
		h.fail(kms.ErrUnavailable)
		for range 3 {
			if err := sign(p); !errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
		}
		if n := h.calls.Load(); n != 4 {
			t.Errorf("the key was called %d times", n)
		}
	})
}

func TestPoolDoesNotCountACallerWhoLeavesAgainstTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHSM()
		h.hang.Store(true)
		p := kms.NewPool(h, limits)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Sign(ctx, nil, crypto.SHA256); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.letGo()
		synctest.Wait()
		if err := sign(p); err != nil {
			t.Error(err)
		}
		if _, err := p.Sign(ctx, nil, crypto.SHA256); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if n := h.calls.Load(); n != 2 {
			t.Errorf("the key was called %d times", n)
		}
	})
}
