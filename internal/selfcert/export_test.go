package selfcert

import (
	"github.com/caddyserver/certmagic"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// NewStorage returns what a Source keeps its files in.
func NewStorage(db *postgres.DB, sealer Sealer) interface {
	certmagic.Storage
	certmagic.TryLocker
	certmagic.LockLeaseRenewer
} {
	return &storage{db: db, sealer: sealer, held: make(map[string]string)}
}
