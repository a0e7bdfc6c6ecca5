package credentials

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Bounds of a run.
const (
	mostHeard  = 10_000           // certificates remembered by name; with more, everything is looked at
	atOnce     = 1000             // leases in a statement
	ofATarget  = 500              // leases of a target in a run
	targets    = 8                // targets worked on at a time
	endTimeout = 20 * time.Second // a target's part of a run
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	keep       = 30 * 24 * time.Hour // gone leases are looked up by people for so long; their facts stay
)

var cascade = identity.System("leases")

// Hear notes that a certificate was revoked; the zero Serial stands for many. It is a hint that makes Cascade quick: what it
// must not miss it finds without.
func (o *Office) Hear(s cert.Serial) {
	o.mu.Lock()
	if s.IsZero() || len(o.heard) >= mostHeard {
		o.all = true
		clear(o.heard)
	} else {
		o.heard[s] = true
	}
	o.mu.Unlock()
	o.Wake()
}

// Cascade makes true at targets what has ended here: one bounded run, safe to repeat and to be cut off anywhere. It reports
// whether there is more to do at once. A target that fails costs the others nothing, and is tried again later.
func (o *Office) Cascade(ctx context.Context) (more bool, err error) {
	// 1. Whose certificates are revoked.
	if err := o.hear(ctx); err != nil {
		return false, err
	}
	// 2. Whose time has come, or whose binding, target or scope has ended. Until it is written down it is computed.
	now := o.Now()
	n, err := o.Book.EndDue(ctx, now, now.Add(-staleAfter), atOnce, cascade)
	if err != nil {
		return false, fmt.Errorf("ending what is due: %w", err)
	}
	o.Count(CountEnded, "", n)
	// 3. Outside, with no transaction open.
	due, err := o.Book.Due(ctx, now, ofATarget)
	if err != nil {
		return false, fmt.Errorf("reading what has ended: %w", err)
	}
	if len(due) == 0 {
		return n == atOnce, nil
	}
	return true, o.finish(ctx, due)
}

// hear ends what hangs on certificates of which it was said that they are revoked, if the ledger says so too.
func (o *Office) hear(ctx context.Context) error {
	o.mu.Lock()
	all, serials := o.all, make([]cert.Serial, 0, len(o.heard))
	for s := range o.heard {
		serials = append(serials, s)
	}
	o.all = false
	clear(o.heard)
	o.mu.Unlock()

	err := o.endRevoked(ctx, serials)
	if all && err == nil {
		err = o.Review(ctx)
	}
	if err != nil { // nothing heard is lost
		o.mu.Lock()
		o.all = true
		o.mu.Unlock()
	}
	return err
}

func (o *Office) endRevoked(ctx context.Context, serials []cert.Serial) error {
	for len(serials) > 0 {
		part := serials[:min(atOnce, len(serials))]
		serials = serials[len(part):]
		gone, err := o.Certificates.Revoked(ctx, part)
		if err != nil {
			return fmt.Errorf("asking about certificates of leases: %w", err)
		}
		if len(gone) == 0 {
			continue
		}
		list := make([]cert.Serial, 0, len(gone))
		for s := range gone {
			list = append(list, s)
		}
		n, err := o.Book.EndOf(ctx, list, o.Now(), cascade)
		if err != nil {
			return fmt.Errorf("ending what hangs on revoked certificates: %w", err)
		}
		o.Count(CountEnded, "", n)
	}
	return nil
}

// Review asks about the certificate of every living lease. It is what suffices when no notice came: it reads leases, not a log
// of revocations, so no revocation is too late, too early or too many for it.
func (o *Office) Review(ctx context.Context) error {
	var after cert.Serial
	for {
		list, err := o.Book.Living(ctx, after, atOnce)
		if err != nil {
			return fmt.Errorf("reading living leases: %w", err)
		}
		if len(list) == 0 {
			return nil
		}
		if err := o.endRevoked(ctx, list); err != nil {
			return err
		}
		after = list[len(list)-1]
	}
}

// finish ends leases at their targets, several targets at a time, and writes down what became of each.
func (o *Office) finish(ctx context.Context, due []Lease) error {
	byTarget := make(map[int64][]Lease)
	for _, l := range due {
		byTarget[l.Binding.Target.ID] = append(byTarget[l.Binding.Target.ID], l)
	}
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		errs []error
		free = make(chan struct{}, targets)
	)
	for _, list := range byTarget {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			if err := o.finishAt(ctx, list); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// finishAt ends leases of one target. That the target is away is no error here: it is on record, and counted.
func (o *Office) finishAt(ctx context.Context, list []Lease) error {
	t := list[0].Binding.Target
	grants := make([]Grant, len(list))
	for i := range list {
		grants[i] = list[i].grant(Secret{})
	}
	var done []Ended
	backend, err := o.backend(t)
	if err == nil {
		ending, cancel := context.WithTimeout(ctx, endTimeout)
		done, err = backend.End(ending, t, grants)
		cancel()
	}
	now := o.Now()
	settled, failed := settle(list, done, err, now)
	if err := o.Book.Settle(context.WithoutCancel(ctx), settled, now); err != nil {
		return fmt.Errorf("recording what ended at %s: %w", t.Name, err)
	}
	o.Count(CountGone, t.Kind, len(list)-failed)
	o.Count(CountFailed, t.Kind, failed)
	return nil
}

// settle says of each lease what is to be recorded: gone, or when to try again.
func settle(list []Lease, done []Ended, err error, now time.Time) (out []Settled, failed int) {
	found := make(map[string]Ended, len(done))
	for _, d := range done {
		key := d.Principal
		if d.Lease != "" {
			key = d.Lease
		}
		found[key] = d
	}
	for i := range list {
		l := &list[i]
		s := Settled{Lease: l.ID}
		d, ok := found[l.ID.String()]
		if !ok {
			d, ok = found[l.Principal]
		}
		switch {
		case err != nil:
			d.Err = err
		case !ok:
			d.Err = errors.New("the target said nothing of it")
		}
		s.Receipts = d.Receipts
		if d.Err != nil {
			failed++
			s.RetryAt, s.Trouble = now.Add(retry(l.Tries)), clip(d.Err.Error())
		}
		out = append(out, s)
	}
	return out, failed
}

// retry is how long to wait after so many failures.
func retry(tries int) time.Duration { return min(lastRetry, firstRetry<<min(tries, 9)) }

func clip(s string) string { return strings.ToValidUTF8(s[:min(400, len(s))], "") }

// Sweep ends logins at targets that no lease of this site's names, and forgets leases that were gone long ago. A login is made
// only after its row, so what is listed first and has no row then is nobody's. Behind a fence it does nothing: the rows may be
// what is missing.
func (o *Office) Sweep(ctx context.Context) error {
	if o.Fenced != nil && o.Fenced() != nil {
		return nil
	}
	list, err := o.Book.Targets(ctx, identity.Scope{})
	if err != nil {
		return fmt.Errorf("reading targets: %w", err)
	}
	for _, t := range list {
		if serr := o.sweep(ctx, t); serr != nil {
			err = errors.Join(err, fmt.Errorf("sweeping %s of %s: %w", t.Name, t.Scope, serr))
		}
	}
	_, ferr := o.Book.Forget(ctx, o.Now().Add(-keep), atOnce)
	return errors.Join(err, ferr)
}

func (o *Office) sweep(ctx context.Context, t Target) error {
	backend, err := o.backend(t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*endTimeout)
	defer cancel()
	there, err := backend.Principals(ctx, t)
	if err != nil {
		return err
	}
	var ours []string
	for _, p := range there {
		if site, ok := siteOf(p); ok && site == o.Site {
			ours = append(ours, p)
		}
	}
	strays, err := o.Book.Strays(ctx, ours)
	if err != nil || len(strays) == 0 {
		return err
	}
	grants := make([]Grant, len(strays))
	for i, p := range strays {
		grants[i] = Grant{Way: Leased, Principal: p, Database: t.Database}
	}
	done, err := backend.End(ctx, t, grants)
	if err != nil {
		return err
	}
	o.Count(CountStray, t.Kind, len(done))
	return o.Book.Swept(context.WithoutCancel(ctx), t, done, o.Now(), cascade)
}
