package cluster

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const logKept = 8 << 20 // octets of log before it is put aside

// openLog keeps one older log when the present one has grown.
func (c *Cluster) openLog() (*os.File, error) {
	if info, err := os.Stat(c.paths.log); err == nil && info.Size() > logKept {
		if err := os.Rename(c.paths.log, c.paths.log+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(c.paths.log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

func (c *Cluster) logSince(from int64) string {
	f, err := os.Open(c.paths.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // opened for reading
	said, err := io.ReadAll(io.NewSectionReader(f, from, 64<<10))
	if err != nil {
		return err.Error()
	}
	return c.lastWords(said)
}

// A pidFile is what matters of postmaster.pid: lines 1 and 8 (src/include/utils/pidfile.h).
type pidFile struct {
	pid    int
	status string
}

func readPidFile(data string) pidFile {
	raw, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}
	}
	lines := strings.Split(string(raw), "\n")
	var f pidFile
	f.pid, _ = strconv.Atoi(strings.TrimSpace(lines[0])) //nolint:errcheck // zero is nobody
	if len(lines) >= 8 {
		f.status = strings.TrimSpace(lines[7])
	}
	return f
}
