// Package api is the tree's HTTP door: checkpoint and tiles for anybody (C2SP tlog-checkpoint, tlog-tiles), proofs and
// entries for those who may see what is in them, and, where others are witnessed here, add-checkpoint (C2SP tlog-witness).
//
// Tiles hold hashes and tell nobody anything. What a caller may not see is not there: 404. A door keeps no state and is safe
// for concurrent use.
package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Config is what the doors are made of.
type Config struct {
	Prover  *seal.Prover
	Witness *seal.Witness // of others' logs; nil: none
	Below   web.Table     // the problems of what the tree stands on
}

type door struct{ Config }

func (d *door) table() web.Table {
	return append(web.Table{
		{Err: seal.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such thing, or not for this caller"},
		{Err: seal.ErrNotSealed, Status: http.StatusServiceUnavailable, Name: "not-sealed", Title: "The certificate is not in a published tree yet", Remedy: "ask again in a second", After: 1},
	}, d.Below...)
}

// Public returns the routes of the public listener.
func Public(c Config) web.Door {
	d := &door{c}
	get := func(path, id, summary string, h web.Handler) web.Route {
		return web.Route{Method: http.MethodGet, Path: path, ID: id, Summary: summary, Access: web.Anyone, Handler: h}
	}
	routes := []web.Route{
		get("/ledger/checkpoint", "fetchCheckpoint", "The signed size and hash of the ledger's tree (C2SP tlog-checkpoint)", web.Raw(d.checkpoint)),
		get("/ledger/key", "fetchLedgerKey", "The key that signs checkpoints (C2SP signed-note); keep it from where you trust it", web.Raw(d.key)),
		get("/ledger/tile/{rest...}", "fetchTile", "Hashes of the ledger's tree (C2SP tlog-tiles)", web.Raw(d.tile)),
		get("/ledger/consistency/{old}/{size}", "proveConsistency", "Why a tree extends a smaller one (RFC 6962 §2.1.2): hashes in base64, one a line", web.Raw(d.consistency)),
	}
	if c.Witness != nil {
		routes = append(routes, web.Route{
			Method: http.MethodPost, Path: "/ledger/witness/add-checkpoint", ID: "addCheckpoint", Access: web.Anyone, MaxBody: seal.MaxAddCheckpoint,
			Summary: "Cosign another log's checkpoint (C2SP tlog-witness)", Handler: web.Raw(d.addCheckpoint),
		}, get("/ledger/witness/{hash}/checkpoint", "fetchWitnessed", "The newest checkpoint cosigned of a log, by the SHA-256 of its origin (C2SP tlog-witness)", web.Raw(d.witnessed)))
	}
	return web.Door{Table: d.table(), Routes: routes}
}

// Service returns the routes of the service listener.
func Service(c Config) web.Door { return inside(c, web.Holder) }

// Operator returns the routes of the operator listener.
func Operator(c Config) web.Door { return inside(c, web.Operator) }

func inside(c Config, who web.Access) web.Door {
	d := &door{c}
	return web.Door{Table: d.table(), Routes: []web.Route{
		{
			Method: http.MethodGet, Path: "/v1/certificates/{serial}/proof", ID: "prove", Access: who,
			Summary: "Why a certificate is in the ledger, to be verified without us (C2SP tlog-proof)", Handler: web.Raw(d.prove),
		},
		{
			Method: http.MethodGet, Path: "/ledger/tile/entries/{rest...}", ID: "fetchEntries", Access: who,
			Summary: "Facts as they stand in the tree, 256 at a time (C2SP tlog-tiles); all of them must be the caller's to see", Handler: web.Raw(d.entries),
		},
	}}
}

func (d *door) checkpoint(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	signed, _, err := d.Prover.Checkpoint(r.Context())
	if err != nil {
		return err
	}
	// "its headers SHOULD prevent caching beyond a few seconds"
	return text(w, "public, max-age=1", signed)
}

func (d *door) key(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	key, err := d.Prover.Key(r.Context())
	if err != nil {
		return err
	}
	return text(w, "public, max-age=60", key+"\n")
}

func text(w http.ResponseWriter, caching, body string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", caching)
	_, err := w.Write([]byte(body)) //nolint:gosec // text/plain
	return err
}

func (d *door) tile(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	level, rest, _ := strings.Cut(r.PathValue("rest"), "/")
	l, err := strconv.Atoi(level)
	n, width, ok := place(rest)
	if err != nil || strconv.Itoa(l) != level || !ok {
		return fmt.Errorf("tile %.80q: %w", r.PathValue("rest"), seal.ErrNotFound)
	}
	b, err := d.Prover.Tile(r.Context(), l, n, width)
	if err != nil {
		return err
	}
	return octets(w, "public, max-age=31536000, immutable", b)
}

func (d *door) entries(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
	n, width, ok := place(r.PathValue("rest"))
	if !ok {
		return fmt.Errorf("entries %.80q: %w", r.PathValue("rest"), seal.ErrNotFound)
	}
	b, err := d.Prover.Bundle(r.Context(), who, n, width)
	if err != nil {
		return err
	}
	return octets(w, "private, max-age=31536000, immutable", b)
}

func octets(w http.ResponseWriter, caching string, b []byte) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", caching)
	_, err := w.Write(b) //nolint:gosec // octets
	return err
}

// place reads <N>[.p/<W>] of C2SP tlog-tiles: N in elements of three digits, all but the last after an x; W from 1 to 255, 0
// where it is not there.
func place(s string) (n int64, width int, ok bool) {
	number, partial, isPartial := strings.Cut(s, ".p/")
	if isPartial {
		w, err := strconv.Atoi(partial)
		if err != nil || w < 1 || w >= 1<<seal.Height || strconv.Itoa(w) != partial {
			return 0, 0, false
		}
		width = w
	}
	const most = 6 // 10^18 tiles
	elements := strings.Split(number, "/")
	if len(elements) > most {
		return 0, 0, false
	}
	for i, e := range elements {
		digits := e
		if i < len(elements)-1 {
			if digits, ok = strings.CutPrefix(e, "x"); !ok {
				return 0, 0, false
			}
		}
		if len(digits) != 3 || strings.Trim(digits, "0123456789") != "" || i == 0 && len(elements) > 1 && digits == "000" {
			return 0, 0, false
		}
		v, _ := strconv.ParseInt(digits, 10, 64) //nolint:errcheck // three digits
		n = n*1000 + v
	}
	return n, width, true
}

func (d *door) consistency(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	old, err1 := strconv.ParseInt(r.PathValue("old"), 10, 64)
	size, err2 := strconv.ParseInt(r.PathValue("size"), 10, 64)
	if errors.Join(err1, err2) != nil || old < 0 {
		return fmt.Errorf("sizes %.30q and %.30q: %w", r.PathValue("old"), r.PathValue("size"), seal.ErrNotFound)
	}
	proof, err := d.Prover.Consistency(r.Context(), old, size)
	if err != nil {
		return err
	}
	return text(w, "public, max-age=31536000, immutable", proof)
}

func (d *door) prove(w http.ResponseWriter, r *http.Request, who identity.Caller) error {
	serial, err := cert.ParseSerial(r.PathValue("serial"))
	if err != nil {
		return fmt.Errorf("serial %.60q: %w", r.PathValue("serial"), seal.ErrNotFound)
	}
	proof, err := d.Prover.Prove(r.Context(), who, serial)
	if err != nil {
		return err
	}
	return text(w, "no-store", proof.String())
}
