package feed_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/feed"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A journal is facts in memory, with a bound that stands for the transactions in flight.
type journal struct {
	mu    sync.Mutex
	facts []audit.Entry
	down  error
	reads int
}

func (j *journal) add(what ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range what {
		at := audit.Position{Transaction: uint64(len(j.facts) + 1), ID: 1}
		j.facts = append(j.facts, audit.Entry{Fact: audit.Fact{What: w, Subject: fmt.Sprint(len(j.facts))}, Position: at})
	}
}

func (j *journal) Read(_ context.Context, q audit.Query) (p audit.Page, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reads++
	p.Next = q.After
	for _, e := range j.facts {
		if !q.After.Before(e.Position) {
			continue
		}
		if len(p.Entries) == q.Limit {
			p.More = true
			break
		}
		p.Next = e.Position
		if q.Matches(e) {
			p.Entries = append(p.Entries, e)
		}
	}
	return p, j.down
}

func (j *journal) Edge(context.Context) (audit.Position, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.facts) == 0 {
		return audit.Position{}, j.down
	}
	return j.facts[len(j.facts)-1].Position, j.down
}

// A reader is a follower that notes what it is handed.
type reader struct {
	mu    sync.Mutex
	got   []string
	at    audit.Position
	beats int
	hold  chan struct{} // where there, each delivery waits for it
	fail  error
}

func (r *reader) deliver(facts []audit.Entry, at audit.Position) error {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range facts {
		r.got = append(r.got, e.What+e.Subject)
	}
	if len(facts) == 0 {
		r.beats++
	}
	r.at = at
	return r.fail
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.got)
}

// hub runs a Hub until the test ends.
func hub(t *testing.T, c feed.Config) (*feed.Hub, context.Context) {
	t.Helper()
	h := feed.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { h.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return h, ctx
}

// follow follows until the context ends, and says how that came.
func follow(ctx context.Context, h *feed.Hub, f feed.Follower) <-chan error {
	done := make(chan error, 1)
	go func() { done <- h.Follow(ctx, f) }()
	return done
}

func TestWhoBeginsNowSeesWhatComesAndNothingBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{}
		j.add("old", "old")
		h, ctx := hub(t, feed.Config{Facts: j})
		ctx, cancel := context.WithCancel(ctx)
		done := follow(ctx, h, feed.Follower{Deliver: r.deliver})
		synctest.Wait()
		j.add("new")
		time.Sleep(time.Second) //nolint:forbidigo // in the bubble's time
		j.add("new", "new")
		h.Wake()
		synctest.Wait()
		if got := r.text(); got != "[new2 new3 new4]" {
			t.Errorf("was handed %s", got)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestWhoComesAgainGoesOnWithoutGapOrRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		h, ctx := hub(t, feed.Config{Facts: j, Keep: 50})
		other := &reader{}                                      // keeps the hub reading
		go h.Follow(ctx, feed.Follower{Deliver: other.deliver}) //nolint:errcheck // ends with the test
		var all []string
		at := audit.Position{}
		for round := range 21 {
			if round < 20 {
				j.add("a", "b", "c")
				for range round * 9 { // sometimes more than is kept in memory: then it is cut off, and comes again
					j.add("d")
				}
			}
			ctx, cancel := context.WithCancel(ctx)
			r := &reader{}
			done := follow(ctx, h, feed.Follower{After: &at, Deliver: r.deliver})
			time.Sleep(3 * time.Second)
			cancel()
			<-done
			all, at = append(all, r.got...), r.at
		}
		if len(all) != len(j.facts) {
			t.Fatalf("was handed %d of %d", len(all), len(j.facts))
		}
		for i, e := range j.facts {
			if all[i] != e.What+e.Subject {
				t.Fatalf("number %d is %s, want %s", i, all[i], e.What+e.Subject)
			}
		}
	})
}

func TestAFollowerThatCannotKeepUpIsCutOffAndMayComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{hold: make(chan struct{}, 1000)}
		h, ctx := hub(t, feed.Config{Facts: j, Keep: 10})
		done := follow(ctx, h, feed.Follower{Deliver: r.deliver})
		r.hold <- struct{}{}
		time.Sleep(time.Second)
		j.add("a")
		time.Sleep(time.Second)
		for range 30 {
			j.add("b")
		}
		time.Sleep(time.Second)
		close(r.hold)
		if err := <-done; !errors.Is(err, feed.ErrSlow) {
			t.Fatalf("ended with %v", err)
		}
		if _, cut := h.Stats(); cut != 1 {
			t.Errorf("%d were cut off", cut)
		}
		again := &reader{}
		follow(ctx, h, feed.Follower{After: &r.at, Deliver: again.deliver})
		time.Sleep(time.Second)
		synctest.Wait()
		again.mu.Lock()
		defer again.mu.Unlock()
		if n := len(r.got) + len(again.got); n != len(j.facts) {
			t.Errorf("was handed %d of %d", n, len(j.facts))
		}
	})
}

func TestAFollowerIsHandedOnlyItsScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{}
		mine, err := identity.ParseScope("demo/shop")
		if err != nil {
			t.Fatal(err)
		}
		from := audit.Position{}
		h, ctx := hub(t, feed.Config{Facts: j})
		for round := range 2 { // once read from the ledger, once from memory
			for _, path := range []string{"demo", "demo/shop", "demo/shopping", "demo/shop/dev", "other", ""} {
				j.add("x")
				if path != "" {
					if j.facts[len(j.facts)-1].Scope, err = identity.ParseScope(path); err != nil {
						t.Fatal(err)
					}
				}
			}
			if round == 0 {
				follow(ctx, h, feed.Follower{Query: audit.Query{Scope: mine}, After: &from, Deliver: r.deliver})
			}
			time.Sleep(time.Second)
		}
		if got := r.text(); got != "[x1 x3 x7 x9]" {
			t.Errorf("was handed %s", got)
		}
	})
}

func TestAHeartbeatMovesThePositionOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{}
		j.add("x")
		h, ctx := hub(t, feed.Config{Facts: j})
		follow(ctx, h, feed.Follower{Query: audit.Query{What: "nothing"}, Deliver: r.deliver})
		time.Sleep(time.Second)
		j.add("x", "x")
		time.Sleep(16 * time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.beats < 2 || r.at != j.facts[2].Position {
			t.Errorf("%d heartbeats, at %s", r.beats, r.at)
		}
	})
}

func TestFollowersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ctx := hub(t, feed.Config{Facts: &journal{}, Followers: 3, PerCaller: 2})
		r := &reader{}
		ctx, cancel := context.WithCancel(ctx)
		a1, a2 := follow(ctx, h, feed.Follower{Caller: "a", Deliver: r.deliver}), follow(ctx, h, feed.Follower{Caller: "a", Deliver: r.deliver})
		synctest.Wait()
		if err := h.Follow(ctx, feed.Follower{Caller: "a", Deliver: r.deliver}); !errors.Is(err, feed.ErrFull) {
			t.Errorf("a third of one caller: %v", err)
		}
		b := follow(ctx, h, feed.Follower{Caller: "b", Deliver: r.deliver})
		synctest.Wait()
		if err := h.Follow(ctx, feed.Follower{Caller: "c", Deliver: r.deliver}); !errors.Is(err, feed.ErrFull) {
			t.Errorf("a fourth: %v", err)
		}
		cancel()
		<-a1
		<-a2
		<-b
		if n, _ := h.Stats(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

func TestRevokingTheFollowersCertificateEndsFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r, serial := &journal{}, &reader{}, cert.NewSerial(1, time.Now())
		h, ctx := hub(t, feed.Config{Facts: j})
		done := follow(ctx, h, feed.Follower{Serial: serial, Deliver: r.deliver, Query: audit.Query{What: "x"}})
		time.Sleep(time.Second)
		j.mu.Lock()
		for _, e := range []audit.Fact{{What: audit.Revoke, Serial: cert.NewSerial(1, time.Now())}, {What: audit.Revoke, Serial: serial, Refused: true}, {What: "x"}, {What: audit.Revoke, Serial: serial}} {
			j.facts = append(j.facts, audit.Entry{Fact: e, Position: audit.Position{Transaction: uint64(len(j.facts) + 1)}})
			j.mu.Unlock()
			time.Sleep(time.Second)
			j.mu.Lock()
		}
		j.mu.Unlock()
		if err := <-done; !errors.Is(err, feed.ErrRevoked) {
			t.Errorf("ended with %v", err)
		}
		if got := r.text(); got != "[x]" {
			t.Errorf("was handed %s before", got)
		}
	})
}

func TestAPositionAheadOfTheLedgerIsRefused(t *testing.T) {
	h, ctx := hub(t, feed.Config{Facts: &journal{}})
	at := audit.Position{Transaction: 7}
	if err := h.Follow(ctx, feed.Follower{After: &at, Deliver: (&reader{}).deliver}); !errors.Is(err, feed.ErrAhead) {
		t.Errorf("got %v", err)
	}
}

func TestALedgerThatIsAwayIsReadWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{}
		h, ctx := hub(t, feed.Config{Facts: j})
		follow(ctx, h, feed.Follower{Deliver: r.deliver})
		time.Sleep(time.Second)
		j.mu.Lock()
		j.down = errors.New("away")
		j.mu.Unlock()
		j.add("x")
		time.Sleep(time.Minute)
		if got := r.text(); got != "[]" {
			t.Errorf("was handed %s", got)
		}
		j.mu.Lock()
		j.down = nil
		j.mu.Unlock()
		time.Sleep(10 * time.Second)
		if got := r.text(); got != "[x0]" {
			t.Errorf("was handed %s", got)
		}
	})
}

func TestNobodyIsReadForWhereNobodyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		hub(t, feed.Config{Facts: j})
		time.Sleep(time.Hour)
		if j.reads != 0 {
			t.Errorf("read %d times", j.reads)
		}
	})
}

func TestAFollowerThatFailsEnds(t *testing.T) {
	h, ctx := hub(t, feed.Config{Facts: &journal{}})
	gone := errors.New("gone")
	if err := h.Follow(ctx, feed.Follower{Deliver: (&reader{fail: gone}).deliver}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// A ledger is a journal that somebody always writes to, and that returns where it was asked from when nothing is chosen.
type ledger struct{ *journal }

func (l ledger) Edge(ctx context.Context) (audit.Position, error) {
	l.add("other")
	return l.journal.Edge(ctx)
}

func (l ledger) Read(ctx context.Context, q audit.Query) (audit.Page, error) {
	p, err := l.journal.Read(ctx, q)
	if len(p.Entries) == 0 && !p.More {
		p.Next = q.After
	}
	return p, err
}

func TestTheFirstFollowerOfLittleGoesLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, r := &journal{}, &reader{}
		h, ctx := hub(t, feed.Config{Facts: ledger{j}})
		ctx, cancel := context.WithCancel(ctx)
		done := follow(ctx, h, feed.Follower{Query: audit.Query{What: "rare"}, Deliver: r.deliver})
		time.Sleep(time.Minute) // in the bubble
		r.mu.Lock()
		beats := r.beats
		r.mu.Unlock()
		if beats < 2 {
			t.Errorf("%d heartbeats: it reads the ledger still", beats)
		}
		cancel()
		<-done
	})
}
