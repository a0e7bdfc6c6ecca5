package ca_test

import (
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
)

// server issues a certificate for a name, changed by each of change.
func server(t *testing.T, h *pkitest.House, name string, change ...func(*ca.Request)) ca.Certificate {
	t.Helper()
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:"+name)}
	for _, f := range change {
		f(&req)
	}
	c, err := h.Issue(t.Context(), demo, req)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func window(t *testing.T, h *pkitest.House, s cert.Serial) ca.RenewalInfo {
	t.Helper()
	h.Advance(3 * time.Second) // past what is believed
	info, err := h.RenewalInfo(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if info.Window.End.Sub(info.Window.Start) <= time.Second {
		t.Errorf("the window is %s to %s: no wider than a second", info.Window.Start, info.Window.End)
	}
	return info
}

func TestWindowsAreOfCertificatesAlone(t *testing.T) {
	h, l := faulty(t)
	if _, err := h.RenewalInfo(t.Context(), cert.NewSerial(1, h.Now())); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("a serial nobody made: %v", err)
	}
	if _, err := h.RenewalInfo(t.Context(), cert.NewSerial(1, h.Now().Add(-20*365*24*time.Hour))); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("a serial of an epoch that is not there: %v", err)
	}
	if _, err := h.RenewalInfo(t.Context(), cert.Serial{}); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("no serial: %v", err)
	}
	l.lose("complete", before)
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
	if _, err := h.Issue(t.Context(), demo, req); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	known, err := h.Ledger.Serials(t.Context(), cert.Serial{}, 1000)
	must(t, err)
	open := 0 // serials of one second are in no order
	for _, k := range known {
		if k.State != "open" {
			continue
		}
		open++
		if _, err := h.RenewalInfo(t.Context(), k.Serial); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("an open intent: %v", err)
		}
	}
	if open != 1 {
		t.Errorf("%d open intents, want the one that was lost", open)
	}
}

func TestTheWindowOfARevokedCertificateIsNow(t *testing.T) {
	h := pkitest.New(t)
	c := server(t, h, "a.demo.test")
	usual := window(t, h, c.Serial)
	// It begins from fifteen to sixteen of the twenty-four parts of its life on: the serial draws the lot.
	part := c.NotAfter.Sub(c.NotBefore) / 24
	if at := usual.Window.Start.Sub(c.NotBefore); at < 15*part-time.Second || at > 16*part || !usual.ReplacedBy.IsZero() || usual.RetryAfter != 6*time.Hour {
		t.Errorf("of a certificate of 30 days: %+v", usual)
	}
	if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if now := window(t, h, c.Serial); now.Window.End.After(h.Now()) {
		t.Errorf("revoked: %+v", now)
	}
}

func TestWhoSaysWhatItReplacesIsItsSuccessor(t *testing.T) {
	h, l := faulty(t)
	old := server(t, h, "a.demo.test")
	if by := window(t, h, old.Serial).ReplacedBy; !by.IsZero() {
		t.Fatalf("replaced by %s", by)
	}
	l.lose("complete", before) // an intent that is never signed replaces nothing
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"), Replaces: old.Serial}
	if _, err := h.Issue(t.Context(), demo, req); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	if by := window(t, h, old.Serial).ReplacedBy; !by.IsZero() {
		t.Errorf("replaced by %s, which was never signed", by)
	}
	next := server(t, h, "a.demo.test", func(r *ca.Request) { r.Replaces = old.Serial })
	if by := window(t, h, old.Serial).ReplacedBy; by != next.Serial {
		t.Errorf("replaced by %s, want %s", by, next.Serial)
	}
	for name, s := range map[string]cert.Serial{"nobody's": cert.NewSerial(1, h.Now()), "an epoch's that is gone": cert.NewSerial(1, h.Now().Add(-20*365*24*time.Hour))} {
		c := server(t, h, "a.demo.test", func(r *ca.Request) { r.Replaces = s })
		if err := h.Ledger.Stands(t.Context(), c.Serial); err != nil {
			t.Errorf("replacing %s serial: %v", name, err)
		}
	}
}

func TestARenewalIsASuccessor(t *testing.T) {
	h := pkitest.New(t)
	who := enrolled(t, h)
	next, err := h.Renew(t.Context(), who, pkitest.CSR(t, pkitest.Key(t)))
	must(t, err)
	if by := window(t, h, who.Serial).ReplacedBy; by != next.Serial {
		t.Errorf("replaced by %s, want %s", by, next.Serial)
	}
}

func TestAskedEndsAreKeptToTheSecond(t *testing.T) {
	h := pkitest.New(t)
	now := h.Now().UTC().Truncate(time.Second)
	from, to := now.Add(time.Hour), now.Add(25*time.Hour)
	c := server(t, h, "a.demo.test", func(r *ca.Request) { r.NotBefore, r.NotAfter = from, to })
	if !c.NotBefore.Equal(from) || !c.NotAfter.Equal(to) {
		t.Errorf("%s to %s, want %s to %s", c.NotBefore, c.NotAfter, from, to)
	}
	if c := server(t, h, "a.demo.test", func(r *ca.Request) { r.NotAfter = to }); !c.NotAfter.Equal(to) || c.NotBefore.After(h.Now()) {
		t.Errorf("until %s: %s to %s", to, c.NotBefore, c.NotAfter)
	}
	if c := server(t, h, "a.demo.test", func(r *ca.Request) { r.NotBefore = from }); !c.NotBefore.Equal(from) || c.NotAfter.Sub(from) < 29*24*time.Hour {
		t.Errorf("from %s: %s to %s", from, c.NotBefore, c.NotAfter)
	}
}

func TestAskedEndsAreRefused(t *testing.T) {
	h := pkitest.New(t)
	now, day := h.Now(), 24*time.Hour
	for name, ask := range map[string]func(*ca.Request){
		"in the past":                    func(r *ca.Request) { r.NotBefore = now.Add(-2 * time.Hour) },
		"over already":                   func(r *ca.Request) { r.NotAfter = now.Add(-time.Second) },
		"over at once":                   func(r *ca.Request) { r.NotAfter = now.Add(3 * time.Second) },
		"before it begins":               func(r *ca.Request) { r.NotBefore, r.NotAfter = now.Add(2*day), now.Add(day) },
		"longer than the profile":        func(r *ca.Request) { r.NotAfter = now.Add(91 * day) },
		"beyond the profile, though new": func(r *ca.Request) { r.NotBefore, r.NotAfter = now.Add(60*day), now.Add(100*day) },
		"beside a life":                  func(r *ca.Request) { r.NotAfter, r.Life = now.Add(day), time.Hour },
	} {
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
		ask(&req)
		_, err := h.Issue(t.Context(), demo, req)
		if r, ok := errors.AsType[*policy.Refusal](err); !ok || r.Remedy == "" {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}
