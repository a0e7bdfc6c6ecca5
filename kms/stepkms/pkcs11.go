//go:build pkcs11

package stepkms

// PKCS #11 loads the token maker's own library, so it needs cgo.
import _ "go.step.sm/crypto/kms/pkcs11"
