// Package server wires one running segl: from a configuration to four listeners and the duties behind them.
//
// It decides nothing itself. Open reads top to bottom in the order things depend on each other, Run serves until its
// context ends, and Close lets go in reverse. Dev does the same around a private Postgres, with a demo tenant.
package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Config is the whole configuration of `segl serve`, as YAML. An unknown key is an error. Nothing here is a secret:
// secrets are named by file. Changes need a restart.
type Config struct {
	// Site is this site's number, 1 to 255. No two sites may share one: it is in every serial.
	Site int `yaml:"site"`
	// TrustDomain is the first part of every SPIFFE ID issued here, such as dataverket.example.
	TrustDomain string `yaml:"trust_domain"`

	Database Database `yaml:"database"`
	// PassphraseFile holds the passphrase that opens the keys. A systemd credential is one such file; it may not be
	// readable by others.
	PassphraseFile string `yaml:"passphrase_file"`
	// Keys says where new signing keys are made. Default: sealed in the database.
	Keys Keys `yaml:"keys"`
	// DualControl says what a second operator has to confirm. Default: nothing.
	DualControl DualControl `yaml:"dual_control"`

	// Listen says where each listener accepts connections, as host:port. Port 0 picks a free one.
	Listen Listen `yaml:"listen"`
	// URLs are the base URLs handed out, as clients reach the listeners; default: the listeners' own addresses. The
	// public one stands in every certificate and must not change while any is valid.
	URLs URLs `yaml:"urls"`

	// BreakGlass names the platform's emergency CAs by fingerprints. Segl refuses to start, to load a key, to import, to
	// cross-sign or to publish what equals, chains to or shares a key with one, and needs nothing else of them. Default: none.
	BreakGlass []breakglass.Entry `yaml:"break_glass"`

	// Authorities says how long authorities sign, and what they claim. Default: for as long as they are valid, and nothing.
	Authorities Authorities `yaml:"authorities"`
	// Lists says which revocation lists are published.
	Lists Lists `yaml:"lists"`
	OCSP  OCSP  `yaml:"ocsp"`
	Check Check `yaml:"check"`

	Ledger Ledger `yaml:"ledger"`

	Epochs Epochs `yaml:"epochs"`

	ACME ACME `yaml:"acme"`
	// Leases says how logins at databases are made.
	Leases Leases `yaml:"leases"`
	// Tokens says how access tokens are made.
	Tokens Tokens `yaml:"tokens"`

	// Enrolment says what enrolment methods may ask, beside issuers on the Internet.
	Enrolment Enrolment `yaml:"enrolment"`
	// OIDC are the providers whose access tokens are taken. Default: none; who has no certificate is nobody.
	OIDC []OIDC `yaml:"oidc"`
	// Limits changes how often things may be done where no scope has a rate of its own: a limit's name, as `segl limit list`
	// prints it, and a rate such as 100/1h (100 at once and 100 an hour) or unlimited. Every replica needs the same. Default:
	// generous rates.
	Limits map[limit.Name]limit.Rate `yaml:"limits"`
	// Drain is how long requests under way may take after SIGTERM. Default 30s.
	Drain time.Duration `yaml:"drain"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `yaml:"log_level"`

	// clock is added to the machine's; only segl dev sets it.
	clock time.Duration
	// loopback lets ACME validation reach loopback addresses; only segl dev sets it.
	loopback bool
	// names are further host names of the listeners' own certificate; only segl dev sets them.
	names []string
}

// Database says where the ledger is.
type Database struct {
	// URL is a postgres:// URL or a libpq keyword string; several hosts are tried for the one that takes writes. Leave the
	// password out and use a passfile or a client certificate, or use URLFile.
	URL string `yaml:"url"`
	// URLFile is a file that holds the URL, in place of URL.
	URLFile string `yaml:"url_file"`
	// MaxConns bounds the pool. Default: four a core, at least ten.
	MaxConns int32 `yaml:"max_conns"`
	// AllowUnsafe names the durability checks to let pass, such as fsync. Default none.
	AllowUnsafe []string `yaml:"allow_unsafe"`
}

// Keys says who keeps private keys.
type Keys struct {
	// Provider is the URI of a key manager, such as
	// pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=segl;max-sessions=16?pin-source=/run/credentials/segl.service/pin.
	// Keys made before stay where they are. Its PIN stands in a file. pkcs11 needs bin/segl-pkcs11; awskms, azurekms, cloudkms
	// and tpmkms a build with that tag. Default: none.
	Provider string `yaml:"provider"`
	// Workers is how many signatures a key of the provider makes at once. Default 8.
	Workers int `yaml:"workers"`
	// Queue is how many more may wait for it; the rest are answered 503 at once. Default 64 a worker.
	Queue int `yaml:"queue"`
	// Deadline bounds a signature; a key that misses it is left alone for a while. Default 5s.
	Deadline time.Duration `yaml:"deadline"`
}

// Listen has an address per listener.
type Listen struct {
	Service  string `yaml:"service"`  // tenants: REST, ACME. Default :8443
	Operator string `yaml:"operator"` // platform: REST. Default :9443
	Public   string `yaml:"public"`   // plain HTTP: CRL, OCSP, issuers, bundle. Default :8080
	Private  string `yaml:"private"`  // plain HTTP: health, metrics, profiles; loopback only. Default 127.0.0.1:9090
}

// URLs has a base URL per listener that others are sent to.
type URLs struct {
	Service  string `yaml:"service"`
	Operator string `yaml:"operator"`
	Public   string `yaml:"public"`
}

// Lists says which revocation lists are published beside those of each epoch.
type Lists struct {
	// WithoutWhole names authorities that publish no list of all their epochs (/crl/<authority>/0.crl). /crls.pem then has the
	// lists of their epochs, which OpenSSL and what is built on it can use and GnuTLS cannot (docs/relying-parties.md). For
	// authorities that may come to revoke hundreds of thousands. Default: none.
	WithoutWhole []string `yaml:"without_whole"`
}

// Check says where what is published is compared with the ledger, beside urls.public.
type Check struct {
	// Endpoints are base URLs that tell of this ledger: of other sites, replicas, proxies, as relying parties reach them.
	// Default: none.
	Endpoints []string `yaml:"endpoints"`
}

// OCSP says how the status of certificates is answered.
type OCSP struct {
	// ByName makes answers name their responder by its subject in place of its key: for clients that cannot do otherwise.
	// Default false.
	ByName bool `yaml:"by_name"`
}

// ACME says how control over names is validated.
type ACME struct {
	HTTPPort int    `yaml:"http_port"` // where http-01 connects. Default 80; only tests change it
	TLSPort  int    `yaml:"tls_port"`  // where tls-alpn-01 connects. Default 443; only tests change it
	Resolver string `yaml:"resolver"`  // DNS server that validation asks, host:port. Default: the system's
	// Allowed are the only address ranges that validation may reach. Default: all. Link-local addresses, cloud metadata,
	// loopback and our own listeners are out of reach, whatever is allowed.
	Allowed []netip.Prefix `yaml:"allowed"`
	// Terms is the URL of the terms of service that accounts must agree to. When it changes, accounts order nothing until
	// they have agreed again (RFC 8555 §7.3.3). Default: there are none.
	Terms string `yaml:"terms"`
	// Denied are ranges that validation may not reach, whatever is allowed. Default: none more.
	Denied []netip.Prefix `yaml:"denied"`
	// Scopes narrow this for a scope and all below it, by the scope's name, such as acme/shop/prod. Every replica needs the
	// same. Default: none.
	Scopes map[string]ACMEScope `yaml:"scopes"`
	// CAA says whether owners of names are asked to permit issuing (RFC 8659). Default: they are not.
	CAA CAA `yaml:"caa"`
	// Retries is how long after each failed try a validation that may succeed later is tried again; an empty list means
	// one try. Default: [2s, 5s, 20s].
	Retries []time.Duration `yaml:"retries"`
	// Drafts switches on challenge types that no RFC has yet, each with the version of the draft that clients are to speak:
	// dns-account-01: draft-ietf-acme-dns-account-label-02, dns-persist-01: draft-ietf-acme-dns-persist-01,
	// device-attest-01: draft-ietf-acme-device-attest-09. Another version than this program's is an error. Default: none.
	Drafts map[string]string `yaml:"drafts"`
	// Perspectives are places elsewhere that must see what we see. Default: none.
	Perspectives Perspectives `yaml:"perspectives"`
	// Attestation says whose statements about devices count. Required with device-attest-01. Default: nobody's.
	Attestation Attestation `yaml:"attestation"`
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

// check fills in the defaults and refuses what cannot work, saying which key and what it wants.
func (c *Config) check() error {
	orElse(&c.Listen.Service, ":8443")
	orElse(&c.Listen.Operator, ":9443")
	orElse(&c.Listen.Public, ":8080")
	orElse(&c.Listen.Private, "127.0.0.1:9090")
	orElse(&c.LogLevel, "info")
	orElse(&c.ACME.HTTPPort, 80)
	orElse(&c.ACME.TLSPort, 443)
	orElse(&c.Drain, 30*time.Second)
	if _, err := identity.NewID(c.TrustDomain, identity.Platform, "check"); err != nil {
		return fmt.Errorf("trust_domain: %w", err)
	}
	if err := c.DualControl.rule().Check(); err != nil {
		return fmt.Errorf("dual_control: %w", err)
	}
	if _, err := postgres.ParseUnsafe(c.Database.AllowUnsafe); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	switch {
	case c.Site < 1 || c.Site > 255:
		return fmt.Errorf("site: %d: want 1 to 255, another number for each site", c.Site)
	case (c.Database.URL == "") == (c.Database.URLFile == ""):
		return errors.New("database: want either url or url_file")
	case c.PassphraseFile == "":
		return errors.New("passphrase_file: want the file whose passphrase opens the keys")
	}
	for i := range c.Check.Endpoints {
		if err := checkURL("check.endpoints", &c.Check.Endpoints[i]); err != nil {
			return err
		}
	}
	for key, u := range map[string]*string{"urls.service": &c.URLs.Service, "urls.operator": &c.URLs.Operator, "urls.public": &c.URLs.Public} {
		if err := checkURL(key, u); err != nil {
			return err
		}
	}
	for key, port := range map[string]int{"acme.http_port": c.ACME.HTTPPort, "acme.tls_port": c.ACME.TLSPort} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%s: %d: want a port, 1 to 65535", key, port)
		}
	}
	if _, err := breakglass.Parse(c.BreakGlass); err != nil {
		return fmt.Errorf("break_glass: %w", err)
	}
	if err := c.ACME.check(); err != nil {
		return err
	}
	if err := c.Authorities.check(); err != nil {
		return err
	}
	if err := c.Epochs.check(); err != nil {
		return err
	}
	if err := c.checkOffers(); err != nil {
		return err
	}
	if err := c.Ledger.check(c.TrustDomain, c.Site); err != nil {
		return err
	}
	_, err := c.level()
	return err
}

func orElse[T comparable](v *T, other T) {
	var zero T
	if *v == zero {
		*v = other
	}
}

func checkURL(key string, s *string) error {
	if *s == "" {
		return nil
	}
	*s = strings.TrimRight(*s, "/")
	u, err := url.Parse(*s)
	want := "https"
	if strings.Contains(key, "public") {
		want = "http" // RFC 5280 §8: a list fetched over https may need the very list to be fetched
	}
	if err != nil || u.Scheme != want || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%s: %q: want %s://host[:port][/path]", key, *s, want)
	}
	return nil
}

func (c *Config) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return l, fmt.Errorf("log_level: %q: want debug, info, warn or error", c.LogLevel)
	}
	return l, nil
}

// databaseURL returns the URL, from its file if that is where it is.
func (c *Config) databaseURL() (string, error) {
	if c.Database.URLFile == "" {
		return c.Database.URL, nil
	}
	b, err := os.ReadFile(c.Database.URLFile)
	if err != nil {
		return "", fmt.Errorf("reading database.url_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// DatabaseURL returns where the ledger is, for commands that need no server.
func (c *Config) DatabaseURL() (string, error) { return c.databaseURL() }

// now returns the process's one clock.
func (c *Config) now() func() time.Time {
	if c.clock == 0 {
		return time.Now
	}
	return func() time.Time { return time.Now().Add(c.clock) }
}
