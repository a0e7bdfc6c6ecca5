package ledger_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/bench/fill"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// few is how many certificates there are unless SEGL_LARGE says otherwise: enough to see that everything is found. `make soak`
// says ten million, which take 9 GB.
const few = 5_800

// Bounds of a ledger that SEGL_LARGE has made large: several times what a machine with nothing else to do takes, since it
// may be busy. Few certificates show no more than that all are found.
const (
	lookupWithin = 50 * time.Millisecond // half of a kind's look-ups
	readyWithin  = 2 * time.Second       // a replica's first answer
	mostGrowth   = 3                     // of a list's later pages over its earlier ones
	mostOctets   = 1200                  // of database a certificate, its facts and indexes included
)

// TestEverythingIsFoundInALargeLedger fills 58 weeks and looks certificates up in every way. It says how long that took and
// how many octets each takes.
func TestEverythingIsFoundInALargeLedger(t *testing.T) {
	n := few
	if s := os.Getenv("SEGL_LARGE"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	h := pkitest.On(t, postgrestest.Open(t))
	plan := fill.Plan{
		DB: h.DB, Ledger: h.Ledger, Site: 1, Scope: pkitest.Demo, N: n, Epochs: 58, Now: h.Now(),
		Told: func(done int) {
			if n > few {
				t.Logf("%d certificates", done)
			}
		},
	}
	before := number(t, h.DB, `SELECT pg_database_size(current_database())`)
	began := time.Now()
	some, err := plan.Run(t.Context())
	must(t, err)
	octets := (number(t, h.DB, `SELECT pg_database_size(current_database())`) - before) / n
	t.Logf("%d certificates in %s, %d octets each", n, time.Since(began).Round(time.Second), octets)
	began = time.Now()
	second := replica(t, h.DB)
	_, err = second.MakeEpochs(t.Context(), h.Now())
	must(t, err)
	_, err = second.BySerial(t.Context(), some[0].Serial)
	must(t, err)
	ready := time.Since(began)
	t.Logf("another replica's first answer after %s", ready.Round(time.Millisecond))
	timings, err := plan.Lookups(t.Context(), some)
	must(t, err)
	for _, v := range timings {
		t.Log(v)
	}
	if n == few {
		return
	}
	if octets > mostOctets || ready > readyWithin {
		t.Errorf("%d octets each, want %d at most; the first answer after %s, want one within %s", octets, mostOctets, ready, readyWithin)
	}
	for _, v := range timings {
		if v.P50 > lookupWithin || v.Growth > mostGrowth {
			t.Errorf("%s: half within %s and later pages %.2f times the earlier; want %s and %d", v.Kind, v.P50, v.Growth, lookupWithin, mostGrowth)
		}
	}
}
