package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A Peer is a witness that is asked for cosignatures.
type Peer struct {
	URL string // submission prefix, no trailing slash
	Key Cosigner
}

// askTimeout bounds one witness's whole answer. They are asked at once, so a dead one costs this and nobody else anything.
const askTimeout = 5 * time.Second

// An Asker has checkpoints cosigned, and hears from witnesses what they hold.
type Asker struct {
	Store  Store
	Log    Log
	Peers  []Peer
	Quorum int
	HTTP   *http.Client
	Now    func() time.Time
	// Heard is told of each witness's answer, from several goroutines: the error is nil for a cosignature.
	Heard func(witness string, err error)
	// Forgot is told why the ledger must have forgotten something: a witness holds a longer tree, or another one.
	Forgot func(ctx context.Context, why string) error

	mu      sync.Mutex               // guards what follows; never held over I/O
	held    map[string]int64         // by witness and era: the size it held when last heard of
	silence map[string]time.Duration // by witness: how long it is left alone after its last failure
	until   map[string]time.Time     // by witness: when that ends
}

// A witness that does not cosign is asked again after silenceLeast, then after twice as long each time, up to silenceMost: a
// dead one costs a request and a line in the log a minute.
const (
	silenceLeast = time.Second
	silenceMost  = time.Minute
)

// RunOnce has the tree as it stands cosigned, if it is not yet, and publishes it when enough witnesses have. It is the work of
// a duty and safe to repeat. That the store has it cosigned is not enough to ask nobody: a restored store has that too.
func (a *Asker) RunOnce(ctx context.Context) error {
	head, err := a.Store.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	c, era, err := a.Log.Open(0, head.Checkpoint)
	if head.Checkpoint == "" || era != head.Era {
		return nil // nothing was sealed in this era yet
	}
	if err != nil {
		return err
	}
	size, signed, err := a.Store.Published(ctx, head.Era)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	published := err == nil && size == head.Size && strings.Count(signed, "\n— ") > max(a.Quorum, 1)
	if published && a.heardAll(head) {
		return nil
	}
	due := a.due()
	if len(due) == 0 {
		return nil
	}
	lines, err := a.ask(ctx, due, head, c)
	if err != nil || published {
		return err
	}
	if len(lines) < max(a.Quorum, 1) {
		return fmt.Errorf("the tree of %d has %d cosignatures, of %d wanted", head.Size, len(lines), a.Quorum)
	}
	return a.Store.Publish(ctx, head.Era, head.Size, head.Checkpoint+strings.Join(lines, ""))
}

// due returns the witnesses that are to be asked now.
func (a *Asker) due() []Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Now()
	var list []Peer
	for _, p := range a.Peers {
		if !now.Before(a.until[p.Key.Name()]) {
			list = append(list, p)
		}
	}
	return list
}

// note remembers how a witness has answered.
func (a *Asker) note(p Peer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.silence == nil {
		a.silence, a.until = map[string]time.Duration{}, map[string]time.Time{}
	}
	who := p.Key.Name()
	if err == nil {
		delete(a.silence, who)
		delete(a.until, who)
		return
	}
	a.silence[who] = min(max(2*a.silence[who], silenceLeast), silenceMost)
	a.until[who] = a.Now().Add(a.silence[who])
}

// ask asks witnesses at once and returns their cosignatures.
func (a *Asker) ask(ctx context.Context, peers []Peer, head Head, c Checkpoint) ([]string, error) {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		lines []string
		lost  []error
	)
	for _, p := range peers {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			line, err := a.one(ctx, p, head, c)
			a.note(p, err)
			if a.Heard != nil {
				a.Heard(p.Key.Name(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				lines = append(lines, line)
			} else if errors.Is(err, errForgot) {
				lost = append(lost, err)
			}
		})
	}
	wait.Wait()
	if len(lost) > 0 {
		return nil, errors.Join(lost[0], a.Forgot(ctx, lost[0].Error()))
	}
	return lines, nil
}

var errForgot = errors.New("the ledger has forgotten something")

// one asks one witness, again from what it holds where that is another size than we thought.
func (a *Asker) one(ctx context.Context, p Peer, head Head, c Checkpoint) (string, error) {
	who := heldKey(p, head)
	a.mu.Lock()
	old := min(a.held[who], head.Size)
	a.mu.Unlock()
	for range 3 {
		proof, err := Extends(ctx, a.Store, head, old, head.Size)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "old %d\n", old)
		writeHashes(&b, proof)
		status, body, err := a.post(ctx, p.URL+"/add-checkpoint", b.String()+"\n"+head.Checkpoint)
		switch {
		case err != nil:
			return "", err
		case status == http.StatusOK:
			a.remember(who, head.Size)
			return p.Key.cosignatures(head.Checkpoint, body)
		case status == http.StatusUnprocessableEntity:
			return "", fmt.Errorf("%w: witness %s holds another tree of %s than ours: %.200q", errForgot, p.Key.Name(), c.Origin, body)
		case status != http.StatusConflict:
			return "", fmt.Errorf("witness %s answered %d: %.200q", p.Key.Name(), status, body)
		}
		held, err := parseSize(strings.TrimSuffix(body, "\n"))
		if err != nil {
			return "", fmt.Errorf("witness %s answered 409 without a size: %w", p.Key.Name(), err)
		}
		if held > head.Size {
			return "", fmt.Errorf("%w: witness %s holds a tree of %d facts of %s, and there are %d", errForgot, p.Key.Name(), held, c.Origin, head.Size)
		}
		old = held
	}
	return "", fmt.Errorf("witness %s changes its mind about what it holds", p.Key.Name())
}

// heardAll reports whether every witness has said to this process that it holds just this tree.
func (a *Asker) heardAll(head Head) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.Peers {
		if held, ok := a.held[heldKey(p, head)]; !ok || held != head.Size {
			return false
		}
	}
	return true
}

func heldKey(p Peer, head Head) string { return fmt.Sprintf("%s %d", p.Key.Name(), head.Era) }

func (a *Asker) remember(who string, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil {
		a.held = map[string]int64{}
	}
	a.held[who] = size
}

const maxAnswer = 16 << 10

func (a *Asker) post(ctx context.Context, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := a.HTTP.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, string(b), err
}
