//go:build linux

// Package unsynced is a disk that forgets what was not synced when its power is cut.
//
// It shows a directory through FUSE. What is written reaches the directory at once, and what stood there before is kept until the
// file is synced (fsync or fdatasync, POSIX). Cut puts all of that back, as a power loss may do that hits before anything was
// flushed, and fails every operation until Restore. Names are kept: creating, renaming and removing survive, as on a
// journaling file system. It does not tear a synced write nor reorder unsynced ones: they are all lost.
//
// It is for tests of programs that claim to have synced. It may be used concurrently.
package unsynced

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const pageSize = 4096

// A Disk is a mounted directory.
type Disk struct {
	server *fuse.Server
	off    atomic.Bool

	mu    sync.Mutex
	dirty map[inode]*before
}

type inode struct{ dev, ino uint64 }

// before is what a file was when it was last synced.
type before struct {
	file  *os.File // open to the end, so that a removed file's inode is no other's meanwhile
	size  int64
	pages map[int64][]byte // by number; short at the end of the file
}

// Mount shows what is in directory from at directory at, which must exist. Others may use it too.
func Mount(from, at string) (*Disk, error) {
	d := &Disk{dirty: map[inode]*before{}}
	var st syscall.Stat_t
	if err := syscall.Stat(from, &st); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", from, err)
	}
	root := &node{LoopbackNode: fs.LoopbackNode{RootData: &fs.LoopbackRoot{Path: from, Dev: st.Dev}}, disk: d}
	root.RootData.RootNode = root
	var err error
	d.server, err = fs.Mount(at, root, &fs.Options{MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "unsynced", MaxWrite: 1 << 20}})
	if err != nil {
		return nil, fmt.Errorf("mounting %s at %s: %w", from, at, err)
	}
	return d, nil
}

// Unmount ends it. Nobody may have a file of it open.
func (d *Disk) Unmount() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, b := range d.dirty {
		b.file.Close() //nolint:errcheck // only kept open
		delete(d.dirty, id)
	}
	return d.server.Unmount()
}

// Sync makes everything written so far last, as sync(2) does.
func (d *Disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.dirty {
		d.forgetLocked(id)
	}
	return nil
}

// Cut loses what was not synced and fails everything from here on.
func (d *Disk) Cut() (lost int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off.Store(true)
	for id, b := range d.dirty {
		lost += len(b.pages)
		err = errors.Join(err, b.putBack())
		d.forgetLocked(id)
	}
	return lost, err
}

// Restore gives the power back.
func (d *Disk) Restore() { d.off.Store(false) }

func (b *before) putBack() error {
	for n, page := range b.pages {
		if _, err := b.file.WriteAt(page, n*pageSize); err != nil {
			return fmt.Errorf("putting back %s: %w", b.file.Name(), err)
		}
	}
	return b.file.Truncate(b.size)
}

// dead is what every operation answers while there is no power.
func (d *Disk) dead() syscall.Errno {
	if d.off.Load() {
		return syscall.EIO
	}
	return fs.OK
}

// keepLocked remembers what a file was before size octets at off change.
func (d *Disk) keepLocked(f *file, off, size int64) error {
	b := d.dirty[f.id]
	if b == nil {
		st, err := f.f.Stat()
		if err != nil {
			return err
		}
		again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.f.Fd()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b = &before{file: again, size: st.Size(), pages: map[int64][]byte{}}
		d.dirty[f.id] = b
	}
	for n := off / pageSize; n*pageSize < off+size && n*pageSize < b.size; n++ {
		if b.pages[n] != nil {
			continue
		}
		page := make([]byte, min(pageSize, b.size-n*pageSize))
		if _, err := b.file.ReadAt(page, n*pageSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		b.pages[n] = page
	}
	return nil
}

// cutShortLocked makes a truncation last: it is metadata.
func (d *Disk) cutShortLocked(id inode, size int64) {
	b := d.dirty[id]
	if b == nil || size >= b.size {
		return
	}
	b.size = size
	for n := range b.pages {
		if n*pageSize >= size {
			delete(b.pages, n)
		} else if over := n*pageSize + int64(len(b.pages[n])) - size; over > 0 {
			b.pages[n] = b.pages[n][:int64(len(b.pages[n]))-over]
		}
	}
}

func (d *Disk) forgetLocked(id inode) {
	if b := d.dirty[id]; b != nil {
		b.file.Close() //nolint:errcheck // only kept open
		delete(d.dirty, id)
	}
}

// A node is a directory or file whose files are ours.
type node struct {
	fs.LoopbackNode
	disk *Disk
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeOpener      = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
	_ fs.NodeSetattrer   = (*node)(nil)
	_ fs.NodeRenamer     = (*node)(nil)
	_ fs.NodeUnlinker    = (*node)(nil)
)

// WrapChild implements fs.NodeWrapChilder.
func (n *node) WrapChild(_ context.Context, _ fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, disk: n.disk}
}

func (n *node) path() string { return n.RootData.Path + "/" + n.Path(n.Root()) }

// Open implements fs.NodeOpener. O_DIRECT bypasses the kernel's cache, which would not notice a cut.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.dead(); errno != 0 {
		return nil, 0, errno
	}
	f, err := os.OpenFile(n.path(), readable(flags), 0)
	return n.open(f, err, flags)
}

// readable are flags with which what is there can be read, too.
func readable(flags uint32) int {
	out := int(flags) &^ (syscall.O_APPEND | syscall.O_CREAT | syscall.O_EXCL | syscall.O_DIRECT)
	if out&syscall.O_ACCMODE == syscall.O_WRONLY {
		out = out&^syscall.O_ACCMODE | syscall.O_RDWR
	}
	return out
}

func (n *node) open(f *os.File, err error, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return nil, 0, fs.ToErrno(errors.Join(err, f.Close()))
	}
	return &file{disk: n.disk, f: f, id: inode{st.Dev, st.Ino}, sync: flags&syscall.O_DSYNC != 0}, fuse.FOPEN_DIRECT_IO, fs.OK
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.dead(); errno != 0 {
		return nil, nil, 0, errno
	}
	child, made, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	if r, ok := made.(fs.FileReleaser); ok {
		r.Release(ctx) //nolint:errcheck // it was made for its name alone
	}
	f, err := os.OpenFile(n.path()+"/"+name, readable(flags)&^syscall.O_TRUNC, 0)
	h, open, errno := n.open(f, err, flags)
	return child, h, open, errno
}

// Setattr implements fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.dead(); errno != 0 {
		return errno
	}
	size, resized := in.GetSize()
	if !resized {
		return n.LoopbackNode.Setattr(ctx, nil, in, out)
	}
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	f, own := h.(*file)
	if !own {
		opened, err := os.OpenFile(n.path(), os.O_RDWR, 0)
		h, _, errno := n.open(opened, err, 0)
		if errno != 0 {
			return errno
		}
		f = h.(*file)     //nolint:errcheck,forcetypeassert // open makes no other
		defer f.f.Close() //nolint:errcheck // only truncated
	}
	n.disk.cutShortLocked(f.id, int64(size))          //nolint:gosec // a file's size
	if err := f.f.Truncate(int64(size)); err != nil { //nolint:gosec // a file's size
		return fs.ToErrno(err)
	}
	return f.attributes(out)
}

// Rename implements fs.NodeRenamer.
func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.disk.dead(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.disk.dead(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

// A file is an open one.
type file struct {
	disk *Disk
	f    *os.File
	id   inode
	sync bool // every write is synced
}

var (
	_ fs.FileReader    = (*file)(nil)
	_ fs.FileWriter    = (*file)(nil)
	_ fs.FileFsyncer   = (*file)(nil)
	_ fs.FileGetattrer = (*file)(nil)
	_ fs.FileAllocater = (*file)(nil)
	_ fs.FileReleaser  = (*file)(nil)
)

// Read implements fs.FileReader.
func (f *file) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.disk.dead(); errno != 0 {
		return nil, errno
	}
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(p[:n]), fs.OK
}

// Write implements fs.FileWriter.
func (f *file) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if errno := f.disk.dead(); errno != 0 {
		return 0, errno
	}
	if !f.sync {
		if err := f.disk.keepLocked(f, off, int64(len(p))); err != nil {
			return 0, fs.ToErrno(err)
		}
	}
	n, err := f.f.WriteAt(p, off)
	return uint32(n), fs.ToErrno(err) //nolint:gosec // at most MaxWrite
}

// Fsync implements fs.FileFsyncer: from here on, what was written lasts.
func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if errno := f.disk.dead(); errno != 0 {
		return errno
	}
	f.disk.forgetLocked(f.id)
	return fs.OK
}

// Getattr implements fs.FileGetattrer.
func (f *file) Getattr(_ context.Context, out *fuse.AttrOut) syscall.Errno { return f.attributes(out) }

func (f *file) attributes(out *fuse.AttrOut) syscall.Errno {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.f.Fd()), &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStat(&st)
	return fs.OK
}

// Allocate implements fs.FileAllocater.
func (f *file) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if errno := f.disk.dead(); errno != 0 {
		return errno
	}
	if err := f.disk.keepLocked(f, int64(off), int64(size)); err != nil { //nolint:gosec // a file's size
		return fs.ToErrno(err)
	}
	return fs.ToErrno(syscall.Fallocate(int(f.f.Fd()), mode, int64(off), int64(size))) //nolint:gosec // a file's size
}

// Release implements fs.FileReleaser. A file that nobody can name any more has nothing to lose.
func (f *file) Release(context.Context) syscall.Errno {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.f.Fd()), &st); err == nil && st.Nlink == 0 {
		f.disk.mu.Lock()
		f.disk.forgetLocked(f.id)
		f.disk.mu.Unlock()
	}
	return fs.ToErrno(f.f.Close())
}
