package api

import (
	"errors"
	"io"
	"net/http"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/identity"
)

// addCheckpoint answers as C2SP tlog-witness has it, refusals included: their bodies are for people, but for that of 409.
func (d *door) addCheckpoint(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, seal.MaxAddCheckpoint))
	if err != nil {
		http.Error(w, "the request is too large, or was cut", http.StatusBadRequest)
		return nil //nolint:nilerr // it is answered
	}
	cosigned, err := d.Witness.Add(r.Context(), string(body))
	if held, ok := errors.AsType[*seal.Conflict](err); ok {
		// "The response body MUST consist of the tree size of the latest cosigned checkpoint in decimal, followed by a newline"
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		_, err := io.WriteString(w, held.Error()+"\n")
		return err
	}
	for refusal, status := range map[error]int{
		seal.ErrMalformed: http.StatusBadRequest, seal.ErrUnknownLog: http.StatusNotFound, seal.ErrUntrusted: http.StatusForbidden,
		seal.ErrInconsistent: http.StatusUnprocessableEntity,
	} {
		if errors.Is(err, refusal) {
			http.Error(w, err.Error(), status)
			return nil
		}
	}
	if err != nil {
		return err
	}
	return text(w, "no-store", cosigned)
}

func (d *door) witnessed(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	signed, err := d.Witness.Checkpoint(r.Context(), r.PathValue("hash"))
	if err != nil {
		return err
	}
	return text(w, "public, max-age=60", signed)
}
