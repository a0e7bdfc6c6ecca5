package web

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the measures of all servers of a process: rate, errors and duration by listener, route template and class
// of status. No label comes from a request.
type Metrics struct {
	registry prometheus.Registerer
	requests *prometheus.HistogramVec
}

// NewMetrics registers the measures.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{registry: r, requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "segl_http_request_seconds",
		Help:    "Time from a request's header to the end of its answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"listener", "method", "route", "status"})}
	r.MustRegister(m.requests)
	return m
}

// classes are the values of the label status, by the first digit.
var classes = [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

// observers are one route's histograms, looked up once.
type observers struct {
	m      *Metrics
	labels []string
	byX    [len(classes)]atomic.Pointer[prometheus.Observer]
}

func (m *Metrics) observers(listener string, r Route) *observers {
	return &observers{m: m, labels: []string{listener, r.Method, r.Path}}
}

func (o *observers) observe(status int, elapsed time.Duration) {
	class := status / 100 //nolint:mnd // the first digit
	if class >= len(classes) || class < 0 || status == statusGone {
		class = 0
	}
	p := o.byX[class].Load()
	if p == nil {
		one := o.m.requests.WithLabelValues(o.labels[0], o.labels[1], o.labels[2], classes[class])
		p = &one
		o.byX[class].Store(p)
	}
	(*p).Observe(elapsed.Seconds())
}

// watch measures a server's connections.
func (m *Metrics) watch(listener string, s *connections) {
	labels := prometheus.Labels{"listener": listener}
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "segl_http_connections", Help: "Connections that are open.", ConstLabels: labels,
		}, func() float64 { open, _, _ := s.count(); return float64(open) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "segl_http_connections_idle", Help: "Connections that are open and have no request under way.", ConstLabels: labels,
		}, func() float64 { _, idle, _ := s.count(); return float64(idle) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "segl_http_connections_evicted_total", Help: "Connections closed because there were too many.", ConstLabels: labels,
		}, func() float64 { _, _, evicted := s.count(); return float64(evicted) }),
	)
}

var _ http.Handler = (*Server)(nil)
