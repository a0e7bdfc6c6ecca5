package ca_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
)

// emergency is a Guard of one key.
func emergency(t *testing.T, spki []byte) *breakglass.Guard {
	t.Helper()
	sum := sha256.Sum256(spki)
	g, err := breakglass.Parse([]breakglass.Entry{{Name: "oob", Key: hex.EncodeToString(sum[:])}})
	must(t, err)
	return g
}

func TestAnEmergencyCAsKeyIsCertifiedForNobody(t *testing.T) {
	h := pkitest.New(t)
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
	h.BreakGlass = emergency(t, req.CSR.SPKI)
	_, err := h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), req)
	if r, ok := errors.AsType[*policy.Refusal](err); !ok || !strings.Contains(r.Rule, "oob") {
		t.Errorf("got %v", err)
	}
	pub, err := ssh.NewPublicKey(req.CSR.Key)
	must(t, err)
	h.BreakGlass, err = breakglass.Parse([]breakglass.Entry{{Name: "oob", SSH: ssh.FingerprintSHA256(pub)}})
	must(t, err)
	_, err = h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), req)
	if r, ok := errors.AsType[*policy.Refusal](err); !ok || !strings.Contains(r.Rule, "oob") {
		t.Errorf("named by its SSH fingerprint alone: %v", err)
	}
	h.BreakGlass = emergency(t, []byte("another"))
	_, err = h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), req)
	must(t, err)
}

func TestAnEmergencyCALetsNobodyInByAMethod(t *testing.T) {
	h := newHall(t)
	h.BreakGlass = emergency(t, h.root.RawSubjectPublicKeyInfo)
	tried := 0
	for _, m := range h.methods() {
		if m.Kind == ca.X5C {
			tried++
			m.Name = "again"
			_, err := h.AddMethod(t.Context(), identity.System("test"), m)
			refusal(t, "an emergency CA's certificates as proofs", err)
		}
	}
	if tried == 0 {
		t.Error("no method takes certificates")
	}
}

func TestAnAuthorityBelowAnEmergencyCAIsNotPublished(t *testing.T) {
	h := pkitest.New(t)
	servers, err := h.Authority("servers-1-1")
	must(t, err)
	for name, spki := range map[string][]byte{
		"chains to it: has its key": servers.Parent().Certificate.RawSubjectPublicKeyInfo,
		"has its key":               servers.Certificate.RawSubjectPublicKeyInfo,
	} {
		h.BreakGlass = emergency(t, spki)
		var touch *breakglass.Touch
		if err := h.Reload(t.Context()); !errors.As(err, &touch) {
			t.Errorf("%s: loaded: %v", name, err)
		}
	}
	h.BreakGlass = nil
	must(t, h.Reload(t.Context()))
	if _, err := h.Prepare(t.Context(), platformOperator, ca.Servers, "next"); err != nil {
		t.Error(err)
	}
}
