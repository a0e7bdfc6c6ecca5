package store_test

import (
	"sync"
	"syscall"
	"testing"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/duty"
)

// BenchmarkSealing is what sealing adds to each certificate: reading its fact, intent and outcome back, hashing, storing.
func BenchmarkSealing(b *testing.B) {
	h := opened(b)
	h.seal(b)
	var wait sync.WaitGroup
	turn := make(chan struct{}, b.N)
	for range b.N {
		turn <- struct{}{}
	}
	close(turn)
	for range 16 {
		wait.Go(func() {
			for range turn {
				h.issue(b)
			}
		})
	}
	wait.Wait()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before) //nolint:errcheck // it has no reason to fail
	b.ResetTimer()
	if _, err := duty.Once(b.Context(), h.DB, duty.Duty{Name: seal.Duty, Once: h.sealer.RunOnce}); err != nil {
		b.Fatal(err)
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after) //nolint:errcheck // likewise
	spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(spent)/1e3/float64(b.N), "own-cpu-us/fact")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N), "us/fact")
}
