package acme

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An AutoRenewal is how an order renews itself (RFC 8739 §3.1.1), on the wire and in the database.
type AutoRenewal struct {
	Start    time.Time `json:"start-date,omitzero"`             // of the first certificate; zero: as soon as it is issued
	End      time.Time `json:"end-date"`                        // of the last
	Lifetime int64     `json:"lifetime"`                        // seconds, of each
	Adjust   int64     `json:"lifetime-adjust,omitempty"`       // seconds by which each begins earlier
	AllowGet bool      `json:"allow-certificate-get,omitempty"` // anybody may fetch the certificate
}

// Bounds of automatic renewal (RFC 8739 §3.2).
const (
	DefaultMinLifetime = time.Hour // the duty that renews comes round far more often
	MaxDuration        = 365 * 24 * time.Hour
	maxSeconds         = int64(MaxDuration / time.Second)
)

// A Star is an order that renews itself, from its finalization on.
type Star struct {
	Order   uid.UID
	Account uid.UID
	Scope   identity.Scope
	Profile string
	Names   []cert.Name
	SPKI    []byte
	AutoRenewal
	Term     int       // the next to be issued; the first, 0, is the order's own certificate
	Next     time.Time // when it is due; zero: none is
	Canceled time.Time // zero unless its account canceled it
	Problem  *Problem  // why it renews no more, where a rule refused
}

// Stars keeps orders that renew themselves.
type Stars interface {
	// BeginStar records st unless its order is recorded, and returns what is.
	BeginStar(ctx context.Context, st Star) (Star, error)
	// Star returns one, or ErrNotFound.
	Star(ctx context.Context, order uid.UID) (Star, error)
	// DueStars returns those whose next term was due before a time, at most limit. Scopes take turns; of each, the longest due
	// comes first.
	DueStars(ctx context.Context, before time.Time, limit int) ([]Star, error)
	// AdvanceStar says which term is next, and when (zero: none is), unless st changed meanwhile.
	AdvanceStar(ctx context.Context, st Star, term int, next time.Time) error
	// CancelStar ends a star that stands, and records f. It reports whether it stood.
	CancelStar(ctx context.Context, order uid.UID, at time.Time, f audit.Fact) (bool, error)
	// StopStar ends a star for p, unless it has ended.
	StopStar(ctx context.Context, order uid.UID, p *Problem) error
	// SweepStars removes those that ended before a time.
	SweepStars(ctx context.Context, before time.Time) error
}

func (a AutoRenewal) lifetime() time.Duration { return time.Duration(a.Lifetime) * time.Second }
func (a AutoRenewal) adjust() time.Duration   { return time.Duration(a.Adjust) * time.Second }

// pad is by how much each certificate begins earlier than its term, and so how early it is made: RFC 8739 §3.5 has the larger
// of what the client asked, up to one lifetime, and what the server needs, half of one, so that the next certificate is there
// at half of the life of the present one and is valid when it is.
func (a AutoRenewal) pad() time.Duration { return max(min(a.adjust(), a.lifetime()), a.lifetime()/2) }

// nominal is when term n begins (RFC 8739 §3.5: "nominal renewal date").
func (a AutoRenewal) nominal(n int) time.Time { return a.Start.Add(time.Duration(n) * a.lifetime()) }

// dates are the first and the last second of term n's certificate (RFC 8739 §3.5), which is made at the first.
func (a AutoRenewal) dates(n int) (from, to time.Time) {
	from, to = a.nominal(n).Add(-a.pad()), a.nominal(n+1)
	if from.Before(a.Start) {
		from = a.Start
	}
	if to.After(a.End) {
		to = a.End
	}
	return from, to
}

// next is when the term after n is due; zero: n is the last.
func (a AutoRenewal) next(n int) time.Time {
	if !a.nominal(n + 1).Before(a.End) {
		return time.Time{}
	}
	due, _ := a.dates(n + 1)
	return due
}

// origin is why the certificate of term n exists. The same order, term and recipe give the same.
func (st Star) origin(n int) ca.Origin {
	if n == 0 {
		return ca.Origin{ID: st.Order}
	}
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(n)) //nolint:gosec // not negative
	sum := sha256.Sum256(append(st.Order.Bytes(), number[:]...))
	due, _ := st.dates(n)
	return ca.Origin{ID: uid.Derive(uid.Term, st.Order.Site(), due, sum)}
}

// renews gives o the automatic renewal that was asked for (RFC 8739 §3.1.1), if its profile can.
func (s *Server) renews(o *Order, ask NewOrder) error {
	a := ask.AutoRenewal
	if a == nil {
		return nil
	}
	p, err := s.Issuer.Profile(o.Scope, o.Profile)
	if err != nil {
		return problem(InvalidProfile, "%s", err)
	}
	now := s.Now().UTC()
	r := *a
	r.Start, r.End = r.Start.UTC().Truncate(time.Second), r.End.UTC().Truncate(time.Second)
	begin := now
	if a.Start.IsZero() {
		r.Start = time.Time{}
	} else if begin = r.Start; begin.Before(now.Add(-clockSpread)) {
		return problem(Malformed, "auto-renewal: start-date is past: leave it out to begin at once (RFC 8739 §3.1.1)")
	}
	switch {
	case !ask.NotBefore.IsZero() || !ask.NotAfter.IsZero():
		// RFC 8739 §3.1.1: they "MUST NOT be present in a STAR Order".
		return problem(Malformed, "an order with auto-renewal has no notBefore and no notAfter (RFC 8739 §3.1.1)")
	case r.Lifetime <= 0 || r.Lifetime > maxSeconds || r.lifetime() < s.MinLifetime:
		return problem(Malformed, "auto-renewal: a lifetime of %d seconds: want %d or more, and less than a year", r.Lifetime, int64(s.MinLifetime/time.Second))
	case r.Adjust < 0 || r.Adjust > maxSeconds:
		return problem(Malformed, "auto-renewal: a lifetime-adjust of %d seconds: want 0 or more, and less than a year", r.Adjust)
	case r.lifetime()+r.pad() > p.Max-2*clockSpread:
		return problem(Malformed, "auto-renewal: profile %s has certificates of %s at most, of which lifetime may be two thirds: ask for a shorter one", p.Name, p.Max)
	case r.End.Sub(begin) < r.lifetime():
		return problem(Malformed, "auto-renewal: end-date comes before one lifetime is over")
	case r.End.Sub(begin) > MaxDuration || begin.Sub(now) > orderLife:
		return problem(Malformed, "auto-renewal: begin within %s and go on for %s at most", orderLife, MaxDuration)
	}
	o.AutoRenewal = &r
	return nil
}

// begin records that o, whose key is known, renews itself, and gives it the dates of its first certificate.
func (s *Server) begin(ctx context.Context, o Order) (Order, error) {
	if o.AutoRenewal == nil {
		return o, nil
	}
	st := Star{Order: o.ID, Account: o.Account, Scope: o.Scope, Profile: o.Profile, Names: o.Names, SPKI: o.Finalization.SPKI, AutoRenewal: *o.AutoRenewal, Term: 1}
	if st.Start.IsZero() {
		st.Start = s.Now().UTC().Truncate(time.Second)
	}
	st.Next = st.next(0)
	st, err := s.Store.BeginStar(ctx, st)
	if err != nil {
		return Order{}, fmt.Errorf("recording that order %s renews itself: %w", o.ID, err)
	}
	if string(st.SPKI) != string(o.Finalization.SPKI) {
		return Order{}, otherKey()
	}
	o.NotBefore, o.NotAfter = st.dates(0)
	return o, nil
}

// stars counts o's star in, if it is one: its account may have canceled it.
func (s *Server) stars(ctx context.Context, o *Order) error {
	if o.AutoRenewal == nil {
		return nil
	}
	st, err := s.Store.Star(ctx, o.ID)
	if errors.Is(err, ErrNotFound) { // it is not finalized
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading how order %s renews itself: %w", o.ID, err)
	}
	o.Canceled = st.Canceled
	o.Expires = st.expires()
	return nil
}

// expires is until when st's order says what became of it. RFC 8739 §3.1.2: a canceled order has "an appropriate "expires"
// date".
func (st Star) expires() time.Time {
	if st.Canceled.IsZero() {
		return st.End.Add(starsKept)
	}
	return st.Canceled.Add(starsKept)
}

// longAgo returns an order that renews itself and whose own rows have left with their week.
func (s *Server) longAgo(ctx context.Context, id uid.UID) (Order, error) {
	st, err := s.Store.Star(ctx, id)
	if err != nil {
		return Order{}, err
	}
	o := Order{
		ID: id, Account: st.Account, Scope: st.Scope, Profile: st.Profile, Names: st.Names, AutoRenewal: &st.AutoRenewal, Canceled: st.Canceled,
		Expires: st.expires(), Failure: st.Problem,
	}
	c, err := s.latest(ctx, st)
	if errors.Is(err, ErrNotFound) {
		return o, nil
	}
	o.Certificate = c.Serial
	return o, err
}

// latest returns the certificate of the last term that was issued, or ErrNotFound.
func (s *Server) latest(ctx context.Context, st Star) (ca.Certificate, error) {
	c, err := s.Issuer.ByOrigin(ctx, st.origin(st.Term-1))
	if errors.Is(err, ca.ErrNotFound) || errors.Is(err, ca.ErrInProgress) {
		return ca.Certificate{}, ErrNotFound
	}
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading the last certificate of order %s: %w", st.Order, err)
	}
	return c, nil
}

// Cancel ends the automatic renewal of h's order (RFC 8739 §3.1.2). From then on nothing is issued and nothing is served.
func (s *Server) Cancel(ctx context.Context, h Holder, id uid.UID) (Order, error) {
	o, err := s.Order(ctx, h, id)
	if err != nil {
		return Order{}, err
	}
	// RFC 8739 §3.1.2: "Issuing a cancellation for an Order that is not in "valid" state is not allowed … a server MUST return
	// an error response with status code 400 (Bad Request) and type … "autoRenewalCancellationInvalid"".
	invalid := problem(AutoRenewalCancellationInvalid, "the order is no valid one that renews itself (RFC 8739 §3.1.2)")
	if o.AutoRenewal == nil || o.Status(s.Now()) != Valid {
		return Order{}, invalid
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	f := audit.Fact{At: now, Who: h.Caller(), Scope: h.Scope, What: audit.OrderCanceled, Subject: id.String()}
	did, err := s.Store.CancelStar(ctx, id, now, f)
	if err != nil {
		return Order{}, fmt.Errorf("canceling order %s: %w", id, err)
	}
	if !did {
		return Order{}, invalid
	}
	o.Canceled = now
	return o, nil
}

// StarCertificate returns the certificate that is current of an order that renews itself (RFC 8739 §3.3). The zero account
// is anybody: then the order must allow it (§3.4).
func (s *Server) StarCertificate(ctx context.Context, account, id uid.UID) (ca.Certificate, error) {
	gone := notFound("certificate")
	if id.Kind() != uid.Order {
		return ca.Certificate{}, gone
	}
	st, err := s.Store.Star(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && st.Account != account && !(account.IsZero() && st.AllowGet) {
		return ca.Certificate{}, gone
	}
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading how order %s renews itself: %w", id, err)
	}
	now := s.Now()
	switch {
	case !st.Canceled.IsZero():
		return ca.Certificate{}, problem(AutoRenewalCanceled, "the order was canceled (RFC 8739 §3.1.2)")
	case !now.Before(st.End):
		return ca.Certificate{}, problem(AutoRenewalExpired, "the order ended at %s: make a new one (RFC 8739 §3.3)", st.End.Format(time.RFC3339))
	}
	c, err := s.latest(ctx, st)
	switch {
	case errors.Is(err, ErrNotFound):
		return ca.Certificate{}, gone
	case err == nil && c.Revoked != nil: // by an operator, or with its authority
		return ca.Certificate{}, problem(AutoRenewalCanceled, "certificate %s was revoked: the order renews no more", c.Serial)
	}
	return c, err
}

// renewAgain is how soon a term is tried again that could not be issued: others come first meanwhile.
const renewAgain = time.Minute

// starsKept is how long an order that ended is remembered, so that its URL says what became of it.
const starsKept = 30 * 24 * time.Hour

// Bounds of a pass. One scope's orders, whose names' owners may take long to ask, have a few goroutines and no others wait for
// them; what is not begun in time waits for the next pass, which sees who is due by then.
const (
	renewalsOfScope = 4
	renewalPass     = 10 * time.Second
)

// RenewStars issues the next certificates of orders that renew themselves. It is a duty's work.
func (s *Server) RenewStars(ctx context.Context) error {
	const limit = 100
	due, err := s.Store.DueStars(ctx, s.Now(), limit)
	if err != nil {
		return fmt.Errorf("looking for orders to renew: %w", err)
	}
	failed := s.renewAll(ctx, due)
	if err := s.Store.SweepStars(ctx, s.Now().Add(-starsKept)); err != nil {
		failed = append(failed, fmt.Errorf("sweeping orders that renewed themselves: %w", err))
	}
	return errors.Join(failed...)
}

// renewAll renews some of each scope's at once, and returns what failed.
func (s *Server) renewAll(ctx context.Context, due []Star) (failed []error) {
	beginning, stop := context.WithTimeout(ctx, renewalPass)
	defer stop()
	scopes := make(map[identity.Scope]chan Star)
	for _, st := range due {
		if scopes[st.Scope] == nil {
			scopes[st.Scope] = make(chan Star, len(due))
		}
		scopes[st.Scope] <- st
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards failed
	for _, turns := range scopes {
		close(turns)
		for range min(renewalsOfScope, len(turns)) {
			all.Go(func() {
				for st := range turns {
					if beginning.Err() != nil {
						return
					}
					if err := s.tryStar(ctx, st); err != nil {
						mu.Lock()
						failed = append(failed, err)
						mu.Unlock()
					}
				}
			})
		}
	}
	all.Wait()
	return failed
}

// tryStar renews st, or lets others come first for a while.
func (s *Server) tryStar(ctx context.Context, st Star) error {
	err := s.renewStar(ctx, st)
	if err == nil {
		return nil
	}
	err = errors.Join(err, s.Store.AdvanceStar(ctx, st, st.Term, s.Now().Add(renewAgain)))
	return fmt.Errorf("renewing order %s: %w", st.Order, err)
}

func (s *Server) renewStar(ctx context.Context, st Star) error {
	now := s.Now()
	last, err := s.latest(ctx, st)
	switch {
	case err == nil && last.Revoked != nil:
		return s.Store.StopStar(ctx, st.Order, problem(AutoRenewalCanceled, "certificate %s was revoked", last.Serial))
	case err == nil || errors.Is(err, ErrNotFound) && st.Term > 1: // its week may have left the ledger
	case errors.Is(err, ErrNotFound) && now.After(st.Start.Add(orderLife)):
		return s.Store.StopStar(ctx, st.Order, problem(ServerInternal, "the order had no first certificate"))
	case errors.Is(err, ErrNotFound): // the order itself has no certificate yet, and may never have one
		return s.Store.AdvanceStar(ctx, st, st.Term, now.Add(renewAgain))
	default:
		return err
	}
	if p, err := s.mayRenew(ctx, st); p != nil || err != nil {
		if err == nil {
			err = s.Store.StopStar(ctx, st.Order, p)
		}
		return err
	}
	n := st.Term
	for st.next(n).After(time.Time{}) && !st.next(n).After(now) { // we were away for longer than a term
		n++
	}
	from, to := st.dates(n)
	if from.Before(now) {
		from = now.UTC().Truncate(time.Second)
	}
	if to.Sub(from) < ca.MinLife {
		return s.Store.AdvanceStar(ctx, st, n+1, st.next(n))
	}
	return s.issueTerm(ctx, st, n, from, to)
}

// issueTerm issues term n of st, unless st was canceled or renewed since it was read: owners may have been asked for long.
func (s *Server) issueTerm(ctx context.Context, st Star, n int, from, to time.Time) error {
	now, err := s.Store.Star(ctx, st.Order)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case now.Next.IsZero() || now.Term != st.Term:
		return nil
	}
	key, err := x509.ParsePKIXPublicKey(st.SPKI)
	if err != nil {
		return err
	}
	who := Holder{Account: Account{ID: st.Account, Scope: st.Scope}}.Caller()
	_, err = s.Issuer.Issue(ctx, who, ca.Request{
		Scope: st.Scope, Profile: st.Profile, Origin: st.origin(n), NotBefore: from, NotAfter: to,
		CSR: cert.Request{Key: key, KeyID: sha256.Sum256(st.SPKI), SPKI: st.SPKI, Names: st.Names},
	})
	if errors.Is(err, ca.ErrInProgress) { // somebody else is at it
		return nil
	}
	if p := refusal(err); p != nil {
		return s.Store.StopStar(ctx, st.Order, p)
	}
	if err != nil {
		return err
	}
	return s.Store.AdvanceStar(ctx, st, n+1, st.next(n))
}

// mayRenew refuses orders whose account was deactivated or whose external account key was revoked since.
func (s *Server) mayRenew(ctx context.Context, st Star) (*Problem, error) {
	a, err := s.Store.Account(ctx, st.Account)
	if err != nil {
		return nil, fmt.Errorf("reading account %s: %w", st.Account, err)
	}
	if a.Status() == Deactivated {
		return deactivated(), nil
	}
	_, err = s.key(ctx, Holder{Account: a})
	if p, ok := errors.AsType[*Problem](err); ok {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	return s.permitTerm(ctx, st)
}

// revocableTerm refuses to revoke what renews itself: RFC 8739 §3.1.2: "A server receiving a revocation request for a STAR
// Certificate MUST return an error response with status code 403 (Forbidden) and type … "autoRenewalRevocationNotSupported"".
// Operators can.
func (s *Server) revocableTerm(ctx context.Context, c ca.Certificate) error {
	refused := problem(AutoRenewalRevocationNotSupported, "the certificate is of an order that renews itself: cancel the order (RFC 8739 §3.1.2)")
	switch c.Origin.Kind() {
	case uid.Term:
		return refused
	case uid.Order:
		_, err := s.Store.Star(ctx, c.Origin)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("reading order %s: %w", c.Origin, err)
		}
		return refused
	}
	return nil
}
