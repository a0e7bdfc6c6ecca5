package crl

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// MediaType is what a list in DER is served as (RFC 5280 §4.2.1.13, RFC 2585 §4.2).
const MediaType = "application/pkix-crl"

// maxAge is how long proxies may keep a list: what a revocation may be late by behind one.
const maxAge = time.Minute

// A Server serves lists as they stand in the ledger, by any replica, whoever built them.
type Server struct{ Config }

// NewServer returns a Server.
func NewServer(c Config) *Server { return &Server{c} }

// ServeHTTP answers GET and HEAD of …/<authority>/<epoch>.crl, wherever it is mounted, with the newest list. Epoch 0 is
// the whole list.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "lists are fetched with GET", http.StatusMethodNotAllowed)
		return
	}
	shard, ok := s.shard(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	l, err := s.Shards.Find(r.Context(), shard)
	switch {
	case errors.Is(err, ErrNotFound):
		http.NotFound(w, r)
	case err != nil:
		// Retry-After in seconds (RFC 9110 §10.2.3). A list that cannot be read is not an empty one.
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the list cannot be read just now", http.StatusServiceUnavailable)
	default:
		s.write(w, r, l)
	}
}

// shard reads the last two parts of path. Epochs have one spelling.
func (s *Server) shard(path string) (Shard, bool) {
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return Shard{}, false
	}
	number, ok := strings.CutSuffix(parts[len(parts)-1], ".crl")
	epoch, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil || strconv.FormatInt(epoch, 10) != number {
		return Shard{}, false
	}
	for _, a := range s.Authorities() {
		if a.Name == parts[len(parts)-2] {
			return Shard{Authority: a.ID, Epoch: uid.Epoch(epoch)}, true
		}
	}
	return Shard{}, false
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, l List) {
	tag := fmt.Sprintf(`"%d-%d-%d"`, l.Authority, l.Epoch, l.Number) // a number is used once (RFC 5280 §5.2.3)
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Last-Modified", l.ThisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, must-revalidate", int(min(maxAge, max(0, l.NextUpdate.Sub(s.Now()))).Seconds())))
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", MediaType)
	h.Set("Content-Length", strconv.Itoa(len(l.DER)))
	if r.Method == http.MethodGet {
		w.Write(l.DER) //nolint:errcheck // the other side has gone
	}
}

// PEM returns the whole list of every authority, roots included, one PEM block each: what a relying party loads that cannot
// fetch lists by itself. It is an error when one is missing or has ended: certificates below would all be refused there.
func (s *Server) PEM(ctx context.Context) ([]byte, error) {
	var out []byte
	for _, a := range s.Authorities() {
		l, err := s.Shards.Find(ctx, Shard{Authority: a.ID, Epoch: Whole})
		if err != nil {
			return nil, fmt.Errorf("reading the whole list of %s: %w", a.Name, err)
		}
		if !l.NextUpdate.After(s.Now()) {
			return nil, fmt.Errorf("the whole list of %s ended at %s: see that the CRL duty runs", a.Name, l.NextUpdate.UTC().Format(time.RFC3339))
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.DER})...)
	}
	return out, nil
}
