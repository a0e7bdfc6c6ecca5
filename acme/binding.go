package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Binding is an external account key (RFC 8555 §7.3.4): a MAC key that somebody was given elsewhere, so that an account
// made with it is known to be theirs. It is of one scope. Once it has expired or was used up it binds no more accounts, and
// those it bound go on; once it is revoked they order nothing any more.
type Binding struct {
	ID       uid.UID
	Scope    identity.Scope
	Label    string   // for people: whose it is
	Names    []string // patterns of what its accounts may order; nil: all that the scope may have
	Approved []string // patterns of what its accounts need not prove
	Uses     int      // how many accounts it may bind; 0: any number
	Used     int
	Made     time.Time
	Expires  time.Time // zero: never
	Revoked  time.Time // zero while it stands
}

// State is what b is good for at a time, in a word for people.
func (b Binding) State(now time.Time) string {
	switch {
	case !b.Revoked.IsZero():
		return "revoked"
	case !b.Expires.IsZero() && !now.Before(b.Expires):
		return "expired"
	case b.Uses > 0 && b.Used >= b.Uses:
		return "used-up"
	}
	return "valid"
}

// ErrSpent is what Bindings says of a key that binds no accounts any more.
var ErrSpent = errors.New("the external account key binds no more accounts")

// Bindings keeps external account keys. Their secrets are sealed before they come here.
type Bindings interface {
	// CreateBinding records b with its sealed secret, and f. ErrNotFound: there is no such scope.
	CreateBinding(ctx context.Context, b Binding, sealed []byte, f audit.Fact) error
	// Binding returns a key and its sealed secret, or ErrNotFound.
	Binding(ctx context.Context, id uid.UID) (Binding, []byte, error)
	// ListBindings returns keys of a scope made after one of them, at most limit, the oldest first.
	ListBindings(ctx context.Context, scope identity.Scope, after uid.UID, limit int) ([]Binding, error)
	// RevokeBinding ends a key once; f is recorded with it. It reports whether the key had not ended before.
	RevokeBinding(ctx context.Context, id uid.UID, at time.Time, f audit.Fact) (bool, error)
	// BindAccount records a, uses its Binding once, and records facts; or returns the account that its scope has of that key,
	// and false, and uses nothing. ErrSpent: the key is used up, expired or revoked.
	BindAccount(ctx context.Context, a Account, facts ...audit.Fact) (Account, bool, error)
	// Approve records that authorizations are valid without a challenge, and facts.
	Approve(ctx context.Context, all []uid.UID, v Validation, facts ...audit.Fact) error
}

// A Sealer encrypts what is stored, each value for its own purpose.
type Sealer interface {
	Seal(ctx context.Context, purpose string, plaintext []byte) ([]byte, error)
	Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error)
}

// Bounds of keys.
const (
	secretSize  = 32 // octets: as many as HS256 has (RFC 7518 §3.2)
	maxLabel    = 200
	maxPatterns = 100
	maxUses     = 1_000_000
)

// CreateBinding makes an external account key of b's scope and returns it with its secret, which is shown this once and kept
// sealed.
func (s *Server) CreateBinding(ctx context.Context, who identity.Caller, b Binding) (Binding, []byte, error) {
	if err := mayBind(who, b.Scope); err != nil {
		return Binding{}, nil, err
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	if err := b.check(now); err != nil {
		return Binding{}, nil, err
	}
	if s.Sealer == nil {
		return Binding{}, nil, errors.New("making an external account key: nothing seals its secret")
	}
	b.ID, b.Made, b.Used, b.Revoked = uid.New(uid.Binding, s.Site, now), now, 0, time.Time{}
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		panic("acme: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
	}
	sealed, err := s.Sealer.Seal(ctx, bindingPurpose(b.ID), secret)
	if err != nil {
		return Binding{}, nil, fmt.Errorf("sealing external account key %s: %w", b.ID, err)
	}
	f := audit.Fact{At: now, Who: who, Scope: b.Scope, What: audit.BindingMade, Subject: b.ID.String(), Why: b.terms()}
	if err := s.Store.CreateBinding(ctx, b, sealed, f); err != nil {
		return Binding{}, nil, fmt.Errorf("recording external account key %s: %w", b.ID, err)
	}
	return b, secret, nil
}

// bindingPurpose keeps a sealed secret from being passed off as another key's.
func bindingPurpose(id uid.UID) string { return "acme binding " + id.String() }

// mayBind: who makes and ends keys decides whose accounts there are, and, by approval, what need not be proved.
func mayBind(who identity.Caller, scope identity.Scope) error {
	return access.Check(who, access.BindAccounts, scope)
}

func (b Binding) check(now time.Time) error {
	refuse := func(what, remedy string) error {
		return &policy.Refusal{What: what, Rule: "the form of external account keys", Remedy: remedy}
	}
	switch {
	case b.Label == "" || len(b.Label) > maxLabel:
		return refuse("its label", fmt.Sprintf("say whose it is in 1 to %d octets", maxLabel))
	case b.Uses < 0 || b.Uses > maxUses:
		return refuse(fmt.Sprintf("%d uses", b.Uses), fmt.Sprintf("give 1 to %d, or none for any number", maxUses))
	case !b.Expires.IsZero() && !now.Before(b.Expires):
		return refuse("an expiry in the past", "let it expire later, or never")
	case b.Names != nil && len(b.Names) == 0:
		return refuse("an empty list of names", "leave it out to allow all that the scope may have")
	case len(b.Names) > maxPatterns || len(b.Approved) > maxPatterns:
		return refuse("that many names", fmt.Sprintf("give at most %d, with wildcards", maxPatterns))
	}
	for _, list := range [][]string{b.Names, b.Approved} {
		if _, err := compile(b.Scope, list); err != nil {
			return refuse(err.Error(), "give names such as dns:shop.test, dns:*.shop.test, ip:192.0.2.7 or ip:192.0.2.0/24")
		}
	}
	return nil
}

// terms says in a fact what a key is good for.
func (b Binding) terms() string {
	all := "all names of the scope"
	if b.Names != nil {
		all = "names " + strings.Join(b.Names, " ")
	}
	if len(b.Approved) > 0 {
		all += ", without proof " + strings.Join(b.Approved, " ")
	}
	return b.Label + ": " + all
}

// compile makes rights of patterns. Of a kind that has none, nothing is allowed.
func compile(scope identity.Scope, patterns []string) (policy.Chain, error) {
	r := policy.Rights{DNS: []string{}, IP: []string{}, SPIFFE: []string{}}
	for _, p := range patterns {
		kind, value, ok := strings.Cut(p, ":")
		switch {
		case ok && kind == "dns" && value != "" && value != "*":
			r.DNS = append(r.DNS, value)
		case ok && kind == "ip" && isRange(value):
			r.IP = append(r.IP, value)
		default:
			return nil, fmt.Errorf("name %.80q", p)
		}
	}
	c, err := policy.Compile(scope, r)
	return policy.Chain{c}, err
}

func isRange(s string) bool {
	_, err := netip.ParseAddr(s)
	_, err2 := netip.ParsePrefix(s)
	return err == nil || err2 == nil
}

// ListBindings returns external account keys of scope made after one of them, the oldest first.
func (s *Server) ListBindings(ctx context.Context, who identity.Caller, scope identity.Scope, after uid.UID, limit int) ([]Binding, error) {
	if err := mayBind(who, scope); err != nil {
		return nil, err
	}
	list, err := s.Store.ListBindings(ctx, scope, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing external account keys of %s: %w", scope, err)
	}
	return list, nil
}

// RevokeBinding ends an external account key of scope: it binds no account any more, and those it bound order nothing any
// more, on every replica from the next order on. Their certificates stand. Asked again, it returns the same.
func (s *Server) RevokeBinding(ctx context.Context, who identity.Caller, scope identity.Scope, id uid.UID) (Binding, error) {
	if err := mayBind(who, scope); err != nil {
		return Binding{}, err
	}
	b, _, err := s.binding(ctx, id)
	if err == nil && b.Scope != scope {
		err = ErrNotFound
	}
	if err != nil {
		return Binding{}, fmt.Errorf("reading external account key %s: %w", id, err)
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	f := audit.Fact{At: now, Who: who, Scope: scope, What: audit.BindingRevoked, Subject: id.String(), Why: b.Label}
	if _, err := s.Store.RevokeBinding(ctx, id, now, f); err != nil {
		return Binding{}, fmt.Errorf("revoking external account key %s: %w", id, err)
	}
	b, _, err = s.binding(ctx, id)
	return b, err
}

func (s *Server) binding(ctx context.Context, id uid.UID) (Binding, []byte, error) {
	if id.Kind() != uid.Binding {
		return Binding{}, nil, ErrNotFound
	}
	return s.Store.Binding(ctx, id)
}

// A Proof shows that whoever registers was given an external account key. Its form was checked by the door.
type Proof struct {
	KeyID  string
	Verify func(secret []byte) error // whether the MAC is of that secret
}

// bind finds the key of a proof, refusing what does not show it (RFC 8555 §7.3.4: "If any of these checks fail, then the CA
// MUST reject the newAccount request"). A key that is not there and a MAC of another key look alike.
func (s *Server) bind(ctx context.Context, who identity.Caller, p *Proof) (Binding, error) {
	if p == nil {
		v, err := s.Setting(ctx, who.Scope)
		if err == nil && *v.BindingRequired {
			err = problem(ExternalAccountRequired, `a new account needs an external account key: send "externalAccountBinding" with the one you were given (RFC 8555 §7.3.4)`)
		}
		return Binding{}, err
	}
	unknown := problem(Unauthorized, `"externalAccountBinding" is not signed with an external account key of this directory: check the key's identifier and its secret (RFC 8555 §7.3.4)`)
	id, err := uid.Parse(p.KeyID)
	if err != nil {
		return Binding{}, unknown
	}
	b, sealed, err := s.binding(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && b.Scope != who.Scope {
		return Binding{}, unknown
	}
	if err != nil {
		return Binding{}, fmt.Errorf("reading external account key %s: %w", id, err)
	}
	if s.Sealer == nil {
		return Binding{}, fmt.Errorf("external account key %s: nothing opens its secret", id)
	}
	secret, err := s.Sealer.Open(ctx, bindingPurpose(id), sealed)
	if err != nil {
		return Binding{}, fmt.Errorf("opening external account key %s: %w", id, err)
	}
	if p.Verify(secret) != nil {
		return Binding{}, unknown
	}
	return b, b.usable(s.Now())
}

// usable refuses a key that binds no accounts any more. Only who has the secret is told why.
func (b Binding) usable(now time.Time) error {
	switch state := b.State(now); state {
	case "revoked", "expired":
		return problem(Unauthorized, "the external account key is %s: ask for another", state)
	}
	return nil // whether it is used up, its use decides: the account that asks may be the one it bound
}

func spent() *Problem {
	return problem(Unauthorized, "the external account key has bound as many accounts as it may: use the account it bound, or ask for another key")
}

// bound records an account made with key b.
func (s *Server) bound(ctx context.Context, who identity.Caller, a Account, b Binding, made audit.Fact) (Account, bool, error) {
	a.Binding = b.ID
	used := audit.Fact{At: made.At, Who: who, Scope: a.Scope, What: audit.BindingUsed, Subject: b.ID.String(), Why: "account " + a.ID.String()}
	a, fresh, err := s.Store.BindAccount(ctx, a, made, used)
	if errors.Is(err, ErrSpent) {
		return Account{}, false, spent()
	}
	return a, fresh, err
}

// PreApproved is how an authorization was proved that its account's external account key spared the challenge.
const PreApproved Method = "pre-approved"

// key returns the external account key of h's account, the zero one where it has none, and refuses an account whose key was
// revoked. It is read at each order, so that a revocation holds at once and everywhere.
func (s *Server) key(ctx context.Context, h Holder) (Binding, error) {
	if h.Binding.IsZero() {
		return Binding{}, nil
	}
	b, _, err := s.binding(ctx, h.Binding)
	if err != nil {
		return Binding{}, fmt.Errorf("reading external account key %s: %w", h.Binding, err)
	}
	if !b.Revoked.IsZero() {
		return Binding{}, problem(Unauthorized, "the external account key of this account was revoked: it orders nothing any more; ask for another key and make another account")
	}
	return b, nil
}

// approvalStands refuses an order of h that was spared a proof by an external account key that has been revoked since. What a
// challenge proved stands without it.
func (s *Server) approvalStands(ctx context.Context, h Holder, o Order) error {
	for _, a := range o.Authorizations {
		if a.Validation != nil && a.Validation.Method == PreApproved {
			_, err := s.key(ctx, h)
			return err
		}
	}
	return nil
}

// within refuses names that b does not let its accounts order.
func (s *Server) within(ctx context.Context, h Holder, b Binding, o Order) error {
	if b.Names == nil {
		return nil
	}
	rights, err := compile(b.Scope, b.Names)
	if err != nil {
		return fmt.Errorf("reading the names of external account key %s: %w", b.ID, err)
	}
	var refused []*Problem
	for _, n := range o.Names {
		if rights.Allow(n) != nil {
			p := problem(RejectedIdentifier, "%s is not among the names of the account's external account key %s: order one of %s", n, b.ID, strings.Join(b.Names, ", "))
			refused = append(refused, p.about(IdentifierOf(n)))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return s.refused(ctx, h, gather(refused))
}

// spares returns the places of o's authorizations whose names b approved beforehand.
func (b Binding) spares(o Order) ([]int, error) {
	if len(b.Approved) == 0 {
		return nil, nil
	}
	rights, err := compile(b.Scope, b.Approved)
	if err != nil {
		return nil, fmt.Errorf("reading the names that external account key %s approved: %w", b.ID, err)
	}
	var at []int
	for i, a := range o.Authorizations {
		if rights.Allow(a.Name) == nil {
			at = append(at, i)
		}
	}
	return at, nil
}

// approve makes the authorizations of o at those places valid without a challenge: each a fact.
func (s *Server) approve(ctx context.Context, h Holder, o *Order, at []int) error {
	if len(at) == 0 {
		return nil
	}
	v := Validation{Method: PreApproved, At: s.Now().UTC().Truncate(time.Microsecond), Evidence: "external account key " + h.Binding.String()}
	o.Authorizations = slices.Clone(o.Authorizations)
	var all []uid.UID
	var facts []audit.Fact
	for _, n := range at {
		a := &o.Authorizations[n]
		if a.Validation != nil && a.Validation.Method != PreApproved {
			continue // proved by a challenge
		}
		if a.Subdomains || a.Name != o.Names[n] { // approval is of the name alone, whatever the order rests on
			continue
		}
		all = append(all, a.ID)
		facts = append(facts, audit.Fact{At: v.At, Who: h.Caller(), Scope: h.Scope, What: audit.Approve, Subject: a.Name.String(), Why: v.Evidence + ", order " + o.ID.String()})
		a.Validation = &v
	}
	if err := s.Store.Approve(ctx, all, v, facts...); err != nil {
		return fmt.Errorf("approving the names of order %s: %w", o.ID, err)
	}
	for _, id := range all {
		s.memory.settled(id, v)
	}
	return nil
}
