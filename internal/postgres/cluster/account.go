package cluster

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// An account is who Postgres runs as. The zero account is ourselves.
type account struct {
	name     string
	uid, gid int
	drop     bool // we are root and give it up: Postgres refuses to run as root
}

// runAs is ourselves, or as root an unprivileged user: whoever owns the data already, else postgres, else nobody.
func runAs(data string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	if info, err := os.Stat(data); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return account{name: "uid " + strconv.Itoa(int(st.Uid)), uid: int(st.Uid), gid: int(st.Gid), drop: true}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uerr := strconv.Atoi(u.Uid)
		gid, gerr := strconv.Atoi(u.Gid)
		if uerr == nil && gerr == nil && uid != 0 {
			return account{name: name, uid: uid, gid: gid, drop: true}, nil
		}
	}
	return account{}, errors.New("we are root, Postgres must not be, and there is no user postgres or nobody: add one, or run as an ordinary user")
}

// attr is how a child is started as this account. It dies with the thread that starts it (die), and not by the terminal's
// Ctrl-C, which is for us to answer.
func (a account) attr(die syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	setDeathSignal(attr, die)
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} //nolint:gosec // ids of the system
	}
	return attr
}

// own gives a file to the account.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// makeDir makes dir if it is missing and sees that only the account may enter it.
func (a account) makeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // the account walks through it
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok {
		return fmt.Errorf("%s is not a directory: name another", dir)
	}
	if who := int(st.Uid); who != a.uid && !(a.drop && who == 0) {
		return fmt.Errorf("%s belongs to uid %d, not to us: name another directory, or run as that user", dir, who)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory
		return err
	}
	return a.own(dir)
}

// reaches reports whether the account may walk to dir through every directory above it.
func (a account) reaches(dir string) bool {
	if !a.drop {
		return true
	}
	for dir != "/" {
		dir = filepath.Dir(dir)
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		need := os.FileMode(0o001)
		if ok && int(st.Uid) == a.uid {
			need = 0o100
		} else if ok && int(st.Gid) == a.gid {
			need = 0o010
		}
		if info.Mode()&need == 0 {
			return false
		}
	}
	return true
}

// newPassword is 128 random bits: hexadecimal, so that it stands in a URL and in SQL as it is.
func newPassword() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// shortName names a directory by a hash of its path.
func shortName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "segl-" + hex.EncodeToString(sum[:6])
}
