package doctor_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/cmd/segl/doctor"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// now is the clock of whoever examines and of the server examined.
var now = time.Now().Truncate(time.Second)

const day = 24 * time.Hour

type pair struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// A world is a server that is well, and the files that lead to it. A test makes one thing in it ill.
type world struct {
	t                  *testing.T
	dir                string
	root, between, own pair
	tls, public        *httptest.Server
	private            *httptest.Server

	ready   string // of /readyz
	list    x509.RevocationList
	signer  *pair // of the list
	answer  ocsp.Response
	roots   []*x509.Certificate
	date    time.Time // the server's clock
	patient doctor.Patient
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), date: now, ready: `{"ready":true,"checks":[{"name":"database","ok":true}]}`}
	w.root = w.certify("root", true, nil, 20*365*day)
	w.between = w.certify("between", true, &w.root, 5*365*day)
	w.own = w.certify("own", false, &w.between, 7*day)
	w.roots, w.signer = []*x509.Certificate{w.root.cert}, &w.between
	w.list = x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(day)}
	w.answer = ocsp.Response{Status: ocsp.Good, SerialNumber: w.own.cert.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}
	w.serve()
	files := keypair.At(filepath.Join(w.dir, "own"))
	w.write(files.Chain, pemOf(w.own.cert, w.between.cert))
	der, err := x509.MarshalPKCS8PrivateKey(w.own.key)
	w.must(err)
	w.write(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	w.write(filepath.Join(w.dir, "root.pem"), pemOf(w.root.cert))
	w.patient = doctor.Patient{
		Root: filepath.Join(w.dir, "root.pem"), Identities: []doctor.Identity{{Name: "workload", Files: files}},
		Listeners: []doctor.Listener{{Name: "service", URL: w.tls.URL}}, Public: w.public.URL, Private: w.private.URL,
		Now: func() time.Time { return now },
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(path string, b []byte) { w.must(os.WriteFile(path, b, 0o600)) }

func pemOf(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func (w *world) certify(name string, isCA bool, above *pair, life time.Duration) pair { //nolint:revive // a fixture
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	w.must(err)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := c, crypto.Signer(key)
	if above != nil {
		parent, signer = above.cert, above.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	w.must(err)
	made, err := x509.ParseCertificate(der)
	w.must(err)
	return pair{key, made}
}

func (w *world) serve() {
	w.tls = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Date", w.date.UTC().Format(http.TimeFormat))
	}))
	leaf := w.certify("listener", false, &w.between, 7*day)
	w.tls.TLS = &tls.Config{ //nolint:gosec // the client decides the version
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.cert.Raw, w.between.cert.Raw}, PrivateKey: leaf.key}},
	}
	w.tls.StartTLS()
	w.private = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if !strings.HasPrefix(w.ready, `{"ready":true`) {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(rw, w.ready) //nolint:errcheck // a test's peer
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /roots.pem", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(pemOf(w.roots...)) }) //nolint:errcheck // a test's peer
	mux.HandleFunc("GET /crls.pem", func(rw http.ResponseWriter, _ *http.Request) {
		der, err := x509.CreateRevocationList(rand.Reader, &w.list, w.between.cert, w.between.key)
		if w.signer != &w.between {
			forged := *w.between.cert
			forged.PublicKey = w.signer.key.Public()
			der, err = x509.CreateRevocationList(rand.Reader, &w.list, &forged, w.signer.key)
		}
		if err != nil {
			panic(err)
		}
		rw.Write(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})) //nolint:errcheck // a test's peer
	})
	mux.HandleFunc("POST /ocsp", func(rw http.ResponseWriter, _ *http.Request) {
		der, err := ocsp.CreateResponse(w.between.cert, w.between.cert, w.answer, w.between.key)
		if err != nil {
			panic(err)
		}
		rw.Write(der) //nolint:errcheck // a test's peer
	})
	w.public = httptest.NewServer(mux)
	w.t.Cleanup(func() { w.tls.Close(); w.private.Close(); w.public.Close() })
}

// examine returns what is ill, a line each: check, detail, fix.
func (w *world) examine() []string {
	w.t.Helper()
	var ill []string
	for _, f := range doctor.Examine(w.t.Context(), w.patient) {
		if f.OK && f.Fix != "" {
			w.t.Errorf("%s is well and has a fix: %s", f.Check, f.Fix)
		}
		if !f.OK {
			ill = append(ill, f.Check+" | "+f.Detail+" | "+f.Fix)
		}
	}
	return ill
}

func TestAServerThatIsWellHasNoFindings(t *testing.T) {
	w := newWorld(t)
	if ill := w.examine(); len(ill) > 0 {
		t.Errorf("found %q", ill)
	}
}

func TestEachIllnessIsFoundAloneAndHasAFix(t *testing.T) {
	for name, c := range map[string]struct {
		make func(w *world)
		want string // words of the one finding, in order
	}{
		"a root that ends soon": {func(w *world) {
			w.patient.Root = filepath.Join(w.dir, "ending.pem")
			ending := w.certify("ending", true, nil, day)
			w.write(w.patient.Root, pemOf(w.root.cert, ending.cert))
		}, "root | CN=ending is valid|ask for the next root"},
		"a root that is no authority": {func(w *world) {
			w.patient.Root = filepath.Join(w.dir, "leaf.pem")
			w.write(w.patient.Root, pemOf(w.root.cert, w.own.cert))
		}, "root | CN=own is no authority|roots.pem"},
		"an identity near its end": {func(w *world) {
			w.own = w.certify("own", false, &w.between, 5*time.Minute)
			w.answer.SerialNumber = w.own.cert.SerialNumber
			files := w.patient.Identities[0].Files
			w.write(files.Chain, pemOf(w.own.cert, w.between.cert))
			der, err := x509.MarshalPKCS8PrivateKey(w.own.key)
			w.must(err)
			w.write(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		}, "workload identity | CN=own ends|segl cert renew --cert"},
		"an identity without its chain": {func(w *world) {
			w.write(w.patient.Identities[0].Chain, pemOf(w.own.cert))
		}, "workload identity | no chain leads to the root|segl enroll"},
		"an identity whose key is missing": {func(w *world) {
			w.must(os.Remove(w.patient.Identities[0].Key))
		}, "workload identity | reading key|segl enroll"},
		"a server whose clock is ahead": {
			func(w *world) { w.date = now.Add(time.Hour) },
			"service listener clock | it differs from this machine's by 1h|timedatectl",
		},
		"a server whose clock is behind": {
			func(w *world) { w.date = now.Add(-time.Hour) },
			"service listener clock | it differs from this machine's by -1h|timedatectl",
		},
		"a server that is not ready": {func(w *world) {
			w.ready = `{"ready":false,"checks":[{"name":"keys","ok":true},{"name":"database","ok":false,"why":"it does not answer"}]}`
		}, "ready: database | it does not answer|database.url"},
		"something else where the private listener should be": {
			func(w *world) { w.ready = `{"ready":true}` },
			"readiness | /readyz says nothing|the private listener?",
		},
		"another installation's root": {
			func(w *world) { w.roots = []*x509.Certificate{w.between.cert} },
			"published roots | the root in use here is not among them|another installation",
		},
		"a list that is stale": {
			func(w *world) { w.list.NextUpdate = now.Add(-time.Minute) },
			"revocation lists | list 1 of between: should have been followed at|crl duty",
		},
		"a list from the future": {
			func(w *world) { w.list.ThisUpdate = now.Add(time.Hour) },
			"revocation lists | list 1 of between: is of|yet to come",
		},
		"a list by somebody else": {
			func(w *world) { w.signer = &w.own },
			"revocation lists | list 1 of between:|crl duty",
		},
		"an identity that is revoked": {func(w *world) {
			w.answer.Status, w.answer.RevokedAt = ocsp.Revoked, now
		}, "ocsp | CN=own is revoked since|enroll again"},
		"an identity the server does not know": {
			func(w *world) { w.answer.Status = ocsp.Unknown },
			"ocsp | CN=own is not known|restored",
		},
		"an answer that has ended": {func(w *world) {
			w.answer.ThisUpdate, w.answer.NextUpdate = now.Add(-2*time.Hour), now.Add(-time.Hour)
		}, "ocsp | the answer is for|timedatectl"},
		"an answer from the future": {
			func(w *world) { w.answer.ThisUpdate = now.Add(time.Hour) },
			"ocsp | the answer is for|timedatectl",
		},
		"an answer about something else": {
			func(w *world) { w.answer.SerialNumber = big.NewInt(1) },
			"ocsp | reading the OCSP answer|/readyz",
		},
		"a listener that is gone": {
			func(w *world) { w.tls.Close() },
			"service listener | reaching https://|is segl running there",
		},
		"a private listener that is gone": {
			func(w *world) { w.private.Close() },
			"readiness | reaching http://|systemctl status segl",
		},
		"a database that is gone": {
			func(w *world) { w.patient.Database = "postgres://127.0.0.1:1/none" },
			"database | |database.url",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.make(w)
			ill := w.examine()
			if len(ill) != 1 {
				t.Fatalf("found %q, want one thing", ill)
			}
			rest := ill[0]
			for part := range strings.SplitSeq(c.want, "|") {
				var ok bool
				if _, rest, ok = strings.Cut(rest, strings.TrimSpace(part)); !ok {
					t.Errorf("found %q, want %q in it", ill[0], part)
				}
			}
		})
	}
}

func TestNothingToLookAtIsAFinding(t *testing.T) {
	ill := doctor.Examine(t.Context(), doctor.Patient{Now: time.Now})
	if len(ill) != 1 || ill[0].OK || ill[0].Fix == "" {
		t.Errorf("found %+v", ill)
	}
}
