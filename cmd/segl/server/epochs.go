package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Epochs says how long the ledger keeps what. A week leaves as a whole, once everything in it is past its time: it is written
// to a file, and then dropped.
type Epochs struct {
	// Archive is the directory that weeks are archived to; whichever replica's turn it is writes there, so give all the same.
	// Default: none, and nothing ever leaves the database.
	Archive string `yaml:"archive"`
	// Keep is how long certificates are kept after they have expired. Default 8760h, a year.
	Keep time.Duration `yaml:"keep"`
	// KeepProfiles is Keep for certificates of a profile, by its name. Default: none differs.
	KeepProfiles map[string]time.Duration `yaml:"keep_profiles"`
	// KeepFacts is how long facts, and requests of every kind, are kept after their week. Default 8760h.
	KeepFacts time.Duration `yaml:"keep_facts"`
}

// aYear is how long things are kept unless somebody says otherwise.
const aYear = 365 * 24 * time.Hour

func (e Epochs) retention() ledger.Retention {
	orElse(&e.Keep, aYear)
	orElse(&e.KeepFacts, aYear)
	return ledger.Retention{Certificates: e.Keep, Profiles: e.KeepProfiles, Facts: e.KeepFacts}
}

func (e Epochs) check() error {
	for name, d := range e.KeepProfiles {
		if err := ca.CheckProfileName(name); err != nil {
			return fmt.Errorf("epochs.keep_profiles: %w", err)
		}
		if d < 0 {
			return fmt.Errorf("epochs.keep_profiles: %s: %s: want no less than 0", name, d)
		}
	}
	switch {
	case e.Keep < 0:
		return fmt.Errorf("epochs.keep: %s: want a time above 0", e.Keep)
	case e.KeepFacts < 0:
		return fmt.Errorf("epochs.keep_facts: %s: want a time above 0", e.KeepFacts)
	case e.Archive != "" && !filepath.IsAbs(e.Archive):
		return fmt.Errorf("epochs.archive: %q: want a directory from the root on", e.Archive)
	}
	return nil
}

// fewEpochs is fewer weeks ahead than there should be: the epochs duty makes four, once an hour, so it has failed for weeks.
const fewEpochs = 2

// probeEpochs warns while there is time.
func (s *Server) probeEpochs(ctx context.Context) error {
	ahead, err := s.ledger.EpochsAhead(ctx, s.now())
	if err != nil {
		return errors.New("the database does not answer")
	}
	if ahead < fewEpochs {
		return fmt.Errorf("partitions for %d weeks ahead, want %d or more: see the log of the epochs duty", ahead, fewEpochs)
	}
	return nil
}

func (s *Server) epochsAhead() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
	defer cancel()
	ahead, err := s.ledger.EpochsAhead(ctx, s.now())
	if err != nil {
		return -1
	}
	return float64(ahead)
}

// probeWithin is how long reading metrics may wait for the database.
const probeWithin = 2 * time.Second

// leave archives and drops the weeks of which everything is past its time.
func (s *Server) leave(ctx context.Context) error {
	if s.cfg.Epochs.Archive == "" {
		return nil
	}
	all, err := s.ledger.Epochs(ctx, s.cfg.Epochs.retention(), s.now())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range all {
		if e.State == ledger.Expired || e.State == ledger.Archived || e.State == ledger.Dropped {
			errs = append(errs, s.leaves(ctx, e))
		}
	}
	return errors.Join(errs...)
}

// leaves ends an epoch's stay, wherever a run before this one was cut off.
func (s *Server) leaves(ctx context.Context, e ledger.Epoch) error {
	if e.State != ledger.Expired {
		err := s.ledger.Drop(ctx, e.Epoch, s.now())
		if !errors.Is(err, ledger.ErrNotArchived) { // something was written after the file: it is made anew
			return err
		}
	}
	file, err := archiveEpoch(ctx, s.ledger, e.Epoch, s.cfg.Epochs.Archive, s.now())
	if err != nil {
		return err
	}
	if err := s.ledger.Drop(ctx, e.Epoch, s.now()); err != nil {
		return err
	}
	s.log.Info("epoch archived and dropped", "epoch", int(e.Epoch), "file", file)
	return nil
}

// archiveEpoch writes an epoch to a file in dir, and records it once it is durable there.
func archiveEpoch(ctx context.Context, l *ledger.Ledger, e uid.Epoch, dir string, now time.Time) (string, error) {
	path := filepath.Join(dir, fmt.Sprintf("segl-epoch-%d-%s.ndjson.gz", e, e.Start().Format(time.DateOnly)))
	f, err := os.CreateTemp(dir, ".segl-epoch-*")
	if err != nil {
		return "", fmt.Errorf("archiving epoch %d: %w", e, err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // once renamed it is not there
	w, err := l.Archive(ctx, e, now, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", fmt.Errorf("archiving epoch %d: %w", e, err)
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close()) // the name is durable too
	}
	if err != nil {
		return "", fmt.Errorf("archiving epoch %d: %w", e, err)
	}
	return path, l.Archived(ctx, e, path, w, now)
}

// A Keeper works on the epochs of a ledger, beside the server or without it.
type Keeper struct {
	ledger *ledger.Ledger
	db     *postgres.DB
	cfg    Config
}

// OpenKeeper opens the ledger that cfg names.
func OpenKeeper(ctx context.Context, cfg Config) (*Keeper, error) {
	url, err := cfg.databaseURL()
	if err != nil {
		return nil, err
	}
	const conns = 4
	db, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: conns})
	if err != nil {
		return nil, err
	}
	return &Keeper{ledger: ledger.New(db, byte(cfg.Site)), db: db, cfg: cfg}, nil //nolint:gosec // checked
}

// Close lets go of the database.
func (k *Keeper) Close() {
	k.ledger.Close()
	k.db.Close()
}

// Epochs lists all there are.
func (k *Keeper) Epochs(ctx context.Context) ([]ledger.Epoch, error) {
	return k.ledger.Epochs(ctx, k.cfg.Epochs.retention(), k.cfg.now()())
}

// Archive writes a closed epoch to a file in dir and returns its path. It drops nothing.
func (k *Keeper) Archive(ctx context.Context, e uid.Epoch, dir string) (string, error) {
	return archiveEpoch(ctx, k.ledger, e, dir, k.cfg.now()())
}

// Drop takes away an archived epoch.
func (k *Keeper) Drop(ctx context.Context, e uid.Epoch) error {
	return k.ledger.Drop(ctx, e, k.cfg.now()())
}

// Restore puts the epoch of a file back.
func (k *Keeper) Restore(ctx context.Context, file string) (ledger.Restoration, error) {
	f, err := os.Open(file)
	if err != nil {
		return ledger.Restoration{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	return k.ledger.Restore(ctx, f, k.cfg.now()())
}
