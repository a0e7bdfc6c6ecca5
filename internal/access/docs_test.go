package access_test

import (
	"os"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/access"
)

// docs/access.md says which role may do what, and nothing else does.
func TestThePageSaysWhatRolesAllow(t *testing.T) {
	page, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 2+1+len(access.Roles()) && strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			rows[strings.Trim(cells[1], " `")] = cells[2 : 2+len(access.Roles())]
		}
	}
	for _, a := range access.Actions() {
		row := rows[a.String()]
		if row == nil {
			t.Errorf("docs/access.md has no row for %s", a)
			continue
		}
		for i, r := range access.Roles() {
			if says := strings.TrimSpace(row[i]) == "yes"; says != r.Allows(a) {
				t.Errorf("docs/access.md says %t of %s and %s", says, r, a)
			}
		}
	}
}
