package incident

import (
	"encoding/binary"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Window is when a certificate is best renewed: the suggestedWindow of RFC 9773 §4.2. Its ends are whole seconds, and
// the second is later than the first by narrowest at least.
type Window struct{ Start, End time.Time }

// narrowest is the shortest window, so that its ends differ when they are written in whole seconds.
const narrowest = 2 * time.Second

// The usual window lies around two thirds of a certificate's life and is a twenty-fourth of it long.
const (
	usualFrom  = 15 // of usualParts
	usualParts = 24
)

// Usual returns the window of a certificate that nothing has happened to. Certificates made together are moved apart by
// their serials.
func Usual(s cert.Serial, notBefore, notAfter time.Time) Window {
	part := notAfter.Sub(notBefore) / usualParts
	return window(notBefore.Add(usualFrom*part+lot(s, part)), part)
}

// A Pull is an incident as one certificate feels it: from when, over how long, and where a person reads why.
type Pull struct {
	At          time.Time
	Spread      time.Duration
	Explanation string
}

// SuspensionSpread is the time over which the windows of a suspended scope move, from its suspension on.
const SuspensionSpread = time.Hour

// pulledParts is how many windows a spread is long: one window is short enough for its lot to matter.
const pulledParts = 8

// Window returns where in the spread of p a certificate's lot falls. It ends within the spread.
func (p Pull) Window(s cert.Serial) Window {
	part := p.Spread / pulledParts
	return window(p.At.Add(lot(s, p.Spread-part)), part)
}

// Now returns the window of a certificate that is to be renewed at once: it began at t.
func Now(t time.Time) Window { return window(t, 0) }

func window(start time.Time, length time.Duration) Window {
	start = start.UTC().Truncate(time.Second)
	return Window{start, start.Add(max(length, narrowest).Truncate(time.Second))}
}

// lot is a part of most that a serial's random octets draw, always the same.
func lot(s cert.Serial, most time.Duration) time.Duration {
	const octets, steps = 2, 1 << 16
	b := s.Bytes()
	return most / steps * time.Duration(binary.BigEndian.Uint16(b[len(b)-octets:]))
}
