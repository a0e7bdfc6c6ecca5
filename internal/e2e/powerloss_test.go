//go:build linux

package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
	"codeberg.org/dataverket/segl/internal/e2e/unsynced"
)

// The power goes at random instants while eight clients issue, renew and revoke: whatever the disk was not told to keep is gone,
// and segl and its Postgres with it. Whatever any client was told stays true.
func TestNothingThatWasAnsweredIsLostByPowerLoss(t *testing.T) {
	choose := rand.New(rand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	s := e2e.New(t)
	at, from := filepath.Join(s.Dir, "postgres"), s.Temp(t)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	disk, err := unsynced.Mount(from, at)
	if err != nil {
		t.Skipf("this machine lets us mount nothing: %v", err)
	}
	t.Cleanup(func() {
		s.Stop(t)
		e2e.Eventually(t, 20*time.Second, disk.Unmount)
	})
	s.Begin(t)
	if err := disk.Sync(); err != nil { // initdb may leave that to the first checkpoint
		t.Fatal(err)
	}
	l := startLoad(t, s, choose)
	lost := 0
	for range howOften() / 6 {
		l.letAnswer(1 + choose.IntN(80))
		cut := time.Now()
		master := postmasterOf(t, s)
		all := append(children(t, master), master)
		n, err := disk.Cut()
		if err != nil {
			t.Fatal(err)
		}
		lost += n
		s.Kill(t)
		for _, pid := range all {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		disk.Restore()
		s.Begin(t)
		l.back("power", cut)
	}
	l.stop()
	if lost == 0 {
		t.Error("nothing was ever unsynced: the disk is not the database's")
	}
	t.Logf("%d pages were lost unsynced", lost)
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}
