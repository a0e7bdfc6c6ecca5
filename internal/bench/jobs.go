package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"sync/atomic"

	"golang.org/x/crypto/ocsp"
)

// prepare makes a job of a spec.
func (s spec) prepare() (*job, error) {
	switch s.Kind {
	case kindBareIssue, kindIssue:
		return s.issue()
	case kindBatch:
		return s.batch()
	case kindRenewOpen, kindRenew:
		return s.renew()
	case kindRevoke:
		return s.revoke()
	case kindOCSPFresh, kindOCSPGet, kindOCSPPost, kindBareFixed:
		return s.ocsp()
	case kindCRL:
		return s.crl()
	case kindACME, kindACMEAgain, kindACMEMany, kindACMEManyAgain, kindPeerOrder:
		return s.acme()
	case kindPeerSign:
		return s.sign()
	case kindToken, kindIntrospect:
		return s.oauth()
	}
	return nil, fmt.Errorf("kind %q: not known", s.Kind)
}

// The kinds of load.
const (
	kindBareIssue     = "bare-issue" // what a server that only checks and signs takes
	kindBareFixed     = "bare-fixed" // what a server of fixed octets takes
	kindIssue         = "issue"
	kindBatch         = "batch"
	kindRenewOpen     = "renew-open" // over connections that are open already
	kindRenew         = "renew"      // each over a connection of its own
	kindRevoke        = "revoke"
	kindOCSPFresh     = "ocsp-uncached"
	kindOCSPGet       = "ocsp-get"
	kindOCSPPost      = "ocsp-post"
	kindCRL           = "crl"
	kindACME          = "acme"
	kindACMEAgain     = "acme-again"      // of a name that the account has proved
	kindACMEMany      = "acme-many"       // of a hundred names
	kindACMEManyAgain = "acme-many-again" // of a hundred names that the account has proved
	kindToken         = "token"
	kindIntrospect    = "introspect"
	kindPeerSign      = "peer-sign"  // step-ca's
	kindPeerOrder     = "peer-order" // step-ca's
)

// replay returns a job that sends the requests in turn, each worker on a connection of its own, and takes want for an
// answer.
func (s spec) replay(p place, requests [][]byte, want int, seen func(n int, a answer) error) (*job, error) {
	conns := make([]*conn, s.Workers)
	for w := range conns {
		var err error
		if conns[w], err = p.dial(); err != nil {
			return nil, err
		}
	}
	return &job{
		per: 1,
		run: func(worker, n int) error {
			a, err := conns[worker].expect(want, requests[n%len(requests)])
			if err != nil || seen == nil {
				return err
			}
			return seen(n, a)
		},
		close: func() error {
			var errs []error
			for _, c := range conns {
				errs = append(errs, c.Close())
			}
			return errors.Join(errs...)
		},
	}, nil
}

// offered asks once, and says errAbsent if nothing is there.
func offered(p place, request []byte) error {
	c, err := p.dial()
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // asked once
	a, err := c.do(request)
	switch {
	case err != nil:
		return err
	case a.status == http.StatusNotFound:
		return errAbsent
	case a.status != http.StatusOK:
		return fmt.Errorf("asking whether it is offered: answered %d: %.300s", a.status, a.body)
	}
	return nil
}

// issue asks for one certificate a request, each with a key and a name of its own.
func (s spec) issue() (*job, error) {
	total := s.Warm + s.Count
	orders, err := makeOrders(total, "server")
	if err != nil {
		return nil, err
	}
	p, at, err := s.service()
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, total)
	for i, o := range orders {
		requests[i] = post(p.host, at+"/certificates", "application/json", o.body)
	}
	made := newStock(total)
	j, err := s.replay(p, requests, http.StatusCreated, made.add)
	if err == nil && s.Stock != "" {
		shut := j.close
		j.close = func() error { return errors.Join(shut(), made.write(s.Stock)) }
	}
	return j, err
}

const batchSize = 100

// batch asks for a hundred certificates a request.
func (s spec) batch() (*job, error) {
	runs := max(s.Count/batchSize, 1)
	orders, err := makeOrders((s.Warm+runs)*batchSize, "server")
	if err != nil {
		return nil, err
	}
	p, at, err := s.service()
	if err != nil {
		return nil, err
	}
	var requests [][]byte
	for i := 0; i < len(orders); i += batchSize {
		var bodies [][]byte
		for _, o := range orders[i : i+batchSize] {
			bodies = append(bodies, o.body)
		}
		body := append(append([]byte(`{"requests":[`), bytes.Join(bodies, []byte(","))...), "]}"...)
		requests = append(requests, post(p.host, at+"/certificates:batch", "application/json", body))
	}
	j, err := s.replay(p, requests, http.StatusOK, func(_ int, a answer) error {
		if n := bytes.Count(a.body, []byte(`"problem":`)); n > 0 {
			return fmt.Errorf("%d of a batch were refused: %.600s", n, a.body)
		}
		return nil
	})
	if err == nil {
		j.runs, j.per = runs, batchSize
	}
	return j, err
}

// revoke ends certificates from the end of the stock, each once.
func (s spec) revoke() (*job, error) {
	st, err := readStock(s.Stock)
	if err != nil {
		return nil, err
	}
	total := s.Warm + s.Count
	if len(st.Serials) < total {
		return nil, fmt.Errorf("revoking %d certificates: only %d were issued", total, len(st.Serials))
	}
	p, at, err := s.service()
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, total)
	for i := range requests {
		serial := st.Serials[len(st.Serials)-1-i]
		requests[i] = post(p.host, at+"/certificates/"+serial+":revoke", "application/json", []byte(`{"reason":"superseded"}`))
	}
	return s.replay(p, requests, http.StatusOK, nil)
}

// ocsp asks about certificates of the stock: each once, or a few again and again. The bare server is asked the same.
func (s spec) ocsp() (*job, error) {
	st, err := readStock(s.Stock)
	if err != nil {
		return nil, err
	}
	about := few
	if s.Kind == kindOCSPFresh {
		about = s.Warm + s.Count
	}
	if len(st.Serials) < about {
		return nil, fmt.Errorf("asking about %d certificates: only %d were issued", about, len(st.Serials))
	}
	base := s.Env["SEGL_PUBLIC_URL"] + "/ocsp"
	if s.Kind != kindBareFixed {
		if base, err = st.responder(); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("reading the responder's URL: %w", err)
	}
	requests := make([][]byte, about)
	for i := range requests {
		der, err := st.question(i)
		if err != nil {
			return nil, err
		}
		if s.Kind == kindOCSPGet || s.Kind == kindBareFixed { // RFC 6960 §A.1
			requests[i] = get(u.Host, path.Join(u.Path, url.PathEscape(base64.StdEncoding.EncodeToString(der))))
		} else {
			requests[i] = post(u.Host, u.Path, "application/ocsp-request", der)
		}
	}
	p := place{host: u.Host}
	if err := offered(p, requests[0]); err != nil {
		return nil, err
	}
	return s.replay(p, requests, http.StatusOK, s.sampled)
}

// few is how many certificates a cached answer is asked for, and how often an answer is read through.
const few = 64

// sampled reads one answer in a few: it must be an answer, and say good.
func (s spec) sampled(n int, a answer) error {
	if n%few != 0 || s.Kind == kindBareFixed {
		return nil
	}
	res, err := ocsp.ParseResponse(a.body, nil)
	if err == nil && res.Status != ocsp.Good {
		err = fmt.Errorf("status %d: want good", res.Status)
	}
	if err != nil {
		return fmt.Errorf("reading an OCSP answer: %w", err)
	}
	return nil
}

// crl fetches the list that a certificate of the stock names.
func (s spec) crl() (*job, error) {
	st, err := readStock(s.Stock)
	if err != nil {
		return nil, err
	}
	leaf, _, err := st.certificates()
	if err != nil {
		return nil, err
	}
	if len(leaf.CRLDistributionPoints) == 0 {
		return nil, errAbsent
	}
	u, err := url.Parse(leaf.CRLDistributionPoints[0])
	if err != nil {
		return nil, fmt.Errorf("reading the list's URL: %w", err)
	}
	p, request := place{host: u.Host}, get(u.Host, u.Path)
	if err := offered(p, request); err != nil {
		return nil, err
	}
	var size atomic.Int64
	j, err := s.replay(p, [][]byte{request}, http.StatusOK, func(_ int, a answer) error {
		size.Store(int64(len(a.body)))
		return nil
	})
	if err == nil {
		j.tally = func(_ int, out *outcome) { out.Octets = size.Load() }
	}
	return j, err
}
