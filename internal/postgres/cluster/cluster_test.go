package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"codeberg.org/dataverket/segl/internal/postgres/cluster"
)

// A test binary started with this variable owns a cluster in the directory it names, until its input ends or it is killed.
const ownerOf = "SEGL_TEST_OWNER_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerOf); dir != "" {
		c, err := cluster.Start(context.Background(), cluster.Config{Dir: dir, Test: true})
		if err != nil {
			os.Stdout.WriteString("refused " + err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("ready " + strconv.Itoa(c.Pid()) + " " + c.URL() + "\n")
		io.Copy(io.Discard, os.Stdin)
		if c.Stop() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir := madeOnce.dir; dir != "" {
			os.RemoveAll(filepath.Dir(dir))
		}
		os.Exit(code)
	}))
}

func TestASecondStartFindsTheSameData(t *testing.T) {
	dir := newDir(t)
	begun := time.Now()
	c := start(t, cluster.Config{Dir: dir})
	first := time.Since(begun)
	query(t, c.URL(), "CREATE TABLE kept (n integer)")
	query(t, c.URL(), "INSERT INTO kept (n) VALUES (1)")
	url := c.URL()
	stop(t, c)

	begun = time.Now()
	c = start(t, cluster.Config{Dir: dir})
	t.Logf("first start %v, next %v", first, time.Since(begun))
	if got := query(t, c.URL(), "SELECT n FROM kept"); got != "1" {
		t.Errorf("kept = %q", got)
	}
	if c.URL() != url {
		t.Errorf("the URL changed: scripts keep it")
	}
	if got := query(t, c.URL(), "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s without being asked to", got)
	}
	stop(t, c)
	gone(t, c.DataDir())
}

func TestOnlyAUnixSocketAndAPassword(t *testing.T) {
	c := start(t, cluster.Config{Dir: made(t), Test: true})
	if got := query(t, c.URL(), "SHOW listen_addresses"); got != "" {
		t.Errorf("listens on %q", got)
	}
	if got := query(t, c.URL(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"); got != "f" {
		t.Errorf("the owner is a superuser: %s", got)
	}
	wrong := strings.Replace(c.URL(), "segl:", "segl:x", 1)
	if _, err := pgx.Connect(t.Context(), wrong); err == nil {
		t.Error("a wrong password is accepted")
	}
	for _, name := range []string{"password", "postgres.log", "lock"} {
		info, err := os.Stat(filepath.Join(c.Dir(), name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	program := filepath.Join(c.BinDir(), "psql")
	if _, err := os.Stat(program); err != nil {
		program = "psql" // some packages have only the server
	}
	psql := exec.Command(program, c.URL(), "-Atc", "SELECT current_user")
	if out, err := psql.CombinedOutput(); err != nil || string(out) != "segl\n" {
		t.Errorf("psql: %s %v", out, err)
	}
}

func TestPostgresNeverRunsAsRoot(t *testing.T) {
	c := start(t, cluster.Config{Dir: made(t), Test: true})
	info, err := os.Stat("/proc/" + strconv.Itoa(c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 {
		t.Error("it does")
	}
}

func TestStartRefusesADirectoryInUse(t *testing.T) {
	dir := made(t)
	start(t, cluster.Config{Dir: dir, Test: true})
	refused(t, cluster.Config{Dir: dir, Test: true}, nil, "in use by another segl")
}

func TestStartRefusesAnotherMajorAndPrintsTheDump(t *testing.T) {
	dir := newDir(t)
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, cluster.Config{Dir: dir}, cluster.ErrOtherMajor,
		"was made by 9", "/usr/lib/postgresql/9/bin/pg_ctl -D "+data, "/usr/lib/postgresql/9/bin/pg_dumpall -h "+dir)
}

func TestStartSaysWhatToInstall(t *testing.T) {
	refused(t, cluster.Config{Dir: newDir(t), BinDir: t.TempDir()}, cluster.ErrNoBinaries, "initdb")
	t.Setenv("PG_BIN", "/nonexistent")
	refused(t, cluster.Config{Dir: newDir(t)}, cluster.ErrNoBinaries, "/nonexistent")
}

func TestStartGivesPostgresOwnReason(t *testing.T) {
	dir := made(t)
	refused(t, cluster.Config{Dir: dir, Test: true, Settings: map[string]string{"work_mem": "much"}}, nil, `invalid value for parameter "work_mem"`)
	refused(t, cluster.Config{Dir: dir, Test: true, Settings: map[string]string{"nonsense": "1"}}, nil, `"nonsense"`)
	gone(t, filepath.Join(dir, "data"))
	start(t, cluster.Config{Dir: dir, Test: true}) // what it refused left nothing in the way
}

func TestStartRefusesSomebodyElsesDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can make such a directory; the check is the same")
		return
	}
	dir := newDir(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	refused(t, cluster.Config{Dir: dir}, nil, "belongs to uid 12345")
}

func TestAStartKilledHalfWayIsDoneAgain(t *testing.T) {
	dir := newDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := start(t, cluster.Config{Dir: dir, Test: true})
	query(t, c.URL(), "SELECT 1")
}

func TestLongPathsAndClosedParentsWork(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed") // TempDir itself is open to others
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"long":            filepath.Join(newDir(t), strings.Repeat("long-", 20), "x"),
		"closed":          filepath.Join(closed, "c"),
		"closed and long": filepath.Join(closed, strings.Repeat("long-", 20), "x"),
	} {
		t.Run(name, func(t *testing.T) {
			if name != "closed" { // that one also makes its data there
				if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
					t.Fatal(err)
				}
				copyDir(t, made(t), dir)
			}
			c := start(t, cluster.Config{Dir: dir, Test: true})
			query(t, c.URL(), "SELECT 1")
			stop(t, c)
			gone(t, c.DataDir())
		})
	}
}

func TestAKilledPostgresComesBackByItself(t *testing.T) {
	c := start(t, cluster.Config{Dir: made(t)})
	query(t, c.URL(), "CREATE TABLE kept (n integer)")
	for n := 1; n <= 3; n++ {
		query(t, c.URL(), "INSERT INTO kept (n) VALUES (1)")
		if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "postgres is back", func() bool {
			conn, err := pgx.Connect(t.Context(), c.URL())
			if err != nil {
				return false
			}
			defer conn.Close(t.Context())
			var got int
			return conn.QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&got) == nil && got == n
		})
	}
}

func TestPostgresEndsWithAKilledOwnerAndIsFoundAgain(t *testing.T) {
	dir := made(t)
	for n := 1; n <= 3; n++ {
		owner, url := startOwner(t, exec.Command(os.Args[0]), dir)
		if n == 1 {
			query(t, url, "CREATE TABLE kept (n integer)")
		}
		query(t, url, "INSERT INTO kept (n) VALUES (1)")
		if err := owner.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		owner.Wait()
		if n < 3 {
			continue // the next owner comes while Postgres is still ending
		}
		gone(t, filepath.Join(dir, "data"))
	}
	c := start(t, cluster.Config{Dir: dir, Test: true})
	if got := query(t, c.URL(), "SELECT count(*) FROM kept"); got != "3" {
		t.Errorf("%s rows were kept", got)
	}
}

func TestALeftoverPostmasterIsStoppedFirst(t *testing.T) {
	dir := made(t)
	c := start(t, cluster.Config{Dir: dir, Test: true})
	stop(t, c)
	// A postmaster with no owner, as one is where no death signal exists.
	leftover := exec.Command(filepath.Join(c.BinDir(), "postgres"), "-D", c.DataDir(), "-c", "listen_addresses=", "-k", filepath.Join(dir, "run"))
	leftover.Dir = "/"
	if info, err := os.Stat(c.DataDir()); err != nil {
		t.Fatal(err)
	} else if st := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		leftover.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	if err := leftover.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- leftover.Wait() }()
	eventually(t, "the leftover answers", func() bool {
		conn, err := pgx.Connect(t.Context(), c.URL())
		if err == nil {
			conn.Close(t.Context())
		}
		return err == nil
	})
	c = start(t, cluster.Config{Dir: dir, Test: true})
	if err := <-ended; err != nil {
		t.Errorf("the leftover did not shut down cleanly: %v", err)
	}
	query(t, c.URL(), "SELECT 1")
}

func TestAPidFileOfAStrangerIsNoObstacle(t *testing.T) {
	dir := made(t)
	c := start(t, cluster.Config{Dir: dir, Test: true})
	stop(t, c)
	stranger := filepath.Join(c.DataDir(), "postmaster.pid")
	if err := os.WriteFile(stranger, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = start(t, cluster.Config{Dir: dir, Test: true})
	query(t, c.URL(), "SELECT 1")
}

func TestAnOrdinaryUserNeedsNoRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("every other test of this run shows it")
		return
	}
	// As nobody: the test binary must be where nobody can read it, and so must the directory.
	place := newDir(t)
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(place, "owner")
	if out, err := exec.Command("cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	home := filepath.Join(place, "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	owner, url := startOwner(t, cmd, filepath.Join(home, "c"))
	query(t, url, "SELECT 1")
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait()
	gone(t, filepath.Join(home, "c", "data"))
}

// startOwner runs this test binary as the owner of a cluster in dir.
func startOwner(t *testing.T, cmd *exec.Cmd, dir string) (owner *exec.Cmd, url string) {
	t.Helper()
	cmd.Env = append(os.Environ(), ownerOf+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("owner says %q, %v", line, err)
	}
	return cmd, strings.Fields(line)[2]
}

// madeOnce is a cluster's directory that most tests begin with a copy of: making one takes a second.
var madeOnce struct {
	sync.Once
	dir string
}

func made(t *testing.T) string {
	t.Helper()
	madeOnce.Do(func() {
		dir, err := os.MkdirTemp("", "segl-cluster-test-")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		madeOnce.dir = filepath.Join(dir, "c")
		stop(t, start(t, cluster.Config{Dir: madeOnce.dir, Test: true}))
	})
	dir := newDir(t)
	copyDir(t, madeOnce.dir, dir)
	return dir
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
}

// newDir names a directory that Postgres's user can walk to.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "segl-cluster-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "c")
}

func start(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, c) })
	return c
}

func stop(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func refused(t *testing.T, cfg cluster.Config, want error, says ...string) {
	t.Helper()
	c, err := cluster.Start(t.Context(), cfg)
	if err == nil {
		stop(t, c)
		t.Fatal("it started")
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error says %q, which lacks %q", err, part)
		}
	}
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return ""
	}
	return string(results[0].Rows[0][0])
}

// gone waits until no process works in a data directory.
func gone(t *testing.T, data string) {
	t.Helper()
	eventually(t, "every postgres of "+data+" has ended", func() bool {
		links, err := filepath.Glob("/proc/[0-9]*/cwd")
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if cwd, err := os.Readlink(link); err == nil && cwd == data {
				return false
			}
		}
		return true
	})
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
