package acme

import (
	"context"
	"net/netip"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Line is a line of workers, as tests see it: jobs are named by who asked.
type Line struct {
	l       *line
	running map[string][]*job
	names   map[uid.UID]string
}

// NewLine returns a line for so many workers.
func NewLine(workers int) *Line {
	return &Line{newLine(workers), map[string][]*job{}, map[uid.UID]string{}}
}

// Put adds a job of an account of a scope.
func (l *Line) Put(scope identity.Scope, account uid.UID, name string) bool {
	return l.PutOf(scope, account, uid.New(uid.Authorization, 1, time.Unix(1_800_000_000, 0)), name)
}

// PutOf adds a job for an authorization.
func (l *Line) PutOf(scope identity.Scope, account, authorization uid.UID, name string) bool {
	l.names[account] = name
	return l.l.put(newJob(Task{Scope: scope, Authorization: Authorization{ID: authorization, Account: account}}))
}

// Next returns whose job runs next, or nothing if none may.
func (l *Line) Next() string {
	l.l.mu.Lock()
	j := l.l.nextLocked()
	l.l.mu.Unlock()
	if j == nil {
		return ""
	}
	name := l.names[j.Authorization.Account]
	l.running[name] = append(l.running[name], j)
	return name
}

// Done ends a job of an account.
func (l *Line) Done(name string) {
	l.l.done(l.running[name][0])
	l.running[name] = l.running[name][1:]
}

// Take waits for a job, as a worker does, and reports whether there was one.
func (l *Line) Take(ctx context.Context) bool { return l.l.take(ctx) != nil }

// Network is what counts as one address.
func Network(a netip.Addr) netip.Addr { return network(a) }

// Close ends the line.
func (l *Line) Close() { l.l.close() }
