package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// An errno is a net.Error, in a file's trouble as well: whoever reads it as a lost database looks in the wrong place.
func TestAFileAmissIsNotALostDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := os.Mkdir(filepath.Join(file, "below"), 0o700)
	if err == nil || postgres.Unavailable(fmt.Errorf("making the data directory: %w", err)) {
		t.Errorf("%v passes for an unavailable database", err)
	}
}
