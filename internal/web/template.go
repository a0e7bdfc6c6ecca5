package web

import (
	"fmt"
	"strings"
)

// A template is a parsed Route.Path. The router takes ":x" anywhere in a path for a parameter and knows none that ends
// before a slash, so verbs ("{serial}:revoke") are cut off here and told apart after routing.
type template struct {
	path   string   // as the router wants it
	shape  string   // path with parameters unnamed: two templates of one shape are one place in the router
	params []string // in order
	rest   bool     // the last parameter takes all that is left
	verb   string
}

// parseTemplate panics on a template it cannot serve: routes are written by us.
func parseTemplate(s string) template {
	if !strings.HasPrefix(s, "/") {
		panic(fmt.Sprintf("web: internal error: path %q: want a leading slash", s))
	}
	var t template
	segments := strings.Split(s[1:], "/")
	for i, seg := range segments {
		last := i == len(segments)-1
		t.path += "/"
		t.shape += "/"
		if !strings.HasPrefix(seg, "{") {
			t.path += strings.ReplaceAll(seg, ":", `\:`)
			t.shape += seg
			continue
		}
		name, verb, ok := strings.Cut(seg[1:], "}")
		name, rest := strings.CutSuffix(name, "...")
		if !ok || name == "" || (verb != "" && (!last || verb[0] != ':' || len(verb) == 1)) || (rest && (!last || verb != "")) {
			panic(fmt.Sprintf("web: internal error: path %q: segment %q is no parameter", s, seg))
		}
		t.params = append(t.params, name)
		t.rest, t.verb = rest, strings.TrimPrefix(verb, ":")
		if rest {
			t.path, t.shape = t.path+"*", t.shape+"*"
		} else {
			t.path, t.shape = t.path+":"+name, t.shape+":"
		}
	}
	return t
}
