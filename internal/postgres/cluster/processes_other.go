//go:build !linux

package cluster

import "syscall"

// processes is the postmaster its file names, if it lives. Its backends end with it.
func processes(data string) ([]int, error) {
	pid := readPidFile(data).pid
	if pid > 0 && syscall.Kill(pid, 0) == nil {
		return []int{pid}, nil
	}
	return nil, nil
}
