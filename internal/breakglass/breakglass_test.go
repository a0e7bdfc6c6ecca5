package breakglass_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"codeberg.org/dataverket/segl/internal/breakglass"
)

// An authority of a test.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func key(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes a CA certificate for k below up, or signed by itself where up is nil.
func sign(t *testing.T, name string, k crypto.Signer, up *authority) authority {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent, by := tmpl, k
	if up != nil {
		parent, by = up.cert, up.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, k.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{k, c}
}

func ofCertificate(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func ofKey(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func ofSSH(t *testing.T, pub crypto.PublicKey) string {
	t.Helper()
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(k)
}

func guard(t *testing.T, e breakglass.Entry) *breakglass.Guard {
	t.Helper()
	e.Name = "oob"
	g, err := breakglass.Parse([]breakglass.Entry{e})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestWhateverTouchesABreakGlassCAIsRefusedAndSaysHow(t *testing.T) {
	emergency := sign(t, "emergency", key(t), nil)
	renewed := sign(t, "emergency again", emergency.key, nil)
	below := sign(t, "below", key(t), &emergency)
	leaf := sign(t, "leaf", key(t), &below)
	daily := sign(t, "daily", key(t), nil)
	crossed := sign(t, "daily", daily.key, &emergency)
	byCertificate := breakglass.Entry{Certificate: ofCertificate(emergency.cert)}
	byKey := breakglass.Entry{Key: strings.ToUpper(ofKey(emergency.cert))}
	bySSH := breakglass.Entry{SSH: ofSSH(t, emergency.key.Public())}
	for name, row := range map[string]struct {
		by    breakglass.Entry
		chain []authority
		how   string
	}{
		"its certificate":                        {byCertificate, []authority{emergency}, "is its certificate"},
		"its key in another certificate":         {byKey, []authority{renewed}, "has its key"},
		"its SSH key in a certificate":           {bySSH, []authority{emergency}, "has its SSH key"},
		"something below it":                     {byCertificate, []authority{below, emergency}, "chains to it: is its certificate"},
		"something two below it":                 {byKey, []authority{leaf, below, emergency}, "chains to it: has its key"},
		"something below it, in any order":       {byCertificate, []authority{leaf, emergency, below}, "chains to it"},
		"the daily root, cross-signed by it":     {bySSH, []authority{crossed, emergency}, "chains to it: has its SSH key"},
		"the daily root with it thrown in":       {byCertificate, []authority{daily, emergency}, "chains to it"},
		"something below its other certificate":  {byKey, []authority{below, renewed}, "chains to it: has its key"},
		"its certificate as the parent of daily": {byCertificate, []authority{daily, crossed, emergency}, "chains to it"},
	} {
		var chain []*x509.Certificate
		for _, a := range row.chain {
			chain = append(chain, a.cert)
		}
		var touch *breakglass.Touch
		err := guard(t, row.by).Chain("authority x", chain...)
		if !errors.As(err, &touch) || !strings.Contains(touch.How, row.how) || touch.Name != "oob" || touch.What != "authority x" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatTouchesNoneIsTaken(t *testing.T) {
	emergency, daily := sign(t, "emergency", key(t), nil), sign(t, "daily", key(t), nil)
	below := sign(t, "below", key(t), &daily)
	g := guard(t, breakglass.Entry{Certificate: ofCertificate(emergency.cert), Key: ofKey(emergency.cert), SSH: ofSSH(t, emergency.key.Public())})
	for _, err := range []error{
		g.Chain("a root", daily.cert), g.Chain("an authority", below.cert, daily.cert), g.Key("a key", below.key.Public()),
		(*breakglass.Guard)(nil).Chain("anything", emergency.cert), (*breakglass.Guard)(nil).Key("anything", emergency.key.Public()),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestAChainWithoutItsRootIsRefused(t *testing.T) {
	emergency, daily := sign(t, "emergency", key(t), nil), sign(t, "daily", key(t), nil)
	below := sign(t, "below", key(t), &emergency)
	leaf := sign(t, "leaf", key(t), &below)
	g := guard(t, breakglass.Entry{Certificate: ofCertificate(emergency.cert)})
	for name, chain := range map[string][]*x509.Certificate{
		"nothing":              nil,
		"no issuer":            {below.cert},
		"not the last issuer":  {leaf.cert, below.cert},
		"another's root":       {below.cert, daily.cert},
		"itself, unsigned, up": {leaf.cert, leaf.cert},
	} {
		if err := g.Chain("an import", chain...); !errors.Is(err, breakglass.ErrNoAnchor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEd25519SSHKeyIsFoundInX509(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var touch *breakglass.Touch
	if err := guard(t, breakglass.Entry{SSH: ofSSH(t, pub)}).Key("key transit", pub); !errors.As(err, &touch) {
		t.Errorf("got %v", err)
	}
}

func TestEntriesThatNameNothingAreRefused(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for name, e := range map[string]breakglass.Entry{
		"no name": {Certificate: good}, "no fingerprint": {Name: "oob"}, "a short one": {Name: "oob", Certificate: good[2:]},
		"a long one": {Name: "oob", Key: good + "ab"}, "no hex": {Name: "oob", Key: strings.Repeat("zz", 32)},
		"an MD5 of SSH": {Name: "oob", SSH: "MD5:" + good}, "SSH without its prefix": {Name: "oob", SSH: strings.Repeat("A", 43)},
		"SSH, padded": {Name: "oob", SSH: "SHA256:" + strings.Repeat("A", 43) + "="}, "a SHA-1": {Name: "oob", Certificate: good[:40]},
	} {
		if g, err := breakglass.Parse([]breakglass.Entry{e}); err == nil || g != nil {
			t.Errorf("%s: taken", name)
		}
	}
	colons := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	if _, err := breakglass.Parse([]breakglass.Entry{{Name: "oob", Certificate: colons}}); err != nil {
		t.Errorf("as OpenSSL prints it: %v", err)
	}
}
