package keypair_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
)

// sec1 is RFC 5915's form, which OpenSSL wrote for long.
func sec1(key crypto.Signer) *pem.Block {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		panic(err)
	}
	return &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
}

// pkcs1 is that of RFC 8017 appendix A.1.2.
func pkcs1(key crypto.Signer) *pem.Block {
	return &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))}
}
