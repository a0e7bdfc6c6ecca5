package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// A nonce is
//
//	block (8) · offset (2) · AES-GCM(second the block was made (4)) · tag (16)
//
// in base64url. A process gives out the offsets of a block of its own, so that issuing one writes nothing; spending one sets
// its bit in the block's row, in one statement that does so only if it was not set. The key and the rows are in unlogged
// tables: after a crash or failover of Postgres both are empty, no nonce of before can be opened, and none is ever taken
// twice. That a nonce's key is still the database's is part of the statement that spends it.
const (
	blockSize   = 512 // nonces; a row is a fourth as many octets
	blockLife   = 10 * time.Minute
	nonceLife   = time.Hour
	clockSpread = 5 * time.Minute // between replicas' clocks
	sealedSize  = 4 + 16
	nonceSize   = 8 + 2 + sealedSize
	bootKeySize = 16
	reloadEvery = time.Second
)

// nonces makes and opens nonces.
type nonces struct {
	db  *postgres.DB
	now func() time.Time

	mu     sync.Mutex
	boot   *boot
	loaded time.Time // when boot was last asked for
	block  uint64
	made   time.Time // the block
	next   int       // offset
}

// A boot is the key of one life of the database.
type boot struct {
	id   []byte
	aead cipher.AEAD
}

// A spend is an opened nonce.
type spend struct {
	boot   []byte
	block  uint64
	offset int
	made   time.Time
}

// fresh returns a nonce that nobody has seen.
func (n *nonces) fresh(ctx context.Context) (string, error) {
	if n.current() == nil {
		if err := n.load(ctx); err != nil {
			return "", err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := n.now(); n.next == 0 || n.next == blockSize || now.Sub(n.made).Abs() > blockLife {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			panic("store: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
		}
		n.block, n.made, n.next = binary.BigEndian.Uint64(b[:]), now, 0
	}
	raw := n.boot.seal(spend{block: n.block, offset: n.next, made: n.made})
	n.next++
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

func (b *boot) seal(s spend) []byte {
	raw := make([]byte, 12, nonceSize+2)
	binary.BigEndian.PutUint64(raw, s.block)
	binary.BigEndian.PutUint16(raw[8:], uint16(s.offset)) //nolint:gosec // below blockSize
	var second [4]byte
	binary.BigEndian.PutUint32(second[:], uint32(s.made.Unix())) //nolint:gosec // good until 2106, like uid
	return b.aead.Seal(raw[:10], raw[:12], second[:], nil)       // block and offset never repeat under one key
}

// open returns what text spends, if it is a nonce of the present key that is not too old.
func (n *nonces) open(ctx context.Context, text string) (spend, bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != nonceSize {
		return spend{}, false
	}
	b := n.current()
	if b == nil {
		n.reload(ctx, nil)
		if b = n.current(); b == nil { // without a key no nonce is good
			return spend{}, false
		}
	}
	var iv [12]byte
	copy(iv[:], raw[:10])
	second, err := b.aead.Open(nil, iv[:], raw[10:], nil)
	if err != nil {
		n.reload(ctx, b) // perhaps it is of a key newer than ours
		b = n.current()
		if second, err = b.aead.Open(nil, iv[:], raw[10:], nil); err != nil {
			return spend{}, false
		}
	}
	s := spend{b.id, binary.BigEndian.Uint64(raw), int(binary.BigEndian.Uint16(raw[8:])), time.Unix(int64(binary.BigEndian.Uint32(second)), 0)}
	age := n.now().Sub(s.made)
	return s, s.offset < blockSize && age < nonceLife+blockLife && age > -clockSpread
}

func (n *nonces) current() *boot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boot
}

// reload asks for the key again if ours is still b; not more than once a second, since anybody can send what does not open.
func (n *nonces) reload(ctx context.Context, b *boot) {
	n.mu.Lock()
	due := n.boot == b && n.now().Sub(n.loaded).Abs() >= reloadEvery
	if due {
		n.loaded = n.now()
	}
	n.mu.Unlock()
	if due {
		n.load(ctx) //nolint:errcheck // the old key stays, and the statement that spends decides
	}
}

// load reads the database's key, and makes one when it has none.
func (n *nonces) load(ctx context.Context) error {
	var fresh [8 + bootKeySize]byte
	if _, err := rand.Read(fresh[:]); err != nil {
		panic("store: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
	}
	var b pgx.Batch
	b.Queue(`
		INSERT INTO acme_boot (id, key)
		VALUES ($1, $2)
		ON     CONFLICT ON CONSTRAINT acme_boot_pk DO NOTHING`, fresh[:8], fresh[8:])
	b.Queue(`
		SELECT id, key
		FROM   acme_boot`)
	results := n.db.SendBatch(ctx, &b)
	_, err := results.Exec()
	var id, key []byte
	if err == nil {
		err = results.QueryRow().Scan(&id, &key)
	}
	if err = errors.Join(err, results.Close()); err != nil {
		return fmt.Errorf("reading the key of nonces: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return fmt.Errorf("reading the key of nonces: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return fmt.Errorf("reading the key of nonces: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.boot == nil || string(n.boot.id) != string(id) {
		n.boot, n.next = &boot{id, aead}, 0
	}
	return nil
}

// Nonce implements acme.Store.
func (s *Store) Nonce(ctx context.Context) (string, error) { return s.nonces.fresh(ctx) }

// Sweep implements acme.Store. A row goes only when no replica would open its nonces any more.
func (s *Store) Sweep(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM acme_nonce
		WHERE  made_at < $1`, s.nonces.now().Add(-nonceLife-blockLife-2*clockSpread))
	return errors.Join(err, s.sweepAttempts(ctx, s.nonces.now()))
}
