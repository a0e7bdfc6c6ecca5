// Package agent keeps what a workload needs to be known by in step with a segl: its certificates and keys, the roots and the
// revocation lists; and tells programs when one has changed.
//
// A certificate is renewed at two thirds of its life, spread by its serial, or when the server's renewal information says so
// (RFC 9773). One that expired, was revoked or is lost is got anew by proving who we are: by a one-time token, or by a token that
// somebody keeps in a file, such as the kubelet. The agent goes on trying for as long as it runs, slower each time, never slower than every few minutes.
//
// The invariants: a file is there whole or as it was, whenever the agent is killed; a key is on disk before a certificate is
// asked for it, so that a lost answer is asked for again with the same key; a hook that was not run before a kill is run
// after it. Keys are made here and never leave. What the agent says of itself is on loopback alone.
//
// Certificates of /v1 are kept by this package itself: certmagic, which serves its ACME certificates, knows names and no
// identities, has no renewal that shows the old certificate, and makes another key where an answer was lost.
package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A Config is the agent's configuration, as YAML. An unknown key is an error. Nothing in it is a secret: secrets are named by
// file. Changes need a restart.
type Config struct {
	// Server is the URL of the service listener.
	Server string `yaml:"server"`
	// Root has the roots, PEM, that the server is trusted by. With trust.bundle in the same file they are kept up to date.
	Root string `yaml:"root"`
	// Public is the URL of the public listener, where revocation lists are fetched. Default: none are.
	Public string `yaml:"public"`
	// State is a directory for what ACME needs to remember. Default: beside the first certificate's key.
	State string `yaml:"state"`
	// Listen is where /status, /healthz and /metrics are answered, on loopback. Default: nowhere.
	Listen string `yaml:"listen"`
	// Certificates are those to be kept.
	Certificates []Certificate `yaml:"certificates"`
	Trust        Trust         `yaml:"trust"`
}

// Certificate is one to be kept.
type Certificate struct {
	// Name is what the agent calls it, in logs, status and metrics.
	Name string `yaml:"name"`
	// Chain and Key are where it is kept, PEM: the certificate with those above it, and the key, mode 0600.
	Chain string `yaml:"chain"`
	Key   string `yaml:"key"`
	// Combined is a further file, mode 0600, with key and chain: of one renewal whenever it is read. Default: none.
	Combined string `yaml:"combined"`
	// Proof is how the agent proves who it is. Default: it does not; the certificate must be there, and is renewed.
	Proof Proof `yaml:"proof"`
	// Names are host names to have besides, of those that the proof allows.
	Names []string `yaml:"names"`
	// KeyType is p256, p384, ed25519, rsa2048, rsa3072 or rsa4096. Default p256.
	KeyType string `yaml:"key_type"`
	// ACME gets it by ACME in place of a proof. Default: it is an identity.
	ACME *ACME `yaml:"acme"`
	// Hooks are run in turn whenever it has changed.
	Hooks []Hook `yaml:"hooks"`
}

// Proof is what a certificate is got with at first, and again when it was lost.
type Proof struct {
	// Method is the SCOPE:NAME of an enrolment method. Default: the token is a one-time one of segl enroll token.
	Method string `yaml:"method"`
	// File holds the token; it is read each time. The kubelet's are /var/run/secrets/tokens/….
	File string `yaml:"file"`
	// Command prints the token, in place of File.
	Command []string `yaml:"command"`
}

// ACME is how a certificate is got by ACME.
type ACME struct {
	// Directory is the URL of the scope's directory.
	Directory string `yaml:"directory"`
	// Name is the one that it is for.
	Name string `yaml:"name"`
	// KeyID and KeyFile are of an external account key; the file holds the key as segl acme eab create prints it.
	KeyID   string `yaml:"eab_kid"`
	KeyFile string `yaml:"eab_key_file"`
	// HTTPPort and TLSPort are where challenges are answered. Default 80 and 443.
	HTTPPort int `yaml:"http_port"`
	TLSPort  int `yaml:"tls_port"`
}

// Trust says what relying parties' files are kept.
type Trust struct {
	// Bundle is a file of the roots, PEM. They are taken from the server, over TLS that the present roots vouch for.
	Bundle string `yaml:"bundle"`
	// CRLs is a file of all revocation lists, PEM.
	CRLs string `yaml:"crls"`
	// Every is how often both are fetched. Default 5m.
	Every time.Duration `yaml:"every"`
	// Hooks are run in turn whenever one has changed.
	Hooks []Hook `yaml:"hooks"`
}

// Hook is one thing to do after a change: exactly one of its keys.
type Hook struct {
	// Command is run without a shell, within 30s, with SEGL_NAME, SEGL_CHAIN and SEGL_KEY in its environment.
	Command []string `yaml:"command"`
	// PIDFile names the process that gets Signal: HUP (default), USR1, USR2, INT or TERM.
	PIDFile string `yaml:"pid_file"`
	Signal  string `yaml:"signal"`
	// Systemd is a unit that is reloaded, or restarted if it cannot be.
	Systemd string `yaml:"systemd"`

	// Call is for parts of this program. It is not configured.
	Call func() error `yaml:"-"`
}

const maxConfig = 1 << 20

// Load reads and checks a configuration file.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration: %w", err)
	}
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("checking configuration %s: %w", path, err)
	}
	return c, nil
}

const defaultEvery = 5 * time.Minute

// check fills in defaults and refuses what cannot work.
func (c *Config) check() error {
	if c.Trust.Every == 0 {
		c.Trust.Every = defaultEvery
	}
	switch {
	case !strings.HasPrefix(c.Server, "https://"):
		return errors.New("server: want the URL of the service listener, https://host:port")
	case c.Root == "":
		return errors.New("root: want the file of the roots that the server is trusted by")
	case c.Trust.CRLs != "" && c.Public == "":
		return errors.New("trust.crls: want public too, the URL where lists are fetched")
	case c.Trust.Every < time.Second:
		return errors.New("trust.every: want at least a second")
	}
	if host, _, err := net.SplitHostPort(c.Listen); c.Listen != "" && (err != nil || !net.ParseIP(host).IsLoopback()) {
		return fmt.Errorf("listen: %q: want a loopback address with a port, such as 127.0.0.1:9091", c.Listen)
	}
	paths := map[string]string{}
	names := map[string]bool{}
	for i := range c.Certificates {
		if err := c.Certificates[i].check(names, paths); err != nil {
			return fmt.Errorf("certificates[%d]: %w", i, err)
		}
	}
	for _, p := range []string{c.Trust.Bundle, c.Trust.CRLs} {
		if p != "" && paths[p] != "" {
			return fmt.Errorf("trust: %s is %s already", p, paths[p])
		}
	}
	if c.State == "" && len(c.Certificates) > 0 {
		c.State = filepath.Join(filepath.Dir(c.Certificates[0].Key), ".segl-agent")
	}
	return checkHooks(c.Trust.Hooks)
}

func (c *Certificate) check(names map[string]bool, paths map[string]string) error {
	p := c.Proof
	switch {
	case c.Name == "" || names[c.Name]:
		return fmt.Errorf("name: %q: want one of its own", c.Name)
	case c.Chain == "" || c.Key == "":
		return errors.New("want chain and key, the files where it is kept")
	case p.File != "" && len(p.Command) > 0:
		return errors.New("proof: want either file or command")
	case p.Method != "" && p.File == "" && len(p.Command) == 0:
		return errors.New("proof: want a file or a command that has the token")
	case c.ACME != nil && (c.ACME.Directory == "" || c.ACME.Name == "" || p.File != "" || len(p.Command) > 0 || len(c.Names) > 0):
		return errors.New("acme: want directory and name, and no proof or names beside it")
	}
	var kind keypair.Type
	if c.KeyType != "" && kind.Set(c.KeyType) != nil {
		return fmt.Errorf("key_type: %q: want one of %s", c.KeyType, strings.Join(keypair.Types, ", "))
	}
	for _, n := range c.Names {
		if _, err := parseHost(n); err != nil {
			return fmt.Errorf("names: %w", err)
		}
	}
	names[c.Name] = true
	for what, path := range map[string]string{"chain": c.Chain, "key": c.Key, "combined": c.Combined} {
		if path == "" {
			continue
		}
		if paths[path] != "" {
			return fmt.Errorf("%s: %s is %s already", what, path, paths[path])
		}
		paths[path] = what + " of " + c.Name
	}
	return checkHooks(c.Hooks)
}

// parseHost reads a host name or an address, as people write them.
func parseHost(s string) (cert.Name, error) {
	if net.ParseIP(s) != nil {
		return cert.ParseName("ip:" + s)
	}
	return cert.ParseName("dns:" + s)
}

var signals = map[string]syscall.Signal{"": syscall.SIGHUP, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM}

// ParseSignal reads a signal's name; nothing is HUP.
func ParseSignal(s string) (syscall.Signal, error) {
	sig, ok := signals[s]
	if !ok {
		return 0, fmt.Errorf("signal %q: want HUP, USR1, USR2, INT or TERM", s)
	}
	return sig, nil
}

func checkHooks(hooks []Hook) error {
	for i, h := range hooks {
		said := 0
		for _, there := range []bool{len(h.Command) > 0, h.PIDFile != "", h.Systemd != "", h.Call != nil} {
			if there {
				said++
			}
		}
		if said != 1 || h.Signal != "" && h.PIDFile == "" {
			return fmt.Errorf("hooks[%d]: want one of command, pid_file (with signal) and systemd", i)
		}
		if _, err := ParseSignal(h.Signal); err != nil {
			return fmt.Errorf("hooks[%d]: %w", i, err)
		}
		if strings.HasPrefix(h.Systemd, "-") {
			return fmt.Errorf("hooks[%d]: systemd: %q is no unit", i, h.Systemd)
		}
	}
	return nil
}
