//go:build tpmkms

package stepkms

import _ "go.step.sm/crypto/kms/tpmkms"
