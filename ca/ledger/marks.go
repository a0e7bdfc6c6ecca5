package ledger

import (
	"crypto/sha256"
	"encoding/binary"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Marks are what the indexes hold of a name or a key: eight octets of a SHA-256. To make two names with one mark takes 2⁶⁴
// tries, and would win nothing: candidates are compared with the certificates' own bytes.

func keyMark(k cert.KeyID) int64 {
	return int64(binary.BigEndian.Uint64(k[:8])) //nolint:gosec // all bits count
}

// nameMark is of a GeneralName in DER.
func nameMark(der []byte) int64 {
	sum := sha256.Sum256(der)
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // all bits count
}

// marked are the marks of one certificate.
type marked struct {
	key     *int64 // nil: the bytes are none of ours, and there is nothing to find them by
	first   *int64 // nil: it has no names
	further []int64
}

// marksOf reads the marks out of to-be-signed bytes, so that they say what the certificate says.
func marksOf(body []byte) marked {
	parts, err := tbs.Read(body)
	if err != nil {
		return marked{}
	}
	key := keyMark(sha256.Sum256(parts.SPKI))
	m := marked{key: &key}
	if len(parts.Names) == 0 {
		return m
	}
	first := nameMark(parts.Names[0])
	m.first = &first
	for _, n := range parts.Names[1:] {
		m.further = append(m.further, nameMark(n))
	}
	return m
}
