//go:build cloudkms

package stepkms

import _ "go.step.sm/crypto/kms/cloudkms"
