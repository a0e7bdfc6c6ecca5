package ocsp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6960 §4.3
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
)

// An authority that a test made up.
type authority struct {
	ocsp.Authority
	key *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, id int, name string) authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: start.AddDate(-1, 0, 0), NotAfter: start.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{ocsp.Authority{ID: id, Name: name, Certificate: create(tb, c, c, key.Public(), key)}, key}
}

func create(tb testing.TB, c, issuer *x509.Certificate, pub crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, pub, key)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A bench is a responder with a ledger, an enroller and a clock that the test moves.
type bench struct {
	*ocsp.Responder
	authorities []authority

	mu       sync.Mutex // guards below
	now      time.Time
	known    map[cert.Serial]ocsp.Status
	down     error
	asked    int
	enrolled int
	refuse   func(authority string) error
	spoil    func(*x509.Certificate)
	reading  func() // called while the ledger is being read
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	b := &bench{now: start, known: map[cert.Serial]ocsp.Status{}, authorities: []authority{newAuthority(tb, 7, "servers"), newAuthority(tb, 8, "workloads")}}
	b.Responder = ocsp.New(ocsp.Config{Ledger: b, Enroller: b, Now: b.Now, Authorities: func() []ocsp.Authority {
		var list []ocsp.Authority
		for _, a := range b.authorities {
			list = append(list, a.Authority)
		}
		return list
	}})
	return b
}

func started(tb testing.TB) *bench {
	tb.Helper()
	b := newBench(tb)
	if err := b.RunOnce(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return b
}

func (b *bench) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// Status implements ocsp.Ledger.
func (b *bench) Status(_ context.Context, serials []cert.Serial) (map[cert.Serial]ocsp.Status, error) {
	b.mu.Lock()
	b.asked++
	out := map[cert.Serial]ocsp.Status{}
	for _, s := range serials {
		if st, ok := b.known[s]; ok {
			out[s] = st
		}
	}
	down, reading := b.down, b.reading
	b.mu.Unlock()
	if reading != nil {
		reading()
	}
	return out, down
}

// EnrolResponder implements ocsp.Enroller.
func (b *bench) EnrolResponder(_ context.Context, name string, key crypto.PublicKey) (*x509.Certificate, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(name); err != nil {
			return nil, err
		}
	}
	b.enrolled++
	for _, a := range b.authorities {
		if a.Name != name {
			continue
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "OCSP " + name}, NotBefore: b.now.Add(-time.Minute), NotAfter: b.now.Add(7 * 24 * time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		}
		if b.spoil != nil {
			b.spoil(c)
		}
		der, err := x509.CreateCertificate(rand.Reader, c, a.Certificate, key, a.key)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	return nil, errors.New("no such authority")
}

// serial makes one that the ledger knows as st, of the first authority unless st says another.
func (b *bench) serial(st ocsp.Status) cert.Serial {
	s := cert.NewSerial(1, start)
	if st.Authority == 0 {
		st.Authority = b.authorities[0].ID
	}
	b.set(s, st)
	return s
}

func (b *bench) set(s cert.Serial, st ocsp.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st.Authority == 0 {
		st.Authority = b.authorities[0].ID
	}
	b.known[s] = st
}

// ask writes a request the way another library does.
func (b *bench) ask(tb testing.TB, a authority, s cert.Serial, h crypto.Hash) []byte {
	tb.Helper()
	der, err := xocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, a.Certificate, &xocsp.RequestOptions{Hash: h})
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func (b *bench) post(tb testing.TB, der []byte) []byte {
	tb.Helper()
	req := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/ocsp", bytes.NewReader(der))
	req.Header.Set("Content-Type", "application/ocsp-request")
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, req)
	resp := rec.Result()
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/ocsp-response" {
		tb.Fatalf("%s %v %v", resp.Status, resp.Header, err)
	}
	return out
}

// answer asks about s and reads the answer with another library, which checks the delegation and the signature.
func (b *bench) answer(tb testing.TB, s cert.Serial) *xocsp.Response {
	tb.Helper()
	a := b.authorities[0]
	r, err := xocsp.ParseResponseForCert(b.post(tb, b.ask(tb, a, s, crypto.SHA1)), &x509.Certificate{SerialNumber: s.Int()}, a.Certificate)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// refusal returns the status of an answer that is not signed.
func refusal(der []byte) int {
	var r struct{ Status asn1.Enumerated }
	if rest, err := asn1.Unmarshal(der, &r); err != nil || len(rest) > 0 || len(der) != 5 {
		return -1
	}
	return int(r.Status)
}

const (
	malformed    = 1
	tryLater     = 3
	unauthorized = 6
)

func TestAnswersSayWhatTheLedgerHolds(t *testing.T) {
	b := started(t)
	at := start.Add(-time.Hour)
	for name, row := range map[string]struct {
		status ocsp.Status
		want   int
		reason int
	}{
		"signed":                 {ocsp.Status{State: ocsp.Good}, xocsp.Good, 0},
		"revoked":                {ocsp.Status{State: ocsp.Revoked, At: at, Reason: cert.KeyCompromise}, xocsp.Revoked, 1},
		"abandoned":              {ocsp.Status{State: ocsp.Revoked, At: at}, xocsp.Revoked, 0},
		"never intended":         {ocsp.Status{}, xocsp.Unknown, 0},
		"of another authority":   {ocsp.Status{State: ocsp.Good, Authority: 8}, xocsp.Unknown, 0},
		"revoked by another too": {ocsp.Status{State: ocsp.Revoked, At: at, Authority: 8}, xocsp.Unknown, 0},
	} {
		r := b.answer(t, b.serial(row.status))
		if r.Status != row.want || r.RevocationReason != row.reason {
			t.Errorf("%s: got status %d, reason %d", name, r.Status, r.RevocationReason)
		}
		if r.Status == xocsp.Revoked && !r.RevokedAt.Equal(at) {
			t.Errorf("%s: revoked at %s", name, r.RevokedAt)
		}
		if !r.ProducedAt.Equal(start) || r.ThisUpdate.After(start) || !r.NextUpdate.Equal(start.Add(ocsp.Validity)) {
			t.Errorf("%s: produced %s, from %s to %s", name, r.ProducedAt, r.ThisUpdate, r.NextUpdate)
		}
		if key := r.Certificate.RawSubjectPublicKeyInfo; !bytes.Equal(r.ResponderKeyHash, hashOf(t, key)) || r.RawResponderName != nil {
			t.Errorf("%s: responder is not named by the hash of its key", name)
		}
	}
	if r := b.answer(t, cert.NewSerial(1, start)); r.Status != xocsp.Unknown {
		t.Errorf("a serial nobody has heard of: got status %d", r.Status)
	}
}

// hashOf is KeyHash (RFC 6960 §4.2.1).
func hashOf(tb testing.TB, spki []byte) []byte {
	tb.Helper()
	var k struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &k); err != nil {
		tb.Fatal(err)
	}
	sum := sha1.Sum(k.Key.Bytes) //nolint:gosec // see above
	return sum[:]
}

func TestARevocationNeverLiesAfterItsAnswer(t *testing.T) {
	b := started(t)
	at := start.Add(-time.Second)
	if r := b.answer(t, b.serial(ocsp.Status{State: ocsp.Revoked, At: at})); r.ThisUpdate.Before(at) {
		t.Errorf("known to be right at %s, revoked at %s", r.ThisUpdate, at)
	}
}

func TestDoubtIsTryLater(t *testing.T) {
	b := newBench(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	q := b.ask(t, b.authorities[0], s, crypto.SHA1)
	if got := refusal(b.post(t, q)); got != tryLater {
		t.Errorf("before it has keys: got %d", got)
	}
	if b.Ready() == nil {
		t.Error("ready without keys")
	}
	if err := b.RunOnce(t.Context()); err != nil || b.Ready() != nil {
		t.Fatal(err, b.Ready())
	}
	b.down = errors.New("no database")
	if got := refusal(b.post(t, q)); got != tryLater {
		t.Errorf("without a ledger: got %d", got)
	}
	b.down = nil
	open := b.ask(t, b.authorities[0], b.serial(ocsp.Status{State: ocsp.Open}), crypto.SHA1)
	if got := refusal(b.post(t, open)); got != tryLater {
		t.Errorf("an open intent: got %d", got)
	}
	b.advance(30 * 24 * time.Hour)
	if got := refusal(b.post(t, q)); got != tryLater {
		t.Errorf("with an expired key: got %d", got)
	}
	if b.Ready() == nil {
		t.Error("ready with an expired key")
	}
}

func TestEitherHashAndSpellingIsAnsweredInKind(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	a := b.authorities[0]
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		q := b.ask(t, a, s, h)
		bare := withoutNULL(t, q)
		for name, der := range map[string][]byte{"NULL": q, "absent": bare} {
			out := b.post(t, der)
			if r, err := xocsp.ParseResponseForCert(out, &x509.Certificate{SerialNumber: s.Int()}, a.Certificate); err != nil || r.Status != xocsp.Good {
				t.Errorf("%s, parameters %s: %v", h, name, err)
			}
			if !bytes.Contains(out, certIDOf(t, der)) {
				t.Errorf("%s, parameters %s: the answer does not repeat the CertID", h, name)
			}
		}
	}
	for _, h := range []crypto.Hash{crypto.SHA384, crypto.SHA512} {
		if got := refusal(b.post(t, b.ask(t, a, s, h))); got != unauthorized {
			t.Errorf("%s: got %d", h, got)
		}
	}
}

// The shape of a request, for tests that spoil one.
type ocspRequest struct{ TBS tbsRequest }

type tbsRequest struct {
	Version    int `asn1:"explicit,tag:0,default:0,optional"`
	List       []single
	Extensions []pkix.Extension `asn1:"explicit,tag:2,optional"`
}

type single struct {
	ID         certID
	Extensions []pkix.Extension `asn1:"explicit,tag:0,optional"`
}

type certID struct {
	Algorithm pkix.AlgorithmIdentifier
	Name, Key []byte
	Serial    *big.Int
}

func respell(tb testing.TB, der []byte, change func(*tbsRequest)) []byte {
	tb.Helper()
	var q ocspRequest
	if _, err := asn1.Unmarshal(der, &q); err != nil {
		tb.Fatal(err)
	}
	change(&q.TBS)
	out, err := asn1.Marshal(q)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func withoutNULL(tb testing.TB, der []byte) []byte {
	tb.Helper()
	return respell(tb, der, func(q *tbsRequest) { q.List[0].ID.Algorithm.Parameters = asn1.RawValue{} })
}

func certIDOf(tb testing.TB, der []byte) []byte {
	tb.Helper()
	var q ocspRequest
	if _, err := asn1.Unmarshal(der, &q); err != nil {
		tb.Fatal(err)
	}
	out, err := asn1.Marshal(q.TBS.List[0].ID)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestSeveralCertificatesAreAnsweredAtOnce(t *testing.T) {
	b := started(t)
	a := b.authorities[0]
	var serials []cert.Serial
	for i := range 20 {
		st := ocsp.Status{State: ocsp.Good}
		if i%2 == 1 {
			st = ocsp.Status{State: ocsp.Revoked, At: start}
		}
		serials = append(serials, b.serial(st))
	}
	q := respell(t, b.ask(t, a, serials[0], crypto.SHA256), func(q *tbsRequest) {
		for _, s := range serials[1:] {
			next := q.List[0]
			next.ID.Serial = s.Int()
			q.List = append(q.List, next)
		}
	})
	out := b.post(t, q)
	for i, s := range serials {
		r, err := xocsp.ParseResponseForCert(out, &x509.Certificate{SerialNumber: s.Int()}, a.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if want := i % 2; r.Status != want {
			t.Errorf("certificate %d: status %d, want %d", i, r.Status, want)
		}
	}
	if b.asked != 1 {
		t.Errorf("the ledger was asked %d times", b.asked)
	}
}

func nonce(value ...byte) pkix.Extension {
	der, err := asn1.Marshal(value)
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: der}
}

// RFC 9654 §2.1.
func TestNonceIsEchoedAndAnsweredLive(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	plain := b.ask(t, b.authorities[0], s, crypto.SHA1)
	b.post(t, plain)
	for _, size := range []int{1, 16, 32, 128} {
		want := nonce(bytes.Repeat([]byte{0xa5}, size)...)
		asked := b.asked
		out := b.post(t, respell(t, plain, func(q *tbsRequest) { q.Extensions = []pkix.Extension{want} }))
		if der, err := asn1.Marshal(want); err != nil || !bytes.Contains(out, der) {
			t.Errorf("%d octets: not echoed", size)
		}
		if _, err := xocsp.ParseResponse(out, b.authorities[0].Certificate); err != nil {
			t.Errorf("%d octets: %v", size, err)
		}
		if b.asked != asked+1 {
			t.Errorf("%d octets: the ledger was not asked", size)
		}
	}
}

func TestMalformedRequestsAreToldSo(t *testing.T) {
	b := started(t)
	good := b.ask(t, b.authorities[0], b.serial(ocsp.Status{State: ocsp.Good}), crypto.SHA1)
	extension := func(critical bool) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: critical, Value: []byte{5, 0}}
	}
	for name, der := range map[string][]byte{
		"nothing":                       {},
		"no request":                    {0x30, 0},
		"something behind":              append(bytes.Clone(good), 0),
		"cut short":                     good[:len(good)-1],
		"no certificates":               respell(t, good, func(q *tbsRequest) { q.List = nil }),
		"too many certificates":         respell(t, good, func(q *tbsRequest) { q.List = repeat(q.List[0], 65) }),
		"another version":               respell(t, good, func(q *tbsRequest) { q.Version = 1 }),
		"an empty nonce":                respell(t, good, func(q *tbsRequest) { q.Extensions = []pkix.Extension{nonce()} }),
		"a nonce of 129 octets":         respell(t, good, func(q *tbsRequest) { q.Extensions = []pkix.Extension{nonce(make([]byte, 129)...)} }),
		"two nonces":                    respell(t, good, func(q *tbsRequest) { q.Extensions = []pkix.Extension{nonce(1), nonce(2)} }),
		"a bare nonce":                  respell(t, good, func(q *tbsRequest) { q.Extensions = []pkix.Extension{{Id: nonce(1).Id, Value: []byte("abcdefgh")}} }),
		"an unknown critical extension": respell(t, good, func(q *tbsRequest) { q.Extensions = []pkix.Extension{extension(true)} }),
		"one about a certificate":       respell(t, good, func(q *tbsRequest) { q.List[0].Extensions = []pkix.Extension{extension(true)} }),
	} {
		if got := refusal(b.post(t, der)); got != malformed {
			t.Errorf("%s: got %d", name, got)
		}
	}
	for name, change := range map[string]func(*tbsRequest){
		"an unknown extension":               func(q *tbsRequest) { q.Extensions = []pkix.Extension{extension(false)} },
		"an unknown one about a certificate": func(q *tbsRequest) { q.List[0].Extensions = []pkix.Extension{extension(false)} },
	} {
		if got := refusal(b.post(t, respell(t, good, change))); got != -1 {
			t.Errorf("%s: refused with %d", name, got)
		}
	}
	if b.asked != 1 { // and the second time the answer was at hand
		t.Errorf("the ledger was asked %d times", b.asked)
	}
}

func repeat(s single, n int) (list []single) {
	for range n {
		list = append(list, s)
	}
	return list
}

func TestOthersCertificatesAreNotAnsweredFor(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	stranger := newAuthority(t, 99, "servers") // the same name, another key
	if got := refusal(b.post(t, b.ask(t, stranger, s, crypto.SHA1))); got != unauthorized {
		t.Errorf("a stranger's: got %d", got)
	}
	other := b.ask(t, b.authorities[1], b.serial(ocsp.Status{State: ocsp.Good, Authority: 8}), crypto.SHA1)
	mixed := respell(t, b.ask(t, b.authorities[0], s, crypto.SHA1), func(q *tbsRequest) {
		respell(t, other, func(o *tbsRequest) { q.List = append(q.List, o.List...) })
	})
	if got := refusal(b.post(t, mixed)); got != unauthorized {
		t.Errorf("two authorities' at once: got %d", got)
	}
	foreign := respell(t, b.ask(t, b.authorities[0], s, crypto.SHA1), func(q *tbsRequest) { q.List[0].ID.Serial = big.NewInt(1) })
	if r, err := xocsp.ParseResponse(b.post(t, foreign), b.authorities[0].Certificate); err != nil || r.Status != xocsp.Unknown {
		t.Errorf("a serial no site of ours makes: %v", err)
	}
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	b := started(t)
	good, lost := b.serial(ocsp.Status{State: ocsp.Good}), b.serial(ocsp.Status{})
	for range 3 {
		b.answer(t, good)
	}
	if b.asked != 1 {
		t.Errorf("asked the ledger %d times about one certificate", b.asked)
	}
	b.advance(ocsp.CacheLife)
	b.answer(t, good)
	if b.asked != 2 {
		t.Errorf("asked the ledger %d times, want 2: the answer had aged", b.asked)
	}
	b.answer(t, lost)
	b.answer(t, lost)
	if b.asked != 4 {
		t.Errorf("asked the ledger %d times: unknown is not to be kept", b.asked)
	}
}

func TestADroppedAnswerIsNeverGivenAgain(t *testing.T) {
	b := started(t)
	s, other := b.serial(ocsp.Status{State: ocsp.Good}), b.serial(ocsp.Status{State: ocsp.Good})
	b.answer(t, s)
	b.answer(t, other)
	b.set(s, ocsp.Status{State: ocsp.Revoked, At: start})
	if r := b.answer(t, s); r.Status != xocsp.Good {
		t.Error("the cache does not cache")
	}
	b.Drop(s)
	if r := b.answer(t, s); r.Status != xocsp.Revoked {
		t.Error("good after the notice")
	}
	asked := b.asked
	if b.answer(t, other); b.asked != asked {
		t.Error("a notice about one certificate dropped another's answer")
	}
	b.Drop(cert.Serial{})
	if b.answer(t, other); b.asked != asked+1 {
		t.Error("answers were kept when notices may have been missed")
	}
}

// The notice comes between the reading of the ledger and the keeping of the answer.
func TestANoticeOvertakesAnAnswerThatIsBeingMade(t *testing.T) {
	b := started(t)
	a := b.authorities[0]
	for name, ask := range map[string]func(s cert.Serial) []byte{
		"kept": func(s cert.Serial) []byte { return b.ask(t, a, s, crypto.SHA1) },
		"with a nonce": func(s cert.Serial) []byte {
			return respell(t, b.ask(t, a, s, crypto.SHA1), func(q *tbsRequest) { q.Extensions = []pkix.Extension{nonce(1, 2, 3)} })
		},
	} {
		s, asked := b.serial(ocsp.Status{State: ocsp.Good}), b.asked
		b.reading = func() {
			b.set(s, ocsp.Status{State: ocsp.Revoked, At: start})
			b.reading = nil
			b.Drop(s)
		}
		r, err := xocsp.ParseResponse(b.post(t, ask(s)), a.Certificate)
		if err != nil || r.Status != xocsp.Revoked || b.asked != asked+2 {
			t.Errorf("%s: %v, asked %d times", name, err, b.asked-asked)
		}
	}
	// A notice about another costs nothing.
	s, asked := b.serial(ocsp.Status{State: ocsp.Good}), b.asked
	b.reading = func() { b.Drop(cert.NewSerial(1, start)) }
	if r := b.answer(t, s); r.Status != xocsp.Good || b.asked != asked+1 {
		t.Errorf("another's notice: status %d, asked %d times", r.Status, b.asked-asked)
	}
}

func TestAnAnswerThatIsAlwaysOvertakenIsTryLater(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	b.reading = func() { b.Drop(cert.Serial{}) }
	if got := refusal(b.post(t, b.ask(t, b.authorities[0], s, crypto.SHA1))); got != tryLater {
		t.Errorf("got %d", got)
	}
}

func TestNothingIsKeptWhileNoticesMayBeMissed(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	b.answer(t, s)
	b.Deafen()
	b.set(s, ocsp.Status{State: ocsp.Revoked, At: start})
	if r := b.answer(t, s); r.Status != xocsp.Revoked {
		t.Error("an answer was given from before the notices were lost")
	}
	b.Listening()
	asked := b.asked
	b.answer(t, s)
	b.answer(t, s)
	if b.asked != asked+1 {
		t.Errorf("asked %d times after listening again", b.asked-asked)
	}
}

// Whoever is told first of a revocation, by whatever answer, has a receipt of it; and what nobody asked about is answered ahead.
func TestAnswersThatTellOfARevocationHaveReceipts(t *testing.T) {
	b := newBench(t)
	var told []ocsp.Receipt
	b.Told = func(r ocsp.Receipt) { told = append(told, r) }
	if err := b.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	good, revoked, quiet := b.serial(ocsp.Status{State: ocsp.Good}), b.serial(ocsp.Status{State: ocsp.Revoked, At: start}), b.serial(ocsp.Status{State: ocsp.Revoked, At: start})
	b.answer(t, good)
	der := b.post(t, b.ask(t, b.authorities[0], revoked, crypto.SHA1))
	b.answer(t, revoked) // from what was kept: no second receipt
	if len(told) != 1 || told[0].Serial != revoked || told[0].Answer != sha256.Sum256(der) {
		t.Fatalf("told %+v", told)
	}
	made, err := b.Presign(t.Context(), []cert.Serial{good, quiet, cert.NewSerial(1, start)})
	if err != nil || len(made) != 1 || made[0].Serial != quiet {
		t.Fatalf("made %+v, %v", made, err)
	}
	asked := b.asked
	if r := b.answer(t, quiet); r.Status != xocsp.Revoked || b.asked != asked {
		t.Errorf("status %d; the ledger was asked %d times about what was answered ahead", r.Status, b.asked-asked)
	}
}

func TestReceiptsAreGatheredOnce(t *testing.T) {
	r := ocsp.NewReceipts()
	s := cert.NewSerial(1, start)
	r.Add(ocsp.Receipt{Serial: s, Answer: [32]byte{1}})
	r.Add(ocsp.Receipt{Serial: s, Answer: [32]byte{2}})
	ctx, cancel := context.WithCancel(t.Context())
	var got []ocsp.Receipt
	broken := errors.New("broken")
	err := r.Run(ctx, func(_ context.Context, list []ocsp.Receipt) error {
		got = append(got, list...)
		cancel()
		return broken
	})
	if !errors.Is(err, broken) || len(got) != 1 || got[0].Answer != [32]byte{1} {
		t.Errorf("got %v, %v", got, err)
	}
}

// RFC 6960 §4.2.2.3: "byName … byKey": clients read either.
func TestRespondersAreNamedByKeyOrByName(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	if r := b.answer(t, s); len(r.ResponderKeyHash) != 20 || r.RawResponderName != nil {
		t.Errorf("by key: %x, %x", r.ResponderKeyHash, r.RawResponderName)
	}
	named := newBench(t)
	named.Responder = ocsp.New(ocsp.Config{Ledger: named, Enroller: named, Now: named.Now, ByName: true, Authorities: func() []ocsp.Authority {
		return []ocsp.Authority{named.authorities[0].Authority}
	}})
	if err := named.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := named.answer(t, named.serial(ocsp.Status{State: ocsp.Good}))
	if r.ResponderKeyHash != nil || !bytes.Equal(r.RawResponderName, r.Certificate.RawSubject) {
		t.Errorf("by name: %x, want %x", r.RawResponderName, r.Certificate.RawSubject)
	}
}

func TestDelegatesAreRenewedWithOverlap(t *testing.T) {
	b := started(t)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	first := b.answer(t, s).Certificate
	b.advance(3 * 24 * time.Hour)
	if err := b.RunOnce(t.Context()); err != nil || b.enrolled != 2 {
		t.Fatalf("enrolled %d before half of its life; %v", b.enrolled, err)
	}
	b.advance(24 * time.Hour)
	b.refuse = func(string) error { return errors.New("the key is away") }
	if err := b.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "servers") || !strings.Contains(err.Error(), "workloads") {
		t.Errorf("got %v", err)
	}
	if r := b.answer(t, s); !r.Certificate.Equal(first) || b.Ready() != nil {
		t.Error("the delegate that was there is not used until its successor is")
	}
	b.refuse = nil
	if err := b.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Drop(s)
	if r := b.answer(t, s); r.Certificate.Equal(first) || !first.NotAfter.After(b.Now()) {
		t.Error("no successor while the first still holds")
	}
}

func TestNoAnswerOutlivesItsDelegate(t *testing.T) {
	b := newBench(t)
	b.spoil = func(c *x509.Certificate) { c.NotAfter = start.Add(10 * time.Minute) }
	if err := b.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := b.answer(t, b.serial(ocsp.Status{State: ocsp.Good})); r.NextUpdate.After(r.Certificate.NotAfter) {
		t.Errorf("until %s, its certificate ends %s", r.NextUpdate, r.Certificate.NotAfter)
	}
}

func TestAnAuthorityJustPreparedTakesNobodyOutOfService(t *testing.T) {
	b := started(t)
	b.authorities = append(b.authorities, newAuthority(t, 9, "spare"))
	if err := b.Ready(); err != nil {
		t.Errorf("before anybody has looked: %v", err)
	}
	b.refuse = func(string) error { return errors.New("the key is away") }
	if err := b.RunOnce(t.Context()); err == nil || b.Ready() == nil {
		t.Errorf("it could not be enrolled: %v, and is ready: %v", err, b.Ready())
	}
	b.refuse = nil
	if err := b.RunOnce(t.Context()); err != nil || b.Ready() != nil {
		t.Errorf("enrolled: %v, %v", err, b.Ready())
	}
}

func TestOneAuthoritysFailureKeepsNoOther(t *testing.T) {
	b := newBench(t)
	b.refuse = func(name string) error {
		if name == "workloads" {
			return errors.New("the key is away")
		}
		return nil
	}
	if err := b.RunOnce(t.Context()); err == nil || b.Ready() == nil {
		t.Errorf("got %v, ready %v", err, b.Ready())
	}
	b.answer(t, b.serial(ocsp.Status{State: ocsp.Good}))
}

func TestUnfitDelegatesAreRefused(t *testing.T) {
	stranger := newAuthority(t, 99, "stranger")
	for name, spoil := range map[string]func(b *bench){
		"without the key purpose": func(b *bench) {
			b.spoil = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
		},
		"from another authority": func(b *bench) { b.authorities[0].key = stranger.key },
	} {
		b := newBench(t)
		certificate := b.authorities[0].Certificate
		spoil(b)
		b.authorities[0].Certificate = certificate
		if b.RunOnce(t.Context()) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A reply is a response that has been read to its end.
type reply struct {
	StatusCode int
	Header     http.Header
}

func get(tb testing.TB, srv *httptest.Server, path, tag string) (reply, []byte) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header}, out
}

func TestGETTakesEverySpellingOfTheRequest(t *testing.T) {
	b := started(t)
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	var text string // with each character that URLs and base64 quarrel about
	for i := 0; !strings.Contains(text, "+") || !strings.Contains(text, "/") || !strings.HasSuffix(text, "="); i++ {
		q := b.ask(t, b.authorities[0], b.serial(ocsp.Status{State: ocsp.Good}), []crypto.Hash{crypto.SHA1, crypto.SHA256}[i%2])
		if i%4 > 1 {
			q = withoutNULL(t, q)
		}
		text = base64.StdEncoding.EncodeToString(q)
	}
	for name, path := range map[string]string{
		"plain":      text,
		"escaped":    url.PathEscape(text),
		"all of it":  strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(text),
		"lower case": strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace(text),
		"unpadded":   strings.TrimRight(text, "="),
	} {
		resp, out := get(t, srv, "/ocsp/"+path, "")
		if r, err := xocsp.ParseResponse(out, b.authorities[0].Certificate); err != nil || r.Status != xocsp.Good {
			t.Errorf("%s: %d: %v", name, resp.StatusCode, err)
		}
	}
	if _, out := get(t, srv, "/ocsp/"+strings.ReplaceAll(text, "M", "!"), ""); refusal(out) != malformed {
		t.Errorf("not base64: got %d", refusal(out))
	}
	if resp, _ := get(t, srv, "/elsewhere/"+text, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("elsewhere: %d", resp.StatusCode)
	}
}

func TestGETMayBeCachedForAsLongAsTheAnswerIs(t *testing.T) {
	b := started(t)
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	s := b.serial(ocsp.Status{State: ocsp.Good})
	path := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(b.ask(t, b.authorities[0], s, crypto.SHA1)))
	resp, _ := get(t, srv, path, "")
	tag := resp.Header.Get("ETag")
	if resp.Header.Get("Cache-Control") != "max-age="+strconv.Itoa(int(ocsp.CacheLife.Seconds()))+", public, no-transform, must-revalidate" || tag == "" {
		t.Errorf("got %v", resp.Header)
	}
	b.advance(20 * time.Second)
	if resp, _ := get(t, srv, path, tag); resp.StatusCode != http.StatusNotModified || !strings.HasPrefix(resp.Header.Get("Cache-Control"), "max-age=10,") {
		t.Errorf("with its tag: %d %v", resp.StatusCode, resp.Header)
	}
	for _, fields := range []string{"W/" + tag, `"other", ` + tag, "*"} {
		if resp, _ := get(t, srv, path, fields); resp.StatusCode != http.StatusNotModified {
			t.Errorf("with %s: %d", fields, resp.StatusCode)
		}
	}
	b.set(s, ocsp.Status{State: ocsp.Revoked, At: start})
	b.Drop(s)
	if resp, _ := get(t, srv, path, tag); resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == tag {
		t.Errorf("revoked, with the old tag: %d", resp.StatusCode)
	}
	unknown := url.PathEscape(base64.StdEncoding.EncodeToString(b.ask(t, b.authorities[0], cert.NewSerial(1, start), crypto.SHA1)))
	if resp, _ := get(t, srv, "/ocsp/"+unknown, ""); resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("unknown: %v", resp.Header)
	}
}

func TestHTTPRefusals(t *testing.T) {
	b := started(t)
	good := b.ask(t, b.authorities[0], b.serial(ocsp.Status{State: ocsp.Good}), crypto.SHA1)
	for name, row := range map[string]struct {
		method, kind string
		body         []byte
		want         int
	}{
		"another method":       {http.MethodPut, "application/ocsp-request", good, http.StatusMethodNotAllowed},
		"no content type":      {http.MethodPost, "", good, http.StatusUnsupportedMediaType},
		"another content type": {http.MethodPost, "application/x-www-form-urlencoded", good, http.StatusUnsupportedMediaType},
		"too large":            {http.MethodPost, "application/ocsp-request", make([]byte, 16<<10+1), http.StatusRequestEntityTooLarge},
	} {
		req := httptest.NewRequestWithContext(t.Context(), row.method, "/ocsp", bytes.NewReader(row.body))
		req.Header.Set("Content-Type", row.kind)
		rec := httptest.NewRecorder()
		if b.ServeHTTP(rec, req); rec.Result().StatusCode != row.want {
			t.Errorf("%s: %s", name, rec.Result().Status)
		}
		req.ContentLength = -1
		req.Body = io.NopCloser(bytes.NewReader(row.body))
		rec = httptest.NewRecorder()
		if b.ServeHTTP(rec, req); rec.Result().StatusCode != row.want {
			t.Errorf("%s, without a length: %s", name, rec.Result().Status)
		}
	}
}

// What parses is answered or refused, and never breaks the responder.
func FuzzRequest(f *testing.F) {
	b := started(f)
	q := b.ask(f, b.authorities[0], b.serial(ocsp.Status{State: ocsp.Good}), crypto.SHA1)
	f.Add(q)
	f.Add(respell(f, q, func(q *tbsRequest) { q.Extensions = []pkix.Extension{nonce(1, 2, 3)} }))
	f.Add(respell(f, q, func(q *tbsRequest) { q.List = repeat(q.List[0], 3) }))
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) > 16<<10 {
			return
		}
		out := b.post(t, der)
		if refusal(out) > 0 {
			return
		}
		if _, err := xocsp.ParseResponse(out, b.authorities[0].Certificate); err != nil && !strings.Contains(err.Error(), "bad number of responses") {
			t.Errorf("%x: %v", der, err)
		}
	})
}

func BenchmarkCached(b *testing.B)   { benchmark(b, func(*bench, cert.Serial) {}) }
func BenchmarkUncached(b *testing.B) { benchmark(b, func(r *bench, s cert.Serial) { r.Drop(s) }) }

func benchmark(b *testing.B, before func(*bench, cert.Serial)) {
	r := started(b)
	s := r.serial(ocsp.Status{State: ocsp.Good})
	q := r.ask(b, r.authorities[0], s, crypto.SHA1)
	b.ReportAllocs()
	for b.Loop() {
		before(r, s)
		req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/ocsp", bytes.NewReader(q))
		req.Header.Set("Content-Type", "application/ocsp-request")
		r.ServeHTTP(httptest.NewRecorder(), req)
	}
}
