package tbs_test

import (
	"bytes"
	"context"
	"errors"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
)

// leaves are to-be-signed bytes of one authority and usage that differ in everything that two certificates may differ in.
func leaves(tb testing.TB, n int) (out [][]byte, serials []cert.Serial) {
	tb.Helper()
	keys := keyPairs(tb)
	tmpl := compile(tb, tbs.Spec{Usage: tbs.Server, Issuer: root(tb, keys[0]), CRLs: crls, OCSP: ocsp, Issuers: issuers})
	r := mathrand.New(mathrand.NewPCG(1, 1)) //nolint:gosec // a test's choice
	for i := range n {
		at := time.Now().Add(time.Duration(i) * time.Hour).Truncate(time.Second)
		v := tbs.Values{
			Serial: cert.NewSerial(1, at), NotBefore: at, NotAfter: at.Add(day), SPKI: keys[i%len(keys)].spki, Names: append(names(tb, "dns:a.demo.test"), randomNames(tb, r)...),
		}
		der, err := tmpl.Build(v)
		if err != nil {
			tb.Fatal(err)
		}
		out, serials = append(out, der), append(serials, v.Serial)
	}
	return out, serials
}

func TestUnpackGivesBackEveryOctet(t *testing.T) {
	all, serials := leaves(t, 60)
	for _, frame := range []*tbs.Frame{tbs.NewFrame(all[0]), tbs.NewFrame(all[17]), tbs.NewFrame(nil), tbs.NewFrame([]byte("short"))} {
		for i, der := range all {
			packed, _ := frame.Pack(nil, der, serials[i].Bytes())
			if got, err := frame.Unpack(packed, serials[i].Bytes()); err != nil || !bytes.Equal(got, der) {
				t.Fatalf("%d: %x\nis unpacked as\n%x, %v", i, der, got, err)
			}
		}
	}
}

func TestAFrameSparesMostOfAnotherCertificateOfItsKind(t *testing.T) {
	keys := keyPairs(t)
	tmpl := compile(t, tbs.Spec{Usage: tbs.Server, Issuer: root(t, keys[0]), CRLs: crls, OCSP: ocsp, Issuers: issuers})
	build := func(k keyPair, name string) ([]byte, cert.Serial) {
		v := tbs.Values{Serial: cert.NewSerial(1, time.Now()), NotBefore: time.Now(), NotAfter: time.Now().Add(day), SPKI: k.spki, Names: names(t, name)}
		der, err := tmpl.Build(v)
		if err != nil {
			t.Fatal(err)
		}
		return der, v.Serial
	}
	first, _ := build(keys[0], "dns:a.demo.test")
	other, s := build(keys[0], "dns:another.demo.test")
	packed, spared := tbs.NewFrame(first).Pack(nil, other, s.Bytes())
	if len(packed) > 100 || spared < len(other)-100 { // the key is the same here: 64 octets more when it is not
		t.Errorf("%d octets are %d packed, %d spared", len(other), len(packed), spared)
	}
}

func TestUnpackRefusesDamage(t *testing.T) {
	all, serials := leaves(t, 2)
	frame := tbs.NewFrame(all[0])
	packed, _ := frame.Pack(nil, all[1], serials[1].Bytes())
	for name, bad := range map[string][]byte{
		"a literal that is cut short":    packed[:1],
		"a copy without a length":        {0, 5},
		"a copy of nothing":              {0, 5, 0},
		"a copy beyond the frame":        {0, 0xff, 0xff, 0x03, 1},
		"a copy over the frame's end":    {0, 1, 0xff, 0xff, 0x03},
		"a copy over the serial's end":   append([]byte{0}, 0xff, 0xff, 0xff, 0xff, 0x0f, 9),
		"a number without an end":        bytes.Repeat([]byte{0xff}, 12),
		"a literal longer than anything": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
	} {
		if out, err := frame.Unpack(bad, serials[1].Bytes()); err == nil {
			t.Errorf("%s: unpacked as %x", name, out)
		}
	}
}

func TestFramesReadAFrameOnce(t *testing.T) {
	all, serials := leaves(t, 2)
	reads := 0
	f := tbs.NewFrames(func(_ context.Context, id int64) ([]byte, error) {
		if reads++; id != 7 {
			return nil, errors.New("no such frame")
		}
		return all[0], nil
	})
	stored, spared, err := f.Pack(t.Context(), 7, all[1], serials[1])
	if err != nil || spared == 0 {
		t.Fatal(spared, err)
	}
	if got, err := f.Unpack(t.Context(), stored, serials[1]); err != nil || !bytes.Equal(got, all[1]) || reads != 1 {
		t.Errorf("unpacked %x after %d reads, %v", got, reads, err)
	}
	if got, err := f.Unpack(t.Context(), all[1], serials[1]); err != nil || !bytes.Equal(got, all[1]) {
		t.Errorf("what was stored whole is read as %x, %v", got, err)
	}
	stored[1]++ // another frame
	if _, err := f.Unpack(t.Context(), stored, serials[1]); err == nil {
		t.Error("unpacked against a frame that is not there")
	}
	if _, err := f.Unpack(t.Context(), []byte{0, 0xff}, serials[1]); err == nil {
		t.Error("unpacked a damaged number")
	}
}

func TestReadFindsWhatACertificateIsLookedUpBy(t *testing.T) {
	keys := keyPairs(t)
	for _, k := range keys {
		tmpl := compile(t, tbs.Spec{Usage: tbs.Server, Issuer: root(t, keys[0]), CRLs: crls, OCSP: ocsp, Issuers: issuers})
		all := names(t, "dns:a.demo.test", "ip:192.0.2.1", "ip:2001:db8::1", "uri:spiffe://segl.test/tenant/demo/app")
		der, err := tmpl.Build(tbs.Values{Serial: cert.NewSerial(1, time.Now()), NotBefore: time.Now(), NotAfter: time.Now().Add(day), SPKI: k.spki, Names: all})
		if err != nil {
			t.Fatal(err)
		}
		parts, err := tbs.Read(der)
		if err != nil || !bytes.Equal(parts.SPKI, k.spki) || len(parts.Names) != len(all) {
			t.Fatalf("%s: %d names, key %x, %v", k.name, len(parts.Names), parts.SPKI, err)
		}
		for _, n := range all {
			if !parts.Holds(n) {
				t.Errorf("%s is not found", n)
			}
		}
		for _, n := range names(t, "dns:b.demo.test", "dns:demo.test", "ip:192.0.2.2", "uri:spiffe://segl.test/tenant/demo/ap") {
			if parts.Holds(n) {
				t.Errorf("%s is found", n)
			}
		}
	}
}

func FuzzReadAndUnpack(f *testing.F) {
	all, serials := leaves(f, 3)
	frame := tbs.NewFrame(all[0])
	for i, der := range all {
		packed, _ := frame.Pack(nil, der, serials[i].Bytes())
		f.Add(der, packed)
	}
	f.Fuzz(func(t *testing.T, der, stored []byte) {
		tbs.Read(der)                            //nolint:errcheck // it must only not fall
		frame.Unpack(stored, serials[0].Bytes()) //nolint:errcheck // likewise
		packed, _ := frame.Pack(nil, der, serials[0].Bytes())
		if got, err := frame.Unpack(packed, serials[0].Bytes()); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%x is unpacked as %x, %v", der, got, err)
		}
	})
}
