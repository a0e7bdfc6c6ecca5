package acme

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A Permission says whether a name's owner lets us issue for it (CAA, RFC 8659; RFC 8657). It returns nil, a problem of
// type CAA, or, when that could not be found out, of type DNS: what is not known is not permitted. Only the check's Scope,
// Account, Name and Method count. Implementations are safe for concurrent use.
type Permission interface {
	Permit(ctx context.Context, c Check) *Problem
}

// Bounds of asking again.
const (
	// permissionLife is how long a permission is believed, as public CAs do: Baseline Requirements §3.2.2.8 has eight hours
	// or the record's time to live, whichever is greater.
	permissionLife = 8 * time.Hour
	permitTimeout  = 30 * time.Second
	permitsAtOnce  = 8
	permissionAged = "the permission is older than 8 h and was asked again (RFC 8659 §3)"
)

// permit asks again for every name of o whose permission has aged, one that another order's validation gave not excepted,
// and asks for those that were proved by a name above them (RFC 9444), whose owner was asked about that one only. A refusal
// is a fact, and leaves the order as it is: the owner may change the record.
func (s *Server) permit(ctx context.Context, h Holder, o Order) error {
	return s.permitBy(ctx, h, o, func(i int) []Method {
		a, n := o.Authorizations[i], o.Names[i]
		if n.Kind() == cert.Device || a.Validation == nil || s.permitted(a, n) {
			return nil
		}
		return []Method{a.Validation.Method}
	})
}

// permitBy asks for those of o's names that have methods, whether their owners permit one of them.
func (s *Server) permitBy(ctx context.Context, h Holder, o Order, methods func(i int) []Method) error {
	if s.Permission == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, permitTimeout)
	defer cancel()
	var all sync.WaitGroup
	slots := make(chan struct{}, permitsAtOnce)
	found := make([]*Problem, len(o.Names))
	for i, n := range o.Names {
		some := methods(i)
		if len(some) == 0 {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			found[i] = s.permitAny(ctx, Check{Scope: o.Scope, Account: s.accountURL(o.Account, o.Scope), Name: n}, some)
		})
	}
	all.Wait()
	var refused []*Problem
	var facts []audit.Fact
	for i, p := range found {
		if p == nil {
			continue
		}
		refused = append(refused, p.about(IdentifierOf(o.Names[i])))
		if p.Type == CAA {
			facts = append(facts, s.notPermitted(h, o.Names[i], p))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	if err := s.Store.Note(context.WithoutCancel(ctx), facts...); err != nil {
		return fmt.Errorf("recording that order %s is not permitted: %w", o.ID, err)
	}
	return gather(refused)
}

// permitAny asks for one method after the other until one is permitted. What cannot be found out by one is not asked again.
func (s *Server) permitAny(ctx context.Context, c Check, methods []Method) (p *Problem) {
	for _, c.Method = range methods {
		if p = s.Permission.Permit(ctx, c); p == nil || p.Type != CAA {
			break
		}
	}
	return p
}

// permitted reports whether a's validation asked for permission to issue for n, not too long ago. One that needed no proof
// asked for nothing.
func (s *Server) permitted(a Authorization, n cert.Name) bool {
	return a.Name == n && a.Validation.Method != PreApproved && s.Now().Sub(a.Validation.At) <= permissionLife
}

func (s *Server) notPermitted(h Holder, n cert.Name, p *Problem) audit.Fact {
	return audit.Fact{
		At: s.Now(), Who: h.Caller(), Scope: h.Scope, What: audit.Validate, Refused: true, Subject: n.String(),
		Why: permissionAged + ": " + p.Error(),
	}
}

// permitLate asks for an order that was finalized and not issued at once. One that is forbidden, or whose permission could
// not be found out before it expired, fails. It reports whether the order may be issued.
func (s *Server) permitLate(ctx context.Context, h Holder, o Order) (bool, error) {
	err := s.permit(ctx, h, o)
	if err == nil {
		return true, nil
	}
	p, no := forbidden(err)
	switch {
	case p == nil:
		return false, err
	case !no && s.Now().Before(o.Expires): // the next pass asks again
		return false, nil
	}
	if err := s.Store.Fail(ctx, o.ID, s.Now(), p); err != nil {
		return false, fmt.Errorf("recording that order %s failed: %w", o.ID, err)
	}
	return false, nil
}

// permitTerm asks for an order that renews itself: each of its certificates is issued anew. It returns the problem of an owner
// who forbids; what could not be found out is an error, and the term is late. An order whose rows have left with their week no
// longer says by which method each name was proved: then one that could prove it must be permitted.
func (s *Server) permitTerm(ctx context.Context, st Star) (*Problem, error) {
	if s.Permission == nil {
		return nil, nil //nolint:nilnil // nothing forbids it
	}
	h := Holder{Account: Account{ID: st.Account, Scope: st.Scope}}
	o, err := s.Store.Order(ctx, st.Order)
	switch {
	case errors.Is(err, ErrNotFound):
		err = s.permitBy(ctx, h, Order{ID: st.Order, Account: st.Account, Scope: st.Scope, Names: st.Names}, func(i int) []Method {
			if st.Names[i].Kind() == cert.Device {
				return nil
			}
			return slices.DeleteFunc(MethodsFor(st.Names[i]), func(m Method) bool { return !s.Offers(m) })
		})
	case err != nil:
		return nil, fmt.Errorf("reading order %s: %w", st.Order, err)
	default:
		err = s.permit(ctx, h, o)
	}
	if p, no := forbidden(err); no {
		return p, nil
	}
	return nil, err
}

// forbidden returns the problem in err, if it has one, and whether that says that an owner forbids rather than that it
// could not be found out.
func forbidden(err error) (*Problem, bool) {
	var p *Problem
	if !errors.As(err, &p) {
		return nil, false
	}
	for _, sub := range p.Subproblems {
		if sub.Type == CAA {
			return p, true
		}
	}
	return p, p.Type == CAA
}
