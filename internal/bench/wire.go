package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

// A place is a listener, and how to speak to it. tls is nil for plain HTTP.
type place struct {
	host string
	tls  *tls.Config
}

// A conn is one kept-alive HTTP/1.1 connection. It sends requests that were written beforehand, so that the load takes
// little of the machine that it shares with what it measures.
type conn struct {
	net.Conn
	in *bufio.Reader
}

// answerWithin is far beyond any answer; it keeps a run from hanging.
const answerWithin = time.Minute

func (p place) dial() (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	dial := new(net.Dialer).DialContext
	if p.tls != nil {
		dial = (&tls.Dialer{Config: p.tls}).DialContext
	}
	c, err := dial(ctx, "tcp", p.host)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	const buffer = 16 << 10
	return &conn{c, bufio.NewReaderSize(c, buffer)}, nil
}

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *conn) do(request []byte) (answer, error) {
	if err := c.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return answer{}, err
	}
	if _, err := c.Write(request); err != nil {
		return answer{}, fmt.Errorf("asking: %w", err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return answer{}, fmt.Errorf("reading an answer: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("reading an answer: %w", err)
	}
	return answer{res.StatusCode, res.Header, body}, nil
}

// expect is do for an answer that must have a status.
func (c *conn) expect(status int, request []byte) (answer, error) {
	a, err := c.do(request)
	if err == nil && a.status != status {
		line, _, _ := bytes.Cut(request, []byte("\r\n"))
		err = fmt.Errorf("%s: answered %d, want %d: %.600s", line, a.status, status, a.body)
	}
	return a, err
}

// post and get write requests.
func post(host, path, media string, body []byte) []byte {
	b := bytes.NewBuffer(make([]byte, 0, len(body)+256)) //nolint:mnd // room for the header
	b.WriteString("POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: " + media + "\r\nContent-Length: ")
	b.WriteString(strconv.Itoa(len(body)) + "\r\n\r\n")
	b.Write(body)
	return b.Bytes()
}

func get(host, path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
}

// placeOf returns the listener of a base URL. Over TLS it is told apart from others by the roots in a file, and the
// caller shows pair if there is one.
func placeOf(base, roots string, pair *tls.Certificate) (place, error) {
	u, err := url.Parse(base)
	if err != nil {
		return place{}, fmt.Errorf("reading a base URL: %w", err)
	}
	if u.Scheme == "http" {
		return place{host: u.Host}, nil
	}
	text, err := os.ReadFile(roots)
	if err != nil {
		return place{}, fmt.Errorf("reading the roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return place{}, fmt.Errorf("reading the roots: %s holds none", roots)
	}
	cfg := &tls.Config{RootCAs: pool, ServerName: u.Hostname(), MinVersion: tls.VersionTLS13}
	if pair != nil {
		cfg.Certificates = []tls.Certificate{*pair}
	}
	return place{u.Host, cfg}, nil
}
