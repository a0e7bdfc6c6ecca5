package agent

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Status is what the agent says of itself.
type Status struct {
	Certificates map[string]CertificateStatus `json:"certificates"`
	Tasks        map[string]TaskStatus        `json:"tasks"`
}

// CertificateStatus is about one certificate in place.
type CertificateStatus struct {
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	RenewAt  time.Time `json:"renew_at"`
}

// TaskStatus is about one task.
type TaskStatus struct {
	Done     time.Time `json:"done,omitzero"` // when it succeeded last
	Failures int       `json:"failures"`      // since then
	Error    string    `json:"error,omitempty"`
}

// state is the agent's, for status and metrics.
type state struct {
	now      func() time.Time
	notAfter *prometheus.GaugeVec
	made     *prometheus.CounterVec
	hooks    *prometheus.CounterVec
	failures *prometheus.GaugeVec
	read     *prometheus.GaugeVec

	mu     sync.Mutex // guards below
	status Status
}

func newState(r *prometheus.Registry, now func() time.Time) *state {
	s := &state{
		now:      now,
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segl_agent_certificate_not_after_seconds", Help: "Unix time at which the certificate in place ends."}, []string{"certificate"}),
		made:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segl_agent_certificates_total", Help: "Times a certificate was asked for."}, []string{"certificate", "outcome"}),
		hooks:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segl_agent_hooks_total", Help: "Times hooks were run."}, []string{"of", "outcome"}),
		failures: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segl_agent_task_failures", Help: "Failures of a task since it succeeded."}, []string{"task"}),
		read:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "segl_agent_trust_fetched_seconds", Help: "Unix time at which a file of roots or lists was last compared with the server's."}, []string{"file"}),
		status:   Status{Certificates: map[string]CertificateStatus{}, Tasks: map[string]TaskStatus{}},
	}
	r.MustRegister(s.notAfter, s.made, s.hooks, s.failures, s.read)
	return s
}

func (s *state) have(name string, leaf *x509.Certificate, due time.Time) {
	s.notAfter.WithLabelValues(name).Set(float64(leaf.NotAfter.Unix()))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Certificates[name] = CertificateStatus{Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), NotAfter: leaf.NotAfter, RenewAt: due}
}

func (s *state) got(name, outcome string)  { s.made.WithLabelValues(name, outcome).Inc() }
func (s *state) hooked(of, outcome string) { s.hooks.WithLabelValues(of, outcome).Inc() }
func (s *state) fetched(file string)       { s.read.WithLabelValues(file).Set(float64(s.now().Unix())) }

func (s *state) done(task string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.status.Tasks[task]
	if err == nil {
		t = TaskStatus{Done: s.now().UTC()}
	} else {
		t.Failures, t.Error = t.Failures+1, err.Error()
	}
	s.status.Tasks[task] = t
	s.failures.WithLabelValues(task).Set(float64(t.Failures))
}

// sound reports whether every certificate is there and valid.
func (s *state) sound(names []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if c, ok := s.status.Certificates[n]; !ok || !s.now().Before(c.NotAfter) {
			return false
		}
	}
	return true
}

// Bounds of the agent's listener.
const (
	statusTime  = 5 * time.Second
	statusGrace = time.Second
)

// serve answers on loopback until ctx ends.
func (a *Agent) serve(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		a.state.mu.Lock()
		text, err := json.MarshalIndent(a.state.status, "", "  ")
		a.state.mu.Unlock()
		if err != nil {
			http.Error(w, "status cannot be spelt", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(text, '\n')) //nolint:errcheck // the client has gone
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		var names []string
		for _, k := range a.keepers {
			names = append(names, k.Name)
		}
		if !a.state.sound(names) {
			http.Error(w, "a certificate is missing or has expired", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n")) //nolint:errcheck // the client has gone
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: statusTime, WriteTimeout: statusTime}
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusGrace)
		defer cancel()
		server.Shutdown(ending) //nolint:errcheck // the listener is closed all the same
	})
	defer stop()
	if err := server.Serve(a.listener); ctx.Err() == nil {
		a.log.Error("status is not answered any more", "err", err)
	}
}
