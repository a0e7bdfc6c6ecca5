package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/remote"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A ValidatorConfig is the whole configuration of `segl validator`, a perspective, as YAML. An unknown key is an error.
type ValidatorConfig struct {
	// Listen is where sites ask, as host:port, over mutual TLS. Default :8444.
	Listen string `yaml:"listen"`
	// Certificate and Key are PEM files: a workload certificate of the platform, with those above it. They are read for each
	// connection, so that `segl cert renew` can replace them at any time.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Roots is a PEM file with the roots that sites' certificates must lead to.
	Roots string `yaml:"roots"`
	// Sites are the SPIFFE IDs of those who may ask, identities of the platform.
	Sites []string `yaml:"sites"`
	// ACME says how validation reaches out from here: ports, resolver, ranges, scopes and CAA, as in `segl serve`. Give it the
	// asking sites' caa.identities: without them it finds no permission for anybody.
	ACME ACME `yaml:"acme"`
}

// Perspectives are the places elsewhere that must see what this site sees before a name is proved.
type Perspectives struct {
	// Quorum is how many of them must agree. One that does not answer has not agreed. Required with any.
	Quorum int `yaml:"quorum"`
	// Certificate and Key are PEM files: a workload certificate of the platform, shown to perspectives, read for each
	// connection. Roots is a PEM file with the roots that theirs must lead to.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	Roots       string `yaml:"roots"`
	// Places are the perspectives, by name. Default: none; this site decides alone.
	Places map[string]Place `yaml:"places"`
}

// A Place is one perspective.
type Place struct {
	URL      string `yaml:"url"`      // https://host:port
	Identity string `yaml:"identity"` // its SPIFFE ID, one of the platform
}

// LoadValidator reads and checks a configuration file of a perspective.
func LoadValidator(path string) (ValidatorConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return ValidatorConfig{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return ValidatorConfig{}, fmt.Errorf("reading configuration: %w", err)
	}
	var c ValidatorConfig
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return ValidatorConfig{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return ValidatorConfig{}, fmt.Errorf("checking configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *ValidatorConfig) check() error {
	orElse(&c.Listen, ":8444")
	orElse(&c.ACME.HTTPPort, 80)
	orElse(&c.ACME.TLSPort, 443)
	a := c.ACME
	switch {
	case c.Certificate == "" || c.Key == "" || c.Roots == "" || len(c.Sites) == 0:
		return errors.New("want certificate, key, roots and sites: who we are, and who may ask")
	case a.Retries != nil || a.Drafts != nil || a.Attestation != Attestation{} || len(a.Perspectives.Places) > 0:
		return errors.New("acme: retries, drafts, attestation and perspectives are the asking site's: leave them out")
	}
	_, err := a.rules()
	return err
}

func identities(list ...string) ([]identity.ID, error) {
	var out []identity.ID
	for _, s := range list {
		id, err := identity.ParseID(s)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// RunValidator answers sites' questions until ctx ends. ready is called with the address once it does.
func RunValidator(ctx context.Context, c ValidatorConfig, log *slog.Logger, ready func(net.Addr) error) error {
	return c.run(ctx, log, false, ready)
}

func (c ValidatorConfig) run(ctx context.Context, log *slog.Logger, loopback bool, ready func(net.Addr) error) error {
	sites, err := identities(c.Sites...)
	if err != nil {
		return fmt.Errorf("sites: %w", err)
	}
	tlsConfig, err := remote.Peer{Certificate: c.Certificate, Key: c.Key, Roots: c.Roots, Others: sites, Now: time.Now}.Server()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening at %s: %w", c.Listen, err)
	}
	v, err := c.ACME.validation(addressesOf(ln), loopback, time.Now)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := &http.Server{
		Handler: remote.Handler(c.prover(v)), TLSConfig: tlsConfig, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 40 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wait.Go(func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := srv.Shutdown(end); err != nil {
			log.Warn("questions left unanswered", "err", err)
		}
	})
	if err := ready(ln.Addr()); err != nil {
		return errors.Join(err, ln.Close())
	}
	if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering at %s: %w", c.Listen, err)
	}
	return nil
}

// prover returns what answers: v, unless it could not know whom records would have to name.
func (c ValidatorConfig) prover(v remote.Prover) remote.Prover {
	if len(c.ACME.CAA.Identities) > 0 {
		return v
	}
	return nameless{v}
}

// nameless is a prover that nobody's record can name: it must not be taken to have found a permission.
type nameless struct{ remote.Prover }

// Permit implements acme.Permission.
func (nameless) Permit(context.Context, acme.Check) *acme.Problem {
	return acme.NewProblem(acme.ServerInternal, "a perspective has no acme.caa.identities, by which owners would name us: it finds no permission")
}

// check refuses what cannot work.
func (p *Perspectives) check() error {
	if len(p.Places) == 0 {
		if p.Quorum != 0 {
			return errors.New("acme.perspectives.quorum: want places too")
		}
		return nil
	}
	if p.Certificate == "" || p.Key == "" || p.Roots == "" {
		return errors.New("acme.perspectives: want certificate, key and roots: who we are, and by whom the places are known")
	}
	if p.Quorum < 1 || p.Quorum > len(p.Places) {
		return fmt.Errorf("acme.perspectives.quorum: %d: want 1 to %d, the number of places", p.Quorum, len(p.Places))
	}
	for name, place := range p.Places {
		if _, err := identities(place.Identity); err != nil {
			return fmt.Errorf("acme.perspectives.places.%s: %w", name, err)
		}
	}
	return nil
}

// around returns here, or a quorum of it and all places.
func (p *Perspectives) around(here remote.Prover, now func() time.Time, observe func(string, remote.Outcome)) (remote.Prover, error) {
	if len(p.Places) == 0 {
		return here, nil
	}
	q := &remote.Quorum{Here: here, Need: p.Quorum, Observe: observe}
	for name, place := range p.Places {
		ids, err := identities(place.Identity)
		if err != nil {
			return nil, fmt.Errorf("perspective %s: %w", name, err)
		}
		cfg, err := remote.Peer{Certificate: p.Certificate, Key: p.Key, Roots: p.Roots, Others: ids, Now: now}.Client()
		if err != nil {
			return nil, fmt.Errorf("perspective %s: %w", name, err)
		}
		there, err := remote.NewPerspective(name, place.URL, cfg)
		if err != nil {
			return nil, err
		}
		q.There = append(q.There, there)
	}
	return q, q.Check()
}
