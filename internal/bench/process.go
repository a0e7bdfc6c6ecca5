package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A usage is the CPU, user and system, that a segl has used since it began: its own, and that of what runs below it,
// which is Postgres.
type usage struct{ server, below time.Duration }

func (u usage) since(before usage) usage {
	return usage{u.server - before.server, u.below - before.below}
}

func (u usage) total() time.Duration { return u.server + u.below }

// usageOf asks the operating system. What ended meanwhile counts: whoever waited for it has its time.
func usageOf(root int) (usage, error) {
	all, err := processes()
	if err != nil {
		return usage{}, fmt.Errorf("reading the CPU of process %d: %w", root, err)
	}
	if all[root] == nil {
		return usage{}, fmt.Errorf("reading the CPU of process %d: it is gone", root)
	}
	u := usage{server: all[root].own, below: all[root].waited}
	for pid, p := range all {
		if pid != root && p.isBelow(root, all) {
			u.below += p.own + p.waited
		}
	}
	return u, nil
}

// A process is what /proc/PID/stat says of it.
type process struct {
	parent      int
	own, waited time.Duration
}

func (p *process) isBelow(root int, all map[int]*process) bool {
	for p != nil {
		if p.parent == root {
			return true
		}
		p = all[p.parent]
	}
	return false
}

func processes() (map[int]*process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]*process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // gone meanwhile
		}
		if all[pid], err = parseStat(string(text)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every Linux.
const tick = 10 * time.Millisecond

// parseStat reads proc_pid_stat(5): the name in brackets may hold anything, so counting begins after the last bracket.
func parseStat(text string) (*process, error) {
	const state, parent, user, system, waitedUser, waitedSystem = 0, 1, 11, 12, 13, 14
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= waitedSystem {
		return nil, fmt.Errorf("reading /proc: %d fields of a process", len(fields))
	}
	var n [waitedSystem + 1]int64
	for i := state + 1; i < len(n); i++ {
		var err error
		if n[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return nil, fmt.Errorf("reading /proc: %w", err)
		}
	}
	return &process{
		parent: int(n[parent]),
		own:    time.Duration(n[user]+n[system]) * tick,
		waited: time.Duration(n[waitedUser]+n[waitedSystem]) * tick,
	}, nil
}

// residentOf returns the memory of one process that is in RAM, in octets.
func residentOf(pid int) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("reading the memory of process %d: /proc does not say", pid)
}
