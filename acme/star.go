package acme

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
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
	// DueStars returns those whose next term was due before a time, at most limit, the longest due first.
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

// nominal is when term n begins, were nothing adjusted (RFC 8739 §3.5).
func (a AutoRenewal) nominal(n int) time.Time { return a.Start.Add(time.Duration(n) * a.lifetime()) }

// dates are the first and the last second of term n's certificate.
func (a AutoRenewal) dates(n int) (from, to time.Time) {
	from, to = a.nominal(n).Add(-a.adjust()), a.nominal(n+1)
	if from.Before(a.Start) {
		from = a.Start
	}
	if to.After(a.End) {
		to = a.End
	}
	return from, to
}

// due is when term n's certificate is made: at half of the life of the one before at the latest (RFC 8739 §3.5).
func (a AutoRenewal) due(n int) time.Time { return a.nominal(n).Add(-max(a.adjust(), a.lifetime()/2)) }

// next is when the term after n is due; zero: n is the last.
func (a AutoRenewal) next(n int) time.Time {
	if !a.nominal(n + 1).Before(a.End) {
		return time.Time{}
	}
	return a.due(n + 1)
}

// origin is why the certificate of term n exists. The same order, term and recipe give the same.
func (st Star) origin(n int) ca.Origin {
	if n == 0 {
		return ca.Origin{ID: st.Order}
	}
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(n)) //nolint:gosec // not negative
	sum := sha256.Sum256(append(st.Order.Bytes(), number[:]...))
	return ca.Origin{ID: uid.Derive(uid.Term, st.Order.Site(), st.due(n), sum)}
}

// renews gives o the automatic renewal that was asked for (RFC 8739 §3.1.1), if its profile can.
func (s *Server) renews(o *Order, ask NewOrder) error {
	a := ask.AutoRenewal
	if a == nil {
		return nil
	}
	p, err := ca.ProfileByName(o.Profile)
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
		// RFC 8739 §3.1.1: "The notBefore and notAfter fields … MUST NOT be present in a STAR Order."
		return problem(Malformed, "an order with auto-renewal has no notBefore and no notAfter (RFC 8739 §3.1.1)")
	case r.Lifetime <= 0 || r.Lifetime > maxSeconds || r.lifetime() < s.MinLifetime:
		return problem(Malformed, "auto-renewal: a lifetime of %d seconds: want %d or more, and less than a year", r.Lifetime, int64(s.MinLifetime/time.Second))
	case r.Adjust < 0 || r.Adjust >= r.Lifetime:
		return problem(Malformed, "auto-renewal: lifetime-adjust must be from 0 to less than lifetime")
	case r.lifetime()+r.adjust() > p.Max-2*clockSpread:
		return problem(Malformed, "auto-renewal: profile %s has certificates of %s at most: ask for a shorter lifetime", p.Name, p.Max)
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
	return nil
}

// Cancel ends the automatic renewal of h's order (RFC 8739 §3.1.2). From then on nothing is issued and nothing is served.
func (s *Server) Cancel(ctx context.Context, h Holder, id uid.UID) (Order, error) {
	o, err := s.Order(ctx, h, id)
	if err != nil {
		return Order{}, err
	}
	// RFC 8739 §3.1.2: "… an order … not in "valid" state … autoRenewalCancellationInvalid".
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
	for n := st.Term - 1; n >= 0; n-- { // the latest may begin later
		c, err := s.Issuer.ByOrigin(ctx, st.origin(n))
		if errors.Is(err, ca.ErrNotFound) || errors.Is(err, ca.ErrInProgress) || err == nil && n > 0 && c.NotBefore.After(now) {
			continue
		}
		if err != nil {
			return ca.Certificate{}, fmt.Errorf("reading term %d of order %s: %w", n, id, err)
		}
		return c, nil
	}
	return ca.Certificate{}, gone
}

// starsKept is how long an order that ended is remembered, so that its URL says what became of it.
const starsKept = 30 * 24 * time.Hour

// RenewStars issues the next certificates of orders that renew themselves. It is a duty's work.
func (s *Server) RenewStars(ctx context.Context) error {
	const limit = 100
	due, err := s.Store.DueStars(ctx, s.Now(), limit)
	if err != nil {
		return fmt.Errorf("looking for orders to renew: %w", err)
	}
	var failed []error
	for _, st := range due {
		if err := s.renewStar(ctx, st); err != nil { // others need not wait for it
			failed = append(failed, fmt.Errorf("renewing order %s: %w", st.Order, err))
		}
	}
	if err := s.Store.SweepStars(ctx, s.Now().Add(-starsKept)); err != nil {
		failed = append(failed, fmt.Errorf("sweeping orders that renewed themselves: %w", err))
	}
	return errors.Join(failed...)
}

func (s *Server) renewStar(ctx context.Context, st Star) error {
	now := s.Now()
	if _, err := s.Issuer.ByOrigin(ctx, st.origin(0)); errors.Is(err, ca.ErrNotFound) || errors.Is(err, ca.ErrInProgress) {
		// The order itself has no certificate, and may never have one.
		if now.After(st.Start.Add(orderLife)) {
			return s.Store.StopStar(ctx, st.Order, problem(ServerInternal, "the order had no first certificate"))
		}
		return nil
	} else if err != nil {
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
	return nil, err
}

// revocableTerm refuses to revoke what renews itself: RFC 8739 §3.1.3: "… the server … MUST … return … error
// "urn:ietf:params:acme:error:autoRenewalRevocationNotSupported"". Operators can.
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
