package server_test

import (
	"os"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/cmd/segl/server"
)

func TestEveryExampleOfValidationLoads(t *testing.T) {
	page, err := os.ReadFile("../../../docs/validation.md")
	must(t, err)
	examples := strings.Split(string(page), "```yaml\n")[1:]
	if len(examples) < 5 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, e := range examples {
		text, _, _ := strings.Cut(e, "```")
		if strings.HasPrefix(text, "# validator") {
			_, err = server.LoadValidator(write(t, text))
		} else {
			_, err = server.Load(write(t, goodConfig+text))
		}
		if err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
}
