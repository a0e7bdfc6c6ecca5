package server

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/feed"
)

// openFeed readies what hands out facts as they become known.
func (s *Server) openFeed(context.Context) error {
	s.feed = feed.New(feed.Config{Facts: s.ledger, Log: s.log})
	s.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "segl_feed_followers", Help: "Streams of facts that are open.",
		}, func() float64 { n, _ := s.feed.Stats(); return float64(n) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "segl_feed_cut_total", Help: "Streams of facts that were cut off because the client took them too slowly.",
		}, func() float64 { _, cut := s.feed.Stats(); return float64(cut) }),
	)
	return nil
}
