package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The majors this program is tested with.
const (
	oldestMajor = 15
	newestMajor = 18
)

// ErrNoBinaries: no usable Postgres is installed where we look.
var ErrNoBinaries = errors.New("no PostgreSQL server programs found")

// ErrOtherMajor: the data was made by a major version that is not installed, and no other may open it.
var ErrOtherMajor = errors.New("data directory belongs to another PostgreSQL major version")

// binaries are the programs of one installed Postgres.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// usual lists where packages put the programs, besides PATH: Debian, RHEL's PGDG, Homebrew on either processor, Linuxbrew.
var usual = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
}

// find picks the programs for data: those that were named, flag before environment, else the newest installed that can
// read what is there.
func find(flag, env, data string) (binaries, error) {
	made, err := dataMajor(data)
	if err != nil {
		return binaries{}, err
	}
	var found []binaries
	if named := first(flag, env); named != "" {
		b, err := inspect(named)
		if err != nil {
			return binaries{}, fmt.Errorf("%w in %s: %w: name the directory that has initdb and postgres", ErrNoBinaries, named, err)
		}
		found = []binaries{b}
	} else {
		found = installed()
	}
	return choose(found, made, data)
}

// Programs says which installed Postgres Start would use for a new cluster: the one in binDir or PG_BIN, else the newest in
// the usual places.
func Programs(binDir string) (dir string, major int, err error) {
	b, err := find(binDir, os.Getenv("PG_BIN"), os.DevNull)
	return b.dir, b.major, err
}

func choose(found []binaries, made int, data string) (binaries, error) {
	slices.SortStableFunc(found, func(a, b binaries) int { return b.major - a.major })
	var majors []string
	for _, b := range found {
		if made == b.major || made == 0 && b.major >= oldestMajor && b.major <= newestMajor {
			return b, nil
		}
		majors = append(majors, strconv.Itoa(b.major))
	}
	switch {
	case made != 0 && len(found) > 0:
		return binaries{}, otherMajor(made, majors, data)
	case len(found) > 0:
		return binaries{}, fmt.Errorf("%w: installed is %s, wanted %d to %d: %s",
			ErrNoBinaries, strings.Join(majors, ", "), oldestMajor, newestMajor, installHint)
	default:
		return binaries{}, fmt.Errorf("%w: %s", ErrNoBinaries, installHint)
	}
}

const installHint = "run apt-get install postgresql (Debian, Ubuntu), dnf install postgresql-server (Fedora, RHEL) or " +
	"brew install postgresql@17, or set PG_BIN to the directory that has initdb and postgres"

// otherMajor says how the data is carried over: by the old programs, since no others can read it.
func otherMajor(made int, majors []string, data string) error {
	old := fmt.Sprintf("/usr/lib/postgresql/%d/bin", made)
	dir := filepath.Dir(data)
	return fmt.Errorf(`%w: %s was made by %d, installed is %s
install PostgreSQL %d, and as the owner of that directory dump it with
  %s/pg_ctl -D %s -o "-c listen_addresses='' -c unix_socket_directories=%s" -w start
  PGPASSWORD=$(cat %s) %s/pg_dumpall -h %s -U %s > segl-%d.sql
  %s/pg_ctl -D %s -w stop
then move %s away, start again and load segl-%d.sql with psql`,
		ErrOtherMajor, data, made, strings.Join(majors, ", "),
		made, old, data, dir, filepath.Join(dir, "password"), old, dir, superuser, made, old, data, dir, made)
}

// dataMajor reads which major version made data, 0 when there is none yet.
func dataMajor(data string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("reading %s/PG_VERSION: %q is not a major version of 10 or later", data, raw)
	}
	return major, nil
}

// installed inspects every usual place once.
func installed() []binaries {
	var dirs []string
	for _, pattern := range usual {
		match, _ := filepath.Glob(pattern) //nolint:errcheck // only a malformed pattern fails
		dirs = append(dirs, match...)
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(initdb); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	var found []binaries
	for _, dir := range dirs {
		if b, err := inspect(dir); err == nil {
			found = append(found, b)
		}
	}
	return found
}

// versionLine is what postgres --version prints: "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", "… 18beta1".
var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

func inspect(dir string) (binaries, error) {
	b := binaries{dir: dir}
	if _, err := os.Stat(b.path("initdb")); err != nil {
		return b, err
	}
	out, err := exec.Command(b.path("postgres"), "--version").Output()
	if err != nil {
		return b, fmt.Errorf("asking %s for its version: %w", b.path("postgres"), err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return b, fmt.Errorf("asking %s for its version: it says %q", b.path("postgres"), out)
	}
	b.major, err = strconv.Atoi(string(m[1]))
	return b, err
}

func first(names ...string) string {
	for _, name := range names {
		if name != "" {
			return name
		}
	}
	return ""
}
