package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Intents keep of their to-be-signed bytes what differs from a frame, a row that those of one authority and profile share
// (tbs.Frame). That takes a third of the octets, of the log's too. Frames are written before the first intent that needs
// them, and never change.

const (
	// framesEach bounds how many frames an authority and profile get: one is made when the last one spares little, as after
	// a change of URLs.
	framesEach = 8
	// framedSize is the longest that becomes a frame.
	framedSize = 4096
	// framedAbove is the shortest worth packing.
	framedAbove = 128
)

// frames are those that have been read or made.
type frames struct {
	*tbs.Frames
	db *postgres.DB

	mu     sync.RWMutex // guards what follows; never held over I/O
	byKind map[frameKind]kindFrames
	making map[frameKind]bool
}

type frameKind struct {
	authority int
	profile   string
}

// kindFrames are the frames of a kind: the newest, and how many there are.
type kindFrames struct {
	id    int64 // 0: none
	count int
}

func newFrames(db *postgres.DB) *frames {
	read := func(ctx context.Context, id int64) (body []byte, err error) {
		err = db.QueryRow(ctx, `
			SELECT body
			FROM   frame
			WHERE  id = $1`, id).Scan(&body)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, errors.New("it is not in the ledger: rows were taken away, or restored in part")
		}
		return body, err
	}
	return &frames{Frames: tbs.NewFrames(read), db: db, byKind: map[frameKind]kindFrames{}, making: map[frameKind]bool{}}
}

// pack returns what is stored of an intent's bytes: all of them while the first frame of its kind is being made.
func (f *frames) pack(ctx context.Context, in ca.Intent) ([]byte, error) {
	if len(in.TBS) < framedAbove {
		return in.TBS, nil
	}
	kind := frameKind{in.Authority, in.Profile}
	now, known := f.newest(kind)
	if !known {
		var err error
		if now, err = f.find(ctx, kind); err != nil {
			return nil, err
		}
	}
	if now.id != 0 {
		packed, spared, err := f.Pack(ctx, now.id, in.TBS, in.Serial)
		if err != nil || spared >= framedAbove || now.count >= framesEach {
			return packed, err
		}
	}
	if len(in.TBS) > framedSize || !f.mayMake(kind) {
		return in.TBS, nil
	}
	id, err := f.make(ctx, kind, in.TBS)
	if err != nil {
		return nil, err
	}
	packed, _, err := f.Pack(ctx, id, in.TBS, in.Serial)
	return packed, err
}

func (f *frames) newest(kind frameKind) (kindFrames, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	v, ok := f.byKind[kind]
	return v, ok
}

// find reads which frames a kind has.
func (f *frames) find(ctx context.Context, kind frameKind) (v kindFrames, err error) {
	err = f.db.QueryRow(ctx, `
		SELECT coalesce(max(id), 0), count(*)
		FROM   frame
		WHERE  authority = $1 AND profile = $2`, kind.authority, kind.profile).Scan(&v.id, &v.count)
	if err != nil {
		return v, fmt.Errorf("reading the frames of authority %d, profile %s: %w", kind.authority, kind.profile, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byKind[kind] = v
	return v, nil
}

// mayMake reports whether the caller is the one to make a frame of kind, which make ends.
func (f *frames) mayMake(kind frameKind) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.making[kind] {
		return false
	}
	f.making[kind] = true
	return true
}

// make writes a frame down. Two replicas may each make one: that costs a row.
func (f *frames) make(ctx context.Context, kind frameKind, body []byte) (id int64, err error) {
	made, err := once(ctx, f.db, pgx.RowTo[int64], `
		INSERT INTO frame (authority, profile, body)
		VALUES ($1, $2, $3)
		RETURNING id`, kind.authority, kind.profile, body)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.making, kind)
	if err != nil {
		return 0, fmt.Errorf("writing a frame for authority %d, profile %s: %w", kind.authority, kind.profile, err)
	}
	f.byKind[kind] = kindFrames{made[0], f.byKind[kind].count + 1}
	return made[0], nil
}
