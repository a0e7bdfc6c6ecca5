package incident

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Choice says which certificates. What is zero chooses all; a Choice of nothing but zeros is refused. Authorities' own
// certificates and OCSP responders are never chosen.
type Choice struct {
	Authority string         // by name
	Profile   string         // by name
	Scope     identity.Scope // and everything below it
	Name      cert.Name      // as the certificate has it
	Below     string         // a DNS name: every name below it, in place of Name
	Key       cert.KeyID
	From, To  time.Time // issued from, inclusive, to, exclusive
}

// ParseNames reads the name of a Choice: as in "dns:a.demo.test", or ".demo.test" for every DNS name below demo.test.
func (c *Choice) ParseNames(s string) error {
	if below, ok := strings.CutPrefix(s, "."); ok {
		n, err := cert.ParseDNS(below)
		if err != nil || n.Wildcard() {
			return fmt.Errorf("name %.80q: want a DNS name after the dot", s)
		}
		c.Below = n.Value()
		return nil
	}
	n, err := cert.ParseName(s)
	c.Name = n
	return err
}

// Names returns what ParseNames reads, or nothing.
func (c Choice) Names() string {
	switch {
	case c.Below != "":
		return "." + c.Below
	case c.Name != (cert.Name{}):
		return c.Name.String()
	}
	return ""
}

// String says in words what c chooses.
func (c Choice) String() string {
	var said []string
	add := func(what, v string) {
		if v != "" {
			said = append(said, what+" "+v)
		}
	}
	add("authority", c.Authority)
	add("profile", c.Profile)
	add("scope", c.Scope.String())
	add("name", c.Names())
	if c.Key != (cert.KeyID{}) {
		add("key", c.Key.String())
	}
	if !c.From.IsZero() {
		add("issued from", c.From.UTC().Format(time.RFC3339))
	}
	if !c.To.IsZero() {
		add("issued to", c.To.UTC().Format(time.RFC3339))
	}
	return strings.Join(said, ", ")
}

// An Ask is what somebody asks to be done to what a Choice chooses.
type Ask struct {
	ID          uid.UID // where the same request may be repeated; zero makes a new one
	Choice      Choice
	Why         string
	Explanation string
	Spread      time.Duration
	Deadline    time.Time
	Reason      cert.Reason
	Everything  bool // revoke at once and spare nothing; Spread and Deadline are zero
}

// Bounds of an incident.
const (
	MinSpread = time.Minute
	MaxSpread = 90 * 24 * time.Hour
	mostWhy   = 200
)

// check refuses what makes no sense, or more than was meant.
func (a Ask) check(now time.Time, profiles []string) *policy.Refusal { //nolint:cyclop // a list of rules
	refuse := func(what, rule, remedy string) *policy.Refusal {
		return &policy.Refusal{What: what, Rule: rule, Remedy: remedy}
	}
	c := a.Choice
	switch {
	case c == Choice{}:
		return refuse("choosing every certificate", "an incident chooses", "name an authority, a profile, a scope, a name, a key or a time of issue")
	case c.Profile != "" && !slices.Contains(profiles, c.Profile):
		return refuse(fmt.Sprintf("profile %.40q", c.Profile), "the list of profiles", fmt.Sprintf("choose one of %v", profiles))
	case !c.From.IsZero() && !c.From.Before(now):
		return refuse("certificates issued from "+c.From.UTC().Format(time.RFC3339), "an incident is of what was issued before it", "choose an earlier time")
	case !c.From.IsZero() && !c.To.IsZero() && !c.From.Before(c.To):
		return refuse("certificates issued from a time to one before it", "a span of time", "swap the two")
	case a.Why == "" || len(a.Why) > mostWhy:
		return refuse(fmt.Sprintf("a reason of %d octets", len(a.Why)), "an incident says why", fmt.Sprintf("say why in 1 to %d octets", mostWhy))
	case a.Explanation != "" && !isURL(a.Explanation):
		return refuse(fmt.Sprintf("explanation %.80q", a.Explanation), "an explanation is a page (RFC 9773 §4.2)", "give an https URL")
	}
	return a.checkTimes(now)
}

func (a Ask) checkTimes(now time.Time) *policy.Refusal {
	refuse := func(what, rule, remedy string) *policy.Refusal {
		return &policy.Refusal{What: what, Rule: rule, Remedy: remedy}
	}
	ends := !a.Deadline.IsZero() || a.Everything
	switch {
	case a.Everything && (a.Spread != 0 || !a.Deadline.IsZero()):
		return refuse("revoking at once, over a time", "a revocation of everything", "leave spread and deadline out")
	case a.Spread == 0 && !ends:
		return refuse("an incident without a spread and without a deadline", "an incident does something", "give one, or both")
	case a.Spread != 0 && (a.Spread < MinSpread || a.Spread > MaxSpread):
		return refuse("a spread of "+a.Spread.String(), "the bounds of an incident", "ask for "+MinSpread.String()+" to "+MaxSpread.String())
	case !a.Deadline.IsZero() && !a.Deadline.After(now):
		return refuse("a deadline that has passed", "a deadline leaves time to renew", "choose a later one, or revoke at once")
	case !a.Deadline.IsZero() && a.Deadline.After(now.Add(MaxSpread)):
		return refuse("a deadline after "+a.Deadline.Sub(now).Round(time.Hour).String(), "the bounds of an incident", "ask for at most "+MaxSpread.String()+": nothing that it touches lives longer")
	case !a.Deadline.IsZero() && a.Deadline.Before(now.Add(a.Spread)):
		return refuse("a deadline within the spread", "every window ends before the deadline", "choose a later deadline or a shorter spread")
	case ends && a.Reason == cert.KeyCompromise && a.Choice.Key == (cert.KeyID{}):
		return refuse("keyCompromise of certificates not chosen by their key", "keyCompromise bars the key for ever", "choose by key, or give another reason")
	case !ends && a.Reason != cert.Unspecified:
		return refuse("reason "+a.Reason.String()+" without a deadline", "nothing is revoked", "give a deadline, or leave the reason out")
	}
	return nil
}

// A Maker is who makes an incident, and for how long what it touches may live.
type Maker struct {
	Site    byte
	Actor   string
	Longest time.Duration
}

// Incident is what a comes to at now. It touches what is made up to the end of this second.
func (a Ask) Incident(by Maker, now time.Time) Incident {
	i := Incident{
		ID: a.ID, Cause: Operator, Why: a.Why, Explanation: a.Explanation, At: now, Actor: by.Actor, Choice: a.Choice,
		Spread: a.Spread, Deadline: a.Deadline, Reason: a.Reason, Everything: a.Everything, Ends: now.Add(by.Longest),
	}
	if i.ID.IsZero() {
		i.ID = uid.New(uid.Incident, by.Site, now)
	}
	end := now.Add(time.Second).Truncate(time.Second)
	if i.Choice.To.IsZero() || i.Choice.To.After(end) {
		i.Choice.To = end
	}
	if earliest := now.Add(-by.Longest - 24*time.Hour).Truncate(time.Second); i.Choice.From.Before(earliest) {
		i.Choice.From = earliest
	}
	if a.Everything {
		i.Cause, i.Deadline, i.Revoking = Revocation, now, now
	}
	return i
}

func isURL(s string) bool {
	const most = 512
	u, err := url.Parse(s)
	return err == nil && len(s) <= most && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}
