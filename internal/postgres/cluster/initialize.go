package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// initialize makes the data directory unless it is there. It appears under its name only when it is complete, so a start
// that was killed half-way is simply done again.
func (c *Cluster) initialize(ctx context.Context) error {
	if _, err := os.Stat(c.paths.data); err == nil {
		return c.readPassword()
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := c.writePassword(); err != nil {
		return err
	}
	fresh := filepath.Join(c.paths.dir, "data.new")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	serverFresh := filepath.Join(c.paths.serverDir, "data.new")
	// 1. The files. initdb flushes them to disk itself.
	args := []string{
		"-D", serverFresh, "-U", superuser, "-E", "UTF8", "--locale=C", "--data-checksums", "--no-instructions",
		"--auth=scram-sha-256", "--pwfile=" + filepath.Join(c.paths.serverDir, "password"),
	}
	if c.cfg.Test {
		args = append(args, "--no-sync")
	}
	if err := c.run(ctx, "", "initdb", args...); err != nil {
		return err
	}
	// 2. The owner and its database, in single-user mode: one statement a line. Leaving it is a checkpoint.
	sql := fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'\nCREATE DATABASE %s OWNER %s\n", owner, c.password, database, owner)
	if err := c.run(ctx, sql, "postgres", "--single", "-D", serverFresh, "-c", "exit_on_error=on", "template1"); err != nil {
		return err
	}
	// 3. Its name.
	if err := os.Rename(fresh, c.paths.data); err != nil {
		return err
	}
	return syncDir(c.paths.dir)
}

func (c *Cluster) writePassword() error {
	if err := c.readPassword(); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.password = newPassword()
	tmp := c.paths.password + ".new"
	if err := os.WriteFile(tmp, []byte(c.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := c.user.own(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, c.paths.password)
}

func (c *Cluster) readPassword() error {
	raw, err := os.ReadFile(c.paths.password)
	if err != nil {
		return err
	}
	c.password = strings.TrimSpace(string(raw))
	if len(c.password) != len(newPassword()) {
		return fmt.Errorf("%s does not hold the password of this cluster: restore it, or move %s away to begin anew", c.paths.password, c.paths.data)
	}
	return nil
}

// run has one of Postgres's programs do its work as the account; on failure its last words become the error.
func (c *Cluster) run(ctx context.Context, stdin, program string, args ...string) error {
	runtime.LockOSThread() // the death signal follows the thread
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.bin.path(program), args...) //nolint:gosec // the operator's own programs
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &said, &said
	closeFiles, err := c.dress(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	defer closeFiles()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w: %s", c.bin.path(program), err, c.lastWords(said.Bytes()))
	}
	return nil
}

// dress gives a command the account, a plain environment and, where paths need it, the inherited directory.
func (c *Cluster) dress(cmd *exec.Cmd, die syscall.Signal) (closeFiles func(), err error) {
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + c.bin.dir + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = c.user.attr(die)
	if !c.paths.inherit {
		return func() {}, nil
	}
	dir, err := os.Open(c.paths.dir)
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{dir}   // descriptor 3
	return func() { dir.Close() }, nil //nolint:errcheck // opened for reading
}

// lastWords picks what explains a failure from what a program printed, without the password.
func (c *Cluster) lastWords(said []byte) string {
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	for _, mark := range []string{"FATAL:", "PANIC:", "error:", "ERROR:"} {
		for _, line := range lines {
			if _, why, ok := strings.Cut(line, mark); ok {
				lines = []string{strings.TrimSpace(why)}
			}
		}
	}
	return strings.ReplaceAll(lines[len(lines)-1], c.password, "REDACTED")
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // opened for reading
	return dir.Sync()
}
