package web

import (
	"fmt"
	"regexp"
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
		if !last && !between.MatchString(seg) || !parameter.MatchString(seg) {
			panic(fmt.Sprintf("web: internal error: path %q: segment %q is no parameter", s, seg))
		}
		m := parameter.FindStringSubmatch(seg)
		t.params = append(t.params, m[1])
		t.rest, t.verb = m[2] != "", m[3]
		if t.rest {
			t.path, t.shape = t.path+"*", t.shape+"*"
		} else {
			t.path, t.shape = t.path+":"+m[1], t.shape+":"
		}
	}
	return t
}

var (
	between   = regexp.MustCompile(`^\{\w+\}$`)                                // {name}
	parameter = regexp.MustCompile(`^\{(\w+)(?:(\.\.\.)\}|\}(?::([\w-]+))?)$`) // {name}, {name...} or {name}:a-verb
)
