package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// An account is one ACME client: a connection, a key, and the nonce that the last answer brought (RFC 8555 §6.5). It
// asks for no more than it must, as a client that is written for load does.
type account struct {
	conn    *conn
	host    string
	key     *ecdsa.PrivateKey
	jwk     string
	id      string // the account's URL, once there is one
	nonce   string
	prints  string // RFC 7638 thumbprint
	counted *atomic.Int64
}

// A directory is what RFC 8555 §7.1.1 says a server offers.
type directory struct{ NewNonce, NewAccount, NewOrder string }

func (s spec) directory(p place) (directory, error) {
	u, err := url.Parse(s.Env["SEGL_ACME_DIRECTORY"])
	if err != nil {
		return directory{}, fmt.Errorf("reading the directory's URL: %w", err)
	}
	request := get(p.host, u.Path)
	if err := offered(p, request); err != nil {
		return directory{}, err
	}
	c, err := p.dial()
	if err != nil {
		return directory{}, err
	}
	defer c.Close() //nolint:errcheck // asked once
	a, err := c.expect(http.StatusOK, request)
	if err != nil {
		return directory{}, err
	}
	var d directory
	if err := json.Unmarshal(a.body, &d); err != nil {
		return directory{}, fmt.Errorf("reading the directory: %w", err)
	}
	return d, nil
}

// openAccount connects and registers.
func openAccount(p place, d directory, counted *atomic.Int64) (*account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &account{host: p.host, key: key, counted: counted}
	point, err := key.PublicKey.Bytes() // 4, x, y (SEC 1 §2.3.3)
	if err != nil {
		return nil, err
	}
	const half = 32
	a.jwk = fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, b64(point[1:1+half]), b64(point[1+half:]))
	print := sha256.Sum256([]byte(a.jwk)) // members in the order that RFC 7638 §3 wants
	a.prints = b64(print[:])
	if a.conn, err = p.dial(); err != nil {
		return nil, err
	}
	u, err := url.Parse(d.NewNonce)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	first, err := a.conn.expect(http.StatusNoContent, get(a.host, u.Path))
	if err != nil {
		return nil, err
	}
	a.nonce = first.header.Get("Replay-Nonce")
	made, err := a.post(http.StatusCreated, d.NewAccount, map[string]bool{"termsOfServiceAgreed": true})
	if err != nil {
		return nil, err
	}
	a.id = made.header.Get("Location")
	return a, nil
}

// post signs and sends; a nil payload is POST-as-GET (RFC 8555 §6.3).
func (a *account) post(want int, to string, payload any) (answer, error) {
	u, err := url.Parse(to)
	if err != nil {
		return answer{}, fmt.Errorf("reading a URL of the server: %w", err)
	}
	body, err := a.sign(to, payload)
	if err != nil {
		return answer{}, err
	}
	a.counted.Add(1)
	got, err := a.conn.expect(want, post(a.host, u.RequestURI(), "application/jose+json", body))
	if err != nil {
		return answer{}, err
	}
	a.nonce = got.header.Get("Replay-Nonce")
	return got, nil
}

// sign makes a flattened JWS (RFC 7515 §7.2.2) with ES256 (RFC 7518 §3.4).
func (a *account) sign(to string, payload any) ([]byte, error) {
	who := `"kid":"` + a.id + `"`
	if a.id == "" {
		who = `"jwk":` + a.jwk
	}
	protected := b64([]byte(`{"alg":"ES256",` + who + `,"nonce":"` + a.nonce + `","url":"` + to + `"}`))
	said := ""
	if payload != nil {
		text, err := json.Marshal(payload)
		if err != nil {
			return nil, err
		}
		said = b64(text)
	}
	sig, err := signES256(a.key, protected+"."+said)
	if err != nil {
		return nil, err
	}
	return []byte(`{"protected":"` + protected + `","payload":"` + said + `","signature":"` + sig + `"}`), nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Objects of RFC 8555 §7.1, as far as a client of one name needs them.
type (
	acmeOrder struct {
		Status, Finalize, Certificate string
		Authorizations                []string
	}
	authorization struct {
		Status     string
		Challenges []struct{ Type, URL, Token string }
	}
)

// A wish is what an order is for.
type wish struct {
	names []string
	csr   []byte
}

// order takes names from newOrder to the certificate.
func (a *account) order(d directory, w wish, r *responder) error {
	// 1. Order.
	ids := make([]map[string]string, len(w.names))
	for i, n := range w.names {
		ids[i] = map[string]string{"type": "dns", "value": n}
	}
	var o acmeOrder
	made, err := a.read(&o, http.StatusCreated, d.NewOrder, map[string]any{"identifiers": ids})
	if err != nil {
		return err
	}
	if len(o.Authorizations) != len(w.names) {
		return fmt.Errorf("ordering %s: %d authorizations", w.names[0], len(o.Authorizations))
	}
	// 2. Prove control of what was not proved before, and come back when the server has looked.
	for i, u := range o.Authorizations {
		if o.Status != "pending" {
			break
		}
		if err := a.prove(u, r); err != nil {
			return fmt.Errorf("proving control of %s: %w", w.names[i], err)
		}
	}
	// 3. Finalize, and fetch.
	if _, err := a.read(&o, http.StatusOK, o.Finalize, map[string]string{"csr": b64(w.csr)}); err != nil {
		return err
	}
	err = until(func() (bool, error) {
		if o.Status == "valid" {
			return true, nil
		}
		_, err := a.read(&o, http.StatusOK, made.header.Get("Location"), nil)
		return o.Status == "valid", refused(o.Status, err)
	})
	if err != nil {
		return fmt.Errorf("waiting for the order of %s: %w", w.names[0], err)
	}
	_, err = a.post(http.StatusOK, o.Certificate, nil)
	return err
}

// prove answers the http-01 challenge of an authorization (RFC 8555 §8.3).
func (a *account) prove(at string, r *responder) error {
	var z authorization
	if _, err := a.read(&z, http.StatusOK, at, nil); err != nil {
		return err
	}
	for _, c := range z.Challenges {
		if c.Type != "http-01" {
			continue
		}
		asked := r.serve(c.Token, c.Token+"."+a.prints)
		var said struct{ Status string }
		if _, err := a.read(&said, http.StatusOK, c.URL, struct{}{}); err != nil {
			return err
		}
		if err := asked(); err != nil {
			return err
		}
		if said.Status == "valid" { // a quick validation is told at once: nothing is left to ask (RFC 8555 §7.1.6)
			return nil
		}
		return until(func() (bool, error) {
			_, err := a.read(&z, http.StatusOK, at, nil)
			return z.Status == "valid", refused(z.Status, err)
		})
	}
	return errors.New("no http-01 challenge is offered")
}

func (a *account) read(into any, want int, from string, payload any) (answer, error) {
	got, err := a.post(want, from, payload)
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(got.body, into)
}

func refused(status string, err error) error {
	if err == nil && status == "invalid" {
		err = errors.New("the server found it invalid")
	}
	return err
}

// until asks again, at growing distances, while the answer is no.
func until(done func() (bool, error)) error {
	const first, most = 5 * time.Millisecond, 30 * time.Second
	began := time.Now()
	for wait := first; ; wait *= 2 {
		<-time.After(wait)
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Since(began) > most {
			return errors.New("it took too long")
		}
	}
}

// wishFor makes a fresh key's request for names.
func wishFor(names ...string) (wish, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return wish{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	return wish{names, csr}, err
}

// wishes are what the runs of a kind order. Names are of the kind's own, so that no account has proved them before.
func (s spec) wishes() ([]wish, error) {
	per, letter, n := 1, "b", s.Warm+s.Count
	switch s.Kind {
	case kindACMEMany:
		per, letter = manyNames, "m"
	case kindACMEManyAgain:
		per, letter, n = manyNames, "a", s.Workers
	}
	all := make([]wish, n)
	for i := range all {
		names := make([]string, per)
		for j := range names {
			names[j] = fmt.Sprintf("%s%06d-%02d.localhost", letter, i, j)
		}
		var err error
		if all[i], err = wishFor(names...); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// manyNames are those of an order of many.
const manyNames = 100

// proved has each worker's account prove its own wish before the clock starts.
func proved(accounts []*account, d directory, all []wish, r *responder) error {
	errs := make([]error, len(accounts))
	var wait sync.WaitGroup
	for w, a := range accounts {
		wait.Go(func() { errs[w] = a.order(d, all[w], r) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// repeated is how often one name is ordered by one account: below the limits there are for a name.
const repeated = 100

// again returns the wish for a worker's nth order: the same name a hundred times, of which the first proves it.
func again(worker, n int, had wish) (wish, error) {
	if n%repeated != 0 {
		return had, nil
	}
	return wishFor(fmt.Sprintf("r%02d-%04d.localhost", worker, n/repeated))
}

// acme takes orders through http-01, each worker on an account and a connection of its own.
func (s spec) acme() (*job, error) {
	p, _, err := s.service()
	if err != nil {
		return nil, err
	}
	p.tls.Certificates = nil // an ACME client has no certificate yet
	d, err := s.directory(p)
	if err != nil {
		return nil, err
	}
	all, err := s.wishes()
	if err != nil {
		return nil, err
	}
	r, err := openResponder(s.Port)
	if err != nil {
		return nil, err
	}
	var counted atomic.Int64
	accounts := make([]*account, s.Workers)
	for w := range accounts {
		if accounts[w], err = openAccount(p, d, &counted); err != nil {
			return nil, fmt.Errorf("opening an account: %w", err)
		}
	}
	if s.Kind == kindACMEManyAgain {
		if err := proved(accounts, d, all, r); err != nil {
			return nil, fmt.Errorf("proving names: %w", err)
		}
		counted.Store(0)
	}
	had, orders := make([]wish, s.Workers), make([]int, s.Workers) // each worker's own
	return &job{
		per: 1,
		run: func(worker, n int) (err error) {
			w := all[n%len(all)]
			switch s.Kind {
			case kindACMEManyAgain:
				w = all[worker]
			case kindACMEAgain:
				if w, err = again(worker, orders[worker], had[worker]); err != nil {
					return err
				}
				had[worker] = w
				orders[worker]++
			}
			return accounts[worker].order(d, w, r)
		},
		tally: func(done int, out *outcome) {
			out.Requests = float64(counted.Load()) / float64(s.Warm+done) // with the few that made the accounts
		},
		close: r.Close,
	}, nil
}
