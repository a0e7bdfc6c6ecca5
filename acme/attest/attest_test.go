package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/attest"
	"codeberg.org/dataverket/segl/internal/cert"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ"
	device  = "C02XK0AAJG5J"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// A maker certifies what attests.
type maker struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newMaker() maker {
	key := newKey()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return maker{key, must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, t, key.Public(), key))))}
}

func extension(oid string, value []byte) pkix.Extension {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(oid, ".") {
		n, _ := new(big.Int).SetString(part, 10)
		id = append(id, int(n.Int64()))
	}
	return pkix.Extension{Id: id, Value: value}
}

// certify makes a certificate for a key that attests.
func (m maker) certify(key crypto.PublicKey, change func(*x509.Certificate), list ...pkix.Extension) []byte {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "attests"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		ExtraExtensions: list,
	}
	if change != nil {
		change(t)
	}
	return must(x509.CreateCertificate(rand.Reader, t, m.cert, key, m.key))
}

func payload(object any) []byte {
	return must(json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(must(cbor.Marshal(object)))}))
}

func object(format string, statement map[string]any) []byte {
	return payload(map[string]any{"fmt": format, "attStmt": statement})
}

func check(t *testing.T, body []byte) acme.Check {
	t.Helper()
	n, err := cert.ParseDevice(device)
	if err != nil {
		t.Fatal(err)
	}
	return acme.Check{Name: n, Method: acme.DeviceAttest01, Token: token, KeyAuthorization: keyAuth, Payload: body}
}

func verifier(t *testing.T, f attest.Format, m maker) *attest.Verifier {
	t.Helper()
	v, err := attest.New(attest.Config{Roots: map[attest.Format][]*x509.Certificate{f: {m.cert}}, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func accepted(t *testing.T, seen acme.Evidence, p *acme.Problem, key crypto.PublicKey) {
	t.Helper()
	if p != nil {
		t.Error(p)
		return
	}
	if seen.Key != cert.KeyID(sha256.Sum256(must(x509.MarshalPKIXPublicKey(key)))) {
		t.Error("another key is attested")
	}
}

func refused(t *testing.T, p *acme.Problem, word string) {
	t.Helper()
	if p == nil || p.Type != acme.BadAttestationStatement || !strings.Contains(p.Detail, word) {
		t.Errorf("%v, want a refusal that says %q", p, word)
	}
}

// An apple statement, to be changed in one thing.
type appleDevice struct {
	nonce        []byte
	serial, udid string
	noNonce      bool
	by           maker
	change       func(*x509.Certificate)
	key          *ecdsa.PrivateKey
}

func newApple() appleDevice {
	sum := sha256.Sum256([]byte(token))
	return appleDevice{nonce: sum[:], serial: device, udid: "00008030-001A", by: newMaker(), key: newKey()}
}

func (a appleDevice) statement() map[string]any {
	list := []pkix.Extension{}
	if a.serial != "" {
		list = append(list, extension("1.2.840.113635.100.8.9.1", []byte(a.serial)))
	}
	if a.udid != "" {
		list = append(list, extension("1.2.840.113635.100.8.9.2", []byte(a.udid)))
	}
	if !a.noNonce {
		list = append(list, extension("1.2.840.113635.100.8.11.1", a.nonce))
	}
	return map[string]any{"x5c": [][]byte{a.by.certify(a.key.Public(), a.change, list...)}}
}

func TestAppleStatementCounts(t *testing.T) {
	for what, change := range map[string]func(*appleDevice){
		"by serial number": func(*appleDevice) {},
		"by UDID":          func(a *appleDevice) { a.serial, a.udid = "other", device },
	} {
		t.Run(what, func(t *testing.T) {
			a := newApple()
			change(&a)
			seen, p := verifier(t, attest.Apple, a.by).Attest(check(t, object("apple", a.statement())))
			accepted(t, seen, p, a.key.Public())
		})
	}
}

func TestAppleStatementIsRefused(t *testing.T) {
	other := sha256.Sum256([]byte("another token"))
	whole := sha256.Sum256([]byte(keyAuth))
	for what, c := range map[string]struct {
		change func(*appleDevice)
		word   string
	}{
		"without a nonce":          {func(a *appleDevice) { a.noNonce = true }, "no nonce"},
		"with an empty nonce":      {func(a *appleDevice) { a.nonce = nil }, "nonce"},
		"of another token":         {func(a *appleDevice) { a.nonce = other[:] }, "nonce"},
		"of the key authorization": {func(a *appleDevice) { a.nonce = whole[:] }, "nonce"},
		"of another device":        {func(a *appleDevice) { a.serial = "C02XK0AAJG5K" }, "another device"},
		"in small letters":         {func(a *appleDevice) { a.serial = strings.ToLower(device) }, "another device"},
		"without any identifier":   {func(a *appleDevice) { a.serial, a.udid = "", "" }, "names none"},
		"expired":                  {func(a *appleDevice) { a.change = func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Minute) } }, "not valid now"},
		"not begun":                {func(a *appleDevice) { a.change = func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Minute) } }, "not valid now"},
		"by an authority certificate": {func(a *appleDevice) {
			a.change = func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
		}, "authority"},
	} {
		t.Run(what, func(t *testing.T) {
			a := newApple()
			by := a.by
			c.change(&a)
			_, p := verifier(t, attest.Apple, by).Attest(check(t, object("apple", a.statement())))
			refused(t, p, c.word)
		})
	}
	t.Run("by another maker", func(t *testing.T) {
		a := newApple()
		_, p := verifier(t, attest.Apple, newMaker()).Attest(check(t, object("apple", a.statement())))
		refused(t, p, "root")
	})
	t.Run("as another format", func(t *testing.T) {
		a := newApple()
		_, p := verifier(t, attest.Step, a.by).Attest(check(t, object("step", a.statement())))
		refused(t, p, "signature")
	})
	t.Run("of a format not taken", func(t *testing.T) {
		a := newApple()
		_, p := verifier(t, attest.Step, a.by).Attest(check(t, object("apple", a.statement())))
		refused(t, p, "not taken here")
	})
}

// A step statement, to be changed in one thing.
type stepDevice struct {
	signs     string
	signer    crypto.Signer
	key       crypto.Signer
	by        maker
	list      []pkix.Extension
	signature []byte // as it is, when not nil
}

func managed(id string) pkix.Extension {
	return extension("1.3.6.1.4.1.37476.9000.64.4", must(asn1.Marshal(struct {
		ID string `asn1:"utf8"`
	}{id})))
}

func newStep() stepDevice {
	key := newKey()
	return stepDevice{signs: keyAuth, signer: key, key: key, by: newMaker(), list: []pkix.Extension{managed(device)}}
}

func (s stepDevice) statement() map[string]any {
	digest, opts := sha256.Sum256([]byte(s.signs)), crypto.SignerOpts(crypto.SHA256)
	message := digest[:]
	if _, ok := s.signer.(ed25519.PrivateKey); ok {
		message, opts = []byte(s.signs), crypto.Hash(0)
	}
	sig := must(cbor.Marshal(must(s.signer.Sign(rand.Reader, message, opts))))
	if s.signature != nil {
		sig = s.signature
	}
	return map[string]any{"x5c": [][]byte{s.by.certify(s.key.Public(), nil, s.list...)}, "alg": -7, "sig": sig}
}

func TestStepStatementCounts(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for what, key := range map[string]crypto.Signer{"ECDSA": newKey(), "RSA": must(rsa.GenerateKey(rand.Reader, 2048)), "Ed25519": ed} {
		t.Run(what, func(t *testing.T) {
			s := newStep()
			s.key, s.signer = key, key
			seen, p := verifier(t, attest.Step, s.by).Attest(check(t, object("step", s.statement())))
			accepted(t, seen, p, key.Public())
		})
	}
	t.Run("a YubiKey's serial number", func(t *testing.T) {
		s := newStep()
		s.list = []pkix.Extension{extension("1.3.6.1.4.1.41482.3.7", must(asn1.Marshal(12345678)))}
		c := check(t, object("step", s.statement()))
		c.Name = must(cert.ParseDevice("12345678"))
		seen, p := verifier(t, attest.Step, s.by).Attest(c)
		accepted(t, seen, p, s.key.Public())
	})
}

func TestStepStatementIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*stepDevice)
		word   string
	}{
		"signing another token":     {func(s *stepDevice) { s.signs = "x" + keyAuth[1:] }, "signature"},
		"signing another account's": {func(s *stepDevice) { s.signs = token + ".other" }, "signature"},
		"signed by another key":     {func(s *stepDevice) { s.signer = newKey() }, "signature"},
		"without a signature":       {func(s *stepDevice) { s.signature = []byte{} }, "no signature"},
		"with a signature bare":     {func(s *stepDevice) { s.signature = []byte("bare") }, "signature"},
		"without any identifier":    {func(s *stepDevice) { s.list = nil }, "names none"},
		"of another device":         {func(s *stepDevice) { s.list = []pkix.Extension{managed("other")} }, "another device"},
		"with an unreadable serial": {func(s *stepDevice) { s.list = []pkix.Extension{extension("1.3.6.1.4.1.41482.3.7", []byte("x"))} }, "serial"},
		"with a negative serial": {func(s *stepDevice) {
			s.list = []pkix.Extension{extension("1.3.6.1.4.1.41482.3.7", must(asn1.Marshal(-1)))}
		}, "serial"},
		"with an unreadable device": {func(s *stepDevice) { s.list = []pkix.Extension{extension("1.3.6.1.4.1.37476.9000.64.4", []byte("x"))} }, "device identifier"},
		"with more after the device": {func(s *stepDevice) {
			e := managed(device)
			e.Value = append(e.Value, 5, 0)
			s.list = []pkix.Extension{e}
		}, "device identifier"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStep()
			by := s.by
			c.change(&s)
			_, p := verifier(t, attest.Step, by).Attest(check(t, object("step", s.statement())))
			refused(t, p, c.word)
		})
	}
}

func TestAnswersThatAreNoStatementAreRefused(t *testing.T) {
	s := newStep()
	good := s.statement()
	leaf := good["x5c"].([][]byte)[0]
	deep := any("x")
	for range 20 {
		deep = []any{deep}
	}
	for what, body := range map[string][]byte{
		"nothing":                 []byte(`{}`),
		"an error":                []byte(`{"attObj":"AA","error":"no"}`),
		"not base64url":           []byte(`{"attObj":"a+b="}`),
		"not CBOR":                []byte(`{"attObj":"AAAA"}`),
		"no statement":            payload(map[string]any{"fmt": "step"}),
		"a statement of text":     payload(map[string]any{"fmt": "step", "attStmt": "x"}),
		"a chain of text":         object("step", map[string]any{"x5c": "x"}),
		"no chain":                object("step", map[string]any{"sig": good["sig"]}),
		"an empty chain":          object("step", map[string]any{"x5c": [][]byte{}, "sig": good["sig"]}),
		"a long chain":            object("step", map[string]any{"x5c": [][]byte{leaf, leaf, leaf, leaf, leaf, leaf, leaf}, "sig": good["sig"]}),
		"a chain of other octets": object("step", map[string]any{"x5c": [][]byte{leaf, []byte("x")}, "sig": good["sig"]}),
		"deep nesting":            object("step", map[string]any{"x5c": deep}),
		"a member twice":          []byte(`{"attObj":"` + base64.RawURLEncoding.EncodeToString([]byte("\xa2\x63fmt\x64step\x63fmt\x64step")) + `"}`),
	} {
		t.Run(what, func(t *testing.T) {
			_, p := verifier(t, attest.Step, s.by).Attest(check(t, body))
			refused(t, p, "")
		})
	}
}

func TestNewRefusesAFormatNobodyReads(t *testing.T) {
	_, err := attest.New(attest.Config{Roots: map[attest.Format][]*x509.Certificate{"packed": {newMaker().cert}}, Now: time.Now})
	if err == nil {
		t.Error("taken")
	}
	if _, err := attest.New(attest.Config{}); err == nil {
		t.Error("taken without a clock")
	}
}

func FuzzStatements(f *testing.F) {
	s, a := newStep(), newApple()
	f.Add(object("step", s.statement()))
	f.Add(object("apple", a.statement()))
	f.Add([]byte(`{"attObj":"oA"}`))
	v, err := attest.New(attest.Config{Roots: map[attest.Format][]*x509.Certificate{attest.Step: {s.by.cert}, attest.TPM: {s.by.cert}}, Now: func() time.Time { return noon }})
	if err != nil {
		f.Fatal(err)
	}
	n := must(cert.ParseDevice("X"))
	f.Fuzz(func(t *testing.T, body []byte) { // must not panic, and attest no device that was not there
		if _, p := v.Attest(acme.Check{Name: n, Token: token, KeyAuthorization: keyAuth, Payload: body}); p == nil {
			t.Error("accepted")
		}
	})
}
