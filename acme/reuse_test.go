package acme_test

import (
	"slices"
	"testing"

	"codeberg.org/dataverket/segl/acme"
)

func TestAStandingRecordProvesNoNameBelowItsOwn(t *testing.T) {
	a := claim(t, nil)
	a.Subdomains = true
	if got := a.Methods(); !slices.Equal(got, []acme.Method{acme.DNS01, acme.DNSAccount01}) {
		t.Errorf("%s and all below it are proved by %v", a.Name, got)
	}
	if c, ok := a.Challenge(acme.DNSPersist01); ok {
		t.Errorf("offers %+v", c)
	}
	for _, c := range a.Challenges() {
		if c.Method == acme.DNSPersist01 {
			t.Errorf("shows %+v", c)
		}
	}
	// The name by itself, and the wildcard, are proved by it: each has a record that says so.
	for _, n := range []string{"dns:a.test", "dns:*.a.test"} {
		if !slices.Contains(acme.MethodsFor(name(t, n)), acme.DNSPersist01) {
			t.Errorf("%s is not offered the record", n)
		}
	}
}
