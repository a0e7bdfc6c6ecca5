package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/ca/proof"
)

// Enrolment says what is asked about proofs of enrolment methods (segl enroll method).
type Enrolment struct {
	// CAFile has the certificates, PEM, that issuers of proofs chain to, such as those of clusters. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// Clusters are API servers of Kubernetes that methods may ask by TokenReview, by the names that methods give them.
	// Default: none; clusters' keys are read at their issuer, or registered.
	Clusters map[string]KubernetesCluster `yaml:"clusters"`
}

// KubernetesCluster is one API server.
type KubernetesCluster struct {
	// URL is where it is, https://host:port.
	URL string `yaml:"url"`
	// CAFile has the certificates, PEM, that it chains to. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds the token of a service account that may create tokenreviews (system:auth-delegator). It is read each time.
	TokenFile string `yaml:"token_file"`
}

// openJudge readies what judges proofs. Nobody is asked yet.
func (s *Server) openJudge() error {
	client, err := OIDC{CAFile: s.cfg.Enrolment.CAFile}.client(s.now)
	if err != nil {
		return err
	}
	cfg := proof.Config{Client: client, Now: s.now, Clusters: make(map[string]proof.Cluster)}
	for name, c := range s.cfg.Enrolment.Clusters {
		if !strings.HasPrefix(c.URL, "https://") || c.TokenFile == "" {
			return fmt.Errorf("enrolment.clusters.%s: %w", name, errors.New("want url, https://host:port, and token_file"))
		}
		own, err := OIDC{CAFile: c.CAFile}.client(s.now)
		if err != nil {
			return err
		}
		cfg.Clusters[name] = proof.Cluster{URL: c.URL, TokenFile: c.TokenFile, Client: direct(own)}
	}
	s.judge = proof.New(cfg)
	return nil
}

// direct is c without a proxy: what it sends are tokens.
func direct(c *http.Client) *http.Client {
	if t, ok := c.Transport.(*http.Transport); ok {
		t.Proxy = nil
	}
	return c
}
