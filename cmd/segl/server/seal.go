package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca/seal"
	sealapi "codeberg.org/dataverket/segl/ca/seal/api"
	sealstore "codeberg.org/dataverket/segl/ca/seal/store"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// Ledger says how the ledger is made provable, and how it is noticed that it has forgotten something.
type Ledger struct {
	// Origin names this ledger in its checkpoints: a URL without scheme, which need not lead anywhere. It cannot change once a
	// checkpoint was signed. Default <trust_domain>/ledger/<site>.
	Origin string `yaml:"origin"`
	// CheckpointFile keeps the newest checkpoint outside the database, written every other second. A database that turns out
	// older at start is fenced. Each replica has its own. Default: none.
	CheckpointFile string `yaml:"checkpoint_file"`
	// Witnesses cosign checkpoints (C2SP tlog-witness). One that holds a longer tree than ours fences issuance, so name only
	// those you trust to say so. Default: none.
	Witnesses []Witness `yaml:"witnesses"`
	// Quorum is how many of them must have cosigned a checkpoint before it is published. Default 0: it is published at once.
	Quorum int `yaml:"quorum"`
	// WitnessFor are the verifier keys (C2SP signed-note) of other ledgers, which this one cosigns at
	// /ledger/witness/add-checkpoint of the public listener. Default: none.
	WitnessFor []string `yaml:"witness_for"`
	// WitnessName names this witness. Default <trust_domain>/witness/<site>.
	WitnessName string `yaml:"witness_name"`
}

// A Witness is one that is asked.
type Witness struct {
	URL string `yaml:"url"` // what /add-checkpoint is put after
	Key string `yaml:"key"` // its verifier key: <name>+<key ID>+<base64>
}

func (l *Ledger) check(domain string, site int) error {
	orElse(&l.Origin, fmt.Sprintf("%s/ledger/%d", domain, site))
	orElse(&l.WitnessName, fmt.Sprintf("%s/witness/%d", domain, site))
	_, err := l.peers()
	switch {
	case err != nil:
		return err
	case l.Quorum < 0 || l.Quorum > len(l.Witnesses):
		return fmt.Errorf("ledger.quorum: %d: want 0 to %d, the number of witnesses", l.Quorum, len(l.Witnesses))
	}
	return nil
}

func (l *Ledger) peers() ([]seal.Peer, error) {
	var out []seal.Peer
	for i, w := range l.Witnesses {
		key, err := seal.ParseCosigner(w.Key)
		if err != nil {
			return nil, fmt.Errorf("ledger.witnesses[%d]: %w", i, err)
		}
		u := strings.TrimRight(w.URL, "/")
		if !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
			return nil, fmt.Errorf("ledger.witnesses[%d]: url %q: want http:// or https://", i, w.URL)
		}
		out = append(out, seal.Peer{URL: u, Key: key})
	}
	return out, nil
}

// sealing is what makes the ledger provable.
type sealing struct {
	store   *sealstore.Store
	log     seal.Log
	sealer  *seal.Sealer
	prover  *seal.Prover
	asker   *seal.Asker   // nil: no witnesses
	witness *seal.Witness // nil: of nobody

	mu   sync.Mutex // guards file, and kept: what is in it
	file string
	kept string
}

// arrive looks whether the database is where it was, before anything is written to it, and whether it is fenced.
func (s *Server) arrive(ctx context.Context) error {
	store := sealstore.New(s.db)
	arrived, err := store.Arrive(ctx, s.now(), unlogged...)
	if err != nil {
		return err
	}
	if arrived {
		s.log.Warn("the database was restored into another cluster")
	}
	return s.readFence(ctx, store)
}

func (s *Server) readFence(ctx context.Context, store *sealstore.Store) error {
	why, err := store.Fence(ctx)
	if err != nil {
		return fmt.Errorf("reading the fence: %w", err)
	}
	if was := s.fence.Fenced(); (was != nil) != (why != "") {
		if why != "" {
			s.log.Error("issuing is fenced", "err", why, "remedy", seal.Remedy)
		} else {
			s.log.Info("issuing is no longer fenced")
		}
	}
	s.fence.Set(why)
	return nil
}

// openSeal readies sealing, and asks what others remember of the ledger before anything is issued from it.
func (s *Server) openSeal(ctx context.Context) error {
	key, err := s.ledgerKey(ctx, fmt.Sprintf("ledger-%d", s.cfg.Site))
	if err != nil {
		return fmt.Errorf("preparing the ledger's key: %w", err)
	}
	p := &sealing{store: sealstore.New(s.db), file: s.cfg.Ledger.CheckpointFile}
	if p.log, err = seal.NewLog(s.cfg.Ledger.Origin, key); err != nil {
		return err
	}
	if err := p.store.Claim(ctx, p.log); err != nil {
		return err
	}
	p.sealer = &seal.Sealer{Store: p.store, Log: p.log, Now: s.now}
	p.prover = &seal.Prover{Store: p.store, Log: p.log, Quorum: s.cfg.Ledger.Quorum, Living: s.scopes.Living}
	s.seals = p
	if err := s.openWitnesses(ctx); err != nil {
		return err
	}
	if err := s.compareKept(ctx); err != nil {
		return err
	}
	s.duties = append(s.duties, duty.Duty{Name: seal.Duty, Every: sealEvery, Once: func(ctx context.Context, term int64) error {
		if s.fence.Fenced() != nil {
			return nil //nolint:nilerr // what is sealed now would fork the tree that others remember
		}
		err := p.sealer.RunOnce(ctx, term)
		if errors.Is(err, seal.ErrMoved) {
			return nil // another replica's turn, or the era has changed
		}
		return err
	}})
	s.measureSeal()
	return s.readFence(ctx, p.store)
}

// sealEvery is how long a fact waits for its seal, and half as long on average.
const sealEvery = 500 * time.Millisecond

// ledgerKey is an Ed25519 key, which witnesses know. A provider that has none leaves it to the database.
func (s *Server) ledgerKey(ctx context.Context, name string) (kms.Key, error) {
	key, err := kms.Ensure(ctx, s.keyring, name, kms.Ed25519)
	if !errors.Is(err, kms.ErrUnsupported) {
		return key, err
	}
	pass, err := softkms.ReadPassphrase(s.cfg.PassphraseFile)
	if err != nil {
		return nil, err
	}
	ring, err := softkms.Open(ctx, softkms.Config{DB: s.db, Passphrase: pass, Now: s.now})
	if err != nil {
		return nil, err
	}
	return kms.Ensure(ctx, ring, name, kms.Ed25519)
}

func (s *Server) openWitnesses(ctx context.Context) error {
	p, c := s.seals, s.cfg.Ledger
	if len(c.WitnessFor) > 0 {
		key, err := s.ledgerKey(ctx, fmt.Sprintf("witness-%d", s.cfg.Site))
		if err != nil {
			return fmt.Errorf("preparing the witness's key: %w", err)
		}
		if p.witness, err = seal.NewWitness(c.WitnessName, key, c.WitnessFor, p.store, s.now); err != nil {
			return fmt.Errorf("ledger.witness_for: %w", err)
		}
	}
	peers, err := c.peers()
	if err != nil || len(peers) == 0 {
		return err
	}
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segl_witness_answers_total", Help: "Answers of witnesses, by whether they cosigned."}, []string{"witness", "outcome"})
	s.registry.MustRegister(answers)
	p.asker = &seal.Asker{
		Store: p.store, Log: p.log, Peers: peers, Quorum: c.Quorum, HTTP: &http.Client{Timeout: witnessTimeout}, Now: s.now,
		Heard: func(witness string, err error) {
			outcome := "cosigned"
			if err != nil {
				outcome = "failed"
				s.log.Warn("witness did not cosign", "witness", witness, "err", err)
			}
			answers.WithLabelValues(witness, outcome).Inc()
		},
		Forgot: func(ctx context.Context, why string) error {
			return errors.Join(p.store.Raise(ctx, why, s.now()), s.readFence(ctx, p.store))
		},
	}
	// A site that is cut off issues nevertheless: only what a witness does say counts.
	if err := p.asker.RunOnce(ctx); err != nil && s.fence.Fenced() == nil {
		s.log.Warn("witnesses not heard at start", "err", err)
	}
	s.duties = append(s.duties, duty.Duty{Name: "witnesses", Every: time.Second, Once: func(ctx context.Context, _ int64) error {
		if s.fence.Fenced() != nil {
			return nil //nolint:nilerr // while fenced there is nothing new to have signed
		}
		return p.asker.RunOnce(ctx)
	}})
	return nil
}

const witnessTimeout = 10 * time.Second

// compareKept fences if the checkpoint in the file is not of this tree's past.
func (s *Server) compareKept(ctx context.Context) error {
	p := s.seals
	if p.file == "" {
		return nil
	}
	b, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading ledger.checkpoint_file: %w", err)
	}
	why, err := seal.Forgot(ctx, p.store, p.log, string(b))
	if err != nil {
		return fmt.Errorf("comparing the ledger with ledger.checkpoint_file %s: %w", p.file, err)
	}
	p.kept = string(b)
	if why == "" {
		return nil
	}
	return p.store.Raise(ctx, why, s.now())
}

// keep writes the newest checkpoint to its file, never behind a fence: what the file has is the evidence. Nor over one that the
// tree does not extend: the database has gone back under a living server, and that raises the fence.
func (s *Server) keep(ctx context.Context) error {
	p := s.seals
	if p.file == "" || s.fence.Fenced() != nil {
		return nil
	}
	head, err := p.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if head.Checkpoint == p.kept || head.Checkpoint == "" {
		return nil
	}
	if p.kept != "" {
		why, err := seal.Forgot(ctx, p.store, p.log, p.kept)
		if err != nil {
			return fmt.Errorf("comparing the ledger with the checkpoint that was kept: %w", err)
		}
		if why != "" {
			return errors.Join(p.store.Raise(ctx, why, s.now()), s.readFence(ctx, p.store))
		}
	}
	temporary := filepath.Join(filepath.Dir(p.file), "."+filepath.Base(p.file)+".new")
	if err := os.WriteFile(temporary, []byte(head.Checkpoint), 0o600); err != nil {
		return fmt.Errorf("writing ledger.checkpoint_file: %w", err)
	}
	if err := os.Rename(temporary, p.file); err != nil {
		return fmt.Errorf("writing ledger.checkpoint_file: %w", err)
	}
	p.kept = head.Checkpoint
	return nil
}

// watchFence has this replica know of the fence, and its file of the tree, until ctx ends.
func (s *Server) watchFence(ctx context.Context) {
	tick := time.NewTicker(fenceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := errors.Join(s.readFence(ctx, s.seals.store), s.keep(ctx)); err != nil && ctx.Err() == nil {
			s.log.Error("fence not read, or checkpoint not kept", "err", err)
		}
	}
}

// fenceEvery is how long a fence that another replica raised may go unnoticed when its notice was missed.
const fenceEvery = 2 * time.Second

func (s *Server) measureSeal() {
	gauge := func(name, help string, value func(context.Context) float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
			defer cancel()
			return value(ctx)
		}))
	}
	gauge("segl_seal_tree_size", "Facts in the ledger's tree.", func(ctx context.Context) float64 {
		head, err := s.seals.store.Head(ctx)
		if err != nil {
			return 0
		}
		return float64(head.Size)
	})
	gauge("segl_seal_lag_seconds", "Age of the oldest finished fact that is not in the tree; 0 when all are.", func(ctx context.Context) float64 {
		lag, err := s.seals.sealer.LagOf(ctx)
		if err != nil || lag.Oldest.IsZero() {
			return 0
		}
		return s.now().Sub(lag.Oldest).Seconds()
	})
	gauge("segl_ledger_fenced", "1 while nothing is issued because the ledger may have forgotten something.", func(context.Context) float64 {
		if s.fence.Fenced() != nil {
			return 1
		}
		return 0
	})
}

func (s *Server) sealDoor() sealapi.Config {
	return sealapi.Config{Prover: s.seals.prover, Witness: s.seals.witness, Below: below()}
}

// A GapOptions says which gap is accepted, and that it was read what this means.
type GapOptions struct {
	Evidence []byte // certificates and serials that were kept elsewhere
	Confirm  string // what the plan asked for; empty: plan only
}

// AcceptGap returns what accepting the gap of a fenced ledger does and, once confirmed, does it. It works on the database alone: a
// fenced server need not run.
func AcceptGap(ctx context.Context, cfg Config, o GapOptions) (g seal.Gap, done bool, err error) {
	s, err := openAlone(ctx, cfg)
	if err != nil {
		return g, false, err
	}
	defer s.Close()
	store := sealstore.New(s.db)
	if g, err = store.Gap(ctx, byte(cfg.Site), s.now()); err != nil { //nolint:gosec // checked
		return g, false, err
	}
	authorities, err := store.Authorities(ctx)
	if err != nil {
		return g, false, fmt.Errorf("reading authorities: %w", err)
	}
	evidence, err := seal.ParseEvidence(o.Evidence, authorities)
	if err != nil {
		return g, false, fmt.Errorf("reading the evidence: %w", err)
	}
	if g.Lost, g.Undone, err = store.Compare(ctx, evidence); err != nil {
		return g, false, fmt.Errorf("comparing the evidence with the ledger: %w", err)
	}
	if o.Confirm != g.Confirmation() {
		return g, false, nil
	}
	if err := s.gapAgreed(ctx, g); err != nil {
		return g, false, err
	}
	return g, true, store.Accept(ctx, g, identity.System("accept-gap"), s.now())
}

// openAlone opens the database and nothing else.
func openAlone(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("checking configuration: %w", err)
	}
	s := &Server{cfg: cfg, log: slog.New(slog.DiscardHandler), now: cfg.now(), registry: prometheus.NewRegistry()}
	if err := s.openDatabase(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
