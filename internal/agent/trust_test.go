package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/agent"
)

// eventually asks until the answer has want in it.
func eventually(t *testing.T, url, want string) error {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			text, _ := io.ReadAll(res.Body)
			res.Body.Close() //nolint:errcheck // only read
			if strings.Contains(string(text), want) {
				return nil
			}
			if time.Now().After(deadline) {
				t.Errorf("%s says %s, want %q", url, text, want)
				return nil
			}
		} else if time.Now().After(deadline) {
			return err
		}
	}
}

// lists makes revocation lists with numbers.
func lists(t *testing.T, key *ecdsa.PrivateKey, number int64) string {
	t.Helper()
	return listBy(t, "lister", key, number, time.Unix(1_700_000_000, 0))
}

// listBy makes one of name's.
func listBy(t *testing.T, name string, key *ecdsa.PrivateKey, number int64, made time.Time) string {
	t.Helper()
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: made, NextUpdate: made.Add(time.Hour)}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func TestListsInPlaceAreOnlyReplacedByNewerOnes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var serves atomic.Value
	serves.Store(lists(t, key, 5))
	public := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, serves.Load().(string)) })) //nolint:errcheck,forcetypeassert // a test's server
	defer public.Close()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Unix(1_900_000_000, 0),
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Unix(1_700_000_000, 0)
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	file, told := filepath.Join(dir, "crls.pem"), filepath.Join(dir, "told")
	a, err := agent.New(agent.Config{
		Server: "https://127.0.0.1:1", Public: public.URL, Root: root,
		Trust: agent.Trust{CRLs: file, Every: time.Second, Hooks: []agent.Hook{{Command: []string{"sh", "-c", "echo x >>" + told}}}},
	}, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, serves, has string
		times             int
		fails             bool
	}{
		{"the first", lists(t, key, 5), "", 1, false},
		{"older ones", lists(t, key, 4), "keep", 1, true},
		{"newer ones", lists(t, key, 6), "", 2, false},
		{"none", "", "keep", 2, true},
		{"what is no list", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "keep", 2, true},
		{"half of one", lists(t, key, 7)[:100], "keep", 2, true},
		{"one that the root is said to have signed", lists(t, key, 7) + listBy(t, "root", other, 1, made), "keep", 2, true},
		{"one that the root signed", lists(t, key, 7) + listBy(t, "root", key, 1, made), "", 3, false},
		{"one from a time to come", listBy(t, "lister", key, 8, time.Now().Add(time.Hour)), "keep", 3, true},
		{"somebody's with a huge number", listBy(t, "lister", other, 1<<60, made), "", 4, false},
		{"the next, which that does not keep out", listBy(t, "lister", key, 9, made.Add(time.Minute)), "", 5, false},
	} {
		before, _ := os.ReadFile(file)
		serves.Store(c.serves)
		_, err := a.Lists(t.Context())
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", c.what, err)
		}
		after, _ := os.ReadFile(file)
		if c.has == "keep" && string(after) != string(before) || c.has == "" && string(after) != c.serves {
			t.Errorf("%s: the file is another than wanted", c.what)
		}
		text, _ := os.ReadFile(told)
		if n := strings.Count(string(text), "x"); n != c.times {
			t.Errorf("%s: hooks ran %d times, want %d", c.what, n, c.times)
		}
	}
}
