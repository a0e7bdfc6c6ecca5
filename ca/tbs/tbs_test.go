package tbs_test

import (
	"bytes"
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
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

const (
	crls    = "http://ca.test/crl/servers/"
	ocsp    = "http://ca.test/ocsp"
	issuers = "http://ca.test/issuers/servers.cer"
	day     = 24 * time.Hour
)

// Other people's verifiers go by the machine's clock.
var start = time.Now().Add(-time.Hour).Truncate(time.Second).UTC()

type keyPair struct {
	name string
	crypto.Signer
	spki []byte
}

func keyPairs(tb testing.TB) []keyPair {
	tb.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	rsa2048, err4 := rsa.GenerateKey(rand.Reader, 2048)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	pairs := []keyPair{{name: "P-256", Signer: p256}, {name: "P-384", Signer: p384}, {name: "Ed25519", Signer: ed}, {name: "RSA-2048", Signer: rsa2048}}
	for i := range pairs {
		spki, err := x509.MarshalPKIXPublicKey(pairs[i].Public())
		if err != nil {
			tb.Fatal(err)
		}
		pairs[i].spki = spki
	}
	return pairs
}

func nameDER(tb testing.TB, n pkix.Name) []byte {
	tb.Helper()
	der, err := asn1.Marshal(n.ToRDNSequence())
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func compile(tb testing.TB, s tbs.Spec) *tbs.Template {
	tb.Helper()
	t, err := tbs.Compile(s)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// sign builds, lints and signs v.
func sign(tb testing.TB, t *tbs.Template, key crypto.Signer, v tbs.Values) *x509.Certificate {
	tb.Helper()
	body, err := t.Build(v)
	if err != nil {
		tb.Fatal(err)
	}
	if err := lint.Certificate(body, t.Expect(v, 100*366*day)); err != nil {
		tb.Fatal(err)
	}
	algorithm, err := kms.SignatureAlgorithmOf(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	signature, err := key.Sign(rand.Reader, algorithm.Digest(body), algorithm.Hash)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := tbs.Assemble(body, algorithm, signature)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func root(tb testing.TB, k keyPair) *x509.Certificate {
	tb.Helper()
	t := compile(tb, tbs.Spec{Usage: tbs.Authority, Key: k.Public(), PathLen: -1, Subject: nameDER(tb, pkix.Name{Organization: []string{"Test"}, CommonName: "Test root"})})
	return sign(tb, t, k, tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(10*365*day - time.Second), SPKI: k.spki})
}

// subordinate is signed by parent, which holds by.
func subordinate(tb testing.TB, parent *x509.Certificate, by, k keyPair) *x509.Certificate {
	tb.Helper()
	t := compile(tb, tbs.Spec{
		Usage: tbs.Authority, Issuer: parent, PathLen: 0, Purposes: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		CRLs: "http://ca.test/crl/root/", OCSP: ocsp, Issuers: "http://ca.test/issuers/root.cer",
		Subject: nameDER(tb, pkix.Name{Organization: []string{"Test"}, CommonName: "Test servers"}),
	})
	return sign(tb, t, by, tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(2*365*day - time.Second), SPKI: k.spki})
}

func names(tb testing.TB, list ...string) []cert.Name {
	tb.Helper()
	var parsed []cert.Name
	for _, s := range list {
		n, err := cert.ParseName(s)
		if err != nil {
			tb.Fatal(err)
		}
		parsed = append(parsed, n)
	}
	return parsed
}

// randomNames returns names in the order crypto/x509 writes them: DNS, IP, URI.
func randomNames(tb testing.TB, r *mathrand.Rand) []cert.Name {
	var list []string
	for range r.IntN(5) {
		list = append(list, fmt.Sprintf("dns:%s.n%d.test", strings.Repeat("a", 1+r.IntN(60)), r.IntN(1e6)))
	}
	for range r.IntN(3) {
		list = append(list, fmt.Sprintf("ip:10.%d.%d.%d", r.IntN(256), r.IntN(256), r.IntN(256)), fmt.Sprintf("ip:2001:db8::%x", 1+r.IntN(65535)))
	}
	if len(list) == 0 || r.IntN(2) == 0 {
		list = append(list, fmt.Sprintf("uri:spiffe://test/tenant/t%d/w", r.IntN(1e6)))
	}
	return names(tb, list...)
}

// The oracle is crypto/x509, asked for the same certificate: not a bit may differ.
func TestBuildWritesWhatTheStandardLibraryWrites(t *testing.T) {
	keys := keyPairs(t)
	r := mathrand.New(mathrand.NewPCG(5280, 4))
	policy, err := x509.ParseOID("2.23.140.1.2.1")
	if err != nil {
		t.Fatal(err)
	}
	usages := []tbs.Usage{tbs.Server, tbs.Client, tbs.ServerAndClient, tbs.OCSPResponder}
	issuing := map[string]*x509.Certificate{}
	for _, by := range keys {
		issuing[by.name] = subordinate(t, root(t, keys[0]), keys[0], by)
	}
	for range 400 {
		by, holder := keys[r.IntN(len(keys)-1)], keys[r.IntN(len(keys))] // RSA signing is slow and alike
		spec := tbs.Spec{Usage: usages[r.IntN(len(usages))], Issuer: issuing[by.name], CRLs: crls, OCSP: ocsp, Issuers: issuers}
		switch r.IntN(4) {
		case 0:
			spec.CRLs, spec.OCSP = "", ""
		case 1:
			spec.OCSP, spec.Issuers = "", ""
		case 2:
			spec.Policies = []x509.OID{policy}
		}
		from := time.Unix(r.Int64N(200*365*86400)-15*365*86400, 0) // 1955 to 2155
		v := tbs.Values{
			Serial: cert.NewSerial(byte(r.IntN(256)), time.Unix(r.Int64N(1<<32), 0)), NotBefore: from, NotAfter: from.Add(time.Duration(1 + r.Int64N(int64(90*day)))),
			SPKI: holder.spki, Names: randomNames(t, r),
		}
		if r.IntN(3) == 0 {
			v.CommonName = fmt.Sprintf("app@dev.shop.t%d", r.IntN(1e6))
		}
		got, err := compile(t, spec).Build(v)
		if err != nil {
			t.Fatal(err)
		}
		if want := oracle(t, spec, v, by, holder); !bytes.Equal(got, want) {
			t.Fatalf("%s signed by %s, %+v:\n got %x\nwant %x", spec.Usage, by.name, v, got, want)
		}
	}
}

func oracle(tb testing.TB, s tbs.Spec, v tbs.Values, by, holder keyPair) []byte {
	tb.Helper()
	c := &x509.Certificate{
		SerialNumber: v.Serial.Int(), NotBefore: v.NotBefore, NotAfter: v.NotAfter, Subject: pkix.Name{CommonName: v.CommonName},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, Policies: s.Policies,
	}
	for _, n := range v.Names {
		switch n.Kind() {
		case cert.DNS:
			c.DNSNames = append(c.DNSNames, n.Value())
		case cert.IP:
			c.IPAddresses = append(c.IPAddresses, net.IP(n.Addr().AsSlice()))
		case cert.URI:
			u, err := url.Parse(n.Value())
			if err != nil {
				tb.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
	serves := s.Usage == tbs.Server || s.Usage == tbs.ServerAndClient
	if serves {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if _, isRSA := holder.Public().(*rsa.PublicKey); isRSA && serves {
		c.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	if s.Usage == tbs.Client || s.Usage == tbs.ServerAndClient {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if s.Usage == tbs.OCSPResponder {
		s.CRLs, s.OCSP, s.Issuers = "", "", ""
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}
	}
	if s.CRLs != "" {
		c.CRLDistributionPoints = []string{fmt.Sprintf("%s%d.crl", s.CRLs, v.Serial.Epoch())}
	}
	if s.OCSP != "" {
		c.OCSPServer = []string{s.OCSP}
	}
	if s.Issuers != "" {
		c.IssuingCertificateURL = []string{s.Issuers}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, s.Issuer, holder.Public(), by.Signer)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed.RawTBSCertificate
}

func TestAuthoritiesReadAsAuthorities(t *testing.T) {
	for _, k := range keyPairs(t) {
		t.Run(k.name, func(t *testing.T) {
			top := root(t, k)
			sub := subordinate(t, top, k, keyPairs(t)[0])
			pool := x509.NewCertPool()
			pool.AddCert(top)
			if _, err := sub.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Error(err)
			}
			if !sub.IsCA || !sub.MaxPathLenZero || top.MaxPathLen != -1 || !bytes.Equal(sub.AuthorityKeyId, top.SubjectKeyId) || len(top.AuthorityKeyId) != 0 {
				t.Errorf("CA %t, path length %d under %d, key ids %x %x", sub.IsCA, sub.MaxPathLen, top.MaxPathLen, sub.AuthorityKeyId, top.SubjectKeyId)
			}
			if top.SerialNumber.Cmp(new(big.Int)) <= 0 || sub.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(sub.ExtKeyUsage) != 2 || top.ExtKeyUsage != nil {
				t.Errorf("serial %d, key usage %v, purposes %v", top.SerialNumber, sub.KeyUsage, sub.ExtKeyUsage)
			}
		})
	}
}

// RFC 7093 §2 (1), over the bits of the key alone.
func TestSubjectKeyIdentifierIsTheTruncatedHash(t *testing.T) {
	k := keyPairs(t)[0]
	public, ok := k.Public().(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("not ECDSA")
	}
	point, err := public.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(point); !bytes.Equal(root(t, k).SubjectKeyId, sum[:20]) {
		t.Errorf("got %x, want %x", root(t, k).SubjectKeyId, sum[:20])
	}
}

func TestCompileRefuses(t *testing.T) {
	k := keyPairs(t)[0]
	top := root(t, k)
	subject := nameDER(t, pkix.Name{CommonName: "x"})
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := *top
	leaf.IsCA = false
	unnamed := *top
	unnamed.SubjectKeyId = nil
	good := tbs.Spec{Usage: tbs.Server, Issuer: top}
	compile(t, good)
	for name, spoil := range map[string]func(*tbs.Spec){
		"no usage":                    func(s *tbs.Spec) { s.Usage = 0 },
		"a usage nobody named":        func(s *tbs.Spec) { s.Usage = 200 },
		"no issuer":                   func(s *tbs.Spec) { s.Issuer = nil },
		"a self-signed leaf":          func(s *tbs.Spec) { s.Issuer, s.Key = nil, k.Public() },
		"an issuer that is a leaf":    func(s *tbs.Spec) { s.Issuer = &leaf },
		"an issuer without a key id":  func(s *tbs.Spec) { s.Issuer = &unnamed },
		"a leaf with a fixed subject": func(s *tbs.Spec) { s.Subject = subject },
		"a leaf with more purposes":   func(s *tbs.Spec) { s.Purposes = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"an authority without a name": func(s *tbs.Spec) { s.Usage = tbs.Authority },
		"an authority that answers": func(s *tbs.Spec) {
			s.Usage, s.Subject, s.Purposes = tbs.Authority, subject, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		},
		"a root without a key":           func(s *tbs.Spec) { s.Usage, s.Issuer, s.Subject = tbs.Authority, nil, subject },
		"a root on an unsupported curve": func(s *tbs.Spec) { *s = tbs.Spec{Usage: tbs.Authority, Subject: subject, Key: p224.Public()} },
		"a URL that is not ASCII":        func(s *tbs.Spec) { s.OCSP = "http://blåbær.test/" },
	} {
		s := good
		spoil(&s)
		if _, err := tbs.Compile(s); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	k := keyPairs(t)[0]
	leaf := compile(t, tbs.Spec{Usage: tbs.Server, Issuer: root(t, k)})
	good := tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day), SPKI: k.spki, Names: names(t, "dns:a.test")}
	if _, err := leaf.Build(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*tbs.Values){
		"no serial":                      func(v *tbs.Values) { v.Serial = cert.Serial{} },
		"an end that is the beginning":   func(v *tbs.Values) { v.NotAfter = v.NotBefore },
		"an end before the beginning":    func(v *tbs.Values) { v.NotAfter = v.NotBefore.Add(-day) },
		"a year UTCTime cannot say":      func(v *tbs.Values) { v.NotBefore = time.Date(1949, 12, 31, 0, 0, 0, 0, time.UTC) },
		"a year of five digits":          func(v *tbs.Values) { v.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no holder":                      func(v *tbs.Values) { v.Names = nil },
		"an empty name":                  func(v *tbs.Values) { v.Names = []cert.Name{{}} },
		"a common name of 65 octets":     func(v *tbs.Values) { v.CommonName = strings.Repeat("a", 65) },
		"a common name not in UTF-8":     func(v *tbs.Values) { v.CommonName = "\xb3" },
		"no key":                         func(v *tbs.Values) { v.SPKI = nil },
		"a key with something behind it": func(v *tbs.Values) { v.SPKI = append(bytes.Clone(v.SPKI), 0) },
		"a key cut short":                func(v *tbs.Values) { v.SPKI = v.SPKI[:len(v.SPKI)-1] },
	} {
		v := good
		spoil(&v)
		if _, err := leaf.Build(v); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}

func TestAssembleRefusesHalfACertificate(t *testing.T) {
	algorithm, err := kms.SignatureAlgorithmOf(keyPairs(t)[0].Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tbs.Assemble(nil, algorithm, []byte{1}); err == nil {
		t.Error("assembled a signature over nothing")
	}
	if _, err := tbs.Assemble([]byte{0x30, 0}, algorithm, nil); err == nil {
		t.Error("assembled without a signature")
	}
}

func BenchmarkBuild(b *testing.B) {
	k := keyPairs(b)[0]
	leaf := compile(b, tbs.Spec{Usage: tbs.ServerAndClient, Issuer: root(b, k), CRLs: crls, OCSP: ocsp, Issuers: issuers})
	v := tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day), SPKI: k.spki, Names: names(b, "dns:a.test", "uri:spiffe://test/tenant/t/w")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := leaf.Build(v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLint(b *testing.B) {
	k := keyPairs(b)[0]
	leaf := compile(b, tbs.Spec{Usage: tbs.ServerAndClient, Issuer: root(b, k), CRLs: crls, OCSP: ocsp, Issuers: issuers})
	v := tbs.Values{Serial: cert.NewSerial(1, start), NotBefore: start, NotAfter: start.Add(day), SPKI: k.spki, Names: names(b, "dns:a.test", "uri:spiffe://test/tenant/t/w")}
	body, err := leaf.Build(v)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := lint.Certificate(body, leaf.Expect(v, 7*day)); err != nil {
			b.Fatal(err)
		}
	}
}
