// Package migrations embeds the schema: one .sql file a topic, numbered, forward only.
//
// Files are read by goose: each begins with "-- +goose Up", has no Down, and puts a statement with semicolons inside between
// "-- +goose StatementBegin" and "-- +goose StatementEnd". A file that has been released never changes.
package migrations

import "embed"

// FS holds every migration at its root.
//
//go:embed *.sql
var FS embed.FS
