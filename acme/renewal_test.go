package acme_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

func FuzzParseCertID(f *testing.F) {
	id := acme.CertID{KeyID: []byte("12345678901234567890"), Serial: cert.NewSerial(1, time.Unix(1<<30, 0))}
	for _, s := range []string{id.String(), "", ".", "a.b", id.String() + "=", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", id.String() + "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := acme.ParseCertID(s)
		if err == nil && (id.String() != s || id.IsZero() || len(id.KeyID) == 0) {
			t.Errorf("%q is taken for %q", s, id)
		}
	})
}
