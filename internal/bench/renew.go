package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"sync"
)

// A holder is a workload about to renew: its certificate, and its request for the successor.
type holder struct {
	from    place
	renewal []byte
	conn    *conn // where it is connected already
}

// renew renews one certificate a run, each its own: a certificate has one successor. A connection is made with the
// certificate that is renewed over it, so there is one a renewal, opened beforehand or as a part of it.
func (s spec) renew() (*job, error) {
	total := s.Warm + s.Count
	first, err := makeOrders(total, "workload")
	if err != nil {
		return nil, err
	}
	next, err := makeOrders(total, "workload")
	if err != nil {
		return nil, err
	}
	holders := make([]holder, total)
	if err := s.enlist(holders, first, next); err != nil {
		return nil, err
	}
	return &job{per: 1, run: func(_, n int) error {
		h := &holders[n]
		if h.conn == nil {
			var err error
			if h.conn, err = h.from.dial(); err != nil {
				return err
			}
		}
		if _, err := h.conn.expect(http.StatusCreated, h.renewal); err != nil {
			return err
		}
		if s.Kind == kindRenew {
			return h.conn.Close()
		}
		return nil
	}}, nil
}

// enlist gets each holder its certificate, the workers side by side.
func (s spec) enlist(holders []holder, first, next []order) error {
	p, at, err := s.service()
	if err != nil {
		return err
	}
	errs := make(chan error, s.Workers)
	var wg sync.WaitGroup
	for w := range s.Workers {
		wg.Go(func() {
			c, err := p.dial()
			for i := w; i < len(holders) && err == nil; i += s.Workers {
				var a answer
				if a, err = c.expect(http.StatusCreated, post(p.host, at+"/certificates", "application/json", first[i].body)); err == nil {
					holders[i], err = s.hold(p, first[i], next[i], a)
				}
			}
			errs <- err
		})
	}
	wg.Wait()
	for range s.Workers {
		if err := <-errs; err != nil {
			return fmt.Errorf("issuing what is to be renewed: %w", err)
		}
	}
	return nil
}

// hold makes a holder of an issued certificate.
func (s spec) hold(p place, first, next order, a answer) (holder, error) {
	var issued struct{ Serial, Certificate string }
	if err := json.Unmarshal(a.body, &issued); err != nil {
		return holder{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(first.key)
	if err != nil {
		return holder{}, err
	}
	pair, err := tls.X509KeyPair([]byte(issued.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	if err != nil {
		return holder{}, err
	}
	body, err := json.Marshal(map[string]string{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: next.csr}))})
	if err != nil {
		return holder{}, err
	}
	cfg := p.tls.Clone()
	cfg.Certificates = []tls.Certificate{pair}
	h := holder{from: place{p.host, cfg}, renewal: post(p.host, "/v1/certificates:renew", "application/json", body)}
	if s.Kind == kindRenew {
		return h, nil
	}
	if h.conn, err = h.from.dial(); err != nil {
		return holder{}, err
	}
	_, err = h.conn.expect(http.StatusOK, get(p.host, "/v1/certificates/"+issued.Serial)) // from here the server knows who is there
	return h, err
}
