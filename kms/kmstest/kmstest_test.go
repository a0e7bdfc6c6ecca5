package kmstest_test

import (
	"testing"

	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func TestMemoryKeyringConforms(t *testing.T) {
	ring := kmstest.NewKeyring()
	kmstest.Run(t, func(*testing.T) kms.Keyring { return ring })
}
