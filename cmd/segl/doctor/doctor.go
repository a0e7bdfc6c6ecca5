// Package doctor looks at a running segl from outside, and at the files that lead to it, and says what to mend.
//
// It asks as anybody could: the listeners, /readyz, the database, and what relying parties see: roots, revocation lists,
// OCSP. Nothing is changed. A check that cannot be made is a finding like any other, so one run tells all there is to
// tell. What is not configured is not looked at.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// A Patient is what to look at. Empty fields are left out.
type Patient struct {
	Root       string // file of the trust anchors
	Identities []Identity
	Listeners  []Listener // those with TLS
	Public     string     // base URL
	Private    string     // base URL
	Database   string     // URL
	Agent      string     // what to call ourselves
	Now        func() time.Time
}

// An Identity is a certificate of ours that is shown to the server.
type Identity struct {
	Name string
	keypair.Files
}

// A Listener is a base URL with its name.
type Listener struct{ Name, URL string }

// A Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it, where it is not well
}

func well(check, format string, args ...any) Finding {
	return Finding{Check: check, OK: true, Detail: fmt.Sprintf(format, args...)}
}

// ill is a finding. Without a fix of its own, that of an unreachable server is given.
func ill(check string, why error, fix string) Finding {
	if u, ok := errors.AsType[*client.Unreachable](why); ok && fix == "" {
		fix = u.Hint()
	}
	return Finding{Check: check, Detail: strings.Join(strings.Fields(why.Error()), " "), Fix: fix}
}

// An examination is one run: what was found so far, and what later checks need of earlier ones.
type examination struct {
	Patient
	trust trust
	found []Finding
}

func (x *examination) add(f ...Finding) { x.found = append(x.found, f...) }

// Examine makes every check there is something for, the cheapest first.
func Examine(ctx context.Context, p Patient) []Finding {
	x := examination{Patient: p}
	x.checkRoot()
	for _, id := range p.Identities {
		x.checkIdentity(id)
	}
	for _, l := range p.Listeners {
		x.checkListener(ctx, l)
	}
	x.checkReadiness(ctx)
	x.checkPublished(ctx)
	x.checkDatabase(ctx)
	x.checkPublic(ctx)
	if len(x.found) == 0 {
		x.add(ill("configuration", errors.New("there is nothing to look at"), "set SEGL_URL, SEGL_ROOT and their like, or give the flags; segl doctor --help lists them"))
	}
	return x.found
}

// plain returns a client for a listener that speaks plain HTTP.
func (x *examination) plain(base string) (*client.Client, error) {
	return client.New(client.Config{URL: strings.TrimRight(base, "/"), UserAgent: x.Agent})
}

// count says how many there are.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
