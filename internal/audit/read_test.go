package audit_test

import (
	"testing"

	"codeberg.org/dataverket/segl/internal/audit"
)

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"", "1.2", "1", "1.", "1.2.3", "01.2", "1.+2", "-1.2", "1.-2", "1.2 ", "x.y", "18446744073709551615.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := audit.ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q has another spelling, %q", s, p)
		}
	})
}
