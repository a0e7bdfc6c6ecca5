package api_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTheConformancePageNamesTestsThatExist(t *testing.T) {
	const root = "../../"
	page, err := os.ReadFile(root + "docs/acme-conformance.md")
	must(t, err)
	sources := map[string]string{}
	for _, line := range strings.Split(string(page), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 6 || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Section") {
			continue
		}
		state, tests := strings.TrimSpace(cells[3]), cells[4]
		if named := strings.TrimSpace(tests) != ""; named == (state == "later") {
			t.Errorf("%s: what is served names a test, what is not names none", line)
		}
		for _, group := range strings.Split(tests, "`")[1:] {
			if strings.HasPrefix(group, "acme") {
				sources[group] = source(t, root+group)
			}
		}
		dir := ""
		for _, w := range regexp.MustCompile("`acme[a-z/]*`|Test[A-Za-z0-9]+|/[a-z]+").FindAllString(tests, -1) {
			switch {
			case w[0] == '`':
				dir = strings.Trim(w, "`")
			case w[0] == '/':
				if !strings.Contains(sources[dir], `t.Run("`+w[1:]+`"`) {
					t.Errorf("%s has no subtest %s", dir, w[1:])
				}
			case !strings.Contains(sources[dir], "func "+w+"("):
				t.Errorf("%s has no %s", dir, w)
			}
		}
	}
}

func source(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(dir + "/*_test.go")
	must(t, err)
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f) //nolint:gosec // the repository's own
		must(t, err)
		all.Write(b)
	}
	return all.String()
}
