package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Check is one thing the process needs to be of use.
type Check struct {
	Name  string
	Probe func(context.Context) error // nil: well
	Warns bool                        // what it finds is to be mended soon, and the process is of use until then
}

// Health says whether the process should be sent requests. It is safe for concurrent use.
type Health struct {
	checks   []Check
	draining atomic.Bool
}

// probeTime bounds one check. What cannot be asked in this time is not well.
const probeTime = 2 * time.Second

// NewHealth returns the health that all checks make together.
func NewHealth(checks ...Check) *Health { return &Health{checks: checks} }

// Drain says from now on that the process is about to end.
func (h *Health) Drain() { h.draining.Store(true) }

// A Finding is the outcome of one check.
type Finding struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Warning bool   `json:"warning,omitempty"` // not well, and ready nevertheless
	Why     string `json:"why,omitempty"`
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready  bool      `json:"ready"`
	Checks []Finding `json:"checks"`
}

// Ready asks all checks at once.
func (h *Health) Ready(ctx context.Context) Readiness {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	out := Readiness{Ready: true, Checks: make([]Finding, len(h.checks))}
	var wg sync.WaitGroup
	for i, c := range h.checks {
		wg.Go(func() {
			f := Finding{Name: c.Name, OK: true}
			if err := c.Probe(ctx); err != nil {
				f.OK, f.Warning, f.Why = false, c.Warns, err.Error()
			}
			out.Checks[i] = f
		})
	}
	wg.Wait()
	if h.draining.Load() {
		out.Checks = append(out.Checks, Finding{Name: "drain", Why: "the process is about to end"})
	}
	for _, f := range out.Checks {
		out.Ready = out.Ready && (f.OK || f.Warning)
	}
	return out
}

// Private returns the door of the private listener: health, metrics and profiles. It belongs on loopback.
func Private(h *Health, metrics prometheus.Gatherer) Door {
	get := func(path string, handler Handler) Route {
		return Route{Method: http.MethodGet, Path: path, Access: Anyone, Handler: handler}
	}
	profile := func(f http.HandlerFunc) Handler { return Plain(f) }
	return Door{Routes: []Route{
		get("/healthz", Raw(func(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
			return writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
		})),
		get("/readyz", Raw(func(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
			state := h.Ready(r.Context())
			if !state.Ready {
				return writeJSON(w, http.StatusServiceUnavailable, state)
			}
			return writeJSON(w, http.StatusOK, state)
		})),
		get("/metrics", Plain(promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))),
		get("/debug/pprof/cmdline", profile(pprof.Cmdline)),
		get("/debug/pprof/profile", profile(pprof.Profile)),
		get("/debug/pprof/symbol", profile(pprof.Symbol)),
		get("/debug/pprof/trace", profile(pprof.Trace)),
		get("/debug/pprof/{name...}", profile(pprof.Index)),
	}}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = []string{"application/json"}, noStore
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}
