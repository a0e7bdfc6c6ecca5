package acme

import (
	"context"
	"slices"
	"sync"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Bounds of the line. What does not fit is recorded and taken over when there is room.
const (
	lineMost    = 1024         // jobs that wait
	lineScope   = lineMost / 4 // of one scope
	lineAccount = lineScope / 2
)

// A line is where jobs wait for a worker. Scopes take turns, and neither one account nor one scope has all workers: whose
// hosts never answer keeps only itself waiting.
type line struct {
	account, scope int // how many jobs of one may run at once

	mu       sync.Mutex
	changed  *sync.Cond
	closed   bool
	count    int
	turns    []identity.Scope // those with jobs waiting, the next first
	waiting  map[identity.Scope][]*job
	ids      map[uid.UID]*job // waiting, by authorization
	queued   map[uid.UID]int  // waiting, by account
	accounts map[uid.UID]int  // running
	scopes   map[identity.Scope]int
}

func newLine(workers int) *line {
	l := &line{
		account: max(1, workers/2), scope: max(1, workers*3/4), waiting: make(map[identity.Scope][]*job), ids: make(map[uid.UID]*job),
		queued: make(map[uid.UID]int), accounts: make(map[uid.UID]int), scopes: make(map[identity.Scope]int),
	}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// put adds j, and returns false when there is no room for it, or its authorization waits already.
func (l *line) put(j *job) bool {
	who, id := j.Authorization.Account, j.Authorization.ID
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.count >= lineMost || len(l.waiting[j.Scope]) >= lineScope || l.queued[who] >= lineAccount || l.ids[id] != nil {
		return false
	}
	if len(l.waiting[j.Scope]) == 0 {
		l.turns = append(l.turns, j.Scope)
	}
	l.waiting[j.Scope] = append(l.waiting[j.Scope], j)
	l.ids[id] = j
	l.queued[who]++
	l.count++
	l.changed.Signal()
	return true
}

// waits reports whether a job for t's authorization waits already: then it has t's lease from now on.
func (l *line) waits(t Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	j, ok := l.ids[t.Authorization.ID]
	if ok {
		j.Leased = t.Leased // nobody reads it before it is taken, under the same lock
	}
	return ok
}

// take returns the job whose turn it is, once there is one that may run, and nil when ctx has ended. Every job taken is
// given to done.
func (l *line) take(ctx context.Context) *job {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.closed || ctx.Err() != nil {
			return nil
		}
		if j := l.nextLocked(); j != nil {
			return j
		}
		l.changed.Wait()
	}
}

func (l *line) nextLocked() *job {
	for turn, scope := range l.turns {
		if l.scopes[scope] >= l.scope {
			continue
		}
		jobs := l.waiting[scope]
		i := slices.IndexFunc(jobs, func(j *job) bool { return l.accounts[j.Authorization.Account] < l.account })
		if i < 0 {
			continue
		}
		j := jobs[i]
		l.turns = slices.Delete(l.turns, turn, turn+1)
		if l.waiting[scope] = slices.Delete(jobs, i, i+1); len(l.waiting[scope]) > 0 {
			l.turns = append(l.turns, scope)
		} else {
			delete(l.waiting, scope)
		}
		l.count--
		delete(l.ids, j.Authorization.ID)
		less(l.queued, j.Authorization.Account)
		l.accounts[j.Authorization.Account]++
		l.scopes[scope]++
		return j
	}
	return nil
}

// done says that j runs no more. Whoever says so takes the next job itself; its account and its scope may each have let
// another wait, so one more worker is woken.
func (l *line) done(j *job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	less(l.accounts, j.Authorization.Account)
	less(l.scopes, j.Scope)
	if l.count > 0 {
		l.changed.Signal()
	}
}

// room returns how many more jobs may wait.
func (l *line) room() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return lineMost - l.count
}

// close ends the line: nothing is put, nothing taken.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
}

func less[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}
