package postgrestest_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	a, b := postgrestest.Open(t), postgrestest.Open(t)
	if _, err := a.Exec(t.Context(), `INSERT INTO duty (name, holder, term, expires_at) VALUES ('x', 'y', 1, now())`); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := b.QueryRow(t.Context(), `SELECT count(*) FROM duty`).Scan(&n); err != nil || n != 0 {
		t.Fatalf("the other database has %d rows, err %v", n, err)
	}
}

func TestItIsDroppedWithTheTest(t *testing.T) {
	var url string
	t.Run("inner", func(t *testing.T) { url = postgrestest.New(t) })
	if db, err := postgres.Open(t.Context(), postgres.Config{URL: url}); err == nil {
		db.Close()
		t.Error("it is still there")
	}
}

func TestAClusterOfItsOwnIsDurableAndMigrated(t *testing.T) {
	c := postgrestest.Cluster(t, map[string]string{"work_mem": "3MB"})
	db := postgrestest.Connect(t, c.URL())
	for sql, want := range map[string]string{"SHOW fsync": "on", "SHOW work_mem": "3MB", "SELECT count(*)::text FROM duty": "0"} {
		var got string
		if err := db.QueryRow(t.Context(), sql).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, want %q, err %v", sql, got, want, err)
		}
	}
}

const killed = "SEGL_TEST_KILLED"

// TestKilled is the process that the next test kills.
func TestKilled(t *testing.T) {
	if os.Getenv(killed) == "" {
		t.Log("nothing to do: not the process to be killed")
		return
	}
	os.Stdout.WriteString("URL " + postgrestest.New(t) + "\n")
	io.Copy(io.Discard, os.Stdin)
}

func TestAKilledTestBinaryLeavesNothing(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	tmp := t.TempDir()
	cmd.Env = append(os.Environ(), killed+"=1", "TMPDIR="+tmp)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url := ""
	for lines := bufio.NewScanner(stdout); url == "" && lines.Scan(); {
		_, url, _ = strings.Cut(lines.Text(), "URL ")
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "its cluster and its files are gone", func() bool {
		left, err := filepath.Glob(filepath.Join(tmp, "*"))
		return err == nil && len(left) == 0
	})
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("its cluster still answers")
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}
