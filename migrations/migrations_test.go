package migrations_test

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/migrations"
)

var name = regexp.MustCompile(`^(\d{4})_[a-z0-9_]+\.sql$`)

func TestMigrationsAreNumberedForwardOnlyAndSayWhy(t *testing.T) {
	files, err := fs.Glob(migrations.FS, "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for i, file := range files { // Glob sorts
		m := name.FindStringSubmatch(file)
		if want := fmt.Sprintf("%04d", i+1); m == nil || m[1] != want {
			t.Errorf("%s: want a name like %s_topic.sql", file, want)
		}
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		before, _, ok := strings.Cut(string(text), "-- +goose Up\n")
		if !ok || !strings.HasPrefix(before, "-- ") {
			t.Errorf("%s: want a comment that says why, then -- +goose Up", file)
		}
		if strings.Contains(string(text), "+goose Down") {
			t.Errorf("%s goes backwards", file)
		}
	}
}
