package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"

	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// elsewhere runs a perspective that asks dns, and returns where it is.
func elsewhere(t *testing.T, dir string, dns *dnstest.Server) string {
	t.Helper()
	cfg, err := server.LoadValidator(write(t, fmt.Sprintf(goodValidator, dir)+"acme: {resolver: \""+dns.Addr+"\", caa: {identities: [ca.segl.test]}}\n"))
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	at, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- server.RunValidator(ctx, cfg, slog.New(slog.DiscardHandler), func(a net.Addr) error { at <- a; return nil })
	}()
	select {
	case a := <-at:
		t.Cleanup(func() {
			stop()
			must(t, <-ended)
		})
		return "https://" + a.String()
	case err := <-ended:
		t.Fatal(err)
		return ""
	}
}

// zones answers dns-01 in the zones of some resolvers.
type zones []*dnstest.Server

func (z zones) Present(_ context.Context, c acmezacme.Challenge) error {
	for _, d := range z {
		d.SetTXT(c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	}
	return nil
}

func (z zones) CleanUp(_ context.Context, c acmezacme.Challenge) error {
	for _, d := range z {
		d.Clear(c.DNS01TXTRecordName())
	}
	return nil
}

func TestASiteProvesOnlyWhatOtherPlacesSee(t *testing.T) {
	dir, here, there := ends(t), dnstest.New(t), dnstest.New(t)
	cfg := configure(t, postgrestest.Empty(t))
	cfg.URLs.Service = "https://ca.segl.test" // a name that the platform may have
	cfg.ACME.Resolver, cfg.ACME.Retries = here.Addr, []time.Duration{}
	cfg.ACME.CAA = server.CAA{Identities: []string{"ca.segl.test"}}
	cfg.ACME.Perspectives = server.Perspectives{
		Quorum: 1, Certificate: dir + "/site.crt", Key: dir + "/site.key", Roots: dir + "/roots.pem",
		Places: map[string]server.Place{"there": {URL: elsewhere(t, dir, there), Identity: "spiffe://segl.test/platform/there"}},
	}
	at, _ := run(t, cfg)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots(t, at), MinVersion: tls.VersionTLS13}}}
	t.Cleanup(client.CloseIdleConnections)
	order := func(z zones) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		c := acmez.Client{
			Client:           &acmezacme.Client{Directory: at.Operator + "/acme/platform/directory", HTTPClient: client, PollInterval: 10 * time.Millisecond},
			ChallengeSolvers: map[string]acmez.Solver{acmezacme.ChallengeTypeDNS01: z},
		}
		account, err := c.NewAccount(t.Context(), acmezacme.Account{PrivateKey: key, TermsOfServiceAgreed: true})
		must(t, err)
		_, err = c.ObtainCertificateForSANs(t.Context(), account, leaf, []string{"ca.segl.test"})
		return err
	}
	if err := order(zones{here}); err == nil || !strings.Contains(err.Error(), "not from enough other places") {
		t.Errorf("seen from here alone: %v", err)
	}
	if err := order(zones{there}); err == nil || strings.Contains(err.Error(), "other places") {
		t.Errorf("seen from there alone: %v", err)
	}
	// The names of the platform take a role, which no account has: that is said once they are proved.
	if err := order(zones{here, there}); err == nil || !strings.Contains(err.Error(), "nothing grants") {
		t.Errorf("seen from both: %v", err)
	}
	there.Add(t, `segl.test. 0 IN CAA 0 issue ";"`)
	if err := order(zones{here, there}); err == nil || !strings.Contains(err.Error(), "caa") {
		t.Errorf("forbidden as seen from there: %v", err)
	}
	_, text := get(t, at.Private+"/metrics")
	for _, want := range []string{
		`segl_acme_perspective_answers_total{outcome="agreed",perspective="there"}`, `segl_acme_permissions_total{problem="caa"}`,
		`segl_acme_validation_seconds_count{method="dns-01",problem="none"}`, "segl_acme_validations_waiting",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
