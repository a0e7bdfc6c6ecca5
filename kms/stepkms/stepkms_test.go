package stepkms_test

import (
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/kms/stepkms"
)

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	for uri, want := range map[string]string{
		"":                                    "want a URI",
		"no uri":                              "want a URI",
		"pkcs11:token=segl?pin-value=s3cr3t":  "pin-source",
		"yubikey:slot-id=9a":                  "not in this program",
		"softkms:":                            "not in this program",
		"awskms:region=eu-north-1;profile=it": "-tags awskms",
	} {
		p, err := stepkms.Open(t.Context(), uri)
		if err == nil {
			p.Close()
			t.Errorf("%q was opened", uri)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v, want %q and no PIN", uri, err, want)
		}
	}
}
