package remote

import (
	"encoding/json"
	"net/http"

	"codeberg.org/dataverket/segl/acme"
)

// atOnce bounds how many questions a perspective looks into at a time; more are told to ask elsewhere.
const atOnce = 256

// Handler answers as a perspective with what p sees. Who may ask, TLS has decided (Peer). A finding says nothing of what was
// seen, but whether it proves what was asked, and the problem if not.
func Handler(p Prover) http.Handler {
	slots := make(chan struct{}, atOnce)
	answer := func(look func(*http.Request, acme.Check) *acme.Problem) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var q question
			if err := read(r.Body, &q); err != nil {
				http.Error(w, "the body is not a question", http.StatusBadRequest)
				return
			}
			c, err := q.check()
			if err != nil {
				http.Error(w, "the question has a name or scope that is none", http.StatusBadRequest)
				return
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			default:
				http.Error(w, "too many questions at once", http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(finding{look(r, c)}) //nolint:errcheck,errchkjson // who asked may have gone
		}
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+validatePath, answer(func(r *http.Request, c acme.Check) *acme.Problem {
		_, found := p.Validate(r.Context(), c)
		return found
	}))
	mux.Handle("POST "+permitPath, answer(func(r *http.Request, c acme.Check) *acme.Problem { return p.Permit(r.Context(), c) }))
	return mux
}
