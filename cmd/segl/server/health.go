package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/kms"
)

// Bounds of health. maxSkew is how far our clock and the database's may differ: serials, validity and partitions come from
// ours, leases from the database's.
const (
	maxSkew   = time.Minute
	keyProbe  = 30 * time.Second
	listAlarm = 24 * time.Hour
)

// addHealth says what readiness means: everything that issuing and publishing need, each by name.
func (s *Server) addHealth() {
	s.health = web.NewHealth(
		web.Check{Name: "database", Probe: s.probeDatabase},
		web.Check{Name: "durability", Probe: s.checkDurability},
		web.Check{Name: "clock", Probe: s.probeClock},
		web.Check{Name: "keys", Probe: s.probeKeys()},
		web.Check{Name: "partitions", Probe: s.probePartitions},
		web.Check{Name: "epochs", Probe: s.probeEpochs, Warns: true},
		web.Check{Name: "lists", Probe: s.probeLists},
		web.Check{Name: "ocsp", Probe: func(context.Context) error { return s.status.responder.Ready() }},
	)
	pool := func(name, help string, value func() float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	pool("segl_database_connections", "Connections to the database, in use and idle.", func() float64 { return float64(s.db.Stat().TotalConns()) })
	pool("segl_database_connections_used", "Connections in use.", func() float64 { return float64(s.db.Stat().AcquiredConns()) })
	pool("segl_epochs_ahead", "Weeks after the present one that have their partitions; -1 when the database did not answer.", s.epochsAhead)
	pool("segl_listener_certificate_expires_seconds", "Unix time at which the first of the listeners' own certificates expires.",
		func() float64 { return float64(s.selfcert.Expires().Unix()) })
}

func (s *Server) probeDatabase(ctx context.Context) error {
	if err := s.db.Ping(ctx); err != nil {
		return errors.New("the database does not answer")
	}
	return nil
}

func (s *Server) probeClock(ctx context.Context) error {
	var theirs time.Time
	if err := s.db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return errors.New("the database does not answer")
	}
	if skew := time.Since(theirs).Abs(); skew > maxSkew {
		return fmt.Errorf("this machine's clock and the database's differ by %s: set them", skew.Round(time.Second))
	}
	return nil
}

// probeKeys signs with every authority's key, at most once in a while: a probe must not load the keys.
func (s *Server) probeKeys() func(context.Context) error {
	turn := make(chan struct{}, 1)
	var (
		asked time.Time
		last  error
	)
	return func(ctx context.Context) error {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return errors.New("the keys do not answer")
		}
		defer func() { <-turn }()
		if time.Since(asked) < keyProbe && last == nil {
			return nil
		}
		last = nil
		for _, a := range s.ca.Authorities() {
			if a.Offline() {
				continue
			}
			if err := kms.Prove(ctx, a.Key); err != nil {
				last = fmt.Errorf("key of authority %s: %w", a.Name, err)
				return last
			}
		}
		asked = time.Now()
		return nil
	}
}

func (s *Server) probePartitions(ctx context.Context) error {
	ahead, err := s.ledger.EpochsAhead(ctx, s.now())
	if err != nil {
		return errors.New("the database does not answer")
	}
	if ahead < 1 {
		return errors.New("no partition for the next epoch: see the log of the epochs duty")
	}
	return nil
}
