package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"time"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// trustMode is of files that say nothing secret.
const trustMode fs.FileMode = 0o644

// bundle keeps the roots in step. They come over TLS that the present roots vouch for: never over plain HTTP, where whoever is in
// between would choose them.
func (a *Agent) bundle(ctx context.Context) (time.Duration, error) {
	remote, err := a.dial(client.Config{})
	if err != nil {
		return 0, err
	}
	defer remote.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out api.Roots
	if err := remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/roots"}, &out); err != nil {
		return 0, err
	}
	certs, err := chain.Parse([]byte(out.Roots))
	if err != nil || len(certs) == 0 {
		return 0, fmt.Errorf("reading the roots: %w", errors.Join(err, errEmpty))
	}
	for _, c := range certs {
		if !c.IsCA || c.CheckSignatureFrom(c) != nil {
			return 0, fmt.Errorf("reading the roots: %s is no root", chain.Title(c))
		}
	}
	return a.cfg.Trust.Every, a.replace(ctx, a.cfg.Trust.Bundle, []byte(out.Roots))
}

var errEmpty = errors.New("want certificates in PEM, at least one")

// lists keeps the revocation lists in step. They are signed, so it does not matter how they come; what matters is that none is older than
// what is in place, nor made up to keep the next ones out: those of issuers that are at hand are verified here, the others by whoever
// relies on them.
func (a *Agent) lists(ctx context.Context) (time.Duration, error) {
	remote, err := a.dial(client.Config{URL: a.cfg.Public})
	if err != nil {
		return 0, err
	}
	defer remote.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	text, _, err := remote.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/crls.pem"})
	if err != nil {
		return 0, err
	}
	fresh, err := numbers(text)
	if err != nil {
		return 0, err
	}
	if len(fresh) == 0 {
		return 0, errors.New("reading revocation lists: there is none")
	}
	if err := a.genuine(fresh); err != nil {
		return 0, err
	}
	had, err := os.ReadFile(a.cfg.Trust.CRLs)
	if err == nil {
		// Unreadable ones in place are replaced.
		if old, err := numbers(had); err == nil {
			if err := notOlder(old, fresh); err != nil {
				return 0, err
			}
		}
	}
	return a.cfg.Trust.Every, a.replace(ctx, a.cfg.Trust.CRLs, text)
}

// A list is one in a file of them.
type list struct {
	*x509.RevocationList
	number *big.Int
	made   time.Time
}

// numbers reads lists: by who made them and, as one may make several, by the extensions that tell these apart (RFC 5280 §5.2.5).
func numbers(text []byte) (map[string]list, error) {
	out := make(map[string]list)
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out, nil
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if block.Type != "X509 CRL" || err != nil || l.Number == nil { // RFC 5280 §5.2.3: "CRL issuers [...] MUST include this extension"
			return nil, fmt.Errorf("reading revocation lists: want lists in PEM and nothing else")
		}
		key := string(l.RawIssuer) + "\x00" + string(l.AuthorityKeyId)
		for _, e := range l.Extensions {
			if e.Id.Equal(oidDistributionPoint) {
				key += "\x00" + string(e.Value)
			}
		}
		out[key] = list{l, l.Number, l.ThisUpdate}
	}
}

// oidDistributionPoint is id-ce-issuingDistributionPoint.
var oidDistributionPoint = []int{2, 5, 29, 28} //nolint:gochecknoglobals // a constant that Go cannot spell as one

// aheadMost is how far another machine's clock may be ahead of ours.
const aheadMost = 5 * time.Minute

// genuine refuses lists from a time to come, which no later one would replace, and those that the root or an issuer of a kept
// certificate is said to have signed and did not.
func (a *Agent) genuine(fresh map[string]list) error {
	known, err := chain.Read(a.cfg.Root)
	if err != nil {
		return err
	}
	for _, k := range a.keepers {
		if more, err := chain.Read(k.Chain); err == nil { // there is none yet, or the keeper says what is wrong with it
			known = append(known, more...)
		}
	}
	for _, l := range fresh {
		if l.made.After(a.now().Add(aheadMost)) {
			return fmt.Errorf("reading revocation lists: one was made at %s: set the clock, or somebody made it up", l.made.UTC().Format(time.RFC3339))
		}
		for _, c := range known {
			if !bytes.Equal(c.RawSubject, l.RawIssuer) || !bytes.Equal(c.SubjectKeyId, l.AuthorityKeyId) {
				continue
			}
			if err := l.CheckSignatureFrom(c); err != nil {
				return fmt.Errorf("reading revocation lists: one is said to be by %s, who did not sign it: %w", chain.Title(c), err)
			}
		}
	}
	return nil
}

// notOlder refuses lists that take back what others said: whoever serves yesterday's would hide today's revocations. One that was
// made later is not older, whatever numbers somebody put in place.
func notOlder(old, fresh map[string]list) error {
	for key, was := range old {
		is, ok := fresh[key]
		if ok && is.number.Cmp(was.number) < 0 && !is.made.After(was.made) {
			return fmt.Errorf("reading revocation lists: one has number %s, and the one in place has %s: the older is not taken", is.number, was.number)
		}
	}
	return nil
}

// replace puts text in place and runs the hooks, if it differs from what is there.
func (a *Agent) replace(ctx context.Context, path string, text []byte) error {
	a.state.fetched(path)
	mark := path + ".untold"
	had, err := os.ReadFile(path)
	_, told := os.Stat(mark)
	if err == nil && bytes.Equal(had, text) && (told != nil || len(a.cfg.Trust.Hooks) == 0) {
		return nil
	}
	// While the mark is there the hooks have still to be run: also after a kill.
	if len(a.cfg.Trust.Hooks) > 0 {
		if err := keypair.WriteFile(mark, nil, trustMode); err != nil {
			return fmt.Errorf("marking a change of %s: %w", path, err)
		}
	}
	if err := keypair.WriteFile(path, text, trustMode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if len(a.cfg.Trust.Hooks) == 0 {
		return nil
	}
	if err := RunHooks(ctx, a.cfg.Trust.Hooks, "SEGL_NAME=trust", "SEGL_FILE="+path); err != nil {
		a.state.hooked("trust", "failed")
		return fmt.Errorf("telling of a change of %s: %w", path, err)
	}
	a.state.hooked("trust", "done")
	return os.Remove(mark)
}
