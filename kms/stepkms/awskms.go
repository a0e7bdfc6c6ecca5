//go:build awskms

package stepkms

import _ "go.step.sm/crypto/kms/awskms"
