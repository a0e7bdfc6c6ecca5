package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/identity"
)

const (
	// listLife is how long a list is good: how long services that judge offline go on while we are away.
	listLife = 5 * time.Minute
	// listFresh is how old a list may be when it is given out.
	listFresh = time.Second
	// listersMost is how many may wait for a list to change.
	listersMost = 1024
)

// lists keeps the list that was signed last.
type lists struct {
	mu      sync.Mutex // guards below; held while one is made, so that it is made once
	text    string
	tag     string
	made    time.Time
	seq     uint64
	waiting int
}

// List returns the signed list of what has ended, and its tag, which is the same on all replicas that know the same. Where has is
// that tag, it waits for another until then, and returns nothing if none comes.
func (s *Server) List(ctx context.Context, has string, wait time.Duration) (text, tag string, err error) {
	if wait > 0 && !s.lists.enter() {
		wait = 0
	} else if wait > 0 {
		defer s.lists.leave()
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		s.ended.mu.RLock()
		changed := s.ended.changed
		s.ended.mu.RUnlock()
		if text, tag, err = s.list(ctx); err != nil || tag != has {
			return text, tag, err
		}
		select {
		case <-ctx.Done():
			return "", tag, nil
		case <-end.C:
			return "", tag, nil
		case <-changed:
		}
	}
}

func (l *lists) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting >= listersMost {
		return false
	}
	l.waiting++
	return true
}

func (l *lists) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

// list returns the present list, signed anew where it changed or has become old.
func (s *Server) list(ctx context.Context) (text, tag string, err error) {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	l, now := &s.lists, s.cfg.Now()
	marks, floor, seq, err := s.marks()
	if err != nil {
		return "", "", unavailable(err)
	}
	if l.text != "" && l.seq == seq && now.Sub(l.made).Abs() < listFresh {
		return l.text, l.tag, nil
	}
	out := verify.List{Issuer: s.cfg.Issuer, IssuedAt: now.Unix(), Expires: now.Add(listLife).Unix(), Floor: floor, Ended: make([]string, len(marks))}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(floor))) //nolint:gosec // seconds
	for i, m := range marks {
		h.Write(m[:])
		out.Ended[i] = base64.RawURLEncoding.EncodeToString(m[:])
	}
	key, ok := s.keys.Load().signer(s.cfg.Algorithms[0], now)
	if !ok {
		return "", "", unavailable(errors.New("no token key signs now"))
	}
	if text, err = sign(ctx, key, verify.TypeEnded, out); err != nil {
		return "", "", unavailable(err)
	}
	l.text, l.tag, l.made, l.seq = text, `"`+base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])+`"`, now, seq
	return l.text, l.tag, nil
}

// marks are what a list holds, in order.
func (s *Server) marks() (list []verify.Mark, floor int64, seq uint64, err error) {
	for _, at := range s.cfg.Scopes.AllSuspended() {
		if p := s.prefix(at); p != "" {
			list = append(list, verify.MarkOf("spf", p))
		}
	}
	e, now := s.ended, s.cfg.Now()
	for _, id := range s.cfg.Bindings.EndedSince(now.Add(-s.cfg.Life - keep)) {
		list = append(list, verify.MarkOf("bnd", bindingName(id)))
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if now.Sub(e.looked) > stale {
		return nil, 0, 0, errors.New("what has ended could not be read for a while")
	}
	for _, of := range []map[verify.Mark]time.Time{e.until, e.tokens} {
		for m, end := range of {
			if now.Before(end) {
				list = append(list, m)
			}
		}
	}
	slices.SortFunc(list, func(a, b verify.Mark) int { return bytes.Compare(a[:], b[:]) })
	return list, e.lowestLocked(), e.seq, nil
}

// prefix returns what the SPIFFE IDs of a scope begin with.
func (s *Server) prefix(at identity.Scope) string {
	id, err := identity.NewID(s.cfg.Domain, at, "any")
	if err != nil || at.IsPlatform() {
		return ""
	}
	return strings.TrimSuffix(id.String(), "/any")
}
