package crl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// MediaType is what a list in DER is served as (RFC 5280 §4.2.1.13, RFC 2585 §4.2).
const MediaType = "application/pkix-crl"

// How long lists may be old: with proxies, and here without asking the ledger whether there is a newer one. That is what a
// revocation may be late by behind them.
const (
	maxAge   = time.Minute
	believed = time.Second
)

// Bounds of what a Server keeps. A longer list is passed on from the ledger a piece at a time.
const (
	keptMost = 64 << 20
	longest  = 8 << 20
)

// A Server serves lists as they stand in the ledger, by any replica, whoever built them. When the ledger cannot be asked, a
// list that is at hand is served as long as it says of itself that it holds.
type Server struct {
	Config
	mu   sync.Mutex // guards below
	kept map[place]*kept
	size int
}

// A place is what a URL names.
type place struct {
	Shard
	Kind
	several bool // it names a part
}

// A kept list is one at hand. octets is nil for one that is too long.
type kept struct {
	mu     sync.Mutex // guards below; held while the ledger is asked, so that many ask once
	head   Standing
	octets []byte
	asked  time.Time
}

// NewServer returns a Server.
func NewServer(c Config) *Server { return &Server{Config: c, kept: map[place]*kept{}} }

// ServeHTTP answers GET and HEAD of …/<authority>/<epoch>.crl, wherever it is mounted, with the newest list. Epoch 0 is the
// whole list; <epoch>-<part> is one of several, in two hexadecimal digits; -delta before the suffix is its delta.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "lists are fetched with GET", http.StatusMethodNotAllowed)
		return
	}
	p, ok := s.place(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	err := s.serve(w, r, p)
	switch {
	case errors.Is(err, ErrNotFound):
		http.NotFound(w, r)
	case err != nil:
		// Retry-After in seconds (RFC 9110 §10.2.3). A list that cannot be read is not an empty one.
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the list cannot be read just now", http.StatusServiceUnavailable)
	}
}

// place reads the last two parts of path. Everything has one spelling.
func (s *Server) place(path string) (p place, ok bool) {
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return p, false
	}
	name, ok := strings.CutSuffix(parts[len(parts)-1], deltaSuffix)
	p.Kind = Delta
	if !ok {
		p.Kind = Complete
		if name, ok = strings.CutSuffix(name, suffix); !ok {
			return p, false
		}
	}
	number, part, several := strings.Cut(name, "-")
	epoch, err := strconv.ParseInt(number, 10, 32)
	if err != nil || strconv.FormatInt(epoch, 10) != number {
		return p, false
	}
	n, err := strconv.ParseUint(part, 16, 8)
	if several && (err != nil || fmt.Sprintf("%02x", n) != part) {
		return p, false
	}
	for _, a := range s.Authorities() {
		if a.Name == parts[len(parts)-2] {
			p.several = several
			p.Shard = Shard{Authority: a.ID, Epoch: uid.Epoch(epoch), Part: uint8(n)}
			return p, true
		}
	}
	return p, false
}

// serve answers with p's list. It returns an error only where it has written nothing.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, p place) error {
	for try := 0; ; try++ {
		head, octets, err := s.find(r.Context(), p)
		if err != nil {
			return err
		}
		if s.header(w, r, p, head) {
			return nil
		}
		if octets != nil || r.Method == http.MethodHead {
			w.Write(octets) //nolint:errcheck,gosec // the other side has gone; DER under its own media type is no page
			return nil
		}
		began := false
		err = s.Shards.Octets(r.Context(), p.Shard, head.Number, p.Kind, func(piece []byte) error {
			began = true
			_, err := w.Write(piece) //nolint:gosec // see above
			return err
		})
		switch {
		case err != nil && began:
			panic(http.ErrAbortHandler) // half a list: the connection is all that can say so
		case errors.Is(err, ErrNotFound) && try == 0:
			s.forget(p) // replaced between the two readings
		default:
			return err
		}
	}
}

// header writes what comes before the list, and reports whether that was all: the client has it.
func (s *Server) header(w http.ResponseWriter, r *http.Request, p place, l Standing) bool {
	tag := fmt.Sprintf(`"%d-%d-%d-%d-%d"`, l.Authority, l.Epoch, l.Part, p.Kind, l.Number) // a number is used once (RFC 5280 §5.2.3)
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Last-Modified", l.ThisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, must-revalidate", int(min(maxAge, max(0, l.NextUpdate.Sub(s.Now()))).Seconds())))
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	size := l.Size
	if p.Kind == Delta {
		size = l.DeltaSize
	}
	h.Set("Content-Type", MediaType)
	h.Set("Content-Length", strconv.Itoa(size))
	return false
}

// find returns p's newest list, as of a moment ago.
func (s *Server) find(ctx context.Context, p place) (Standing, []byte, error) {
	s.mu.Lock()
	k := s.kept[p]
	s.mu.Unlock()
	known := k != nil
	if !known {
		k = &kept{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := s.Now()
	if age := now.Sub(k.asked); known && age >= 0 && age < believed {
		return k.head, k.octets, nil
	}
	head, octets, err := s.ask(ctx, p, k)
	switch {
	case errors.Is(err, ErrNotFound):
		s.forget(p)
		return head, nil, err
	case err != nil && known && now.Before(k.head.NextUpdate) && (k.octets != nil):
		return k.head, k.octets, nil
	case err != nil:
		return head, nil, err
	}
	s.keep(p, k, len(octets)-len(k.octets), known)
	k.head, k.octets, k.asked = head, octets, now
	return head, octets, nil
}

// ask reads from the ledger what k does not have.
func (s *Server) ask(ctx context.Context, p place, k *kept) (Standing, []byte, error) {
	head, err := s.Shards.Head(ctx, p.Shard)
	if err != nil {
		return head, nil, err
	}
	size := head.Size
	if p.Kind == Delta {
		size = head.DeltaSize
	}
	switch {
	case size == 0, p.several != (head.Parts > 1):
		return head, nil, ErrNotFound // a list from before there were deltas; a part of what has none
	case head.Number == k.head.Number && k.head.Number != 0:
		return head, k.octets, nil
	case size > longest:
		return head, nil, nil
	}
	octets := make([]byte, 0, size)
	err = s.Shards.Octets(ctx, p.Shard, head.Number, p.Kind, func(piece []byte) error {
		octets = append(octets, piece...)
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		err = errReplaced
	}
	return head, octets, err
}

var errReplaced = errors.New("the list was replaced while it was being read")

// keep makes room for what k grows by. When there is none left, everything goes: what is asked for comes again.
func (s *Server) keep(p place, k *kept, more int, known bool) { //nolint:revive // it is a fact, not a choice
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+more > keptMost {
		clear(s.kept)
		s.size, known = 0, false
		more += len(k.octets)
	}
	s.size += more
	if !known {
		s.kept[p] = k
	}
}

func (s *Server) forget(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kept[p]; k != nil {
		delete(s.kept, p) // its octets stay counted until everything goes: k may be in use
	}
}
