package e2e_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// What the issue allows between the answer to a revocation and the world's knowing.
const (
	ocspWithin = time.Second
	listWithin = 5 * time.Second
)

// lists saves /crls.pem, the lists of the whole chain, and returns the file.
func lists(t *testing.T, s *e2e.Segl) string {
	t.Helper()
	file := filepath.Join(s.Temp(t), "crls.pem")
	if err := os.WriteFile(file, s.Public(t, "/crls.pem").Body, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// eachList reads PEM lists.
func eachList(t *testing.T, text []byte) []*x509.RevocationList {
	t.Helper()
	var all []*x509.RevocationList
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// onList returns the entry of a serial in the list that the certificate names.
func onList(t *testing.T, s *e2e.Segl, c *x509.Certificate, issuer *x509.Certificate) *x509.RevocationListEntry {
	t.Helper()
	l, err := x509.ParseRevocationList(s.Public(t, c.CRLDistributionPoints[0]).Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		t.Fatal(err)
	}
	for _, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return &e
		}
	}
	return nil
}

// askOCSP asks by POST about a serial of an issuer and verifies the answer.
func askOCSP(t *testing.T, s *e2e.Segl, issuer *x509.Certificate, serial *big.Int) *ocsp.Response {
	t.Helper()
	req, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial}, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := e2e.Ask(t.Context(), &http.Client{Timeout: 10 * time.Second}, http.MethodPost, s.Env["SEGL_PUBLIC_URL"]+"/ocsp", req, "Content-Type", "application/ocsp-request")
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("asking OCSP about %x: %d %v", serial, a.Status, err)
	}
	res, err := ocsp.ParseResponse(a.Body, issuer)
	if err != nil {
		t.Fatalf("reading the OCSP answer about %x: %v", serial, err)
	}
	return res
}

var ocspWords = map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}

// awaitRevoked measures, from now, until OCSP and the list say revoked.
func awaitRevoked(t *testing.T, s *e2e.Segl, p *e2e.Pair) {
	t.Helper()
	byOCSP := e2e.Eventually(t, ocspWithin, func() error {
		if r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber); r.Status != ocsp.Revoked {
			return fmt.Errorf("OCSP says %s", ocspWords[r.Status])
		}
		return nil
	})
	byList := e2e.Eventually(t, listWithin-byOCSP, func() error {
		if onList(t, s, p.X509, p.Issuer(t)) == nil {
			return errors.New("not on its list")
		}
		return nil
	})
	t.Logf("after the answer: OCSP revoked within %s, list within %s", byOCSP.Round(time.Millisecond), (byOCSP + byList).Round(time.Millisecond))
}

// saying runs a program and wants its failure or success, and words in its output.
func saying(t *testing.T, s *e2e.Segl, good bool, words string, name string, args ...string) {
	t.Helper()
	out, err := s.Try(t, name, args...)
	if (err == nil) != good || !strings.Contains(out, words) {
		t.Errorf("%s %s: %v, want success %t and %q in\n%s", name, strings.Join(args, " "), err, good, words, out)
	}
}

func TestOpenSSLBelievesACertificateUntilItIsRevoked(t *testing.T) {
	e2e.Need(t, "openssl", "openssl")
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"openssl.demo.test"}})
	root := s.Env["SEGL_ROOT"]
	verify := func(more ...string) []string {
		return append(append([]string{"verify", "-x509_strict", "-CAfile", root, "-untrusted", p.ChainFile}, more...), p.LeafFile)
	}
	ask := []string{"ocsp", "-issuer", p.ChainFile, "-cert", p.LeafFile, "-CAfile", root, "-verify_other", p.ChainFile}
	before := lists(t, s)

	saying(t, s, true, "OK", "openssl", verify("-purpose", "sslserver", "-verify_hostname", "openssl.demo.test")...)
	saying(t, s, true, "OK", "openssl", verify("-crl_check", "-CRLfile", before)...)
	saying(t, s, true, "OK", "openssl", verify("-crl_check_all", "-CRLfile", before)...)
	saying(t, s, true, "leaf.pem: good", "openssl", append(ask, "-url", p.X509.OCSPServer[0])...)
	saying(t, s, true, "Response verify OK", "openssl", append(ask, "-url", p.X509.OCSPServer[0], "-no_nonce")...)
	saying(t, s, true, "leaf.pem: good", "openssl", append(ask, "-respin", byGET(t, s, p))...)

	s.Revoke(t, p.Serial, "keyCompromise")
	awaitRevoked(t, s, p)
	after := lists(t, s)
	saying(t, s, false, "certificate revoked", "openssl", verify("-crl_check", "-CRLfile", after)...)
	saying(t, s, false, "certificate revoked", "openssl", verify("-crl_check_all", "-CRLfile", after)...)
	saying(t, s, true, "leaf.pem: revoked", "openssl", append(ask, "-url", p.X509.OCSPServer[0])...)
	saying(t, s, true, "Reason: keyCompromise", "openssl", append(ask, "-url", p.X509.OCSPServer[0], "-no_nonce")...)
	saying(t, s, true, "leaf.pem: revoked", "openssl", append(ask, "-respin", byGET(t, s, p))...)
	saying(t, s, true, "OK", "openssl", verify()...) // without a list nothing is known of it: that is what lists are for

	list := filepath.Join(p.Dir, "its.crl")
	if err := os.WriteFile(list, s.Public(t, p.X509.CRLDistributionPoints[0]).Body, 0o644); err != nil {
		t.Fatal(err)
	}
	saying(t, s, true, "verify OK", "openssl", "crl", "-inform", "DER", "-in", list, "-noout", "-CAfile", p.ChainFile)
}

// byGET asks as RFC 5019 §5 has it, with the request that OpenSSL makes, and saves the answer.
func byGET(t *testing.T, s *e2e.Segl, p *e2e.Pair) string {
	t.Helper()
	req, res := filepath.Join(p.Dir, "req.der"), filepath.Join(p.Dir, "res.der")
	s.Run(t, "openssl", "ocsp", "-issuer", p.ChainFile, "-cert", p.LeafFile, "-no_nonce", "-reqout", req)
	der, err := os.ReadFile(req)
	if err != nil {
		t.Fatal(err)
	}
	a := s.Public(t, p.X509.OCSPServer[0]+"/"+url.PathEscape(base64.StdEncoding.EncodeToString(der)))
	if got := a.Header.Get("Content-Type"); got != "application/ocsp-response" {
		t.Errorf("GET: content type %q", got)
	}
	if got := a.Header.Get("Cache-Control"); !strings.Contains(got, "max-age=") {
		t.Errorf("GET: an answer that proxies may keep says for how long (RFC 5019 §6.2): Cache-Control is %q", got)
	}
	if err := os.WriteFile(res, a.Body, 0o644); err != nil {
		t.Fatal(err)
	}
	return res
}

func TestGnuTLSBelievesACertificateUntilItIsRevoked(t *testing.T) {
	e2e.Need(t, "certtool", "gnutls-bin")
	e2e.Need(t, "ocsptool", "gnutls-bin")
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"gnutls.demo.test"}})
	root := s.Env["SEGL_ROOT"]
	verify := []string{"--verify", "--load-ca-certificate", root, "--infile", p.CertFile}
	// GnuTLS trusts a responder whose issuer it is told to trust (ocsptool(1)); it builds no chain upwards from an answer.
	responder := []string{"--load-cert", p.LeafFile, "--load-issuer", p.ChainFile, "--load-trust", p.ChainFile}
	kept := filepath.Join(p.Dir, "res.der")
	ask := append([]string{"--ask=" + p.X509.OCSPServer[0], "--outfile", kept}, responder...)

	before := lists(t, s)
	saying(t, s, true, "Chain verification output: Verified.", "certtool", verify...)
	saying(t, s, true, "Chain verification output: Verified.", "certtool", append(verify, "--load-crl", before)...)
	saying(t, s, true, "Success", "ocsptool", append(ask, "--nonce")...)
	saying(t, s, true, "Success", "ocsptool", append([]string{"--verify-response", "--load-response", kept}, responder...)...)
	saying(t, s, true, "Certificate Status: good", "ocsptool", "--response-info", "--load-response", kept)

	s.Revoke(t, p.Serial, "superseded")
	awaitRevoked(t, s, p)
	saying(t, s, false, "revoked", "certtool", append(verify, "--load-crl", lists(t, s))...)
	saying(t, s, true, "Certificate Status: revoked", "ocsptool", append([]string{"--verbose"}, ask...)...)
	saying(t, s, true, "Certificate Status: revoked", "ocsptool", "--response-info", "--load-response", kept)
}

func TestARevocationSaysWhyInListAndOCSP(t *testing.T) {
	s := e2e.Shared(t)
	for _, v := range []struct {
		reason string
		code   int
	}{
		{"unspecified", 0},
		{"keyCompromise", 1},
		{"cACompromise", 2},
		{"affiliationChanged", 3},
		{"superseded", 4},
		{"cessationOfOperation", 5},
		{"privilegeWithdrawn", 9},
		{"aACompromise", 10},
	} {
		p := s.Issue(t, e2e.Order{Profile: "workload", Workload: "why"})
		c := s.Revoke(t, p.Serial, v.reason)
		r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber)
		if r.Status != ocsp.Revoked || r.RevocationReason != v.code || c.Revoked == nil || !r.RevokedAt.Equal(c.Revoked.At) {
			t.Errorf("%s: OCSP says %s, reason %d, at %s; want revoked, %d, at that of the answer, %v", v.reason, ocspWords[r.Status], r.RevocationReason, r.RevokedAt, v.code, c.Revoked)
		}
		e2e.Eventually(t, listWithin, func() error {
			e := onList(t, s, p.X509, p.Issuer(t))
			switch {
			case e == nil:
				return fmt.Errorf("%s: not on its list", v.reason)
			case e.ReasonCode != v.code || !e.RevocationTime.Equal(c.Revoked.At):
				t.Errorf("%s: the list says reason %d at %s", v.reason, e.ReasonCode, e.RevocationTime)
			case v.code == 0 && len(e.Extensions) != 0: // RFC 5280 §5.3.1
				t.Errorf("%s: the list spells out the reason that it should leave out", v.reason)
			}
			return nil
		})
	}
}

func TestAReasonThatCouldBeTakenBackIsRefused(t *testing.T) {
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "workload", Workload: "kept"})
	at := "/v1/certificates/" + p.Serial + ":revoke"
	for _, v := range []struct {
		who    *http.Client
		url    string
		reason string
	}{
		{s.Operator(t), s.Env["SEGL_OPERATOR_URL"], "certificateHold"},
		{s.Operator(t), s.Env["SEGL_OPERATOR_URL"], "removeFromCRL"},
		{s.Operator(t), s.Env["SEGL_OPERATOR_URL"], "whim"},
		{s.Workload(t), s.Env["SEGL_URL"], "cACompromise"},
		{s.Workload(t), s.Env["SEGL_URL"], "privilegeWithdrawn"},
	} {
		a, err := e2e.Ask(t.Context(), v.who, http.MethodPost, v.url+at, map[string]string{"reason": v.reason})
		if err != nil {
			t.Fatal(err)
		}
		if a.Status/100 != 4 || !strings.Contains(string(a.Body), "urn:segl:problem:") {
			t.Errorf("%s: %d %s", v.reason, a.Status, a.Body)
		}
	}
	if r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber); r.Status != ocsp.Good {
		t.Errorf("after refusals only, OCSP says %s", ocspWords[r.Status])
	}
}

// serialAt is a serial of this site as if made then.
func serialAt(t *testing.T, then time.Time) *big.Int {
	t.Helper()
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	n, ok := new(big.Int).SetString(fmt.Sprintf("1001%08x%x", then.Unix(), random), 16)
	if !ok {
		t.Fatal("no number")
	}
	return n
}

func TestASerialThatWasNeverIntendedIsUnknown(t *testing.T) {
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"unknown.demo.test"}})
	for name, serial := range map[string]*big.Int{
		"made now": serialAt(t, time.Now()), "made in an epoch without a table": serialAt(t, time.Now().AddDate(-3, 0, 0)),
		"of another form": big.NewInt(4711), "too long": new(big.Int).Lsh(big.NewInt(1), 158),
	} {
		if r := askOCSP(t, s, p.Issuer(t), serial); r.Status != ocsp.Unknown {
			t.Errorf("a serial %s: OCSP says %s", name, ocspWords[r.Status])
		}
	}
	// A serial belongs to the authority that was to sign it: another one's responder does not know it.
	other := s.Issue(t, e2e.Order{Profile: "workload", Workload: "unknown"})
	if r := askOCSP(t, s, other.Issuer(t), p.X509.SerialNumber); r.Status == ocsp.Good {
		t.Errorf("another authority's OCSP says %s", ocspWords[r.Status])
	}
}

// An open intent is what a crash between intend and complete leaves. The test writes one that is a minute old.
func TestAnAbandonedCertificateIsRevoked(t *testing.T) {
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "server", Names: []string{"abandoned.demo.test"}})
	db, err := pgx.Connect(t.Context(), s.Env["SEGL_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	open := serialAt(t, time.Now().Add(-time.Minute))
	tag, err := db.Exec(t.Context(), `
		INSERT INTO intent (serial, not_after, authority, scope, profile, tbs)
		SELECT $1, not_after, authority, scope, profile, tbs
		FROM   intent
		WHERE  serial = $2`, open.Bytes(), p.X509.SerialNumber.Bytes())
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatal(tag, err)
	}
	ghost := *p.X509
	ghost.SerialNumber = open
	took := e2e.Eventually(t, 10*time.Second, func() error {
		var abandoned bool
		err := db.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM outcome WHERE serial = $1 AND signature IS NULL)`, open.Bytes()).Scan(&abandoned)
		if err == nil && !abandoned {
			err = errors.New("still open")
		}
		return err
	})
	t.Logf("abandoned after %s", took.Round(time.Millisecond))
	awaitRevoked(t, s, &e2e.Pair{Certificate: p.Certificate, X509: &ghost})
	if r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber); r.Status != ocsp.Good {
		t.Errorf("its neighbour: OCSP says %s", ocspWords[r.Status])
	}
}

func TestAuthoritiesHaveAStatusToo(t *testing.T) {
	s := e2e.Shared(t)
	root := certificates(t, s.Public(t, "/roots.pem").Body)[0]
	all := eachList(t, s.Public(t, "/crls.pem").Body)
	for _, o := range []e2e.Order{
		{Profile: "server", Names: []string{"chain.demo.test"}},
		{Profile: "workload", Workload: "chain"},
		{Profile: "database-server", Names: []string{"chain.demo.test"}},
	} {
		authority := s.Issue(t, o).Issuer(t)
		if r := askOCSP(t, s, root, authority.SerialNumber); r.Status != ocsp.Good {
			t.Errorf("%s: OCSP says %s", authority.Subject, ocspWords[r.Status])
		}
		if e := onList(t, s, authority, root); e != nil {
			t.Errorf("%s is on its list", authority.Subject)
		}
		if !listed(all, authority) {
			t.Errorf("/crls.pem has no list signed by %s", authority.Subject)
		}
	}
	if !listed(all, root) {
		t.Error("/crls.pem has no list signed by the root")
	}
	// A root is believed because somebody chose to, not because it says so: it was never intended, like any stranger's.
	if r := askOCSP(t, s, root, root.SerialNumber); r.Status != ocsp.Unknown {
		t.Errorf("of itself the root says %s", ocspWords[r.Status])
	}
}

func listed(all []*x509.RevocationList, issuer *x509.Certificate) bool {
	for _, l := range all {
		if l.CheckSignatureFrom(issuer) == nil && l.NextUpdate.After(time.Now()) {
			return true
		}
	}
	return false
}

func certificates(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		t.Fatal("no certificate")
	}
	return all
}

func TestEveryURLInACertificateLeadsSomewhere(t *testing.T) {
	s := e2e.Shared(t)
	for _, o := range []e2e.Order{
		{Profile: "server", Names: []string{"urls.demo.test", "127.0.0.3"}},
		{Profile: "workload", Workload: "urls"},
		{Profile: "client", Workload: "urls"},
		{Profile: "database-server", Names: []string{"urls.demo.test"}},
		{Profile: "database-client", Workload: "urls", CommonName: "urls"},
	} {
		p := s.Issue(t, o)
		for c, issuer := p.X509, p.Issuer(t); issuer != nil; c, issuer = issuer, nil {
			a := s.Public(t, c.IssuingCertificateURL[0])
			if got := a.Header.Get("Content-Type"); got != "application/pkix-cert" { // RFC 5280 §4.2.2.1
				t.Errorf("%s: content type %q", c.IssuingCertificateURL[0], got)
			}
			if string(a.Body) != string(issuer.Raw) {
				t.Errorf("%s is not the issuer in DER", c.IssuingCertificateURL[0])
			}
			a = s.Public(t, c.CRLDistributionPoints[0])
			if got := a.Header.Get("Content-Type"); got != "application/pkix-crl" { // RFC 5280 §4.2.1.13
				t.Errorf("%s: content type %q", c.CRLDistributionPoints[0], got)
			}
			l, err := x509.ParseRevocationList(a.Body)
			if err != nil || l.CheckSignatureFrom(issuer) != nil || string(l.RawIssuer) != string(issuer.RawSubject) {
				t.Errorf("%s is not a list by the issuer: %v", c.CRLDistributionPoints[0], err)
			}
			if got := distributionPoint(t, l); got != c.CRLDistributionPoints[0] {
				t.Errorf("the list at %s says that it is for %q", c.CRLDistributionPoints[0], got)
			}
		}
	}
}

// distributionPoint reads the URL of a list's issuing distribution point (RFC 5280 §5.2.5).
func distributionPoint(t *testing.T, l *x509.RevocationList) string {
	t.Helper()
	for _, e := range l.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}) {
			continue
		}
		var v struct {
			Point struct {
				Full []asn1.RawValue `asn1:"optional,tag:0"`
			} `asn1:"optional,tag:0"`
		}
		if _, err := asn1.Unmarshal(e.Value, &v); err != nil || len(v.Point.Full) != 1 || !e.Critical {
			t.Fatalf("issuing distribution point %x: %v", e.Value, err)
		}
		return string(v.Point.Full[0].Bytes)
	}
	t.Fatal("the list has no issuing distribution point")
	return ""
}

func TestTheResponderIsTheAuthoritysOwnAndShortLived(t *testing.T) {
	s := e2e.Shared(t)
	p := s.Issue(t, e2e.Order{Profile: "workload", Workload: "responder"})
	r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber)
	d := r.Certificate
	if d == nil {
		t.Fatal("the answer carries no responder")
	}
	noCheck := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	has := false
	for _, e := range d.Extensions {
		has = has || e.Id.Equal(noCheck)
	}
	if err := d.CheckSignatureFrom(p.Issuer(t)); err != nil || !has || len(d.ExtKeyUsage) != 1 || d.ExtKeyUsage[0] != x509.ExtKeyUsageOCSPSigning {
		t.Errorf("the responder is signed by the authority (%v), for OCSP alone (%v), with ocsp-nocheck (%t)", err, d.ExtKeyUsage, has)
	}
	if life := d.NotAfter.Sub(d.NotBefore); life > 8*24*time.Hour {
		t.Errorf("nobody checks a responder, and it lives %s", life)
	}
	if r.NextUpdate.IsZero() || r.NextUpdate.After(d.NotAfter) {
		t.Errorf("the answer is good until %s, the responder until %s", r.NextUpdate, d.NotAfter)
	}
	// The certificate is named as it was asked for, by SHA-1 (RFC 5019 §2.1.1); the signature is another matter.
	if r.SignatureAlgorithm != x509.ECDSAWithSHA256 || r.IssuerHash != crypto.SHA1 {
		t.Errorf("signed by %s, named by %s", r.SignatureAlgorithm, r.IssuerHash)
	}
}

func TestTheTrustBundleIsSPIFFEs(t *testing.T) {
	s := e2e.Shared(t)
	a := s.Public(t, "/bundle.json")
	var bundle struct { // SPIFFE Trust Domain and Bundle §4
		Keys []struct {
			Use string   `json:"use"`
			Kty string   `json:"kty"`
			Crv string   `json:"crv"`
			X   string   `json:"x"`
			Y   string   `json:"y"`
			KID string   `json:"kid"`
			X5C []string `json:"x5c"`
		} `json:"keys"`
		Sequence *uint64 `json:"spiffe_sequence"`
		Refresh  *int    `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(a.Body, &bundle); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || bundle.Refresh == nil || *bundle.Refresh <= 0 || len(bundle.Keys) == 0 {
		t.Errorf("%s: %s", a.Header.Get("Content-Type"), a.Body)
	}
	p := s.Issue(t, e2e.Order{Profile: "workload", Workload: "bundle"})
	roots := x509.NewCertPool()
	tokens := 0
	for _, k := range bundle.Keys {
		if k.Use == "jwt-svid" { // JWT-SVID §5: "The kid parameter MUST be set"
			if tokens++; k.KID == "" || len(k.X5C) != 0 || k.X == "" {
				t.Errorf("key of tokens %+v", k)
			}
			continue
		}
		if k.Use != "x509-svid" || len(k.X5C) != 1 || k.Kty != "EC" || k.Crv != "P-256" || k.X == "" || k.Y == "" { // X509-SVID §6.1
			t.Fatalf("key %+v", k)
		}
		der, err := base64.StdEncoding.DecodeString(k.X5C[0])
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(c)
	}
	if tokens == 0 {
		t.Error("the bundle has no key of tokens")
	}
	between := x509.NewCertPool()
	between.AddCert(p.Issuer(t))
	if _, err := p.X509.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("by the bundle alone: %v", err)
	}
	if len(p.X509.URIs) != 1 || p.X509.URIs[0].String() != "spiffe://segl.test/tenant/demo/project/shop/environment/dev/bundle" {
		t.Errorf("identities %v", p.X509.URIs)
	}
}

// Nothing that a running segl remembered may be needed to refuse: neither caches nor notices.
func TestARestartForgetsNoRevocation(t *testing.T) {
	s := e2e.Start(t)
	p := s.Issue(t, e2e.Order{Profile: "workload", Workload: "leaver"})
	good := s.Issue(t, e2e.Order{Profile: "workload", Workload: "stayer"})
	read := func(who *e2e.Pair) (e2e.Answer, error) {
		return e2e.Ask(t.Context(), s.Client(t, who.CertFile, who.KeyFile), http.MethodGet, s.Env["SEGL_URL"]+"/v1/certificates/"+who.Serial, nil)
	}
	if a, err := read(p); err != nil || a.Status != http.StatusOK {
		t.Fatalf("before: %d %v", a.Status, err)
	}
	s.Revoke(t, p.Serial, "cessationOfOperation")
	refused := func(when string) {
		t.Helper()
		if a, err := read(p); err != nil || a.Status != http.StatusForbidden {
			t.Errorf("%s: %d %s %v", when, a.Status, a.Body, err)
		}
	}
	refused("at once")
	s.Kill(t)
	s.Begin(t)
	refused("first request after a crash")
	if r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber); r.Status != ocsp.Revoked {
		t.Errorf("OCSP after a crash says %s", ocspWords[r.Status])
	}
	s.Stop(t)
	s.Begin(t)
	if r := askOCSP(t, s, p.Issuer(t), p.X509.SerialNumber); r.Status != ocsp.Revoked {
		t.Errorf("OCSP after a restart says %s", ocspWords[r.Status])
	}
	refused("first request after a restart")
	if a, err := read(good); err != nil || a.Status != http.StatusOK {
		t.Errorf("whoever was not revoked: %d %s %v", a.Status, a.Body, err)
	}
}
