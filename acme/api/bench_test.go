package api_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"codeberg.org/dataverket/segl/internal/pkitest"
)

// BenchmarkOrder is a whole http-01 order of one name, client and holder included, by 16 clients at once. It reports the
// CPU of this process and of Postgres in S (one P-256 signature), and the database's growth. The measure that counts has the
// client in another process: make bench.
func BenchmarkOrder(b *testing.B) {
	s, r := newSite(b, options{})
	h := s.holder(b)
	accounts := make([]*account, 16)
	for i := range accounts {
		accounts[i] = r.register(b)
	}
	key := pkitest.Key(b)
	unit := signature(b, key)
	thumbprint := map[*account]string{}
	for _, a := range accounts {
		acct, err := r.store.Account(b.Context(), uidOf(b, a.kid))
		must(b, err)
		thumbprint[a] = acct.Thumbprint
	}
	for _, a := range accounts { // warm
		a.whole(b, h, thumbprint[a], key)
	}
	size := s.size(b)
	postmaster := s.postmaster(b)
	own, pg := cpu(), cpuBelow(b, postmaster)
	var ms0, ms1 runtime.MemStats
	runtime.ReadMemStats(&ms0)
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	b.ResetTimer()
	var all sync.WaitGroup
	for _, a := range accounts {
		all.Go(func() {
			for range work {
				a.whole(b, h, thumbprint[a], key)
			}
		})
	}
	all.Wait()
	b.StopTimer()
	runtime.ReadMemStats(&ms1)
	n := float64(b.N)
	b.ReportMetric(float64(cpu()-own)/n/float64(unit), "S/order(process)")
	b.ReportMetric(float64(cpuBelow(b, postmaster)-pg)/n/float64(unit), "S/order(postgres)")
	b.ReportMetric(float64(s.size(b)-size)/n, "dbB/order")
	b.ReportMetric(float64(ms1.Mallocs-ms0.Mallocs)/n, "mallocs/order")
	b.ReportMetric(float64(unit.Nanoseconds())/1000, "us/S")
}

// whole is one order from beginning to end: six requests.
func (a *account) whole(t testing.TB, h *holder, thumbprint string, key *ecdsa.PrivateKey) {
	_, o := a.order(t, "dns:localhost")
	u := authorizations(o)[0]
	c := challengeOf(t, a.post(t, u, "").json(t), "http-01")
	token := c["token"].(string)
	h.put("localhost/.well-known/acme-challenge/"+token, token+"."+thumbprint)
	a.post(t, c["url"].(string), "{}")
	if z := a.wait(t, u); z["status"] != "valid" {
		t.Errorf("authorization %v", z)
		return
	}
	o = a.post(t, o["finalize"].(string), csrFor(t, key, "dns:localhost")).json(t)
	if o["status"] != "valid" {
		t.Errorf("order %v", o)
		return
	}
	a.post(t, o["certificate"].(string), "")
}

func signature(b *testing.B, key *ecdsa.PrivateKey) time.Duration {
	b.Helper()
	digest := sha256.Sum256([]byte("x"))
	var all []time.Duration
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 500 {
		before := thread()
		_, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		must(b, err)
		all = append(all, thread()-before)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// clock reads a clock of clock_gettime(2) that package time does not offer.
func clock(id uintptr) time.Duration {
	var ts syscall.Timespec
	if _, _, err := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&ts)), 0); err != 0 {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func cpu() time.Duration    { return clock(2) } // CLOCK_PROCESS_CPUTIME_ID
func thread() time.Duration { return clock(3) } // CLOCK_THREAD_CPUTIME_ID

func (s *site) size(b *testing.B) int64 {
	b.Helper()
	_, err := s.DB.Exec(b.Context(), `SELECT pg_stat_force_next_flush()`)
	must(b, err)
	var n int64
	must(b, s.DB.QueryRow(b.Context(), `SELECT pg_database_size(current_database())`).Scan(&n))
	return n
}

// postmaster returns the process all of this cluster's are below.
func (s *site) postmaster(b *testing.B) int {
	b.Helper()
	var pid int
	must(b, s.DB.QueryRow(b.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
	ppid, _ := stat(pid)
	return ppid
}

func stat(pid int) (ppid int, used time.Duration) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	ppid, _ = strconv.Atoi(f[1])
	u, _ := strconv.Atoi(f[11])
	k, _ := strconv.Atoi(f[12])
	return ppid, time.Duration(u+k) * 10 * time.Millisecond
}

func cpuBelow(b *testing.B, parent int) time.Duration {
	b.Helper()
	entries, err := os.ReadDir("/proc")
	must(b, err)
	_, total := stat(parent)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if ppid, used := stat(pid); ppid == parent {
				total += used
			}
		}
	}
	return total
}
