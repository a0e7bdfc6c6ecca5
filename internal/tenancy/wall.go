package tenancy

import "codeberg.org/dataverket/segl/internal/identity"

// Wall returns, as rows number them, the scopes that are in or below any of roots, and those above these: what the work of
// somebody who was authenticated for roots sees (postgres.Within). The platform's rows are nobody's but its operators', whose
// work is not walled, so the platform is no root; nor is a scope that is not there. A scope may be named twice.
func (r *Registry) Wall(roots ...identity.Scope) (scopes, above []int32) {
	all := r.all.Load()
	for _, root := range roots {
		if _, there := all.ids[root]; !there || root.IsPlatform() {
			continue
		}
		scopes = append(scopes, all.under[root]...)
		for s, ok := root.Parent(); ok; s, ok = s.Parent() {
			above = append(above, all.ids[s])
		}
	}
	return scopes, above
}
