package acme

import (
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// A job is a validation at which this replica is. Its Task says by which method, recorded or not.
type job struct {
	Task
	ended chan struct{} // closed when over

	mu      sync.Mutex  // held while the attempt is recorded and while it is settled: never both at once
	queued  Queued      // the attempt is recorded
	over    bool        // nobody is at it any more
	outcome *Validation // recorded, and the one that counts
}

func newJob(t Task) *job { return &job{Task: t, ended: make(chan struct{})} }

// ask returns how j's attempt is recorded.
func (j *job) ask() Ask {
	a := j.Authorization
	return Ask{
		Account: a.Account, Authorization: a.ID, Method: a.Attempt.Method, At: a.Attempt.Asked, Payload: j.Payload,
		Lease: lease, Most: recordedAttempts,
	}
}

// recordedAttempts bounds the queue that replicas share, for each account: five orders of a hundred names.
const recordedAttempts = 500

// queueFull: what is not recorded was not promised; nothing is lost by asking later.
func queueFull() *Problem {
	p := problem(RateLimited, "%d validations of this account wait already: answer this challenge when some of them have ended", recordedAttempts)
	p.RetryAfter = time.Minute
	return p
}

// pending holds the jobs that clients wait for, one an authorization, so that whoever says the same again waits with the
// first.
type pending struct {
	mu   sync.Mutex
	jobs map[uid.UID]*job
}

func newPending() *pending { return &pending{jobs: make(map[uid.UID]*job)} }

// join returns the job that is to be waited for, and whether it is j.
func (p *pending) join(j *job) (*job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if had, ok := p.jobs[j.Authorization.ID]; ok {
		return had, false
	}
	p.jobs[j.Authorization.ID] = j
	return j, true
}

// finish ends a job: with what is recorded and counts, or nil when nothing is known.
func (s *Server) finish(j *job, v *Validation) {
	j.mu.Lock()
	j.over, j.outcome = true, v
	j.mu.Unlock()
	s.pending.mu.Lock()
	if s.pending.jobs[j.Authorization.ID] == j { // one that was taken over is nobody's to wait for
		delete(s.pending.jobs, j.Authorization.ID)
	}
	s.pending.mu.Unlock()
	close(j.ended)
}

// Queued says whether an attempt is recorded, and so stands in the queue that other replicas read.
type Queued bool
