package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/cmd/segl/server"
)

func TestEveryConfigurationInDeployLoads(t *testing.T) {
	files, err := filepath.Glob("../../../deploy/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if _, err := server.Load(f); err != nil {
			t.Error(err)
		}
	}
}

const goodConfig = `
site: 1
trust_domain: dataverket.test
database: {url: "postgres:///segl"}
passphrase_file: /run/credentials/segl/passphrase
`

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ edit, names string }{
		"an unknown key":             {"sites: 2", "sites"},
		"no site":                    {"site: 0", "site"},
		"a site too large":           {"site: 256", "site"},
		"a trust domain in capitals": {"trust_domain: Dataverket", "trust_domain"},
		"no database":                {`database: {url: ""}`, "database"},
		"two databases":              {`database: {url: "postgres:///segl", url_file: /x}`, "database"},
		"an unknown unsafe":          {`database: {url: "postgres:///segl", allow_unsafe: [everything]}`, "allow_unsafe"},
		"no passphrase":              {`passphrase_file: ""`, "passphrase_file"},
		"lists over https":           {"urls: {public: https://ca.test}", "urls.public"},
		"service over http":          {"urls: {service: http://ca.test}", "urls.service"},
		"a URL with a query":         {`urls: {service: "https://ca.test/?a=b"}`, "urls.service"},
		"a port too large":           {"acme: {http_port: 65536}", "acme.http_port"},
		"a range that is none":       {"acme: {denied: [10.0.0.0/33]}", "10.0.0.0/33"},
		"an unknown level":           {"log_level: loud", "log_level"},
	} {
		t.Run(name, func(t *testing.T) {
			key, _, _ := strings.Cut(c.edit, ":")
			var lines []string
			for line := range strings.Lines(goodConfig) {
				if !strings.HasPrefix(line, key+":") {
					lines = append(lines, line)
				}
			}
			_, err := server.Load(write(t, strings.Join(lines, "")+c.edit+"\n"))
			if err == nil || !strings.Contains(err.Error(), c.names) {
				t.Errorf("%v, want an error that names %s", err, c.names)
			}
		})
	}
	if _, err := server.Load(write(t, goodConfig)); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "segl.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
