package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// A desk is a web server whose answers are put there.
type desk struct{ answers sync.Map }

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if body, ok := d.answers.Load(r.Host + r.URL.Path); ok {
		fmt.Fprint(w, body)
		return
	}
	http.NotFound(w, r)
}

// Present and CleanUp make it a solver of acmez.
func (d *desk) Present(_ context.Context, c acmezacme.Challenge) error {
	d.answers.Store(c.Identifier.Value+c.HTTP01ResourcePath(), c.KeyAuthorization)
	return nil
}

func (*desk) CleanUp(context.Context, acmezacme.Challenge) error { return nil }

// Twenty orders side by side, by two clients that know nothing of each other, on one account: what makes step-ca's users
// take an account for each order (https://github.com/smallstep/certificates/issues/341).
func librariesShareAnAccount(t *testing.T, s *acmeSite) {
	const orders = 20
	d, key := new(desk), e2e.NewKey(t)
	var names []string
	for i := range orders {
		names = append(names, fmt.Sprintf("library-%02d.demo.test", i))
	}
	s.holds(t, d, names...)
	z, account := s.acmez(t, d, key)
	x := s.xacme(t, key)
	if url := x.url; url != account.Location {
		t.Fatalf("one key, two accounts: %s and %s", url, account.Location)
	}
	chains, failures := make([][]byte, orders), make([]error, orders)
	began := time.Now()
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			if i%2 == 0 {
				chains[i], failures[i] = obtainByAcmez(t.Context(), z, account, name, e2e.NewKey(t))
			} else {
				chains[i], failures[i] = x.obtain(t.Context(), d, name, e2e.NewKey(t))
			}
		})
	}
	all.Wait()
	t.Logf("%d orders side by side took %s", orders, time.Since(began).Round(time.Millisecond))
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for i, name := range names {
		serials[s.judge(t, chains[i], name).serial()] = true
	}
	s.matrix.note("acmez", issues, byHTTP)
	s.matrix.note("x/crypto/acme", issues, byHTTP)
	if len(serials) != orders {
		t.Errorf("%d orders brought %d certificates", orders, len(serials))
	}
}

func (s *acmeSite) acmez(t *testing.T, d *desk, key *ecdsa.PrivateKey) (*acmez.Client, acmezacme.Account) {
	t.Helper()
	c := &acmez.Client{
		Client:           &acmezacme.Client{Directory: s.directory, HTTPClient: s.Client(t, "", "")},
		ChallengeSolvers: map[string]acmez.Solver{"http-01": d},
	}
	a, err := c.NewAccount(t.Context(), acmezacme.Account{Contact: []string{"mailto:ops@demo.test"}, TermsOfServiceAgreed: true, PrivateKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return c, a
}

func obtainByAcmez(ctx context.Context, c *acmez.Client, a acmezacme.Account, name string, key *ecdsa.PrivateKey) ([]byte, error) {
	got, err := c.ObtainCertificateForSANs(ctx, a, key, []string{name})
	if err != nil {
		return nil, fmt.Errorf("acmez, %s: %w", name, err)
	}
	return got[0].ChainPEM, nil
}

// An xclient is a client of x/crypto/acme with its account's URL.
type xclient struct {
	*xacme.Client
	url string
}

func (s *acmeSite) xacme(t *testing.T, key *ecdsa.PrivateKey) xclient {
	t.Helper()
	c := &xacme.Client{Key: key, DirectoryURL: s.directory, HTTPClient: s.Client(t, "", "")}
	a, err := c.GetReg(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return xclient{c, a.URI}
}

func (c xclient) obtain(ctx context.Context, d *desk, name string, key *ecdsa.PrivateKey) ([]byte, error) {
	text, err := c.order(ctx, d, name, key)
	if err != nil {
		return nil, fmt.Errorf("x/crypto/acme, %s: %w", name, err)
	}
	return text, nil
}

func (c xclient) order(ctx context.Context, d *desk, name string, key *ecdsa.PrivateKey) ([]byte, error) {
	o, err := c.AuthorizeOrder(ctx, xacme.DomainIDs(name))
	if err != nil {
		return nil, err
	}
	for _, url := range o.AuthzURLs {
		if err := c.prove(ctx, d, url); err != nil {
			return nil, err
		}
	}
	return c.finish(ctx, o, name, key)
}

// finish waits until an order is ready and fetches its certificate.
func (c xclient) finish(ctx context.Context, o *xacme.Order, name string, key *ecdsa.PrivateKey) ([]byte, error) {
	o, err := c.WaitOrder(ctx, o.URI)
	if err != nil {
		return nil, err
	}
	csr, err := e2e.Order{Names: []string{name}}.Request(key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(csr))
	chain, _, err := c.CreateOrderCert(ctx, o.FinalizeURL, block.Bytes, true)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, der := range chain {
		pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return []byte(text.String()), nil
}

func (c xclient) prove(ctx context.Context, d *desk, url string) error {
	if err := c.accept(ctx, d, url); err != nil {
		return err
	}
	_, err := c.WaitAuthorization(ctx, url)
	return err
}

// accept puts the answer to a challenge there and says so.
func (c xclient) accept(ctx context.Context, d *desk, url string) error {
	z, err := c.GetAuthorization(ctx, url)
	if err != nil {
		return err
	}
	for _, ch := range z.Challenges {
		if ch.Type != "http-01" {
			continue
		}
		body, err := c.HTTP01ChallengeResponse(ch.Token)
		if err != nil {
			return err
		}
		d.answers.Store(z.Identifier.Value+c.HTTP01ChallengePath(ch.Token), body)
		_, err = c.Accept(ctx, ch)
		return err
	}
	return errors.New("no http-01 challenge")
}
