package main

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A responder answers http-01 challenges on both loopback addresses (RFC 8555 §8.3).
type responder struct {
	http.Server

	mu    sync.Mutex // guards below
	texts map[string]proof
}

// A proof is the text that proves control, and whether it has been asked for.
type proof struct {
	text  string
	asked chan struct{}
}

const wellKnown = "/.well-known/acme-challenge/"

func openResponder(port int) (*responder, error) {
	r := &responder{texts: make(map[string]proof)}
	r.Handler = http.HandlerFunc(r.answer)
	r.ReadHeaderTimeout = answerWithin
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil && host == "::1" {
			break // a machine without IPv6
		}
		if err != nil {
			return nil, err
		}
		go r.Serve(ln) //nolint:errcheck // ends when closed
	}
	return r, nil
}

func (r *responder) answer(w http.ResponseWriter, req *http.Request) {
	token := strings.TrimPrefix(req.URL.Path, wellKnown)
	r.mu.Lock()
	p, ok := r.texts[token]
	delete(r.texts, token)
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write([]byte(p.text)) //nolint:errcheck // the server asks again
	close(p.asked)
}

// serve gives out text for a token, once, and returns a function that waits until it was asked for.
func (r *responder) serve(token, text string) (asked func() error) {
	p := proof{text, make(chan struct{})}
	r.mu.Lock()
	r.texts[token] = p
	r.mu.Unlock()
	return func() error {
		select {
		case <-p.asked:
			return nil
		case <-time.After(answerWithin):
			return errors.New("the server never asked")
		}
	}
}
