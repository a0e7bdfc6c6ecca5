package web_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/web"
)

// A value is a word of the wire that is read and written.
type value interface {
	encoding.TextUnmarshaler
	encoding.TextMarshaler
}

// roundTrip reads b, writes what was read, and reads that again: it must be the same.
func roundTrip(t *testing.T, b []byte, first, second value) bool {
	t.Helper()
	if first.UnmarshalText(b) != nil {
		return false
	}
	wrote, err := first.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.UnmarshalText(wrote); err != nil {
		t.Fatalf("%q was read, and %q, which was written for it, is not: %v", b, wrote, err)
	}
	return true
}

func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", "AWhlcmU", "AWhlcmV=", "AQ", "AWhlcmX", "////", "AmhlcmU", "AX0\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c, d web.Cursor
		if !roundTrip(t, b, &c, &d) {
			return
		}
		if wrote, err := c.MarshalText(); err != nil || !bytes.Equal(wrote, b) || c != d {
			t.Errorf("%q has another spelling, %q (%v)", b, wrote, err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"", "1h", "7d", "7d12h", "d", "-1h", "1d-1h", "9999d", "4095d", "1e9h", "0s", "9223372036s", "1.5h"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, e web.Duration
		if roundTrip(t, b, &d, &e) && (d != e || d <= 0) {
			t.Errorf("%q is %s, then %s", b, time.Duration(d), time.Duration(e))
		}
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"", `"2026-01-02T15:04:05Z"`, `"2026-01-02T15:04:05.9+02:00"`, `"2026-02-30T00:00:00Z"`, "0", "null", `"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, w web.Time
		if json.Unmarshal(b, &v) != nil || v.IsZero() {
			return
		}
		wrote, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(wrote, &w); err != nil || !w.Equal(v.Truncate(time.Second)) {
			t.Errorf("%s is %s, then %s: %v", b, v, w, err)
		}
	})
}

func FuzzIdempotencyKey(f *testing.F) {
	for _, s := range []string{"", "k", "two words", "\x7f", "æ"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var k web.IdempotencyKey
		if k.UnmarshalText(b) == nil && (string(k) != string(b) || len(k) == 0 || len(k) > 255) {
			t.Errorf("%q became %q", b, k)
		}
	})
}
