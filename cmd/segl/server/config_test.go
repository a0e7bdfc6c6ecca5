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
		"a limit nobody knows":       {"limits: {acme-orders: 1/1h}", "limits"},
		"a rate that is none":        {"limits: {acme-orders-per-account: 100}", "100/1h"},
		"terms that are no page":     {"acme: {terms: ours}", "acme.terms"},
		"an unknown level":           {"log_level: loud", "log_level"},
		"a scope that is none":       {"acme: {scopes: {Demo: {}}}", "acme.scopes"},
		"a scope's port too large":   {"acme: {scopes: {demo: {tls_port: 65536}}}", "acme.scopes.demo.tls_port"},
		"a scope's range":            {"acme: {scopes: {demo: {denied: [10.0.0.0/33]}}}", "10.0.0.0/33"},
		"a retry too soon":           {"acme: {retries: [10ms]}", "acme.retries"},
		"a retry too late":           {"acme: {retries: [11m]}", "acme.retries"},
		"too many retries":           {"acme: {retries: [1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s]}", "acme.retries"},
		"a draft nobody knows":       {"acme: {drafts: {dns-02: x}}", "acme.drafts"},
		"another version":            {"acme: {drafts: {dns-account-01: draft-ietf-acme-dns-account-label-00}}", "draft-ietf-acme-dns-account-label-02"},
		"persist without identities": {"acme: {drafts: {dns-persist-01: draft-ietf-acme-dns-persist-01}}", "acme.caa.identities"},
		"devices without makers":     {"acme: {drafts: {device-attest-01: draft-ietf-acme-device-attest-09}}", "acme.attestation"},
		"makers without devices":     {"acme: {attestation: {apple: /x}}", "acme.attestation"},
		"a quorum of nobody":         {"acme: {perspectives: {quorum: 1}}", "acme.perspectives.quorum"},
		"a quorum too large":         {"acme: {perspectives: {quorum: 2, certificate: /c, key: /k, roots: /r, places: {a: {url: 'https://a', identity: 'spiffe://t/platform/a'}}}}", "acme.perspectives.quorum"},
		"a place with no identity":   {"acme: {perspectives: {quorum: 1, certificate: /c, key: /k, roots: /r, places: {a: {url: 'https://a'}}}}", "acme.perspectives.places.a"},
		"perspectives without a key": {"acme: {perspectives: {quorum: 1, places: {a: {}}}}", "acme.perspectives"},
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
