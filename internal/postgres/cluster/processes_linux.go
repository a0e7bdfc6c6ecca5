package cluster

import (
	"os"
	"path/filepath"
	"strconv"
)

// processes lists the Postgres processes of a data directory: each of them has it as its working directory.
func processes(data string) ([]int, error) {
	real, err := filepath.EvalSymlinks(data)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Unreadable: gone meanwhile, or another user's and so not ours. Named otherwise: a shell somebody left there.
		cwd, cerr := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		name, nerr := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if cerr == nil && nerr == nil && cwd == real && string(name) == "postgres\n" {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
