package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// AddOperator makes workload NAME of the platform an operator and writes its certificate and key to PREFIX.pem and
// PREFIX-key.pem. It works on the ledger itself, with the keys' passphrase, and needs no running server: it is how the first
// operator of a new installation comes to be, and how one comes back when the last certificate has expired. It may be
// repeated: a pair that is still good is kept.
func AddOperator(ctx context.Context, cfg Config, name, prefix string, log *slog.Logger) (identity.ID, error) {
	if err := cfg.check(); err != nil {
		return identity.ID{}, fmt.Errorf("checking configuration: %w", err)
	}
	if cfg.URLs.Public == "" {
		return identity.ID{}, errors.New("urls.public is not configured: it stands in every certificate, and no listener is open to take it from")
	}
	s := &Server{cfg: cfg, log: log, now: cfg.now(), registry: prometheus.NewRegistry(), revoked: make(chan struct{}, 1), incidents: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	defer s.Close()
	ctx = postgres.AsOwner(ctx)
	for _, step := range []func(context.Context) error{s.openDatabase, s.openWall, s.openLedger, s.openKeys, s.openCA, s.openStatus} {
		if err := step(ctx); err != nil {
			return identity.ID{}, err
		}
	}
	id, err := s.identify(ctx, identity.Platform, name, prefix)
	if err != nil {
		return identity.ID{}, fmt.Errorf("certifying operator %s: %w", name, err)
	}
	return id, s.makeAdmin(ctx, "operator add", id)
}
