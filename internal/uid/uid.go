// Package uid names rows that age.
//
// A UID is 18 octets:
//
//	kind (1) · site (1) · second (4, big-endian Unix time) · random (12)
//
// So identifiers sort by time within a kind and a site, a table of them can be range-partitioned on the identifier alone,
// and a look-up touches one partition. Ninety-six random bits make one unguessable; the site octet makes two sites
// disjoint without talking. The first octet of every kind is from 01 to 7f, so that the same bytes are a positive
// ASN.1 INTEGER and may serve as a certificate serial (RFC 5280 §4.1.2.2). UIDs are values and safe for concurrent use.
package uid

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Size is the length of a UID in octets.
const Size = 18

// A Kind says what a UID names.
type Kind byte

// The kinds. A kind is forever: it stands in the first octet of stored rows.
const (
	Certificate   Kind = 0x10 // a certificate serial
	Order         Kind = 0x20 // an ACME order
	Authorization Kind = 0x21 // an ACME authorization
	Account       Kind = 0x22 // an ACME account
	Binding       Kind = 0x23 // a key of external accounts at ACME
	Term          Kind = 0x24 // one certificate of an ACME order that renews itself
	Enrolment     Kind = 0x30 // a one-time enrolment token
	Request       Kind = 0x40 // a direct request that carries an Idempotency-Key
	Incident      Kind = 0x50 // a choice of certificates to be renewed or revoked
	Lease         Kind = 0x60 // a derived login
)

func (k Kind) known() bool {
	switch k {
	case Certificate, Order, Authorization, Account, Binding, Term, Enrolment, Request, Incident, Lease:
		return true
	}
	return false
}

// A UID names one row. The zero UID names nothing.
type UID struct{ b [Size]byte }

// New returns a fresh UID of kind k made by site at time t.
func New(k Kind, site byte, t time.Time) UID {
	u := stamped(k, site, t)
	if _, err := rand.Read(u.b[6:]); err != nil {
		panic("uid: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
	}
	return u
}

// Derive returns the UID of kind k at second t whose random part is the first twelve octets of sum, a
// cryptographic hash: the same input names the same row.
func Derive(k Kind, site byte, t time.Time, sum [32]byte) UID {
	u := stamped(k, site, t)
	copy(u.b[6:], sum[:])
	return u
}

// Floor returns the least UID of kind k that site could make at second t: the lower bound of a partition.
func Floor(k Kind, site byte, t time.Time) UID { return stamped(k, site, t) }

func stamped(k Kind, site byte, t time.Time) UID {
	var u UID
	u.b[0], u.b[1] = byte(k), site
	binary.BigEndian.PutUint32(u.b[2:6], uint32(t.Unix())) //nolint:gosec // good until 2106, by design
	return u
}

// Parse reads the text form: 36 lower-case hex digits. There is one spelling.
func Parse(s string) (UID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != Size || hex.EncodeToString(b) != s {
		return UID{}, fmt.Errorf("identifier %.40q: want %d lower-case hex digits", s, 2*Size)
	}
	return FromBytes(b)
}

// FromBytes reads the stored form.
func FromBytes(b []byte) (UID, error) {
	if len(b) != Size || !Kind(b[0]).known() {
		return UID{}, fmt.Errorf("identifier of %d octets: want %d octets of a known kind", len(b), Size)
	}
	return UID{[Size]byte(b)}, nil
}

// Kind returns what u names.
func (u UID) Kind() Kind { return Kind(u.b[0]) }

// Site returns the site that made u.
func (u UID) Site() byte { return u.b[1] }

// Time returns the second in which u was made.
func (u UID) Time() time.Time {
	return time.Unix(int64(binary.BigEndian.Uint32(u.b[2:6])), 0).UTC()
}

// Epoch returns the epoch in which u was made.
func (u UID) Epoch() Epoch { return EpochOf(u.Time()) }

// Bytes returns the stored form.
func (u UID) Bytes() []byte { return append([]byte(nil), u.b[:]...) }

// Append appends the octets to b.
func (u UID) Append(b []byte) []byte { return append(b, u.b[:]...) }

// String returns the text form.
func (u UID) String() string { return hex.EncodeToString(u.b[:]) }

// IsZero reports whether u names nothing.
func (u UID) IsZero() bool { return u == UID{} }

// MarshalText implements encoding.TextMarshaler.
func (u UID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *UID) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err == nil {
		*u = v
	}
	return err
}
