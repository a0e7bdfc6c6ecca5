package web

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// An IdempotencyKey is the client's name for one write, so that repeating it does nothing twice: 1 to 255 visible ASCII
// octets (draft-ietf-httpapi-idempotency-key-header §2.1, without its quotation marks). The empty one is none.
type IdempotencyKey string

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *IdempotencyKey) UnmarshalText(b []byte) error {
	const most = 255
	if len(b) == 0 || len(b) > most {
		return fmt.Errorf("of %d octets: want 1 to %d", len(b), most)
	}
	for _, c := range b {
		if c < '!' || c > '~' {
			return errors.New("has a character outside visible ASCII")
		}
	}
	*k = IdempotencyKey(b)
	return nil
}

// A Cursor is where a list goes on: opaque to clients, the door's own bytes inside. It is no secret and no right: a door
// checks what it reads out of one like any other input. The zero Cursor is the beginning.
type Cursor struct{ at string }

// cursorForm is the first octet of every cursor, so that those of another form are refused and not misread.
const cursorForm = 1

// CursorAt returns the cursor that holds at.
func CursorAt(at []byte) Cursor { return Cursor{string(at)} }

// At returns what the door put in, empty at the beginning.
func (c Cursor) At() []byte { return []byte(c.at) }

// MarshalText implements encoding.TextMarshaler.
func (c Cursor) MarshalText() ([]byte, error) {
	if c.at == "" {
		return nil, nil
	}
	return []byte(base64.RawURLEncoding.EncodeToString(append([]byte{cursorForm}, c.at...))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cursor) UnmarshalText(b []byte) error {
	const most = 512
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(b))
	// encoding/base64 skips line ends; a cursor has one spelling.
	if err != nil || len(b) > most || len(raw) < 2 || raw[0] != cursorForm || bytes.ContainsAny(b, "\r\n") {
		return errors.New("not a token that this service gave: begin again without one")
	}
	c.at = string(raw[1:])
	return nil
}

// A Page is the part of a list that a request asks for. Embed it in the request.
type Page struct {
	Size  int    `json:"-" query:"page_size" minimum:"1" maximum:"1000" default:"100" description:"How many to answer at most."`
	Token Cursor `json:"-" query:"page_token" description:"The next_page_token of the answer before."`
}

// A Time is an instant on the wire: RFC 3339, UTC, whole seconds.
type Time struct{ time.Time }

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) {
	return t.UTC().Truncate(time.Second).AppendFormat(nil, time.RFC3339), nil
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return t.UTC().Truncate(time.Second).AppendFormat(nil, `"`+time.RFC3339+`"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("time %.40q: want a string (RFC 3339 §5.6)", b)
	}
	return t.UnmarshalText(b[1 : len(b)-1])
}

// UnmarshalText implements encoding.TextUnmarshaler. Any offset is taken.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		return fmt.Errorf("time %.40q: want a form such as 2026-01-02T15:04:05Z (RFC 3339 §5.6)", b)
	}
	t.Time = v.UTC()
	return nil
}

// A Duration is a span of time on the wire: a number with a unit, as in 90m, 24h or 7d; units may be combined, as in
// 1h30m. A day is 24 hours. The zero Duration is none.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler. Nothing and what is below zero are refused.
func (d *Duration) UnmarshalText(b []byte) error {
	refuse := func() error { return fmt.Errorf("duration %.30q: want a positive one such as 90m, 24h or 7d", b) }
	text, days := string(b), time.Duration(0)
	if n, rest, ok := strings.Cut(text, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 12)
		if err != nil {
			return refuse()
		}
		days, text = time.Duration(v)*24*time.Hour, rest
	}
	var v time.Duration
	if text != "" {
		var err error
		if v, err = time.ParseDuration(text); err != nil || v < 0 {
			return refuse()
		}
	}
	if days+v <= 0 {
		return refuse()
	}
	*d = Duration(days + v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }
