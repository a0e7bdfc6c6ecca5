package incident

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Page is a part of a list: at most Limit items after After.
type Page struct {
	After []byte // an identifier, or nil
	Limit int
}

// A Book keeps incidents. What writes is durable when it returns nil, and may be repeated. Implementations are safe for
// concurrent use.
type Book interface {
	// Record writes i down with its fact, and begins to revoke where it is of everything. ErrConflict: one of that identifier
	// is there that asks for something else; where it asks for the same, nothing happens. ErrNothing: what it chooses by
	// is not there. ErrTooMany. ErrUncounted: it chooses by the end of a name, among too many.
	Record(ctx context.Context, i Incident, f audit.Fact) error
	// Incident returns one, or ErrNotFound.
	Incident(ctx context.Context, id uid.UID) (Incident, error)
	// Incidents returns the newest first.
	Incidents(ctx context.Context, p Page) ([]Incident, error)
	// Count counts what i touches, recorded or not, until ctx is near its end. ErrNothing, ErrUncounted.
	Count(ctx context.Context, i Incident, now time.Time) (Tally, error)
	// Members returns what an incident touches, of one fate or of any, by serial.
	Members(ctx context.Context, i Incident, fate Fate, now time.Time, p Page) ([]Member, error)
	// Cancel ends an incident that does not revoke yet. ErrNotFound, ErrOver.
	Cancel(ctx context.Context, id uid.UID, f audit.Fact) error
	// Due returns the incidents that revoke, or are to begin by now.
	Due(ctx context.Context, now time.Time) ([]uid.UID, error)
	// Begin has an incident revoke from now on, with its fact, unless it does so already or was cancelled.
	Begin(ctx context.Context, id uid.UID, f audit.Fact) error
	// Step revokes the next certificates of an incident, each with a fact, and reports whether there may be more at once.
	Step(ctx context.Context, id uid.UID, now time.Time) (more bool, err error)
	// Refuse records a refusal.
	Refuse(ctx context.Context, f audit.Fact) error
}

// Config is what a Desk is made of.
type Config struct {
	Site     byte
	Book     Book
	Profiles func() []string // that may be chosen
	Longest  time.Duration   // that anything lives which may be chosen
	Now      func() time.Time
	Guard    access.Guard // asked before many are revoked; nil: nobody has to agree
}

// A Desk takes incidents in, shows them, and carries them out.
type Desk struct{ Config }

// New returns a desk.
func New(c Config) *Desk { return &Desk{c} }

// countFor bounds how long counting may take.
const countFor = 5 * time.Second

// Preview counts what an incident would touch, and changes nothing.
func (d *Desk) Preview(ctx context.Context, who identity.Caller, ask Ask) (Tally, error) {
	now := d.Now()
	if err := d.admit(ctx, who, ask, now); err != nil {
		return Tally{}, err
	}
	return d.count(ctx, d.incident(who, ask, now), now)
}

func (d *Desk) count(ctx context.Context, i Incident, now time.Time) (Tally, error) {
	ctx, cancel := context.WithTimeout(ctx, countFor)
	defer cancel()
	return d.Book.Count(ctx, i, now)
}

// Create records an incident. From then on its windows have moved, and, where it revokes everything, everything is revoked.
func (d *Desk) Create(ctx context.Context, who identity.Caller, ask Ask) (Incident, error) {
	now := d.Now()
	if err := d.admit(ctx, who, ask, now); err != nil {
		return Incident{}, err
	}
	i := d.incident(who, ask, now)
	f := audit.Fact{At: now, Who: who, Scope: where(ask.Choice), What: audit.IncidentMade, Subject: i.ID.String(), Why: ask.Choice.String() + ": " + ask.Why}
	if err := d.agreed(ctx, who, ask, i, now); err != nil {
		return Incident{}, err
	}
	err := d.Book.Record(ctx, i, f)
	if errors.Is(err, ErrTooMany) || errors.Is(err, ErrConflict) {
		return Incident{}, d.refuse(ctx, f, "incidents in force", err)
	}
	if err != nil {
		return Incident{}, fmt.Errorf("recording incident %s: %w", i.ID, err)
	}
	return d.Book.Incident(ctx, i.ID)
}

// agreed asks whether a second operator has to confirm that so many are revoked, and did. What cannot be counted is many. What is
// confirmed is what was asked for: the span of time that an incident has of itself is another in each second.
func (d *Desk) agreed(ctx context.Context, who identity.Caller, ask Ask, i Incident, now time.Time) error {
	if d.Guard == nil || i.Deadline.IsZero() {
		return nil
	}
	n := math.MaxInt
	if t, err := d.count(ctx, i, now); err == nil && t.Complete {
		n = t.Chosen - t.Revoked - t.Expired
	}
	terms := fmt.Sprintf("revoke %s, %s, everything %t", ask.Choice, ask.Reason, ask.Everything)
	return d.Guard.Pass(ctx, who, access.Request{Kind: access.RevokeMany, Scope: where(i.Choice), Terms: terms, Count: n})
}

func where(c Choice) identity.Scope {
	if c.Scope.IsZero() {
		return identity.Platform
	}
	return c.Scope
}

// admit lets operators in with what makes sense.
func (d *Desk) admit(ctx context.Context, who identity.Caller, ask Ask, now time.Time) error {
	f := audit.Fact{At: now, Who: who, Scope: where(ask.Choice), What: audit.IncidentMade, Subject: ask.Choice.String()}
	if err := access.Judge(who, access.MakeIncidents, f.Scope); err != nil {
		return d.refuse(ctx, f, err.Rule, err)
	}
	if err := ask.check(now, d.Profiles()); err != nil {
		return d.refuse(ctx, f, err.Rule, err)
	}
	if err := reserved(who, ask); err != nil {
		return d.refuse(ctx, f, err.Rule, err)
	}
	return nil
}

// reserved refuses tenants what reaches past them: reasons that speak of an authority, and a key that they need only name to have
// it blocked for everybody.
func reserved(who identity.Caller, ask Ask) *policy.Refusal {
	switch {
	case access.May(who, access.RevokeAnyhow, identity.Platform):
		return nil
	case !ask.Reason.Subscriber():
		return &policy.Refusal{What: "reason " + ask.Reason.String(), Rule: "reasons a holder may give", Remedy: "give another reason, or ask an operator"}
	case ask.Reason == cert.KeyCompromise:
		return &policy.Refusal{
			What: "blocking key " + ask.Choice.Key.String(), Rule: "a blocked key is blocked for everybody",
			Remedy: "revoke a certificate of yours that has it, for keyCompromise; or ask an operator",
		}
	}
	return nil
}

// refuse records f as refused by rule and returns err, or what kept it from being recorded.
func (d *Desk) refuse(ctx context.Context, f audit.Fact, rule string, err error) error {
	f.Refused, f.Why = true, rule
	if ferr := d.Book.Refuse(context.WithoutCancel(ctx), f); ferr != nil {
		return fmt.Errorf("recording a refusal (%s): %w", rule, ferr)
	}
	return err
}

// incident is what ask comes to at now.
func (d *Desk) incident(who identity.Caller, ask Ask, now time.Time) Incident {
	return ask.Incident(Maker{d.Site, who.Actor, d.Longest}, now)
}

// seen returns an incident to who may see those of its scope. ErrNotFound.
func (d *Desk) seen(ctx context.Context, who identity.Caller, id uid.UID) (Incident, error) {
	i, err := d.Book.Incident(ctx, id)
	if err == nil && !access.May(who, access.ReadIncidents, where(i.Choice)) {
		err = ErrNotFound
	}
	return i, err
}

// Show returns an incident and what became of what it touches.
func (d *Desk) Show(ctx context.Context, who identity.Caller, id uid.UID) (Incident, Tally, error) {
	i, err := d.seen(ctx, who, id)
	if err != nil {
		return Incident{}, Tally{}, err
	}
	t, err := d.count(ctx, i, d.Now())
	if err != nil {
		return Incident{}, Tally{}, fmt.Errorf("counting what incident %s touches: %w", id, err)
	}
	return i, t, nil
}

// List returns incidents, the newest first.
func (d *Desk) List(ctx context.Context, who identity.Caller, p Page) ([]Incident, error) {
	if !access.May(who, access.ReadIncidents, identity.Platform) {
		return nil, ErrNotFound
	}
	return d.Book.Incidents(ctx, p)
}

// Members returns what an incident touches, of one fate, or of any where that is empty.
func (d *Desk) Members(ctx context.Context, who identity.Caller, id uid.UID, fate Fate, p Page) ([]Member, error) {
	i, err := d.seen(ctx, who, id)
	if err != nil {
		return nil, err
	}
	return d.Book.Members(ctx, i, fate, d.Now(), p)
}

// Cancel ends an incident before it revokes: windows go back to where they were. ErrOver: it revokes, or is over.
func (d *Desk) Cancel(ctx context.Context, who identity.Caller, id uid.UID) (Incident, error) {
	f := audit.Fact{At: d.Now(), Who: who, Scope: identity.Platform, What: audit.IncidentCancelled, Subject: id.String()}
	if err := access.Judge(who, access.MakeIncidents, identity.Platform); err != nil {
		return Incident{}, d.refuse(ctx, f, err.Rule, err)
	}
	err := d.Book.Cancel(ctx, id, f)
	if errors.Is(err, ErrOver) {
		return Incident{}, d.refuse(ctx, f, "what revokes is not stopped", err)
	}
	if err != nil {
		return Incident{}, err
	}
	return d.Book.Incident(ctx, id)
}

// RunOnce carries out what is due: it begins incidents whose deadline has come, and revokes step by step until there is
// nothing more to do at once. It may end anywhere: whoever runs next goes on from the last step that was committed.
func (d *Desk) RunOnce(ctx context.Context) error {
	now := d.Now()
	due, err := d.Book.Due(ctx, now)
	if err != nil {
		return fmt.Errorf("looking for incidents that are due: %w", err)
	}
	var errs []error
	for _, id := range due {
		if err := d.carryOut(ctx, id, now); err != nil {
			errs = append(errs, fmt.Errorf("carrying out incident %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Desk) carryOut(ctx context.Context, id uid.UID, now time.Time) error {
	f := audit.Fact{At: now, Who: identity.System("incidents"), Scope: identity.Platform, What: audit.IncidentRevokes, Subject: id.String()}
	if err := d.Book.Begin(ctx, id, f); err != nil {
		return err
	}
	for {
		if more, err := d.Book.Step(ctx, id, d.Now()); err != nil || !more {
			return err
		}
	}
}

// Origin is the identifier of an incident that a request with an Idempotency-Key asks for: the same caller and key.
func Origin(site byte, who identity.Caller, key string) uid.UID {
	sum := sha256.Sum256([]byte(who.Actor + "\x00" + key))
	return uid.Derive(uid.Incident, site, time.Unix(0, 0), sum)
}
