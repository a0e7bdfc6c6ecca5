package tenancy_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

func TestAWallIsTheSubtreeAndWhatStandsAboveIt(t *testing.T) {
	h := pkitest.New(t)
	rows, err := h.DB.Query(t.Context(), `SELECT id, path FROM scope`)
	if err != nil {
		t.Fatal(err)
	}
	path := map[int32]string{}
	var id int32
	var p string
	if _, err := pgx.ForEachRow(rows, []any{&id, &p}, func() error { path[id] = p; return nil }); err != nil {
		t.Fatal(err)
	}
	names := func(ids []int32) map[string]bool {
		out := map[string]bool{}
		for _, id := range ids {
			out[path[id]] = true
		}
		return out
	}
	same := func(what string, got map[string]bool, want ...string) {
		t.Helper()
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s lacks %s: %v", what, w, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %q", what, got, want)
		}
	}
	for _, c := range []struct {
		roots         []identity.Scope
		scopes, above []string
	}{
		{[]identity.Scope{pkitest.Scope("demo")}, []string{"demo", "demo/shop", "demo/shop/dev"}, nil},
		{[]identity.Scope{pkitest.Demo}, []string{"demo/shop/dev"}, []string{"demo", "demo/shop"}},
		{[]identity.Scope{pkitest.Demo, pkitest.Scope("other")}, []string{"demo/shop/dev", "other"}, []string{"demo", "demo/shop"}},
		{[]identity.Scope{identity.Platform, {}, pkitest.Scope("nobody"), pkitest.Scope("demo/nobody")}, nil, nil},
		{nil, nil, nil},
	} {
		scopes, above := h.Scopes.Wall(c.roots...)
		same("the subtree", names(scopes), c.scopes...)
		same("what is above", names(above), c.above...)
	}
}
