package postgrestest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
	"codeberg.org/dataverket/segl/migrations"
)

const (
	template     = "segl" // the cluster's own database: tests never connect to it
	inner        = "c"    // the cluster's directory below its home
	startTimeout = 2 * time.Minute
	layout       = "1" // of the cached directory; a new one makes old caches useless
)

// A home is a directory that vanishes once alive is closed, by us or by our end, and Postgres in it has ended.
type home struct {
	dir   string
	alive *os.File
}

// A testCluster keeps its home for as long as it is referred to.
type testCluster struct {
	*cluster.Cluster
	home home
}

// startCluster starts a cluster on a copy of the cached template. Its cfg.Dir is chosen here.
func startCluster(ctx context.Context, cfg cluster.Config) (testCluster, error) {
	base := ""
	if cfg.Test {
		base = memory()
	}
	h, err := newHome(ctx, base)
	if err != nil {
		return testCluster{}, fmt.Errorf("preparing test cluster: %w", err)
	}
	cfg.Dir = filepath.Join(h.dir, inner)
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		return testCluster{}, errors.Join(err, h.alive.Close())
	}
	return testCluster{c, h}, nil
}

// memory returns a directory that is kept in memory and has room, for clusters that lose everything anyway: a database a test
// is a thousand files made and removed. Empty: the system's temporary directory.
func memory() string {
	const shm, room = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(shm, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room { //nolint:gosec // a size
		return ""
	}
	return shm
}

// newHome copies the cached template, making it first if it is missing. Test binaries running at once take turns.
func newHome(ctx context.Context, base string) (home, error) {
	cache, err := cacheDir()
	if err != nil {
		return home{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return home{}, err
	}
	defer lock.Close() //nolint:errcheck // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return home{}, err
	}
	cached, err := cachedTemplate(ctx, cache)
	if err != nil {
		return home{}, err
	}
	dir, err := os.MkdirTemp(base, "segl-test-")
	if err != nil {
		return home{}, err
	}
	alive, err := janitor(dir)
	if err != nil {
		return home{}, errors.Join(err, os.RemoveAll(dir))
	}
	// cp keeps owners when we are root.
	if out, err := exec.CommandContext(ctx, "cp", "-a", cached, filepath.Join(dir, inner)).CombinedOutput(); err != nil {
		return home{}, errors.Join(fmt.Errorf("copying %s: %w: %s", cached, err, out), alive.Close())
	}
	return home{dir, alive}, nil
}

// janitor removes dir once the file it returns is closed. It is a shell waiting for the end of its input, which comes even
// when this process is killed; then it gives Postgres, which ends at the same signal, time to put its own files away.
func janitor(dir string) (alive *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // the shell has it
	cmd := exec.Command("/bin/sh", "-c", `
		cat >/dev/null
		n=0
		while [ -e "$0/`+inner+`/data/postmaster.pid" ] && [ $n -lt 200 ]; do n=$((n+1)); sleep 0.05; done
		rm -rf "$0"`, dir)
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, cmd.Process.Release()
}

// cachedTemplate returns the directory for this schema and these programs. Making it discards those of others.
func cachedTemplate(ctx context.Context, cache string) (string, error) {
	key, err := templateKey()
	if err != nil {
		return "", err
	}
	done := filepath.Join(cache, key)
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	old, err := filepath.Glob(filepath.Join(cache, "template-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	fresh := filepath.Join(cache, "template-new")
	if err := fill(ctx, fresh); err != nil {
		return "", err
	}
	return done, os.Rename(fresh, done)
}

// fill makes a migrated cluster in dir and stops it.
func fill(ctx context.Context, dir string) error {
	c, err := cluster.Start(ctx, cluster.Config{Dir: dir, Test: true})
	if err != nil {
		return err
	}
	return errors.Join(postgres.Migrate(ctx, c.URL(), migrations.FS), c.Stop())
}

// cacheDir is ours alone: below the user's cache, or without a home in the temporary directory.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "segl-test-"+strconv.Itoa(os.Geteuid()))
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // Postgres's user walks through it
		dir = filepath.Join(os.TempDir(), filepath.Base(dir))
		if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // likewise
			return "", err
		}
	}
	return dir, nil
}

// templateKey names a template by what goes into it.
func templateKey() (string, error) {
	programs, major, err := cluster.Programs("")
	if err != nil {
		return "", err
	}
	all := fmt.Appendln(nil, layout, programs, major)
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			return "", err
		}
		all = fmt.Appendf(all, "%s %d\n%s", name, len(text), text)
	}
	sum := sha256.Sum256(all)
	return "template-" + hex.EncodeToString(sum[:8]), nil
}
