// Package ceremony is what is done with a root's key where no network is: making the root, certifying an online service's
// authorities from their requests, vouching for another root, saying what was revoked, and writing down all of it.
//
// Each certificate is built by ca/tbs and judged by ca/lint before the key touches it, as online; each signature is verified before
// anything is returned. The package reads and writes no file and knows no provider of keys: who holds the key is the caller's to say.
//
// The invariant: nothing is signed that the transcript does not say, with its hash, before its signature (Transcript). RFC 5280 §4,
// §5 and §6.1. Functions may be called concurrently, a Transcript may not.
package ceremony

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

const day = 24 * time.Hour

// Bounds of what is signed.
const (
	RootLife      = 20 * 365 * day // of a root, where nothing else is said
	AuthorityLife = 5 * 365 * day  // of an authority
	ListLife      = 180 * day      // of a root's list: somebody has to come back before it ends
	maxLife       = 30 * 366 * day
)

// A Room is where a ceremony is held: the key, and the transcript of what is done with it.
type Room struct {
	Key    kms.Key
	Script *Transcript
	Now    func() time.Time
}

// offline is the site number in the serials of what is signed here: no service has it, or an authority made online could have the
// same.
const offline = 255

// rootName is what a root may be called: it is in URLs, and in its certificate.
var rootName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName refuses what cannot name an authority.
func CheckName(name string) error {
	if !rootName.MatchString(name) {
		return fmt.Errorf("name %.70q: want 1 to 63 of a-z, 0-9 and hyphen, neither first nor last a hyphen", name)
	}
	return nil
}

// Found makes a root for a trust domain: a certificate that the key signs for itself.
func (r *Room) Found(ctx context.Context, domain, name string, life time.Duration) (*x509.Certificate, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: domain + " " + name}.ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("encoding the root's name: %w", err)
	}
	spec := tbs.Spec{Usage: tbs.Authority, Key: r.Key.Public(), Subject: subject, PathLen: -1}
	return r.sign(ctx, "root", spec, r.Key.Public(), life)
}

// An Ask is what an authority's certificate is to say beside what its request says.
type Ask struct {
	Life      time.Duration
	PublicURL string          // base URL of the service's public listener
	RootName  string          // what the service calls the root: its list is there
	Permitted *lint.Permitted // nil: any name
	Policies  []x509.OID
}

// Certify certifies an authority from its request, which its own key has signed. Its name and key are taken, nothing else.
func (r *Room) Certify(ctx context.Context, root *x509.Certificate, der []byte, ask Ask) (*x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request's own signature: %w", err)
	}
	if _, err := kms.AlgorithmOf(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("the request's key: %w", err)
	}
	if same(csr.PublicKey, root.PublicKey) {
		return nil, errors.New("the request is of the root's own key: an authority has one of its own")
	}
	if err := CheckName(ask.RootName); err != nil {
		return nil, fmt.Errorf("the root's %w", err)
	}
	r.Script.Note("request", "read the request of "+csr.Subject.String(), HashOf("request", der), HashOf("key", csr.RawSubjectPublicKeyInfo))
	// Nobody answers for the root online, so there is no responder to name; its list is at one URL, whatever week it is.
	spec := tbs.Spec{
		Usage: tbs.Authority, Issuer: root, Subject: csr.RawSubject, PathLen: 0, Permitted: ask.Permitted, Policies: ask.Policies,
		Purposes: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		List:     ask.PublicURL + "/crl/" + ask.RootName + "/0.crl", Issuers: ask.PublicURL + "/issuers/" + ask.RootName + ".cer",
	}
	return r.sign(ctx, "authority", spec, csr.PublicKey, ask.Life)
}

// Cross vouches for another root: a certificate of its name and key, signed by ours. Whoever trusts only ours trusts it then.
func (r *Room) Cross(ctx context.Context, root, other *x509.Certificate, life time.Duration) (*x509.Certificate, error) {
	if !other.IsCA || other.CheckSignatureFrom(other) != nil || same(other.PublicKey, root.PublicKey) {
		return nil, errors.New("what is to be vouched for is not another root")
	}
	r.Script.Note("other root", "read "+other.Subject.String(), HashOf("other root", other.Raw))
	life = min(life, other.NotAfter.Sub(r.Now()), root.NotAfter.Sub(r.Now())).Truncate(time.Second)
	return r.sign(ctx, "cross", tbs.Spec{Usage: tbs.Authority, Issuer: root, Subject: other.RawSubject, PathLen: 1}, other.PublicKey, life)
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// backdate lets verifiers whose clocks lag believe at once.
const backdate = time.Hour

// sign makes a certificate: built, linted, written down, signed, verified, in this order.
func (r *Room) sign(ctx context.Context, what string, spec tbs.Spec, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	if life < time.Hour || life > maxLife {
		return nil, fmt.Errorf("a life of %s: want an hour to %d days", life, int(maxLife/day))
	}
	t, err := tbs.Compile(spec)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of the %s: %w", what, err)
	}
	now := r.Now().Truncate(time.Second)
	v := tbs.Values{Serial: cert.NewSerial(offline, now), NotBefore: now.Add(-backdate), SPKI: spki}
	v.NotAfter = now.Add(life - time.Second)
	if spec.Issuer != nil && v.NotBefore.Before(spec.Issuer.NotBefore) {
		v.NotBefore = spec.Issuer.NotBefore
	}
	body, err := t.Build(v)
	if err != nil {
		return nil, fmt.Errorf("building the certificate of the %s: %w", what, err)
	}
	if err := lint.Certificate(body, t.Expect(v, life+backdate)); err != nil {
		return nil, fmt.Errorf("linting the certificate of the %s: %w", what, err)
	}
	r.Script.Note("sign "+what, fmt.Sprintf("sign with key %s what ends %s, serial %s", r.Key.Name(), v.NotAfter.UTC().Format(time.RFC3339), v.Serial), HashOf("to be signed", body), HashOf("key", spki))
	der, err := r.signed(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of the %s: %w", what, err)
	}
	r.Script.Note("signed "+what, "fingerprint "+Fingerprint(der), HashOf(what, der))
	return x509.ParseCertificate(der)
}

// signed signs body and compares what comes back with it.
func (r *Room) signed(ctx context.Context, body []byte) ([]byte, error) {
	algorithm, err := kms.SignatureAlgorithmOf(r.Key.Public())
	if err != nil {
		return nil, err
	}
	signature, err := kms.SignMessage(ctx, r.Key, body)
	if err != nil {
		return nil, err
	}
	if err := kms.Verify(r.Key.Public(), body, signature); err != nil {
		return nil, err
	}
	return tbs.Assemble(body, algorithm, signature)
}

// A Revoked certificate is one that the root's list names.
type Revoked struct {
	Certificate *x509.Certificate
	At          time.Time
	Reason      cert.Reason
}

// List says what the root revoked: what the last list names, nil being none, and more. Its number only grows (RFC 5280 §5.2.3).
func (r *Room) List(ctx context.Context, root *x509.Certificate, last *x509.RevocationList, revoked []Revoked) ([]byte, error) {
	now := r.Now().Truncate(time.Second)
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(ListLife)}
	if last != nil {
		list.Number.Add(last.Number, big.NewInt(1))
		list.RevokedCertificateEntries = last.RevokedCertificateEntries
		r.Script.Note("last list", fmt.Sprintf("read list %d", last.Number), HashOf("last list", last.Raw))
	}
	for _, v := range revoked {
		if v.Certificate.CheckSignatureFrom(root) != nil {
			return nil, fmt.Errorf("certificate %x is none of this root's", v.Certificate.SerialNumber)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: v.Certificate.SerialNumber, RevocationTime: v.At.UTC().Truncate(time.Second), ReasonCode: int(v.Reason),
		})
	}
	r.Script.Note("sign list", fmt.Sprintf("sign list %d with %d certificates, which ends %s", list.Number, len(list.RevokedCertificateEntries), list.NextUpdate.UTC().Format(time.RFC3339)))
	der, err := x509.CreateRevocationList(rand.Reader, list, root, kms.Signer(ctx, r.Key))
	if err != nil {
		return nil, fmt.Errorf("signing the root's list: %w", err)
	}
	made, err := x509.ParseRevocationList(der)
	if err == nil {
		err = made.CheckSignatureFrom(root)
	}
	if err != nil {
		return nil, fmt.Errorf("verifying the root's list: %w", err)
	}
	r.Script.Note("signed list", "", HashOf("list", der))
	return der, nil
}
