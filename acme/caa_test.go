package acme_test

import (
	"testing"

	"codeberg.org/dataverket/segl/acme"
)

func TestAnOrderOfLongAgoRenewsWhileAMethodIsPermitted(t *testing.T) {
	for what, c := range map[string]struct {
		permit func(acme.Check) *acme.Problem
		issued int
		ended  acme.ErrorType
	}{
		"all": {func(acme.Check) *acme.Problem { return nil }, 1, ""},
		"one method": {func(c acme.Check) *acme.Problem {
			if c.Method == acme.DNS01 {
				return nil
			}
			return acme.NewProblem(acme.CAA, "another method")
		}, 1, ""},
		"a draft's that is off": {func(c acme.Check) *acme.Problem {
			if c.Method == acme.DNSPersist01 {
				return nil
			}
			return acme.NewProblem(acme.CAA, "another method")
		}, 0, acme.CAA},
		"none of one name": {func(c acme.Check) *acme.Problem {
			if c.Name.Value() == "a.test" {
				return nil
			}
			return acme.NewProblem(acme.CAA, "forbidden")
		}, 0, acme.CAA},
		"not found out": {func(acme.Check) *acme.Problem { return acme.NewProblem(acme.DNS, "no answer") }, 0, ""},
	} {
		t.Run(what, func(t *testing.T) {
			s := &sky{permit: c.permit}
			s.add(t, "a", "dns:a.test", "dns:b.test")
			err := s.server(t).RenewStars(t.Context())
			st := s.stars[0]
			late := c.issued == 0 && c.ended == ""
			if len(s.issued) != c.issued || (err != nil) != late || late != (st.Term == 2 && !st.Next.IsZero()) {
				t.Errorf("%d issued, %+v, %v", len(s.issued), st, err)
			}
			if (st.Problem != nil) != (c.ended != "") {
				t.Errorf("ended by %v", st.Problem)
			}
		})
	}
}
