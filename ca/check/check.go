// Package check compares what relying parties are told with what the ledger holds.
//
// It asks as they do, over HTTP: the lists that stand, and OCSP about certificates that ended and others that did not. What is
// served must be signed, for its shard, in time, no older than what was published a while ago, and name exactly what ended.
// A difference is a Finding, and says where. Nothing is repaired, and nothing is asked of the caches: the other side of a
// proxy is as interesting as our own listener.
//
// What changes while it is looked at is no difference: a list may lag by what caches may keep it for, and an ending that
// came after a list is not missing from it. A run looks at a bounded number of lists, the next run at the next ones. A
// Checker is used by one goroutine.
package check

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Finding is one difference.
type Finding struct {
	Check string `json:"check"` // list, entries, ocsp
	Where string `json:"where"` // URL
	What  string `json:"what"`
}

// Ledger is what is compared with.
type Ledger interface {
	Standing(ctx context.Context, authorities []int) ([]crl.Standing, error)
	Ended(ctx context.Context, s crl.Standing, from uid.Epoch, entry func(crl.Entry) error) (crl.Snapshot, error)
	Status(ctx context.Context, serials []cert.Serial) (map[cert.Serial]ocsp.Status, error)
	// Around returns up to limit serials made at or after s, whatever became of them.
	Around(ctx context.Context, s cert.Serial, limit int) ([]cert.Serial, error)
}

// Fetch asks a URL, with POST and body as an OCSP request where there is one, and returns what is answered with 200.
type Fetch func(ctx context.Context, url string, body []byte) ([]byte, error)

// Config is what a Checker is made of.
type Config struct {
	Ledger      Ledger
	Authorities func() []crl.Authority
	// Endpoints are base URLs of public listeners, or of what stands before them, that tell of this ledger.
	Endpoints []string
	Fetch     Fetch
	Site      byte
	Now       func() time.Time
}

// Bounds of a run, and what caches may keep: a list that is older than that when its successor was published is late.
const (
	listsAtOnce = 16
	asked       = 8
	lag         = 2 * time.Minute
)

// A Checker looks at some more with each run.
type Checker struct {
	Config
	turn int
}

// New returns a Checker.
func New(c Config) *Checker { return &Checker{Config: c} }

// RunOnce returns what differs. An error means that the ledger could not be asked, and that nothing is known.
func (c *Checker) RunOnce(ctx context.Context) ([]Finding, error) {
	byID := map[int]crl.Authority{}
	var ids []int
	for _, a := range c.Authorities() {
		byID[a.ID], ids = a, append(ids, a.ID)
	}
	standing, err := c.Ledger.Standing(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading which lists stand: %w", err)
	}
	var found []Finding
	for range min(listsAtOnce, len(standing)) {
		s := standing[c.turn%len(standing)]
		c.turn++
		for _, base := range c.Endpoints {
			f, err := c.list(ctx, base, byID[s.Authority], s)
			if err != nil {
				return nil, err
			}
			found = append(found, f...)
		}
	}
	f, err := c.status(ctx, byID)
	return append(found, f...), err
}

// list compares one list, as base serves it, with the ledger.
func (c *Checker) list(ctx context.Context, base string, a crl.Authority, s crl.Standing) ([]Finding, error) {
	url := base + "/crl/" + a.Name + "/" + s.Name()
	wrong := func(check, format string, args ...any) []Finding {
		return []Finding{{check, url, fmt.Sprintf(format, args...)}}
	}
	now := c.Now()
	der, err := c.Fetch(ctx, url, nil)
	if err != nil {
		return wrong("list", "it cannot be fetched: %v", err), nil
	}
	r, err := crl.Read(der, a, s)
	switch {
	case err != nil:
		return wrong("list", "it cannot be used: %v", err), nil
	case !now.Before(r.NextUpdate):
		return wrong("list", "number %d ended at %s", r.Number, r.NextUpdate.UTC().Format(time.RFC3339)), nil
	case r.Number < s.Number && now.Sub(s.ThisUpdate) > lag:
		return wrong("list", "number %d is served, number %d was published %s ago", r.Number, s.Number, now.Sub(s.ThisUpdate).Round(time.Second)), nil
	}
	missing, extra, err := compare(ctx, c.Ledger, s, a.Reach(now).From, r)
	if err != nil {
		return nil, fmt.Errorf("comparing %s with the ledger: %w", url, err)
	}
	var found []Finding
	if missing > 0 {
		found = append(found, wrong("entries", "number %d lacks %d that ended before it", r.Number, missing)...)
	}
	if extra > 0 {
		found = append(found, wrong("entries", "number %d names %d that have not ended", r.Number, extra)...)
	}
	return found, nil
}

// compare walks the list beside the ledger. What ended within the lag may be missing from a list, and a new list may have what
// the ledger's snapshot does not see: it is read after the list.
func compare(ctx context.Context, l Ledger, s crl.Standing, from uid.Epoch, r *crl.Reading) (missing, extra int, err error) {
	listed, err := r.Next()
	if err != nil {
		return 0, 0, err
	}
	_, err = l.Ended(ctx, s, from, func(e crl.Entry) (err error) {
		for !listed.IsZero() && bytes.Compare(listed.Bytes(), e.Serial.Bytes()) < 0 {
			extra++
			if listed, err = r.Next(); err != nil {
				return err
			}
		}
		if listed == e.Serial {
			listed, err = r.Next()
			return err
		}
		if e.At.Before(r.ThisUpdate.Add(-lag)) {
			missing++
		}
		return nil
	})
	for err == nil && !listed.IsZero() {
		extra++
		listed, err = r.Next()
	}
	return missing, extra, err
}

// status asks OCSP about some certificates, wherever in the past weeks chance leads.
func (c *Checker) status(ctx context.Context, byID map[int]crl.Authority) ([]Finding, error) {
	back := time.Duration(rand.Int64N(int64(4 * uid.EpochLength))) //nolint:gosec // spreads the looks, guards nothing
	var known map[cert.Serial]ocsp.Status
	for _, from := range []time.Time{c.Now().Add(-back), c.Now().Add(-uid.EpochLength)} { // a young ledger has only the latter
		serials, err := c.Ledger.Around(ctx, cert.NewSerial(c.Site, from), asked)
		if err != nil {
			return nil, fmt.Errorf("choosing certificates: %w", err)
		}
		if known, err = c.Ledger.Status(ctx, serials); err != nil {
			return nil, fmt.Errorf("reading their status: %w", err)
		}
		if len(known) > 0 {
			break
		}
	}
	var found []Finding
	for s, before := range known {
		for _, base := range c.Endpoints {
			what, err := c.ask(ctx, base+"/ocsp", byID[before.Authority], s, before)
			if err != nil {
				return nil, err
			}
			if what != "" {
				found = append(found, Finding{"ocsp", base + "/ocsp", "certificate " + s.String() + ": " + what})
			}
		}
	}
	return found, nil
}

// ask returns what is wrong with the answer about s, of which the ledger said before that it is st.
func (c *Checker) ask(ctx context.Context, url string, a crl.Authority, s cert.Serial, st ocsp.Status) (wrong string, err error) {
	if a.Certificate == nil || st.State != ocsp.Good && st.State != ocsp.Revoked {
		return "", nil // open: being decided
	}
	request, err := xocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, a.Certificate, nil)
	if err != nil {
		return "", err
	}
	der, err := c.Fetch(ctx, url, request)
	if err != nil {
		return "it cannot be asked: " + err.Error(), nil //nolint:nilerr // it is the finding
	}
	r, err := xocsp.ParseResponseForCert(der, &x509.Certificate{SerialNumber: s.Int()}, a.Certificate)
	if err != nil {
		return "the answer cannot be used: " + err.Error(), nil //nolint:nilerr // it is the finding
	}
	now := c.Now()
	said := map[int]ocsp.State{xocsp.Good: ocsp.Good, xocsp.Revoked: ocsp.Revoked, xocsp.Unknown: ocsp.Unknown}[r.Status]
	switch {
	case !now.Before(r.NextUpdate):
		return "the answer ended at " + r.NextUpdate.UTC().Format(time.RFC3339), nil
	case said == st.State:
		return "", nil
	}
	// It may have been revoked between the two readings; nothing becomes good again.
	again, err := c.Ledger.Status(ctx, []cert.Serial{s})
	if err != nil {
		return "", err
	}
	if said == again[s].State {
		return "", nil
	}
	return fmt.Sprintf("the answer is %s, the ledger says %s", spoken(said), spoken(again[s].State)), nil
}

func spoken(s ocsp.State) string {
	return map[ocsp.State]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown", ocsp.Open: "undecided"}[s]
}
