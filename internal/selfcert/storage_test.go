package selfcert_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/selfcert"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func TestStorageReadsWhatAnotherReplicaWrote(t *testing.T) {
	db, ring := postgrestest.Open(t), kmstest.NewKeyring()
	one, two := selfcert.NewStorage(db, ring), selfcert.NewStorage(db, ring)
	for _, value := range []string{"first", "second", ""} {
		if err := one.Store(t.Context(), "a/b.key", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := two.Load(t.Context(), "a/b.key"); err != nil || string(got) != value {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestStorageSealsEachValueForItsKey(t *testing.T) {
	db, ring := postgrestest.Open(t), kmstest.NewKeyring()
	s := selfcert.NewStorage(db, ring)
	secret := []byte("PRIVATE KEY")
	if err := s.Store(t.Context(), "a.key", secret); err != nil {
		t.Fatal(err)
	}
	var stored []byte
	if err := db.QueryRow(t.Context(), `SELECT value FROM site_file`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(stored, secret) {
		t.Error("stands in the clear")
	}
	if _, err := db.Exec(t.Context(), `UPDATE site_file SET key = 'b.key'`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), "b.key"); !errors.Is(err, kms.ErrSealed) {
		t.Errorf("read under another key: %v", err)
	}
	if _, err := selfcert.NewStorage(db, kmstest.NewKeyring()).Load(t.Context(), "b.key"); !errors.Is(err, kms.ErrSealed) {
		t.Errorf("read with another keyring: %v", err)
	}
}

func TestStorageHasDirectories(t *testing.T) {
	s := selfcert.NewStorage(postgrestest.Open(t), kmstest.NewKeyring())
	for _, key := range []string{"c/segl/a/a.key", "c/segl/a/a.crt", "c/segl/b/b.key", "c/segl/a-z", "cx/y", "c/%/_"} {
		if err := s.Store(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(path string, recursive bool, want ...string) {
		t.Helper()
		got, err := s.List(t.Context(), path, recursive)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("listing %q: %q, %v", path, got, err)
		}
	}
	list("c/segl", false, "c/segl/a", "c/segl/a-z", "c/segl/b")
	list("c/segl", true, "c/segl/a-z", "c/segl/a/a.crt", "c/segl/a/a.key", "c/segl/b/b.key")
	list("", false, "c", "cx")
	list("c/%", false, "c/%/_")

	if info, err := s.Stat(t.Context(), "c/segl/a/a.key"); err != nil || !info.IsTerminal || info.Size == 0 || info.Modified.IsZero() {
		t.Errorf("file: %+v, %v", info, err)
	}
	if info, err := s.Stat(t.Context(), "c/segl/a"); err != nil || info.IsTerminal {
		t.Errorf("directory: %+v, %v", info, err)
	}
	if !s.Exists(t.Context(), "c/segl") || s.Exists(t.Context(), "c/seg") || s.Exists(t.Context(), "c/_") {
		t.Error("a prefix of a name was taken for a directory")
	}
	if err := s.Delete(t.Context(), "c/segl/a"); err != nil {
		t.Fatal(err)
	}
	list("c/segl", true, "c/segl/a-z", "c/segl/b/b.key")
}

func TestStorageSaysWhatIsNotThere(t *testing.T) {
	s := selfcert.NewStorage(postgrestest.Open(t), kmstest.NewKeyring())
	if _, err := s.Load(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loading: %v", err)
	}
	if _, err := s.Stat(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking: %v", err)
	}
	if _, err := s.List(t.Context(), "none", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("listing: %v", err)
	}
	if err := s.Delete(t.Context(), "none"); err != nil {
		t.Errorf("deleting: %v", err)
	}
}

func TestLockKeepsOthersOut(t *testing.T) {
	db, ring := postgrestest.Open(t), kmstest.NewKeyring()
	one, two := selfcert.NewStorage(db, ring), selfcert.NewStorage(db, ring)
	if err := one.Lock(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]interface {
		TryLock(context.Context, string) (bool, error)
	}{"another replica": two, "the same one": one} {
		if ok, err := s.TryLock(t.Context(), "l"); ok || err != nil {
			t.Errorf("%s: %t, %v", what, ok, err)
		}
	}
	if ok, err := two.TryLock(t.Context(), "another"); !ok || err != nil {
		t.Errorf("another lock: %t, %v", ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := two.Lock(ctx, "l"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting too long: %v", err)
	}
	got := make(chan error)
	go func() { got <- two.Lock(t.Context(), "l") }()
	if err := one.Unlock(t.Context(), "l"); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestLockOfAVanishedReplicaEnds(t *testing.T) {
	db, ring := postgrestest.Open(t), kmstest.NewKeyring()
	gone, next := selfcert.NewStorage(db, ring), selfcert.NewStorage(db, ring)
	if err := gone.Lock(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	if err := gone.RenewLockLease(t.Context(), "l", time.Hour); err != nil {
		t.Error(err)
	}
	if _, err := db.Exec(t.Context(), `UPDATE site_lock SET expires_at = clock_timestamp()`); err != nil { // the hour is over
		t.Fatal(err)
	}
	if err := gone.RenewLockLease(t.Context(), "l", time.Hour); err == nil {
		t.Error("renewed a lock that has ended")
	}
	if ok, err := next.TryLock(t.Context(), "l"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := gone.Unlock(t.Context(), "l"); err != nil { // it was not gone, only late
		t.Error(err)
	}
	if ok, err := gone.TryLock(t.Context(), "l"); ok || err != nil {
		t.Error("a late Unlock released somebody else's lock")
	}
	var term int64
	if err := db.QueryRow(t.Context(), `SELECT term FROM site_lock`).Scan(&term); err != nil || term != 2 {
		t.Errorf("term %d, %v", term, err)
	}
}
