package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/migrations"
)

// planMigration says what a migration would do.
func (p *program) planMigration(ctx context.Context, cfg server.Config) error {
	url := cfg.Database.URL
	if cfg.Database.URLFile != "" {
		b, err := os.ReadFile(cfg.Database.URLFile)
		if err != nil {
			return fmt.Errorf("reading database.url_file: %w", err)
		}
		url = strings.TrimSpace(string(b))
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	err = postgres.CheckSchema(ctx, db, migrations.FS)
	switch {
	case err == nil:
		return p.show(plan{Do: "nothing: the schema is up to date"})
	case errors.Is(err, postgres.ErrSchemaOlder):
		return p.show(plan{Do: "migrate", Subject: err.Error()})
	}
	return err
}
