package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// audience is whom the tokens of a load are for.
const audience = "https://bench.test"

// oauth asks for tokens, or about tokens, over kept-alive connections with the workload's certificate.
func (s spec) oauth() (*job, error) {
	p, at, err := s.service()
	if err != nil {
		return nil, err
	}
	if err := offered(p, get(p.host, "/.well-known/oauth-authorization-server")); err != nil {
		return nil, err
	}
	if err := s.bind(at); err != nil {
		return nil, err
	}
	c := p.tls.Certificates[0].Leaf
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.URIs[0].String()}, "audience": {audience}}
	ask := post(p.host, "/oauth2/token", "application/x-www-form-urlencoded", []byte(form.Encode()))
	if s.Kind == kindToken {
		if _, err := s.first(p, ask); err != nil {
			return nil, err
		}
		return s.replay(p, [][]byte{ask}, http.StatusOK, nil)
	}
	requests := make([][]byte, few)
	for i := range requests {
		token, err := s.first(p, ask)
		if err != nil {
			return nil, err
		}
		requests[i] = post(p.host, "/oauth2/introspect", "application/x-www-form-urlencoded", []byte(url.Values{"token": {token}}.Encode()))
	}
	return s.replay(p, requests, http.StatusOK, func(_ int, a answer) error {
		var said struct{ Active bool }
		if err := json.Unmarshal(a.body, &said); err != nil || !said.Active {
			return fmt.Errorf("a token is not active: %.300s", a.body)
		}
		return nil
	})
}

// bind lets the workload have tokens, as the operator; another load may have done so.
func (s spec) bind(at string) error {
	pair, err := tls.LoadX509KeyPair(s.Env["SEGL_OPERATOR_CERT"], s.Env["SEGL_OPERATOR_KEY"])
	if err != nil {
		return fmt.Errorf("reading the operator's identity: %w", err)
	}
	p, err := placeOf(s.Env["SEGL_OPERATOR_URL"], s.Env["SEGL_ROOT"], &pair)
	if err != nil {
		return err
	}
	c, err := p.dial()
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // asked once
	own, err := tls.LoadX509KeyPair(s.Env["SEGL_CERT"], s.Env["SEGL_KEY"])
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"name": "bench", "for": own.Leaf.URIs[0].String(), "life": "1h", "audiences": []string{audience}})
	if err != nil {
		return err
	}
	a, err := c.do(post(p.host, at+"/bindings", "application/json", body))
	if err == nil && a.status != http.StatusCreated && a.status != http.StatusConflict {
		err = fmt.Errorf("making a binding: answered %d: %.300s", a.status, a.body)
	}
	return err
}

// first asks for a token until the replica has heard of the binding.
func (s spec) first(p place, ask []byte) (string, error) {
	c, err := p.dial()
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // asked a few times
	for end := time.Now().Add(answerWithin); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		a, err := c.do(ask)
		var said struct {
			Token string `json:"access_token"`
		}
		if err != nil {
			return "", err
		}
		if a.status == http.StatusOK {
			err := json.Unmarshal(a.body, &said)
			return said.Token, err
		}
	}
	return "", errors.New("the binding gives no token")
}
