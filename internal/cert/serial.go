package cert

import (
	"fmt"
	"math/big"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// A Serial is 18 octets, the first 10 (hex): positive, unpredictable by 96 random bits, sorted by time, and never more
// than 20 octets in DER (RFC 5280 §4.1.2.2). The zero Serial is not a serial.
type Serial struct{ u uid.UID }

// NewSerial returns a fresh serial for a certificate that site issues at t.
func NewSerial(site byte, t time.Time) Serial { return Serial{uid.New(uid.Certificate, site, t)} }

// ParseSerial reads the text form: 36 lower-case hex digits.
func ParseSerial(s string) (Serial, error) {
	u, err := uid.Parse(s)
	if err != nil || u.Kind() != uid.Certificate {
		return Serial{}, fmt.Errorf("serial %.40q: want 36 lower-case hex digits, the first two 10", s)
	}
	return Serial{u}, nil
}

// SerialFromBytes reads the stored form.
func SerialFromBytes(b []byte) (Serial, error) {
	u, err := uid.FromBytes(b)
	if err != nil || u.Kind() != uid.Certificate {
		return Serial{}, fmt.Errorf("serial of %d octets: want 18, the first 10 (hex)", len(b))
	}
	return Serial{u}, nil
}

// SerialFromInt reads a serial out of a parsed certificate. It refuses numbers no site of ours can have issued.
func SerialFromInt(n *big.Int) (Serial, error) {
	if n == nil || n.Sign() <= 0 || n.BitLen() > 8*uid.Size {
		return Serial{}, fmt.Errorf("serial: not one of this service's: want 18 octets, the first 10 (hex)")
	}
	return SerialFromBytes(n.FillBytes(make([]byte, uid.Size)))
}

// Int returns the serial as certificates carry it.
func (s Serial) Int() *big.Int { return new(big.Int).SetBytes(s.u.Bytes()) }

// Bytes returns the stored form, 18 octets.
func (s Serial) Bytes() []byte { return s.u.Bytes() }

// Append appends the octets to b.
func (s Serial) Append(b []byte) []byte { return s.u.Append(b) }

// UID returns the serial as an identifier.
func (s Serial) UID() uid.UID { return s.u }

// Epoch returns the epoch the serial was made in; it names the CRL that lists it.
func (s Serial) Epoch() uid.Epoch { return s.u.Epoch() }

// Time returns the second the serial was made in.
func (s Serial) Time() time.Time { return s.u.Time() }

// String returns the text form.
func (s Serial) String() string { return s.u.String() }

// IsZero reports whether s is no serial.
func (s Serial) IsZero() bool { return s.u.IsZero() }

// MarshalText implements encoding.TextMarshaler.
func (s Serial) MarshalText() ([]byte, error) { return s.u.MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Serial) UnmarshalText(b []byte) error {
	v, err := ParseSerial(string(b))
	if err == nil {
		*s = v
	}
	return err
}
