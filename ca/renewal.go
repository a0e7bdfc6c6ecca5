package ca

import (
	"context"
	"fmt"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A RenewalInfo says when a certificate is best renewed (RFC 9773 §4).
type RenewalInfo struct {
	Window      incident.Window
	Explanation string        // a URL where a person reads why, or empty
	RetryAfter  time.Duration // when to ask again, in whole seconds
	ReplacedBy  cert.Serial   // the certificate that came in its place, or zero
}

// A Renewal is a certificate with all that its renewal window is computed from.
type Renewal struct {
	Record
	ReplacedBy cert.Serial
	Pulls      []incident.Pull
}

// How soon to ask again: a forty-eighth of the certificate's life, within bounds that RFC 9773 §4.3 has clients keep.
const (
	askedAgainParts  = 48
	askedAgainSoon   = time.Minute
	askedAgainLatest = 6 * time.Hour
)

// RenewalInfo returns when certificate s is best renewed, or ErrNotFound. It is computed from the ledger in one round trip
// and believed for a moment: around two thirds of the certificate's life, sooner if an incident, the retirement of its
// authority or a suspension touches it, and at once if it is revoked. It needs no caller: whoever knows a serial may ask.
func (a *CA) RenewalInfo(ctx context.Context, s cert.Serial) (RenewalInfo, error) {
	now := a.Now()
	if info, ok := a.renewals.get(s, now); ok {
		return info, nil
	}
	r, err := a.Ledger.Renewal(ctx, s, now)
	if err != nil {
		return RenewalInfo{}, err
	}
	if r.Signature == nil {
		return RenewalInfo{}, ErrNotFound
	}
	c, err := a.certificate(r.Record)
	if err != nil {
		return RenewalInfo{}, fmt.Errorf("computing the renewal window of %s: %w", s, err)
	}
	info := r.info(c)
	a.renewals.keep(s, info, now)
	return info, nil
}

// info computes the window: the earliest that anything asks for.
func (r Renewal) info(c Certificate) RenewalInfo {
	life := c.NotAfter.Sub(c.NotBefore)
	info := RenewalInfo{
		Window: incident.Usual(c.Serial, c.NotBefore, c.NotAfter), ReplacedBy: r.ReplacedBy,
		RetryAfter: min(max(life/askedAgainParts, askedAgainSoon), askedAgainLatest).Truncate(time.Second),
	}
	for _, p := range r.Pulls {
		if w := p.Window(c.Serial); w.Start.Before(info.Window.Start) {
			info.Window, info.Explanation = w, p.Explanation
		}
	}
	if c.Revoked != nil && c.Revoked.At.Before(info.Window.Start) {
		info.Window = incident.Now(c.Revoked.At)
	}
	return info
}

// renewals are windows computed a moment ago: many clients ask, and strangers may.
type renewals struct {
	mu   sync.Mutex // guards below
	kept map[cert.Serial]keptRenewal
}

type keptRenewal struct {
	RenewalInfo
	until time.Time
}

// renewalBelieved is how old an answer may be, and renewalMost bounds memory.
const (
	renewalBelieved = 2 * time.Second
	renewalMost     = 10_000
)

func (r *renewals) get(s cert.Serial, now time.Time) (RenewalInfo, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.kept[s]
	return k.RenewalInfo, ok && now.Before(k.until)
}

func (r *renewals) keep(s cert.Serial, info RenewalInfo, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil || len(r.kept) >= renewalMost {
		r.kept = make(map[cert.Serial]keptRenewal)
	}
	r.kept[s] = keptRenewal{info, now.Add(renewalBelieved)}
}
