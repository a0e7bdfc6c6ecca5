// Package softkms is a keyring in the ledger's database: every replica has the same keys, and a backup of the database is
// one of the keys, of no use without the passphrase.
//
// A passphrase that is never in the database becomes a key-encryption key (PBKDF2, NIST SP 800-132), from which three keys
// are derived (HKDF, RFC 5869): one proves the passphrase, one seals private keys, one seals small secrets for others. All
// sealing is AES-256-GCM under random nonces. A private key is sealed with its name and algorithm as associated data, so
// a row cannot be passed off as another. It is opened when first used and then stays in memory. The package is no HSM:
// who may read this process's memory has its keys.
//
// Where a Provider is configured, such as an HSM, new keys are made there, and the row says where; keys of before stay where
// they are. Every signature of such a key goes through a kms.Pool, because a provider may hang.
//
// The invariant: a row of kms_key never changes, and the primary key decides which replica's key has a name.
//
// A Keyring and its keys may be used concurrently.
package softkms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/kms"
)

// Config says where the keys are and what opens them.
type Config struct {
	DB         *postgres.DB
	Passphrase Passphrase
	// Now is the process's clock. It dates rows; nothing else depends on it.
	Now func() time.Time
	// Provider keeps the private halves of new keys. Nil: they are sealed here.
	Provider Provider
	// Limits bound what a key of a provider may cost those who wait for it.
	Limits kms.Limits
	// Iterations is how slow a passphrase is made to try, in a database that has no keys yet. Zero: what OWASP asks for, and
	// nothing that keeps real keys asks for less. Tests do, which make many databases.
	Iterations int
}

// A Keyring is a kms.Keyring.
type Keyring struct {
	db  *postgres.DB
	now func() time.Time
	box box

	provider Provider // nil: none
	limits   kms.Limits

	mu   sync.Mutex
	keys map[string]kms.Key // those used so far
}

var _ kms.Keyring = (*Keyring)(nil)

// Open derives the key-encryption key, which takes about a fifth of a second, and sees that it is the one this database's
// keys are sealed under. The first Open on a database decides which that is. Another passphrase is refused with
// ErrPassphrase.
func Open(ctx context.Context, cfg Config) (*Keyring, error) {
	if cfg.Iterations != 0 && cfg.Iterations < minIterations {
		return nil, fmt.Errorf("opening keyring: %d iterations: want %d or more (NIST SP 800-132 §5.2)", cfg.Iterations, minIterations)
	}
	b, err := unlock(ctx, cfg.DB, cfg.Passphrase, cmp.Or(cfg.Iterations, iterations))
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	return &Keyring{db: cfg.DB, now: cfg.Now, box: b, provider: cfg.Provider, limits: cfg.Limits, keys: make(map[string]kms.Key)}, nil
}

// Key implements kms.Keyring.
func (r *Keyring) Key(ctx context.Context, name string) (kms.Key, error) {
	r.mu.Lock()
	key, ok := r.keys[name]
	r.mu.Unlock()
	if ok {
		return key, nil
	}
	if kms.CheckName(name) != nil { // Create never made it
		return nil, fmt.Errorf("loading key %.140q: %w", name, kms.ErrNotFound)
	}
	row, err := r.load(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("loading key %s: %w", name, err)
	}
	if row.heldAt != nil {
		key, err = r.fetch(ctx, row)
	} else {
		key, err = r.unseal(row)
	}
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", name, err)
	}
	return r.keep(key), nil
}

// keep remembers key, and returns the one remembered first when two callers loaded it at once.
func (r *Keyring) keep(key kms.Key) kms.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.keys[key.Name()]; ok {
		return first
	}
	r.keys[key.Name()] = key
	return key
}

// A row is one of kms_key.
type row struct {
	name      string
	algorithm kms.Algorithm
	public    []byte // SubjectPublicKeyInfo, DER
	sealed    []byte // PKCS #8, sealed; nil when a provider has it
	heldAt    *string
}

func (r *Keyring) load(ctx context.Context, name string) (row, error) {
	k := row{name: name}
	err := r.db.QueryRow(ctx, `
		SELECT algorithm, public, sealed, held_at
		FROM   kms_key
		WHERE  name = @name`,
		pgx.NamedArgs{"name": name}).Scan(&k.algorithm, &k.public, &k.sealed, &k.heldAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return row{}, kms.ErrNotFound
	}
	return k, failure(err)
}

// Create implements kms.Keyring.
func (r *Keyring) Create(ctx context.Context, name string, alg kms.Algorithm) (kms.Key, error) {
	if err := kms.CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	if r.provider != nil {
		return r.make(ctx, name, alg)
	}
	private, err := alg.Generate()
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	k, err := r.seal(name, alg, private)
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", name, err)
	}
	if err := r.insert(ctx, k); err != nil {
		return nil, fmt.Errorf("storing key %s: %w", name, err)
	}
	return r.keep(newKey(name, private)), nil
}

func (r *Keyring) insert(ctx context.Context, k row) error {
	tag, err := r.db.Exec(ctx, `
		INSERT INTO kms_key (name, algorithm, public, sealed, held_at, created_at)
		VALUES (@name, @algorithm, @public, @sealed, @held_at, @now)
		ON CONFLICT ON CONSTRAINT kms_key_pk DO NOTHING`,
		pgx.NamedArgs{"name": k.name, "algorithm": k.algorithm, "public": k.public, "sealed": k.sealed, "held_at": k.heldAt, "now": r.now()})
	if err == nil && tag.RowsAffected() == 0 {
		return kms.ErrExists
	}
	return failure(err)
}

// failure says of a database error what a caller decides on.
func failure(err error) error {
	if postgres.Unavailable(err) {
		return fmt.Errorf("%w: %w", kms.ErrUnavailable, err)
	}
	return err
}

func (r *Keyring) seal(name string, alg kms.Algorithm, private crypto.Signer) (row, error) {
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return row{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return row{}, errors.New("encoding the private key") // what x509 says might quote it
	}
	sealed := r.box.keys.seal(keyPurpose(name, alg), pkcs8)
	return row{name: name, algorithm: alg, public: public, sealed: sealed}, nil
}

func (r *Keyring) unseal(k row) (kms.Key, error) {
	pkcs8, err := r.box.keys.open(keyPurpose(k.name, k.algorithm), k.sealed)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	private, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("what was sealed is not a private key")
	}
	if !k.isOf(private.Public()) {
		return nil, errors.New("the public half stored beside it is not its own: the row was altered")
	}
	return newKey(k.name, private), nil
}

// isOf reports whether the row is of the key whose public half is given.
func (k row) isOf(public crypto.PublicKey) bool {
	der, err := x509.MarshalPKIXPublicKey(public)
	return err == nil && string(der) == string(k.public)
}

// keyPurpose is the associated data of a sealed private key. Neither part may contain the separator.
func keyPurpose(name string, alg kms.Algorithm) string { return name + "\x00" + string(alg) }

// Seal implements kms.Keyring.
func (r *Keyring) Seal(ctx context.Context, purpose string, plaintext []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return r.box.secrets.seal(purpose, plaintext), nil
}

// Open implements kms.Keyring.
func (r *Keyring) Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("opening sealed value: %w", err)
	}
	return r.box.secrets.open(purpose, sealed)
}
