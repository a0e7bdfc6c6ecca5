package e2e_test

import (
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }
