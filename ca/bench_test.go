package ca_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// writers is how many callers a busy CA has at once here, as in the contract's way of counting.
const writers = 16

// BenchmarkIssue issues from 16 goroutines on a cluster that keeps what it acknowledges, and says what one certificate
// costs: of this process's and Postgres's processors, and of the database's room.
func BenchmarkIssue(b *testing.B) {
	h := pkitest.On(b, postgrestest.Connect(b, postgrestest.Cluster(b, nil).URL()))
	who, csr := enrolled(b, h), pkitest.CSR(b, pkitest.Key(b), "dns:a.demo.test")
	before, own := cpu(b, os.Getpid())
	b.ResetTimer()
	issueMany(b, h, who, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: csr}, b.N)
	b.StopTimer()
	after, ownAfter := cpu(b, os.Getpid())
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "certificates/s")
	b.ReportMetric(float64((after-before).Microseconds())/n, "cpu-µs/certificate")
	b.ReportMetric(float64((ownAfter-own).Microseconds())/n, "own-cpu-µs/certificate")
	b.ReportMetric(float64(room(b, h))/n, "octets/certificate")
}

// enrolled returns a workload of the demo scope with a certificate of its own.
func enrolled(t testing.TB, h *pkitest.House) identity.Caller {
	t.Helper()
	who := pkitest.Workload(pkitest.Demo, "demo")
	c, err := h.Issue(t.Context(), who, ca.Request{Scope: pkitest.Demo, Profile: "workload", Identity: who.ID, CSR: pkitest.CSR(t, pkitest.Key(t))})
	if err != nil {
		t.Fatal(err)
	}
	who.Serial = c.Serial
	return who
}

func issueMany(t testing.TB, h *pkitest.House, who identity.Caller, req ca.Request, n int) {
	t.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := h.Issue(t.Context(), who, req); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// room is what the growing tables take, with indexes, when nothing dead is left in them.
func room(t testing.TB, h *pkitest.House) (total int64) {
	t.Helper()
	if _, err := h.DB.Exec(t.Context(), `VACUUM`); err != nil {
		t.Fatal(err)
	}
	rows, err := h.DB.Query(t.Context(), `
		SELECT   split_part(split_part(relname, '_e', 1), '_10', 1), sum(pg_relation_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint
		FROM     pg_class
		WHERE    relkind = 'r' AND relnamespace = 'public'::regnamespace
		GROUP BY 1
		ORDER BY 2 DESC`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		var heap, indexes int64
		if err := rows.Scan(&table, &heap, &indexes); err != nil {
			t.Fatal(err)
		}
		if heap > 1<<20 {
			t.Logf("%-20s %10d heap %10d indexes", table, heap, indexes)
		}
		total += heap + indexes
	}
	return total
}

// cpu is what process pid, its children and theirs have used, and what pid alone has.
func cpu(t testing.TB, pid int) (all, own time.Duration) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("no /proc to read processor time from")
	}
	parent, used := map[int]int{}, map[int]time.Duration{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent[id], _ = strconv.Atoi(fields[1])
		const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
		for _, f := range fields[11:15] {  // utime, stime, and the same of children that were waited for
			n, _ := strconv.Atoi(f)
			used[id] += time.Duration(n) * tick
		}
	}
	for id := range parent {
		for up := id; up != 0; up = parent[up] {
			if up == pid {
				all += used[id]
				break
			}
		}
	}
	return all, used[pid]
}

func TestACertificateTakesLittleRoom(t *testing.T) {
	if testing.Short() {
		t.Skip("issues thousands of certificates")
	}
	const n, most = 4000, 1200
	h := pkitest.New(t)
	empty := room(t, h)
	who, csr := enrolled(t, h), pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")
	issueMany(t, h, who, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: csr}, n)
	if each := (room(t, h) - empty) / n; each > most {
		t.Errorf("a certificate takes %d octets of database with its indexes and facts, want at most %d", each, most)
	} else {
		t.Log(fmt.Sprint(each, " octets a certificate"))
	}
}
