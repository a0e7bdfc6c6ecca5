package limit_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/limit"
)

func TestRatesHaveOneSpelling(t *testing.T) {
	for s, want := range map[string]limit.Rate{
		"100/1h": {Count: 100, Per: time.Hour}, "5/10s": {Count: 5, Per: 10 * time.Second}, "1/1h30m": {Count: 1, Per: 90 * time.Minute},
		"7/24h": {Count: 7, Per: 24 * time.Hour}, "3/1m30s": {Count: 3, Per: 90 * time.Second}, "unlimited": {},
	} {
		r, err := limit.ParseRate(s)
		if err != nil || r != want || r.String() != s {
			t.Errorf("%s is %v (%s), %v", s, r, r, err)
		}
	}
}

func TestParseRateRefuses(t *testing.T) {
	for _, s := range []string{
		"", "100", "/", "100/", "/1h", "0/1h", "-1/1h", "1/0s", "1/-1h", "1/h", "x/1h", "1.5/1h", "1/1h/1h", "9999999999/1h",
		"2/1us", "1000000/500ms", "1/10000h", "Unlimited", " 1/1h",
	} {
		if r, err := limit.ParseRate(s); err == nil {
			t.Errorf("%q is taken for %v", s, r)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"100/1h", "unlimited", "1/90s", "1/1us", "0/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := limit.ParseRate(s)
		if err != nil {
			return
		}
		again, err := limit.ParseRate(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %v, which reads as %v, %v", s, r, again, err)
		}
	})
}
