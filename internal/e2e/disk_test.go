//go:build linux

package e2e_test

import (
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// diskSize is room for a new database and the log of a few minutes.
const diskSize = "size=400m,mode=0755"

// The database's disk is full for a while, again and again: clients are told to come back, and what any was told before stays true.
func TestNothingThatWasAnsweredIsLostByAFullDisk(t *testing.T) {
	choose := mathrand.New(mathrand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	s := e2e.New(t)
	at := filepath.Join(s.Dir, "postgres")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, diskSize); err != nil {
		t.Skipf("this machine lets us mount nothing: %v", err)
	}
	t.Cleanup(func() {
		s.Stop(t)
		e2e.Eventually(t, 20*time.Second, func() error { return syscall.Unmount(at, 0) })
	})
	s.Begin(t)
	l := startLoad(t, s, choose)
	for range max(howOften()/10, 2) {
		l.letAnswer(1 + choose.IntN(40))
		filler := fill(t, at)
		l.letFail(writers)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		l.back("disk", time.Now())
	}
	l.stop()
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}

// fill takes all the room there is.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nobody reads it
	block := make([]byte, 64<<10)
	rand.Read(block) //nolint:errcheck // it never fails
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return file
}
