package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// unitRuns is how many signatures the unit is the median of.
const unitRuns = 2000

// measureUnit returns S: the thread CPU of one ecdsa.SignASN1 on P-256 with a SHA-256 digest.
//
// It reads CLOCK_THREAD_CPUTIME_ID, because getrusage(RUSAGE_THREAD) is brought up to date by the scheduler's tick only:
// a signature is a hundredth of one and would cost nothing, as a rule.
func measureUnit() (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, fmt.Errorf("measuring the unit: %w", err)
	}
	digest := sha256.Sum256([]byte("the unit"))
	runs := make([]time.Duration, unitRuns)
	for i := range runs {
		began, err1 := threadCPU()
		_, err2 := ecdsa.SignASN1(rand.Reader, key, digest[:])
		ended, err3 := threadCPU()
		for _, err := range []error{err1, err2, err3} {
			if err != nil {
				return 0, fmt.Errorf("measuring the unit: %w", err)
			}
		}
		runs[i] = ended - began
	}
	return median(runs), nil
}

func threadCPU() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

// median sorts v.
func median(v []time.Duration) time.Duration {
	slices.Sort(v)
	return v[len(v)/2]
}
