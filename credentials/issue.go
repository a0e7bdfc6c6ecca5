package credentials

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Deadlines. A login that was not made in makeDeadline is given up; one that never became ready ends after staleAfter, when no
// target would begin to make it any more.
const (
	makeDeadline   = 10 * time.Second
	finishDeadline = 10 * time.Second
	staleAfter     = 30 * time.Second
)

// Lease makes a login for who, as the binding called name says, that lasts life: no longer than the binding allows and the
// certificate lives. Zero: as long as may be. The password is in the answer and nowhere else.
func (o *Office) Lease(ctx context.Context, who identity.Caller, name Label, life time.Duration) (Lease, Secret, error) {
	f := o.fact(who, who.ID.Scope(), audit.LeaseMade, string(name))
	if err := o.open(); err != nil {
		return Lease{}, Secret{}, err
	}
	// 1. Decide. Nothing is durable yet but a refusal.
	l, err := o.decide(ctx, who, name, life)
	if err != nil {
		return Lease{}, Secret{}, o.refused(ctx, f, err)
	}
	backend, err := o.backend(l.Binding.Target)
	if err != nil {
		return Lease{}, Secret{}, err
	}
	// 2. Write it down. A crash after this leaves an open lease, which ends; never a login that nobody knows.
	if err := o.Book.Open(ctx, l); err != nil {
		return Lease{}, Secret{}, o.refused(ctx, f, fmt.Errorf("opening a lease of %s: %w", name, err))
	}
	// 3. Make it. From here a login may exist, whatever we return.
	var password Secret
	if l.Binding.Way != Certificate {
		password = NewSecret(rand.Text() + rand.Text())
	}
	making, cancel := context.WithTimeout(ctx, makeDeadline)
	made, err := backend.Make(making, l.Binding.Target, l.grant(password))
	cancel()
	// 4. Look once more: what was revoked before the lease was written down would not be seen by the cascade.
	if err == nil {
		err = o.stands(ctx, who)
	}
	// 5. Write down that it is there, even if the requester has gone.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishDeadline)
	defer cancel()
	if err == nil {
		l.ReadyAt = o.Now()
		f.At, f.Subject = l.ReadyAt, l.ID.String()
		err = o.Book.Ready(finish, l, made, f)
	}
	if err != nil {
		o.Count(CountFailed, l.Binding.Target.Kind, 1)
		o.giveUp(finish, l, who)
		return Lease{}, Secret{}, o.refused(ctx, f, fmt.Errorf("making a login at %s: %w", l.Binding.Target.Name, err))
	}
	o.Count(CountMade, l.Binding.Target.Kind, 1)
	return l, password, nil
}

// open returns why nothing may be made, nor last longer, now: the ledger may lack what would forbid it.
func (o *Office) open() error {
	if o.Fenced == nil {
		return nil
	}
	if err := o.Fenced(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return nil
}

// giveUp ends what may be half made. If even that is lost, it ends as stale.
func (o *Office) giveUp(ctx context.Context, l Lease, who identity.Caller) {
	defer o.Wake()
	o.Book.End(ctx, []uid.UID{l.ID}, Incomplete, o.Now(), who) //nolint:errcheck // EndDue does it otherwise
}

// grant is what the target is told of l.
func (l *Lease) grant(p Secret) Grant {
	b := l.Binding
	g := Grant{
		Way: b.Way, Lease: l.ID.String(), Principal: l.Principal, Password: p, Group: string(b.Group), Database: string(b.Database), Until: l.ExpiresAt,
		Connections: b.Connections,
	}
	if !l.Serial.IsZero() {
		g.Serial = l.Serial.Int().String()
	}
	if b.Way == Certificate {
		g.Subject = common(b.Role, l.Scope)
	}
	return g
}

// stands refuses a caller whose certificate is revoked by now.
func (o *Office) stands(ctx context.Context, who identity.Caller) error {
	gone, err := o.Certificates.Revoked(ctx, []cert.Serial{who.Serial})
	if err != nil {
		return fmt.Errorf("asking about certificate %s: %w", who.Serial, err)
	}
	if _, ok := gone[who.Serial]; ok {
		return revokedRefusal(who.Serial)
	}
	return nil
}

func revokedRefusal(s cert.Serial) error {
	return &policy.Refusal{What: "certificate " + s.String(), Rule: "revocation", Remedy: "it is revoked: enrol again"}
}

// decide finds the binding and settles how long.
func (o *Office) decide(ctx context.Context, who identity.Caller, name Label, life time.Duration) (Lease, error) {
	c, err := o.evidence(ctx, who)
	if err != nil {
		return Lease{}, err
	}
	b, err := o.Book.Binding(ctx, who.ID.Scope(), name)
	if err != nil {
		return Lease{}, fmt.Errorf("finding binding %s: %w", name, err)
	}
	refuse := func(what, rule, remedy string) (Lease, error) {
		return Lease{}, &policy.Refusal{What: what, Rule: rule, Remedy: remedy}
	}
	rule := fmt.Sprintf("binding %s of %s", b.Name, b.Scope)
	switch {
	case !b.For.Matches(who.ID):
		return refuse(who.Actor, rule, "it is for "+b.For.String())
	case !b.Logs():
		return refuse("a login", rule, "it is for tokens: ask at the token endpoint")
	case b.Way == Certificate && c.Role != common(b.Role, who.ID.Scope()):
		return refuse("certificate "+who.Serial.String(), rule, "show a certificate of profile database-client for role "+string(b.Role))
	}
	now := o.Now()
	until, err := b.until(life, now, c.NotAfter)
	if err != nil {
		return Lease{}, err
	}
	l := Lease{ID: uid.New(uid.Lease, o.Site, now), Binding: b, Scope: who.ID.Scope(), Identity: who.Actor, Serial: who.Serial, MadeAt: now, ExpiresAt: until}
	if l.Principal = string(b.Role); b.Way == Leased {
		l.Principal = PrincipalOf(l.ID)
	}
	return l, nil
}

// evidence is the certificate that who showed. Leases hang on one, so nothing else will do.
func (o *Office) evidence(ctx context.Context, who identity.Caller) (Evidence, error) {
	if who.ID.IsZero() || who.Serial.IsZero() {
		return Evidence{}, &policy.Refusal{What: "a login", Rule: "logins hang on certificates", Remedy: "connect with a certificate of this service that has an identity"}
	}
	c, err := o.Certificates.Certificate(ctx, who.Serial)
	switch {
	case errors.Is(err, ErrNotFound):
		return c, &policy.Refusal{What: "certificate " + who.Serial.String(), Rule: "the ledger", Remedy: "it was never issued as far as the ledger knows: enrol again"}
	case err != nil:
		return c, fmt.Errorf("reading certificate %s: %w", who.Serial, err)
	case c.Revoked:
		return c, revokedRefusal(who.Serial)
	}
	return c, nil
}

// until settles when a credential of b ends that is made now.
func (b *Binding) until(life time.Duration, now, notAfter time.Time) (time.Time, error) {
	refuse := func(what, rule, remedy string) (time.Time, error) {
		return time.Time{}, &policy.Refusal{What: what, Rule: rule, Remedy: remedy}
	}
	switch {
	case life == 0:
		life = b.Life
	case life < ShortestLease:
		return refuse("a life of "+life.String(), "the shortest life", "ask for "+ShortestLease.String()+" or more")
	case life > b.Life:
		return refuse("a life of "+life.String(), fmt.Sprintf("binding %s of %s", b.Name, b.Scope), "ask for at most "+b.Life.String())
	}
	left := notAfter.Sub(now)
	if left < ShortestLease {
		return refuse("a login for "+max(0, left).Round(time.Second).String(), "no credential outlives its certificate", "renew the certificate first")
	}
	return now.Add(min(life, left)).Truncate(time.Second), nil
}

// Extend lets a lease of who's last longer, from now, and hang on the certificate that who shows: a renewed one takes the
// place of the one before.
func (o *Office) Extend(ctx context.Context, who identity.Caller, id uid.UID, life time.Duration) (Lease, error) {
	f := o.fact(who, who.ID.Scope(), audit.LeaseExtended, id.String())
	if err := o.open(); err != nil {
		return Lease{}, err
	}
	l, err := o.held(ctx, who, id)
	if err != nil {
		return Lease{}, o.refused(ctx, f, err)
	}
	c, err := o.evidence(ctx, who)
	if err != nil {
		return Lease{}, o.refused(ctx, f, err)
	}
	if s := l.State(o.Now()); s != Live || l.Binding.Way == Certificate && who.Serial != l.Serial {
		return Lease{}, fmt.Errorf("%w: lease %s is %s; ask for a new one", ErrEnded, id, s)
	}
	if l.ExpiresAt, err = l.Binding.until(life, o.Now(), c.NotAfter); err != nil {
		return Lease{}, o.refused(ctx, f, err)
	}
	backend, err := o.backend(l.Binding.Target)
	if err != nil {
		return Lease{}, err
	}
	// 1. Our row, so that nothing lives longer there than here. A crash after this leaves a login that ends early.
	l.Serial = who.Serial
	if err := o.Book.Extend(ctx, l, f); err != nil {
		return Lease{}, fmt.Errorf("extending lease %s: %w", id, err)
	}
	// 2. The target's.
	making, cancel := context.WithTimeout(ctx, makeDeadline)
	defer cancel()
	done, err := backend.Extend(making, l.Binding.Target, l.grant(Secret{}))
	if err != nil {
		o.Count(CountFailed, l.Binding.Target.Kind, 1)
		return Lease{}, fmt.Errorf("extending the login of lease %s: %w", id, err)
	}
	if err := o.stands(ctx, who); err != nil { // as for Lease: it hangs on another certificate now
		o.Hear(who.Serial)
		return Lease{}, o.refused(ctx, f, err)
	}
	o.Count(CountExtended, l.Binding.Target.Kind, 1)
	return l, o.Book.Extended(context.WithoutCancel(ctx), id, done)
}

// held returns a lease that who holds. Somebody else's is not there for who.
func (o *Office) held(ctx context.Context, who identity.Caller, id uid.UID) (Lease, error) {
	l, err := o.Show(ctx, who, id)
	if err != nil {
		return l, err
	}
	if who.ID.IsZero() || l.Identity != who.ID.String() {
		return Lease{}, &policy.Refusal{What: "lease " + id.String(), Rule: "leases are their holders'", Remedy: "ask as " + l.Identity}
	}
	return l, nil
}

// Show returns a lease that who may see, with its certificate looked at.
func (o *Office) Show(ctx context.Context, who identity.Caller, id uid.UID) (Lease, error) {
	l, err := o.Book.Lease(ctx, id)
	if err != nil {
		return Lease{}, err
	}
	if mine := !who.ID.IsZero() && l.Identity == who.ID.String(); !mine && !access.May(who, access.ReadCredentials, l.Scope) {
		return Lease{}, fmt.Errorf("%w: lease %s", ErrNotFound, id)
	}
	err = o.look(ctx, []Lease{l}, func(_ int, seen Lease) { l = seen })
	return l, err
}

// look ends those of list whose certificates are revoked, as far as the answer goes: the cascade is about to write it down.
func (o *Office) look(ctx context.Context, list []Lease, set func(int, Lease)) error {
	var serials []cert.Serial
	for _, l := range list {
		if l.EndedAt.IsZero() {
			serials = append(serials, l.Serial)
		}
	}
	if len(serials) == 0 {
		return nil
	}
	gone, err := o.Certificates.Revoked(ctx, serials)
	if err != nil {
		return fmt.Errorf("asking about certificates of leases: %w", err)
	}
	for i, l := range list {
		if at, ok := gone[l.Serial]; ok && l.EndedAt.IsZero() {
			l.EndedAt, l.Why = at, Revoked
			set(i, l)
		}
	}
	return nil
}

// Leases returns a page of what who may see, the newest first, and where the next begins; zero: nowhere.
func (o *Office) Leases(ctx context.Context, who identity.Caller, q Query) ([]Lease, uid.UID, error) {
	if err := access.Check(who, access.ReadCredentials, q.Scope); err != nil {
		return nil, uid.UID{}, err
	}
	list, err := o.Book.Leases(ctx, q)
	if err != nil {
		return nil, uid.UID{}, fmt.Errorf("listing leases: %w", err)
	}
	var next uid.UID
	if len(list) == q.Limit {
		next = list[len(list)-1].ID
	}
	if err := o.look(ctx, list, func(i int, l Lease) { list[i] = l }); err != nil {
		return nil, uid.UID{}, err
	}
	now, out := o.Now(), list[:0]
	for _, l := range list {
		if q.State == "" || l.State(now) == q.State {
			out = append(out, l)
		}
	}
	return out, next, nil
}

// Release ends a lease at once, for its holder or whoever may end credentials in its scope. The answer has what became of it
// so far.
func (o *Office) Release(ctx context.Context, who identity.Caller, id uid.UID) (Lease, error) {
	l, err := o.Show(ctx, who, id)
	if err != nil {
		return Lease{}, err
	}
	f := o.fact(who, l.Scope, audit.LeaseEnded, id.String())
	if l.Identity != who.ID.String() {
		if err := o.may(ctx, who, access.RevokeCredentials, f); err != nil {
			return Lease{}, err
		}
	}
	ended, err := o.Book.End(ctx, []uid.UID{id}, Released, f.At, who)
	if err != nil {
		return Lease{}, fmt.Errorf("ending lease %s: %w", id, err)
	}
	o.Count(CountEnded, l.Binding.Target.Kind, len(ended))
	if len(ended) > 0 {
		if err := o.finish(context.WithoutCancel(ctx), ended); err != nil { // the cascade goes on with it
			o.Wake()
		}
	}
	return o.Show(ctx, who, id)
}

// Receipts returns what was done for a lease that who may see.
func (o *Office) Receipts(ctx context.Context, who identity.Caller, id uid.UID) ([]Receipt, error) {
	if _, err := o.Show(ctx, who, id); err != nil {
		return nil, err
	}
	return o.Book.Receipts(ctx, id)
}
