package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/limit"
	limits "codeberg.org/dataverket/segl/internal/limit/store"
)

// limited are limits with the rates that the configuration gives them.
func (c *Config) limited(defined []limit.Definition) []limit.Definition {
	for i, d := range defined {
		if r, ok := c.Limits[d.Name]; ok {
			defined[i].Rate = r
		}
	}
	return defined
}

// checkOffers refuses limits that are not there, and terms that nobody could read.
func (c *Config) checkOffers() error {
	if u, err := url.Parse(c.ACME.Terms); c.ACME.Terms != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fmt.Errorf("acme.terms: %q: want the URL of a page", c.ACME.Terms)
	}
	for name := range c.Limits {
		if !slices.ContainsFunc(acme.LimitsDefined(), func(d limit.Definition) bool { return d.Name == name }) {
			return fmt.Errorf("limits: %q: there is no such limit", name)
		}
	}
	return nil
}

// A meter counts what limits refused.
type meter struct {
	*limits.Store
	exceeded *prometheus.CounterVec
}

func metered(l *limits.Store, r prometheus.Registerer) *meter {
	m := &meter{l, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "segl_limits_exceeded_total", Help: "Requests refused because of a limit.",
	}, []string{"limit"})}
	for _, d := range acme.LimitsDefined() {
		m.exceeded.WithLabelValues(string(d.Name))
	}
	r.MustRegister(m.exceeded)
	return m
}

// Take implements acme.Limits.
func (m *meter) Take(ctx context.Context, charges ...limit.Charge) error {
	err := m.Store.Take(ctx, charges...)
	if e, ok := errors.AsType[*limit.Exceeded](err); ok {
		m.exceeded.WithLabelValues(string(e.Limit)).Inc()
	}
	return err
}

// devLimits count as in earnest and are out of reach: whoever measures or tests goes faster than any client.
func devLimits() map[limit.Name]limit.Rate {
	const far = 10_000_000
	out := make(map[limit.Name]limit.Rate)
	for _, d := range acme.LimitsDefined() {
		out[d.Name] = limit.Rate{Count: far, Per: time.Hour}
	}
	return out
}
