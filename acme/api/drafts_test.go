package api_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// zone answers the zone's methods as acmez reads their drafts.
type zone struct {
	*site
	account *acmezacme.Account
}

func (z zone) Present(_ context.Context, c acmezacme.Challenge) error {
	if c.Type == acmezacme.ChallengeTypeDNSAccount01 {
		z.dns.SetTXT(c.DNSAccount01TXTRecordName(*z.account), c.DNS01KeyAuthorization())
		return nil
	}
	z.dns.SetTXT(c.DNSPersist01TXTRecordName(), c.DNSPersist01TXTRecordValue(*z.account, c.IssuerDomainNames[0], true))
	return nil
}

func (zone) CleanUp(context.Context, acmezacme.Challenge) error { return nil }

func TestAcmezProvesNamesByTheDrafts(t *testing.T) {
	for _, method := range []acme.Method{acme.DNSAccount01, acme.DNSPersist01} {
		t.Run(string(method), func(t *testing.T) {
			s, _ := newSite(t, options{idle: true})
			var base atomic.Pointer[string] // known once the replica listens
			v, err := validate.New(validate.Config{Resolver: s.dns.Addr, CAA: validate.CAA{Identities: []string{"ca.test"}}, Now: s.Now})
			must(t, err)
			r := s.replica(t, options{validator: v, config: func(c *acme.Config) {
				c.Permission, c.Identities, c.Drafts = v, []string{"ca.test"}, []acme.Method{method}
				c.AccountURL = func(scope identity.Scope, id uid.UID) string { return api.AccountURL(*base.Load(), scope, id) }
			}})
			base.Store(&r.base)
			s.dns.Add(t, `demo.test. 0 IN CAA 0 issue "ca.test; validationmethods=`+string(method)+`"`)
			z := zone{s, new(acmezacme.Account)}
			c := &acmez.Client{
				Client:           &acmezacme.Client{Directory: r.directory(), HTTPClient: r.client, PollInterval: 10 * time.Millisecond},
				ChallengeSolvers: map[string]acmez.Solver{string(method): z},
			}
			*z.account, err = c.NewAccount(t.Context(), acmezacme.Account{PrivateKey: jwstest.NewKey(t), TermsOfServiceAgreed: true})
			must(t, err)
			got, err := c.ObtainCertificateForSANs(t.Context(), *z.account, pkitest.Key(t), []string{"a.demo.test", "*.demo.test"})
			if err != nil || len(got) == 0 {
				t.Fatalf("%d certificates, %v", len(got), err)
			}
		})
	}
}
