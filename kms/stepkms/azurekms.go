//go:build azurekms

package stepkms

import _ "go.step.sm/crypto/kms/azurekms"
