package ocsp

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Media types (RFC 6960 §C.1, §C.2).
const (
	RequestType  = "application/ocsp-request"
	ResponseType = "application/ocsp-response"
)

// ServeHTTP answers OCSP over HTTP (RFC 6960 appendix A): POST with the request as the body, and GET with the request in
// base64 behind /ocsp/, with or without URL escapes. It must not be mounted behind a router that cleans paths, as
// http.ServeMux does: base64 may hold two slashes in a row.
//
// What cannot be answered is an OCSPResponse too, with HTTP status 200: clients read no other.
func (r *Responder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.Method {
	case http.MethodPost:
		r.post(w, req)
	case http.MethodGet, http.MethodHead:
		r.get(w, req)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "OCSP is asked with GET or POST", http.StatusMethodNotAllowed)
	}
}

func (r *Responder) post(w http.ResponseWriter, req *http.Request) {
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != RequestType {
		http.Error(w, "the body must be "+RequestType, http.StatusUnsupportedMediaType)
		return
	}
	der, err := read(req)
	switch {
	case errors.Is(err, errTooLarge):
		http.Error(w, "a request has at most "+strconv.Itoa(maxRequest)+" octets", http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "the body ended too soon", http.StatusBadRequest)
		return
	}
	a, refused := r.answer(req.Context(), der)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if refused != 0 {
		write(w, req, refused.der())
		return
	}
	write(w, req, a.der)
}

var errTooLarge = errors.New("too large")

func read(req *http.Request) ([]byte, error) {
	if req.ContentLength > maxRequest {
		return nil, errTooLarge
	}
	if n := req.ContentLength; n > 0 {
		der := make([]byte, n)
		_, err := io.ReadFull(req.Body, der)
		return der, err
	}
	der, err := io.ReadAll(io.LimitReader(req.Body, maxRequest+1))
	if err == nil && len(der) > maxRequest {
		err = errTooLarge
	}
	return der, err
}

func (r *Responder) get(w http.ResponseWriter, req *http.Request) {
	_, text, ok := strings.Cut(req.URL.Path, "/ocsp/") // unescaped once already
	if !ok || len(text) > base64.StdEncoding.EncodedLen(maxRequest) {
		http.NotFound(w, req)
		return
	}
	// RFC 6960 §A.1: "the base-64 encoding of the DER encoding of the OCSPRequest". Some leave the padding out.
	der, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		der = nil
	}
	a, refused := r.answer(req.Context(), der)
	h := w.Header()
	if refused != 0 || a.tag == "" {
		h.Set("Cache-Control", "no-store")
		if refused != 0 {
			write(w, req, refused.der())
			return
		}
		write(w, req, a.der)
		return
	}
	// RFC 5019 §6.2 lets caches keep an answer until nextUpdate. Here max-age ends sooner, when the answer is made anew: nobody
	// can tell a proxy of a revocation.
	h.Set("ETag", a.tag)
	h.Set("Last-Modified", a.thisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Expires", a.until.UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", "max-age="+strconv.Itoa(a.remaining(r.Now()))+", public, no-transform, must-revalidate")
	if has(req.Header["If-None-Match"], a.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, req, a.der)
}

// has reports whether a client that sent these If-None-Match fields has what tag names (RFC 9110 §13.1.2, compared weakly:
// a proxy that compresses may have weakened it). If-Modified-Since is not looked at: it counts in whole seconds, and an
// answer that says revoked may be of the same second as the one that said good.
func has(fields []string, tag string) bool {
	for _, f := range fields {
		for t := range strings.SplitSeq(f, ",") {
			if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
				return true
			}
		}
	}
	return false
}

func write(w http.ResponseWriter, req *http.Request, der []byte) {
	h := w.Header()
	h.Set("Content-Type", ResponseType)
	h.Set("Content-Length", strconv.Itoa(len(der)))
	if req.Method != http.MethodHead {
		w.Write(der) //nolint:errcheck,gosec // the other side has gone; DER under its own media type is no page
	}
}
