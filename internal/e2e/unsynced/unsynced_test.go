//go:build linux

package unsynced_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e/unsynced"
)

func mount(t *testing.T) (disk *unsynced.Disk, dir string) {
	t.Helper()
	dir = t.TempDir()
	disk, err := unsynced.Mount(t.TempDir(), dir)
	if err != nil {
		t.Skipf("this machine lets us mount nothing: %v", err)
	}
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return disk, dir
}

func write(t *testing.T, name string, at int64, text string, sync bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), at); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

func wants(t *testing.T, name, text string) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || string(got) != text {
		t.Errorf("%s has %d octets %.40q, %v; want %.40q", filepath.Base(name), len(got), got, err, text)
	}
}

func TestOnlyWhatWasSyncedOutlivesACut(t *testing.T) {
	disk, dir := mount(t)
	name := filepath.Join(dir, "f")
	write(t, name, 0, "synced", true)
	write(t, name, 2, "NOT, and longer", false)
	wants(t, name, "syNOT, and longer")
	lost, err := disk.Cut()
	if err != nil || lost != 1 {
		t.Errorf("lost %d pages, %v; want 1", lost, err)
	}
	disk.Restore()
	wants(t, name, "synced")
}

func TestPagesAcrossAFileComeBack(t *testing.T) {
	disk, dir := mount(t)
	name, old := filepath.Join(dir, "f"), string(bytes.Repeat([]byte("0123456789abcdef"), 4096))
	write(t, name, 0, old, true)
	for at := range int64(16) {
		write(t, name, at*4000, "new", false)
	}
	if _, err := disk.Cut(); err != nil {
		t.Error(err)
	}
	disk.Restore()
	wants(t, name, old)
}

func TestAFileNeverSyncedIsEmptyAfterACut(t *testing.T) {
	disk, dir := mount(t)
	name := filepath.Join(dir, "f")
	write(t, name, 0, "text", false)
	if err := os.Rename(name, name+"2"); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Cut(); err != nil {
		t.Error(err)
	}
	disk.Restore()
	wants(t, name+"2", "")
}

func TestATruncationLasts(t *testing.T) {
	disk, dir := mount(t)
	name := filepath.Join(dir, "f")
	write(t, name, 0, "0123456789", true)
	write(t, name, 0, "abcdefghij", false)
	if err := os.Truncate(name, 4); err != nil {
		t.Fatal(err)
	}
	wants(t, name, "abcd")
	if _, err := disk.Cut(); err != nil {
		t.Error(err)
	}
	disk.Restore()
	wants(t, name, "0123")
}

func TestNothingWorksWithoutPower(t *testing.T) {
	disk, dir := mount(t)
	name := filepath.Join(dir, "f")
	write(t, name, 0, "text", true)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := disk.Cut(); err != nil {
		t.Fatal(err)
	}
	_, read := f.ReadAt(make([]byte, 1), 0)
	_, wrote := f.WriteAt([]byte("x"), 0)
	_, opened := os.Open(name)
	_, made := os.Create(filepath.Join(dir, "g"))
	for what, err := range map[string]error{
		"read": read, "write": wrote, "sync": f.Sync(), "open": opened, "create": made, "rename": os.Rename(name, name+"2"), "remove": os.Remove(name),
		"truncate": os.Truncate(name, 0),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want EIO", what, err)
		}
	}
	disk.Restore()
	wants(t, name, "text")
}
