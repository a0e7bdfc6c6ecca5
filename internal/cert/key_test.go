package cert_test

import (
	"crypto"
	"crypto/dsa" //nolint:staticcheck // a kind of key that is refused
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/cert"
)

func TestCheckKeyRefuses(t *testing.T) {
	sound := rsa2048().PublicKey
	exponent := func(e int) *rsa.PublicKey { return &rsa.PublicKey{N: sound.N, E: e} }
	modulus := func(n *big.Int) *rsa.PublicKey { return &rsa.PublicKey{N: n, E: 65537} }
	p := must(rand.Prime(rand.Reader, 1024))
	weak := func(s string) ed25519.PublicKey { return must(hex.DecodeString(s)) }
	one := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, c := range map[string]struct {
		key  crypto.PublicKey
		says string
	}{
		"no key":                {nil, "use ECDSA"},
		"a DSA key":             {&dsa.PublicKey{}, "use ECDSA"},
		"a private key":         {one, "use ECDSA"},
		"RSA 1024":              {modulus(must(rsa.GenerateKey(rand.Reader, 1024)).N), "1024 bits"},
		"RSA 2047":              {modulus(new(big.Int).Rsh(sound.N, 1)), "2047 bits"},
		"RSA 2050":              {modulus(new(big.Int).Add(new(big.Int).Lsh(sound.N, 2), big.NewInt(1))), "multiple of 8"},
		"RSA 4104":              {modulus(new(big.Int).Lsh(big.NewInt(1), 4103)), "2048 to 4096"},
		"exponent 1":            {exponent(1), "use 65537"},
		"exponent 3":            {exponent(3), "use 65537"},
		"an even exponent":      {exponent(65538), "use 65537"},
		"a negative exponent":   {exponent(-65537), "use 65537"},
		"an even modulus":       {modulus(new(big.Int).Xor(sound.N, big.NewInt(1))), "small factor"},
		"a factor of 751":       {modulus(multipleOf(751)), "small factor"},
		"ROCA":                  {roca(), "ROCA"},
		"close primes":          {modulus(new(big.Int).Mul(p, nextPrime(p))), "too close"},
		"a square":              {modulus(new(big.Int).Mul(p, p)), "too close"},
		"P-224":                 {&must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)).PublicKey, "P-256 or P-384"},
		"P-521":                 {&must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)).PublicKey, "P-256 or P-384"},
		"off the curve":         {&ecdsa.PublicKey{Curve: elliptic.P256(), X: one.X, Y: new(big.Int).Xor(one.Y, big.NewInt(1))}, "not on the curve"}, //nolint:staticcheck // on purpose
		"the point at infinity": {&ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)}, "not on the curve"},                    //nolint:staticcheck // on purpose
		"P-384's on P-256":      {&ecdsa.PublicKey{Curve: elliptic.P384(), X: one.X, Y: one.Y}, "not on the curve"},                                  //nolint:staticcheck // on purpose
		"Ed25519 of 31":         {make(ed25519.PublicKey, 31), "want 32"},
		"order 1":               {weak("01" + strings.Repeat("00", 31)), "small order"},
		"order 1, x negative":   {weak("01" + strings.Repeat("00", 30) + "80"), "small order"},
		"order 1, y is p+1":     {weak("ee" + strings.Repeat("ff", 30) + "7f"), "small order"},
		"order 2":               {weak("ec" + strings.Repeat("ff", 30) + "7f"), "small order"},
		"order 2, x negative":   {weak("ec" + strings.Repeat("ff", 31)), "small order"},
		"order 4":               {weak(strings.Repeat("00", 32)), "small order"},
		"order 4, x negative":   {weak(strings.Repeat("00", 31) + "80"), "small order"},
		"order 4, y is p":       {weak("ed" + strings.Repeat("ff", 30) + "7f"), "small order"},
		"order 8":               {weak("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "small order"},
		"order 8, negative":     {weak("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"), "small order"},
		"order 8, the other":    {weak("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"), "small order"},
	} {
		err := cert.CheckKey(c.key)
		if !errors.Is(err, cert.ErrBadKey) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want a refusal that says %q", name, err, c.says)
		}
	}
	if err := cert.CheckKey(&sound); err != nil {
		t.Errorf("what they all differ from: %v", err)
	}
}

func TestKeyIDOfRefusesWhatHasNoEncoding(t *testing.T) {
	if _, err := cert.KeyIDOf("key"); !errors.Is(err, cert.ErrBadKey) {
		t.Fatalf("%v", err)
	}
}

// multipleOf returns an odd modulus of 2048 bits that f divides.
func multipleOf(f int64) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), 2048)
	n.Div(n, big.NewInt(f))
	return n.Mul(n.SetBit(n.Sub(n, big.NewInt(2)), 0, 1), big.NewInt(f))
}

func nextPrime(p *big.Int) *big.Int {
	for q := new(big.Int).Add(p, big.NewInt(2)); ; q.Add(q, big.NewInt(2)) {
		if q.ProbablyPrime(20) {
			return q
		}
	}
}

// roca returns a key whose modulus is 1 modulo every prime the fingerprint looks at, so a power of 65537 modulo each
// (CVE-2017-15361).
func roca() *rsa.PublicKey {
	m := big.NewInt(2)
	for i := int64(3); i < 752; i += 2 {
		if q := big.NewInt(i); q.ProbablyPrime(20) {
			m.Mul(m, q)
		}
	}
	k := new(big.Int).Lsh(big.NewInt(1), 2048)
	k.Sub(k.Div(k, m), big.NewInt(1))
	return &rsa.PublicKey{N: k.Add(k.Mul(k, m), big.NewInt(1)), E: 65537}
}
