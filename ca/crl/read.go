package crl

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

// A Reading is a list as a relying party finds it: signed by its authority, and for its shard.
type Reading struct {
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	body                   *body
	at                     int // of the next entry
}

var errOtherShard = errors.New("its distribution point is another shard's")

// Read reads a complete list of s, and refuses one that a did not sign or that is for another shard.
func Read(der []byte, a Authority, s Standing) (*Reading, error) {
	list, err := reopen(append(make([]byte, room, room+len(der)), der...))
	if err != nil {
		return nil, err
	}
	if err := kms.Verify(a.Certificate.PublicKey, list.signed, list.signature); err != nil {
		return nil, err
	}
	r := &Reading{body: list.body, at: list.start}
	if !readTime(&list.times, &r.ThisUpdate) || !readTime(&list.times, &r.NextUpdate) {
		return nil, errMalformed
	}
	said := ""
	for !list.extensions.Empty() {
		if !r.readExtension(&list.extensions, &said) {
			return nil, errMalformed
		}
	}
	if want := a.url(s); said != want {
		return nil, fmt.Errorf("%w: %.200q, want %q", errOtherShard, said, want)
	}
	return r, nil
}

func readTime(s *cryptobyte.String, t *time.Time) bool {
	if s.PeekASN1Tag(asn1.UTCTime) {
		return s.ReadASN1UTCTime(t)
	}
	return s.ReadASN1GeneralizedTime(t)
}

// readExtension takes the number and the distribution point's URL, and passes over the rest.
func (r *Reading) readExtension(list *cryptobyte.String, url *string) bool {
	var e, id, value cryptobyte.String
	if !list.ReadASN1(&e, asn1.SEQUENCE) || !e.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER) || !e.SkipOptionalASN1(asn1.BOOLEAN) ||
		!e.ReadASN1(&value, asn1.OCTET_STRING) {
		return false
	}
	switch {
	case bytes.Equal(id, idNumber):
		return value.ReadASN1Integer(&r.Number)
	case bytes.Equal(id, idDistribution):
		var point, name, full, uri cryptobyte.String
		ok := value.ReadASN1(&point, asn1.SEQUENCE) && point.ReadASN1(&name, tagZero) && name.ReadASN1(&full, tagZero) && full.ReadASN1(&uri, tagURI)
		*url = string(uri)
		return ok
	}
	return true
}

// Next returns the next entry's serial, in ascending order; the zero Serial at the end.
func (r *Reading) Next() (cert.Serial, error) {
	if r.at >= r.body.end {
		return cert.Serial{}, nil
	}
	s, err := cert.SerialFromBytes(r.body.serialAt(r.at))
	r.at += 2 + int(r.body.buf[r.at+1])
	return s, err
}

// Name is the last part of the URL of the list of s.
func (s Standing) Name() string {
	u := Authority{}.deltaURL(s)
	return u[:len(u)-len(deltaSuffix)] + suffix
}
