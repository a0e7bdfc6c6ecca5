package incident_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
)

var morning = time.Date(2026, 5, 4, 6, 0, 0, 0, time.UTC)

func TestTheUsualWindowLiesAroundTwoThirdsOfALife(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, 24 * time.Hour, 90 * 24 * time.Hour} {
		seen := map[time.Time]bool{}
		for range 200 {
			w := incident.Usual(cert.NewSerial(1, morning), morning, morning.Add(life))
			if w.Start.Before(morning.Add(life*6/10)) || w.End.After(morning.Add(life*9/10)) {
				t.Fatalf("%s: the window is %s to %s", life, w.Start, w.End)
			}
			if w.End.Sub(w.Start) < 2*time.Second {
				t.Fatalf("%s: the window is %s long", life, w.End.Sub(w.Start))
			}
			seen[w.Start] = true
		}
		if life >= 24*time.Hour && len(seen) < 100 {
			t.Errorf("%s: 200 certificates share %d windows", life, len(seen))
		}
	}
}

func TestAWindowIsTheSameEachTimeItIsAsked(t *testing.T) {
	s := cert.NewSerial(1, morning)
	p := incident.Pull{At: morning, Spread: time.Hour}
	if a, b := incident.Usual(s, morning, morning.Add(time.Hour)), incident.Usual(s, morning, morning.Add(time.Hour)); a != b {
		t.Errorf("%v, then %v", a, b)
	}
	if a, b := p.Window(s), p.Window(s); a != b {
		t.Errorf("%v, then %v", a, b)
	}
}

func TestAPullIsSpreadAndStaysInItsSpread(t *testing.T) {
	for _, spread := range []time.Duration{time.Minute, time.Hour, 30 * 24 * time.Hour} {
		p := incident.Pull{At: morning.Add(300 * time.Millisecond), Spread: spread}
		var early, late int
		for range 400 {
			w := p.Window(cert.NewSerial(1, morning))
			if w.Start.Before(morning) || w.End.After(morning.Add(spread).Add(time.Second)) || w.End.Sub(w.Start) < 2*time.Second {
				t.Fatalf("%s: the window is %s to %s", spread, w.Start, w.End)
			}
			if w.Start.Before(morning.Add(spread * 7 / 16)) {
				early++
			} else {
				late++
			}
		}
		if early < 100 || late < 100 {
			t.Errorf("%s: %d early and %d late", spread, early, late)
		}
	}
}

func TestNoWindowIsNarrowerThanTwoSeconds(t *testing.T) {
	s := cert.NewSerial(1, morning)
	for name, w := range map[string]incident.Window{
		"no life":   incident.Usual(s, morning, morning),
		"no spread": incident.Pull{At: morning}.Window(s),
		"now":       incident.Now(morning.Add(999 * time.Millisecond)),
	} {
		if w.End.Sub(w.Start) != 2*time.Second || w.Start != morning {
			t.Errorf("%s: %s to %s", name, w.Start, w.End)
		}
	}
}
