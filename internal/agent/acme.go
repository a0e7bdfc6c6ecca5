package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// lookEvery is how often what certmagic keeps is compared with the files.
const lookEvery = 10 * time.Second

// acmeTask keeps a certificate that is got by ACME. certmagic orders it, renews it by the server's renewal information (RFC 9773) or at
// two thirds of its life, and keeps it in its storage; what is there is put in its files.
func (a *Agent) acmeTask(c Certificate) Task {
	m := &magic{agent: a, keeper: keeper{agent: a, Certificate: c}}
	a.keepers = append(a.keepers, &m.keeper)
	return Task{Name: "certificate " + c.Name, Once: m.once}
}

// magic is one certificate of ACME.
type magic struct {
	agent  *Agent
	keeper keeper
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
}

// open readies certmagic and begins to manage the name; it goes on until ctx ends, in the background.
func (m *magic) open(ctx context.Context) error {
	c := m.keeper.ACME
	roots, err := m.agent.roots()
	if err != nil {
		return err
	}
	template := certmagic.ACMEIssuer{
		CA: c.Directory, Agreed: true, TrustedRoots: roots, AltHTTPPort: c.HTTPPort, AltTLSALPNPort: c.TLSPort, Logger: zap.NewNop(),
	}
	if c.KeyID != "" {
		key, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return fmt.Errorf("reading the external account key: %w", err)
		}
		template.ExternalAccount = &acme.EAB{KeyID: c.KeyID, MACKey: strings.TrimSpace(string(key))}
	}
	var config *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config, nil }, Logger: zap.NewNop(),
	})
	context.AfterFunc(ctx, cache.Stop)
	config = certmagic.New(cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: m.agent.cfg.State}, KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP: certmagic.OCSPConfig{DisableStapling: true}, Logger: zap.NewNop(),
	})
	m.issuer = certmagic.NewACMEIssuer(config, template)
	config.Issuers = []certmagic.Issuer{m.issuer}
	m.config = config
	return nil
}

func (m *magic) once(ctx context.Context) (time.Duration, error) {
	if m.config == nil {
		if err := m.open(ctx); err != nil {
			return 0, err
		}
	}
	// Managing a name that is managed is nothing; one that could not be had is tried again.
	if err := m.config.ManageSync(ctx, []string{m.keeper.ACME.Name}); err != nil {
		m.agent.state.got(m.keeper.Name, "failed")
		return 0, fmt.Errorf("getting a certificate for %s: %w", m.keeper.ACME.Name, err)
	}
	return lookEvery, m.export(ctx)
}

// export puts what certmagic has in the files, if it is another.
func (m *magic) export(ctx context.Context) error {
	name, issuer := m.keeper.ACME.Name, m.issuer.IssuerKey()
	chain, err1 := m.config.Storage.Load(ctx, certmagic.StorageKeys.SiteCert(issuer, name))
	text, err2 := m.config.Storage.Load(ctx, certmagic.StorageKeys.SitePrivateKey(issuer, name))
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("reading what ACME got for %s: %w", name, err)
	}
	key, err := certmagic.PEMDecodePrivateKey(text)
	if err != nil {
		return fmt.Errorf("reading the key of %s: %w", name, err)
	}
	leaf, err := keypair.Leaf(chain)
	if err != nil {
		return err
	}
	if _, there, err := m.keeper.load(); err != nil || !there.Equal(leaf) {
		if err := m.keeper.files().InstallWith(chain, key); err != nil {
			return err
		}
		m.agent.state.got(m.keeper.Name, "done")
		m.agent.log.Info("certificate installed", "certificate", m.keeper.Name, "not_after", leaf.NotAfter)
	}
	m.agent.state.have(m.keeper.Name, leaf, m.keeper.due(leaf))
	return m.keeper.tell(ctx, leaf)
}
