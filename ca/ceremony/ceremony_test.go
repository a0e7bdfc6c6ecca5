package ceremony_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/ceremony"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func key(t *testing.T, alg kms.Algorithm) kms.Key {
	t.Helper()
	k, err := kmstest.NewKeyring().Create(t.Context(), "root", alg)
	must(t, err)
	return k
}

// held is a ceremony that made a root and its list, and its transcript.
func held(t *testing.T, alg kms.Algorithm, before []byte) (*ceremony.Room, *x509.Certificate, []byte) {
	t.Helper()
	r := &ceremony.Room{Key: key(t, alg), Script: ceremony.Begin(now, before, "test"), Now: now}
	root, err := r.Found(t.Context(), "segl.test", "root-far", ceremony.RootLife)
	must(t, err)
	_, err = r.List(t.Context(), root, nil, nil)
	must(t, err)
	text, err := r.Script.End(t.Context(), r.Key, root)
	must(t, err)
	return r, root, text
}

func TestATranscriptSaysWhatWasDoneAndNothingCanBeChanged(t *testing.T) {
	for _, alg := range kms.Algorithms() {
		_, root, text := held(t, alg, nil)
		steps, err := ceremony.Verify(text, nil, root)
		must(t, err)
		if named, same := ceremony.Names(steps, "root", root.Raw); !named || !same {
			t.Errorf("%s: the root is not in its transcript", alg)
		}
	}
	_, root, text := held(t, kms.P256, nil)
	_, other, second := held(t, kms.P256, text)
	lines := bytes.SplitAfter(text, []byte("\n"))
	lines = lines[:len(lines)-1]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for what, spoilt := range map[string][]byte{
		"empty":                    nil,
		"without its end":          join(lines[:len(lines)-1]...),
		"with a step left out":     join(append(append([][]byte{}, lines[:1]...), lines[2:]...)...),
		"with two steps swapped":   join(append([][]byte{lines[0], lines[2], lines[1]}, lines[3:]...)...),
		"with a step twice":        join(append([][]byte{lines[0], lines[0]}, lines[1:]...)...),
		"with a word changed":      bytes.Replace(text, []byte("serial"), []byte("Serial"), 1),
		"with a hash changed":      bytes.Replace(text, []byte(`"sha256":"`), []byte(`"sha256":"0`), 1),
		"with something after":     join(text, lines[0]),
		"with another spelling":    bytes.Replace(text, []byte(`{"n":1,`), []byte(`{"n": 1,`), 1),
		"with a member of its own": bytes.Replace(text, []byte(`{"n":1,`), []byte(`{"n":1,"x":1,`), 1),
		"of another root":          second,
		"without its beginning":    join(lines[1:]...),
		"with a long line":         append(bytes.Repeat([]byte("a"), 2<<20), text...),
	} {
		if _, err := ceremony.Verify(spoilt, nil, root); err == nil {
			t.Errorf("a transcript %s was verified", what)
		}
	}
	if _, err := ceremony.Verify(second, text, other); err != nil {
		t.Errorf("the second, after the first: %v", err)
	}
	if _, err := ceremony.Verify(second, second, other); err == nil {
		t.Error("the second was verified after something else")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"n":1,"previous":"","at":"2026-03-01T12:00:00Z","step":"begin"}` + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if steps, err := ceremony.Verify(text, nil, &x509.Certificate{Raw: []byte{0}}); err == nil {
			t.Errorf("%d steps were verified that no root has signed", len(steps))
		}
	})
}

func request(t *testing.T, k kms.Key, cn string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: cn}, DNSNames: []string{"evil.test"},
	}, kms.Signer(t.Context(), k))
	must(t, err)
	return der
}

func TestOnlyNameAndKeyOfARequestAreTaken(t *testing.T) {
	r, root, _ := held(t, kms.P384, nil)
	ask := ceremony.Ask{Life: ceremony.AuthorityLife, PublicURL: "http://ca.test", RootName: "root-far", Permitted: &lint.Permitted{DNS: []string{"shop.test"}}}
	x, err := r.Certify(t.Context(), root, request(t, key(t, kms.P256), "segl.test servers-1-2"), ask)
	must(t, err)
	must(t, x.CheckSignatureFrom(root))
	switch {
	case !x.IsCA || !x.MaxPathLenZero || len(x.DNSNames) > 0 || !x.PermittedDNSDomainsCritical:
		t.Errorf("CA %t, path %d, names %v, constrained %t", x.IsCA, x.MaxPathLen, x.DNSNames, x.PermittedDNSDomainsCritical)
	case len(x.OCSPServer) > 0 || len(x.CRLDistributionPoints) != 1 || x.CRLDistributionPoints[0] != "http://ca.test/crl/root-far/0.crl":
		t.Errorf("responders %v, lists %v", x.OCSPServer, x.CRLDistributionPoints)
	}
	spoilt := request(t, key(t, kms.P256), "x")
	spoilt[len(spoilt)-1] ^= 1
	for what, try := range map[string]func() error{
		"a request of the root's own key": func() error { _, err := r.Certify(t.Context(), root, request(t, r.Key, "x"), ask); return err },
		"a request that was changed":      func() error { _, err := r.Certify(t.Context(), root, spoilt, ask); return err },
		"nonsense":                        func() error { _, err := r.Certify(t.Context(), root, []byte("x"), ask); return err },
		"a life for ever": func() error {
			long := ask
			long.Life = 100 * 365 * 24 * time.Hour
			_, err := r.Certify(t.Context(), root, request(t, key(t, kms.P256), "x"), long)
			return err
		},
		"vouching for itself":  func() error { _, err := r.Cross(t.Context(), root, root, time.Hour); return err },
		"vouching for no root": func() error { _, err := r.Cross(t.Context(), root, x, time.Hour); return err },
		"a root of a wild name": func() error {
			_, err := r.Found(t.Context(), "segl.test", "Root; rm", time.Hour)
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s was signed", what)
		}
	}
}

func TestAListKeepsWhatTheLastOneNamed(t *testing.T) {
	r, root, _ := held(t, kms.P256, nil)
	ask := ceremony.Ask{Life: ceremony.AuthorityLife, PublicURL: "http://ca.test", RootName: "root-far"}
	var last *x509.RevocationList
	for n := range 3 {
		x, err := r.Certify(t.Context(), root, request(t, key(t, kms.P256), strings.Repeat("x", n+1)), ask)
		must(t, err)
		der, err := r.List(t.Context(), root, last, []ceremony.Revoked{{Certificate: x, At: now(), Reason: cert.CACompromise}})
		must(t, err)
		last, err = x509.ParseRevocationList(der)
		must(t, err)
		if last.Number.Int64() != int64(n+1) || len(last.RevokedCertificateEntries) != n+1 {
			t.Errorf("list %d has number %d and %d entries", n+1, last.Number, len(last.RevokedCertificateEntries))
		}
	}
	_, other, _ := held(t, kms.P256, nil)
	if _, err := r.List(t.Context(), root, last, []ceremony.Revoked{{Certificate: other, At: now()}}); err == nil {
		t.Error("a certificate of another root is on the list")
	}
}
