package uid_test

import (
	"bytes"
	"math/big"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestUIDsSortByTimeWithinKindAndSite(t *testing.T) {
	early, late := uid.New(uid.Certificate, 1, noon), uid.New(uid.Certificate, 1, noon.Add(time.Second))
	if bytes.Compare(early.Bytes(), late.Bytes()) >= 0 {
		t.Fatalf("%s sorts after %s", early, late)
	}
	floor := uid.Floor(uid.Certificate, 1, noon)
	if bytes.Compare(floor.Bytes(), early.Bytes()) > 0 {
		t.Fatalf("floor %s sorts after %s", floor, early)
	}
}

func TestUIDSaysWhatItWasMadeFrom(t *testing.T) {
	u := uid.New(uid.Order, 7, noon)
	if u.Kind() != uid.Order || u.Site() != 7 || !u.Time().Equal(noon) || u.IsZero() {
		t.Fatalf("made (order, 7, %s), read (%x, %d, %s)", noon, u.Kind(), u.Site(), u.Time())
	}
	if e := u.Epoch(); noon.Before(e.Start()) || !noon.Before(e.End()) {
		t.Fatalf("epoch %d [%s, %s) does not hold %s", e, e.Start(), e.End(), noon)
	}
}

func TestUIDIsAPositiveInteger(t *testing.T) {
	u := uid.New(uid.Certificate, 255, noon)
	if n := new(big.Int).SetBytes(u.Bytes()); n.Sign() <= 0 || n.BitLen() > 8*uid.Size-1 {
		t.Fatalf("%s would need a sign octet", u)
	}
}

func TestParseRefusesEverySpellingButOne(t *testing.T) {
	good := uid.New(uid.Certificate, 1, noon).String()
	for name, s := range map[string]string{
		"empty": "", "short": good[2:], "long": good + "00", "upper case": strings.ToUpper(good[:35]) + "A",
		"not hex": "zz" + good[2:], "unknown kind": "ff" + good[2:], "colons": good[:2] + ":" + good[3:],
	} {
		if _, err := uid.Parse(s); err == nil {
			t.Errorf("%s: parsed %q", name, s)
		}
	}
	if u, err := uid.Parse(good); err != nil || u.String() != good {
		t.Fatalf("good identifier refused: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(uid.New(uid.Certificate, 1, noon).String())
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := uid.Parse(s); err == nil && u.String() != s {
			t.Fatalf("%q has a second spelling %q", s, u)
		}
	})
}
