package proof

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca"
)

// A Cluster is a Kubernetes API server that tells whether a token is good (authentication.k8s.io/v1 TokenReview).
type Cluster struct {
	URL       string       // base URL, https
	TokenFile string       // what we show: a service account that may create tokenreviews
	Client    *http.Client // trusts the API server's authority; its timeout bounds a review
}

// review is a TokenReview, as far as it matters here.
type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	} `json:"spec"`
	Status struct {
		Authenticated bool     `json:"authenticated"`
		Audiences     []string `json:"audiences"`
		User          struct {
			Username string `json:"username"`
		} `json:"user"`
	} `json:"status"`
}

// maxReview bounds what an API server answers, and maxServiceToken what it is asked about.
const (
	maxReview       = 1 << 20
	maxServiceToken = 16 << 10
)

// byReview asks the cluster: it knows too whether the service account and its pod are still there.
func (j *Judge) byReview(ctx context.Context, m ca.Method, text string) (ca.Proved, error) {
	said, err := claimsOf(text)
	if err != nil {
		return ca.Proved{}, err
	}
	cluster, ok := j.cfg.Clusters[m.Cluster]
	if !ok {
		return ca.Proved{}, fmt.Errorf("asking cluster %s: it is not configured any more", m.Cluster)
	}
	r, err := cluster.ask(ctx, text, m.Audience)
	if err != nil {
		return ca.Proved{}, fmt.Errorf("asking cluster %s: %w", m.Cluster, err)
	}
	switch {
	case !r.Status.Authenticated:
		return ca.Proved{}, fmt.Errorf("%w: cluster %s does not know it", ca.ErrProof, m.Cluster)
	// An API server that answers without audiences looked at none: the token may be for anybody.
	case !slices.Contains(r.Status.Audiences, m.Audience):
		return ca.Proved{}, fmt.Errorf("%w: it is for another audience: project one for %s", ca.ErrProof, m.Audience)
	case r.Status.User.Username != said.Subject:
		return ca.Proved{}, fmt.Errorf("%w: cluster %s says that it is about somebody else", ca.ErrProof, m.Cluster)
	}
	return ca.Proved{
		Subject: said.Subject, Once: once(said.ID, text), Issued: time.Unix(said.Issued, 0), Expires: time.Unix(said.Expires, 0),
		Claims: map[string][]string{"sub": {said.Subject}},
	}, nil
}

// claims are what a service account's token says of itself. They count once the cluster vouched for the token.
type claims struct {
	Subject string `json:"sub"`
	ID      string `json:"jti"`
	Issued  int64  `json:"iat"`
	Expires int64  `json:"exp"`
}

func claimsOf(text string) (c claims, err error) {
	_, rest, _ := strings.Cut(text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	said, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || len(text) > maxServiceToken || json.Unmarshal(said, &c) != nil || c.Subject == "" || c.Issued == 0 || c.Expires == 0 {
		return c, fmt.Errorf("%w: it is no token of a service account with sub, iat and exp", ca.ErrProof)
	}
	return c, nil
}

// ask sends one review. Errors say nothing of the token.
func (c Cluster) ask(ctx context.Context, token, audience string) (r review, err error) {
	r.APIVersion, r.Kind = "authentication.k8s.io/v1", "TokenReview"
	r.Spec.Token, r.Spec.Audiences = token, []string{audience}
	body, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.URL, "/")+"/apis/authentication.k8s.io/v1/tokenreviews", bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	ours, err := os.ReadFile(c.TokenFile) // read each time: the kubelet replaces it
	if err != nil {
		return r, fmt.Errorf("reading the reviewer's token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(ours)))
	req.Header.Set("Content-Type", "application/json")
	client := *c.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode != http.StatusCreated && res.StatusCode != http.StatusOK {
		return r, fmt.Errorf("the API server answers %d to a review", res.StatusCode)
	}
	var out review
	if err := json.NewDecoder(io.LimitReader(res.Body, maxReview)).Decode(&out); err != nil {
		return r, fmt.Errorf("the API server's answer to a review cannot be read")
	}
	return out, nil
}
