package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// attests is an attester that finds one key attested, of one device.
type attests struct {
	key    *ecdsa.PrivateKey
	device string
}

func (a attests) Attest(c acme.Check) (acme.Evidence, *acme.Problem) {
	if c.Name.Value() != a.device || !strings.Contains(string(c.Payload), "attObj") {
		return acme.Evidence{}, acme.NewProblem(acme.BadAttestationStatement, "not that device")
	}
	id, err := cert.KeyIDOf(a.key.Public())
	if err != nil {
		return acme.Evidence{}, acme.NewProblem(acme.ServerInternal, "%s", err)
	}
	return acme.Evidence{Statement: "apple", Key: id}, nil
}

func devices(t *testing.T, a attests) *account {
	t.Helper()
	_, r := newSite(t, options{validator: refuses{}, config: func(c *acme.Config) {
		c.Attester, c.TrustDomain, c.Drafts = a, pkitest.Domain, []acme.Method{acme.DeviceAttest01}
	}})
	return r.register(t)
}

// refuses is a validator nobody may ask.
type refuses struct{}

func (refuses) Validate(context.Context, acme.Check) (acme.Evidence, *acme.Problem) {
	return acme.Evidence{}, acme.NewProblem(acme.ServerInternal, "asked about a device")
}

func csrOf(t *testing.T, key *ecdsa.PrivateKey, commonName string) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	must(t, err)
	return `{"csr":"` + jwstest.B64(der) + `"}`
}

func TestADeviceGetsItsIdentityForTheAttestedKeyAlone(t *testing.T) {
	key := pkitest.Key(t)
	a := devices(t, attests{key, "C02XK"})
	url, o := a.order(t, "permanent-identifier:C02XK")
	z := a.post(t, authorizations(o)[0], "").json(t)
	if id := z["identifier"].(map[string]any); id["type"] != "permanent-identifier" || id["value"] != "C02XK" || len(z["challenges"].([]any)) != 1 {
		t.Fatalf("authorization %v", z)
	}
	c := challengeOf(t, z, "device-attest-01")
	if got := a.post(t, c["url"].(string), `{"attObj":"oA"}`).json(t); got["status"] != "valid" && got["status"] != "processing" {
		t.Fatalf("challenge %v", got)
	}
	o = a.wait(t, url)
	if got := a.post(t, o["finalize"].(string), csrOf(t, pkitest.Key(t), "C02XK")); got.status != 400 || !strings.Contains(string(got.body), "attested") {
		t.Fatalf("another key: %d %s", got.status, got.body)
	}
	if got := a.post(t, o["finalize"].(string), csrOf(t, key, "somebody")); got.status != 400 || !strings.Contains(string(got.body), "common name") {
		t.Fatalf("another name: %d %s", got.status, got.body)
	}
	got := a.post(t, o["finalize"].(string), csrOf(t, key, "C02XK"))
	if got.status != 200 {
		t.Fatalf("finalize: %d %s", got.status, got.body)
	}
	block, _ := pem.Decode(a.post(t, got.json(t)["certificate"].(string), "").body)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://"+pkitest.Domain+"/tenant/demo/project/shop/environment/dev/device-c02xk" || len(leaf.DNSNames) != 0 {
		t.Errorf("certificate of %v %v", leaf.URIs, leaf.DNSNames)
	}
}

func TestADevicesAuthorizationIsNotUsedAgain(t *testing.T) {
	a := devices(t, attests{pkitest.Key(t), "C02XK"})
	url, o := a.order(t, "permanent-identifier:C02XK")
	a.post(t, challengeOf(t, a.post(t, authorizations(o)[0], "").json(t), "device-attest-01")["url"].(string), `{"attObj":"oA"}`)
	a.wait(t, url)
	_, again := a.order(t, "permanent-identifier:C02XK")
	if again["status"] != "pending" {
		t.Errorf("order %v", again["status"])
	}
}

func TestAStatementThatDoesNotCountFailsItsAuthorization(t *testing.T) {
	a := devices(t, attests{pkitest.Key(t), "OTHER"})
	_, o := a.order(t, "permanent-identifier:C02XK")
	z := authorizations(o)[0]
	a.post(t, challengeOf(t, a.post(t, z, "").json(t), "device-attest-01")["url"].(string), `{"attObj":"oA"}`)
	waitFor(t, func() bool { return a.post(t, z, "").json(t)["status"] == "invalid" })
	if body := string(a.post(t, z, "").body); !strings.Contains(body, "badAttestationStatement") {
		t.Errorf("authorization %s", body)
	}
}

func TestDeviceOrdersAreRefused(t *testing.T) {
	on := devices(t, attests{pkitest.Key(t), "C02XK"})
	_, r := newSite(t, options{validator: yes{}})
	off := r.register(t)
	for what, c := range map[string]struct {
		a           *account
		body, wants string
	}{
		"where they are not taken": {off, `{"identifiers":[{"type":"permanent-identifier","value":"C02XK"}]}`, "unsupportedIdentifier"},
		"with a host":              {on, `{"identifiers":[{"type":"permanent-identifier","value":"C02XK"},{"type":"dns","value":"a.demo.test"}]}`, "rejectedIdentifier"},
		"with an assigner":         {on, `{"identifiers":[{"type":"permanent-identifier","value":"C02XK/1.2.3"}]}`, "rejectedIdentifier"},
		"with an empty value":      {on, `{"identifiers":[{"type":"permanent-identifier","value":""}]}`, "rejectedIdentifier"},
		"with another profile":     {on, `{"identifiers":[{"type":"permanent-identifier","value":"C02XK"}],"profile":"server"}`, "invalidProfile"},
		"of another kind":          {on, `{"identifiers":[{"type":"hardware-module","value":"C02XK"}]}`, "unsupportedIdentifier"},
	} {
		t.Run(what, func(t *testing.T) {
			got := c.a.post(t, c.a.at("new-order"), c.body)
			if got.status < 400 || !strings.Contains(string(got.body), c.wants) {
				t.Errorf("%d %s, want %s", got.status, got.body, c.wants)
			}
		})
	}
	if got := on.post(t, on.at("new-authz"), `{"identifier":{"type":"permanent-identifier","value":"C02XK"}}`); !strings.Contains(string(got.body), "unsupportedIdentifier") {
		t.Errorf("before an order: %d %s", got.status, got.body)
	}
}
