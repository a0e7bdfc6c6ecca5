package postgres

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ServiceRole is the database role that tenants' requests become: what it sees is walled (migrations, wall()).
const ServiceRole = "segl_service"

// A wall says whose rows a piece of work sees. A context without one sees nobody's: that somebody forgot to say is no way
// around it.
type wall struct {
	owner bool // it is our own work, and sees everything

	mu     sync.RWMutex // guards below
	scopes []int32
	above  []int32
	text   setting
}

// A setting is a wall as the database reads it.
type setting struct{ scopes, above string }

type wallKey struct{}

// AsOwner returns ctx for work of our own: duties, publication, what the platform's operators ask. What comes from a tenant's
// request never becomes that, except to answer what its method says it answers about others.
func AsOwner(ctx context.Context) context.Context {
	return context.WithValue(ctx, wallKey{}, ownersWall)
}

var ownersWall = &wall{owner: true}

// IsOwner reports whether ctx is that of our own work.
func IsOwner(ctx context.Context) bool {
	w, ok := ctx.Value(wallKey{}).(*wall)
	return ok && w.owner
}

// Within returns ctx for work of a caller who was authenticated for scopes, as rows number them, which stand below those
// above. Whatever ctx was before, it is no more.
func Within(ctx context.Context, scopes, above []int32) context.Context {
	w := &wall{}
	w.widen(scopes, above)
	return context.WithValue(ctx, wallKey{}, w)
}

// Widen lets the work of ctx see these scopes too, because its caller proved, by what only the database could judge, to be of
// them. Owner's work sees everything already; work that nobody named gains nothing.
func Widen(ctx context.Context, scopes, above []int32) {
	if w, ok := ctx.Value(wallKey{}).(*wall); ok && !w.owner {
		w.widen(scopes, above)
	}
}

// Sees reports whether the work of ctx sees rows of a scope.
func Sees(ctx context.Context, scope int32) bool {
	w, ok := ctx.Value(wallKey{}).(*wall)
	if !ok || w.owner {
		return ok
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return slices.Contains(w.scopes, scope)
}

// Together returns ctx for work that several asked for and that one transaction does: it sees what they were authenticated
// for, all of them. What they ask is no part of that. Owner's work is not mixed with others' (Apart): it would be walled.
func Together(ctx context.Context, of ...context.Context) context.Context {
	if len(of) == 0 {
		return ctx
	}
	first := of[0].Value(wallKey{})
	same := true
	for _, c := range of[1:] {
		same = same && c.Value(wallKey{}) == first
	}
	if same {
		return context.WithValue(ctx, wallKey{}, first)
	}
	all := &wall{}
	for _, c := range of {
		if w, ok := c.Value(wallKey{}).(*wall); ok && !w.owner {
			w.mu.RLock()
			all.widen(w.scopes, w.above)
			w.mu.RUnlock()
		}
	}
	return context.WithValue(ctx, wallKey{}, all)
}

// Apart separates owner's work from others', so that neither is done with the rights of the other. Where there is one kind it
// copies nothing.
func Apart[T any](all []T, of func(T) context.Context) (parts [][]T) {
	mixed := false
	for _, v := range all[min(1, len(all)):] {
		mixed = mixed || IsOwner(of(v)) != IsOwner(of(all[0]))
	}
	if !mixed {
		return [][]T{all}
	}
	var ours, theirs []T
	for _, v := range all {
		if IsOwner(of(v)) {
			ours = append(ours, v)
		} else {
			theirs = append(theirs, v)
		}
	}
	return [][]T{ours, theirs}
}

func (w *wall) widen(scopes, above []int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scopes, w.above = merged(w.scopes, scopes), merged(w.above, above)
	w.text = setting{listed(w.scopes), listed(w.above)}
}

func merged(has, more []int32) []int32 {
	out := append(slices.Clone(has), more...)
	slices.Sort(out)
	return slices.Compact(out)
}

func listed(ids []int32) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(int64(id), 10))
	}
	return b.String()
}

// settingOf returns what a transaction of ctx is told; nothing for one that says nothing of itself.
func settingOf(ctx context.Context) setting {
	w, ok := ctx.Value(wallKey{}).(*wall)
	if !ok || w.owner {
		return setting{}
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.text
}
