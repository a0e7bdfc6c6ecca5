package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A keeper keeps one certificate of /v1.
type keeper struct {
	agent *Agent
	Certificate
	window time.Time // when the server would have it renewed; zero: it did not say
	asked  time.Time // when it was asked that
}

func (k *keeper) files() keypair.Files { return keypair.Files{Chain: k.Chain, Key: k.Key} }

// askWithin is how often the server is asked whether renewal is wanted earlier, and how long a wait may be.
const askWithin = time.Hour

// once brings the certificate forward by one step.
func (k *keeper) once(ctx context.Context) (time.Duration, error) {
	// 1. What was cut short is finished: the chain and its key are both the new ones.
	if err := k.files().Recover(); err != nil {
		return 0, err
	}
	now := k.agent.now()
	pair, leaf, err := k.load()
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errPair):
		return 0, err
	case err != nil, !now.Before(leaf.NotAfter):
		// 2. There is none that is any good.
		if err := k.prove(ctx); err != nil {
			return 0, err
		}
	default:
		k.wanted(ctx, leaf, now)
		// 3. It is good, and due or not.
		if due := k.due(leaf); now.Before(due) {
			k.agent.state.have(k.Name, leaf, due)
			return min(askWithin, due.Sub(now)), k.tell(ctx, leaf)
		}
		if err := k.renew(ctx, pair); err != nil {
			return 0, err
		}
	}
	// 4. The new one is on disk. Whoever uses it is told, now or after a kill.
	_, leaf, err = k.load()
	if err != nil {
		return 0, err
	}
	k.window, k.asked = time.Time{}, time.Time{}
	due := k.due(leaf)
	k.agent.state.have(k.Name, leaf, due)
	k.agent.log.Info("certificate installed", "certificate", k.Name, "serial", hex.EncodeToString(leaf.SerialNumber.Bytes()), "not_after", leaf.NotAfter)
	return max(0, min(askWithin, due.Sub(k.agent.now()))), k.tell(ctx, leaf)
}

var errPair = errors.New("the certificate and the key in place are no pair")

// load reads the pair.
func (k *keeper) load() (tls.Certificate, *x509.Certificate, error) {
	pair, err := k.files().Load()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return pair, nil, err
	}
	if err != nil {
		return pair, nil, fmt.Errorf("%w: %w", errPair, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return pair, nil, fmt.Errorf("%w: %w", errPair, err)
	}
	return pair, leaf, nil
}

// due is when a certificate is renewed: at two thirds of its life and up to a twelfth later, by its serial, so that what was
// issued at once is not renewed at once; earlier where the server wants that.
func (k *keeper) due(leaf *x509.Certificate) time.Time {
	const thirds, of, twelfth = 2, 3, 12
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	sum := sha256.Sum256(leaf.SerialNumber.Bytes())
	spread := time.Duration(float64(life/twelfth) * float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32))
	due := leaf.NotBefore.Add(life/of*thirds + spread)
	if !k.window.IsZero() && k.window.Before(due) {
		return k.window
	}
	return due
}

// wanted asks the server when it would have the certificate renewed (RFC 9773 §4.1): an incident or a retiring authority moves that.
// Not knowing is no error.
func (k *keeper) wanted(ctx context.Context, leaf *x509.Certificate, now time.Time) {
	if now.Sub(k.asked) < askWithin || len(leaf.URIs) != 1 {
		return
	}
	id, err := identity.ParseID(leaf.URIs[0].String())
	if err != nil {
		return
	}
	remote, err := k.agent.dial(client.Config{})
	if err != nil {
		return
	}
	defer remote.Close()
	// "the base64url encoding [...] of the bytes of the keyIdentifier field [...] a period [...] the serial number"
	name := base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(leaf.SerialNumber.Bytes())
	var info struct {
		Window struct{ Start, End time.Time } `json:"suggestedWindow"`
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := remote.Do(ctx, client.Request{Method: http.MethodGet, Path: "/acme/" + id.Scope().String() + "/renewal-info/" + name, Once: true}, &info); err != nil {
		k.agent.log.Debug("renewal information not read", "certificate", k.Name, "err", err)
		return
	}
	k.asked = now
	sum := sha256.Sum256(leaf.Raw)
	span := info.Window.End.Sub(info.Window.Start)
	if info.Window.Start.IsZero() || span < 0 {
		return
	}
	// RFC 9773 §4.2: "Select a uniform random time within the suggested window."
	k.window = info.Window.Start.Add(time.Duration(float64(span) * float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)))
}

// renew gets the successor of the pair in place, by showing it; where the server will have nothing to do with it any more, the
// agent proves anew who it is.
func (k *keeper) renew(ctx context.Context, pair tls.Certificate) error {
	remote, err := k.agent.dial(client.Config{Certificate: &pair})
	if err != nil {
		return err
	}
	defer remote.Close()
	err = k.get(ctx, remote, "/v1/certificates:renew", func(csr string) any { return api.RenewRequest{CSR: csr} })
	problem, refused := errors.AsType[*client.Problem](err)
	if refused && problem.Status/100 == 4 && problem.Status != http.StatusTooManyRequests && k.provable() {
		k.agent.log.Warn("certificate not renewed, proving anew", "certificate", k.Name, "err", err)
		return k.prove(ctx)
	}
	return err
}

func (k *keeper) provable() bool { return k.Proof.File != "" || len(k.Proof.Command) > 0 }

// prove gets a certificate by a token.
func (k *keeper) prove(ctx context.Context) error {
	if !k.provable() {
		return errors.New("getting a certificate: there is none that is valid, and no proof is configured to get one with")
	}
	token, err := k.token(ctx)
	if err != nil {
		return err
	}
	remote, err := k.agent.dial(client.Config{})
	if err != nil {
		return err
	}
	defer remote.Close()
	return k.get(ctx, remote, "/v1/certificates:enroll", func(csr string) any {
		return api.EnrollRequest{Token: token, Method: k.Proof.Method, CSR: csr}
	})
}

const maxTokenFile = 64 << 10

// token reads the token of the moment.
func (k *keeper) token(ctx context.Context) (string, error) {
	var text []byte
	if len(k.Proof.Command) > 0 {
		ctx, cancel := context.WithTimeout(ctx, hookTime)
		defer cancel()
		out, err := exec.CommandContext(ctx, k.Proof.Command[0], k.Proof.Command[1:]...).Output()
		if err != nil {
			return "", fmt.Errorf("running %s for a token: %w", k.Proof.Command[0], err)
		}
		text = out
	} else {
		f, err := os.Open(k.Proof.File)
		if err != nil {
			return "", fmt.Errorf("reading the proof: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		if text, err = io.ReadAll(io.LimitReader(f, maxTokenFile)); err != nil {
			return "", fmt.Errorf("reading the proof: %w", err)
		}
	}
	return strings.TrimSpace(string(text)), nil
}

// get asks for a certificate for the staged key, and puts both in their places.
func (k *keeper) get(ctx context.Context, remote *client.Client, path string, body func(csr string) any) error {
	files := k.files()
	// The key is durable before anything is asked for it, and stays until its certificate is there.
	key, err := files.Stage(keypair.Type(k.KeyType))
	if err != nil {
		return err
	}
	var names []cert.Name
	for _, s := range k.Names {
		n, err := parseHost(s)
		if err != nil {
			return err
		}
		names = append(names, n)
	}
	if strings.HasSuffix(path, ":renew") {
		names = nil // a renewal keeps them
	}
	csr, err := keypair.Request(key, "", names)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out api.Certificate
	if err := remote.Do(ctx, client.Request{Method: http.MethodPost, Path: path, Idempotent: true, Body: body(string(csr))}, &out); err != nil {
		k.agent.state.got(k.Name, "failed")
		if client.Named(err, "token-used") || client.Named(err, "already-done") { // it is another key's: this one gets nothing any more
			return errors.Join(err, files.Discard())
		}
		return err
	}
	leaf, err := keypair.Leaf([]byte(out.Certificate))
	if err != nil {
		return err
	}
	if !k.agent.now().Before(leaf.NotAfter) { // what this token and this key got long ago
		return errors.Join(errors.New("getting a certificate: the token's is expired, and the token was used: give the agent a new one"), files.Discard())
	}
	if err := files.Install([]byte(out.Certificate), key); err != nil {
		return err
	}
	k.agent.state.got(k.Name, "done")
	return nil
}

// tell brings the combined file in step and runs the hooks, once for each certificate. A mark beside the key says for which they were run.
func (k *keeper) tell(ctx context.Context, leaf *x509.Certificate) error {
	mark, serial := k.Key+".told", []byte(hex.EncodeToString(leaf.SerialNumber.Bytes())+"\n")
	if told, err := os.ReadFile(mark); err == nil && string(told) == string(serial) {
		return nil
	}
	if err := k.combine(); err != nil {
		return err
	}
	if err := RunHooks(ctx, k.Hooks, "SEGL_NAME="+k.Name, "SEGL_CHAIN="+k.Chain, "SEGL_KEY="+k.Key); err != nil {
		k.agent.state.hooked(k.Name, "failed")
		return fmt.Errorf("telling of a new certificate: %w", err)
	}
	if len(k.Hooks) > 0 {
		k.agent.state.hooked(k.Name, "done")
	}
	if err := keypair.WriteFile(mark, serial, 0o600); err != nil {
		return fmt.Errorf("marking that the hooks were run: %w", err)
	}
	return nil
}

func (k *keeper) combine() error {
	if k.Combined == "" {
		return nil
	}
	key, err := os.ReadFile(k.Key)
	if err != nil {
		return fmt.Errorf("reading key: %w", err)
	}
	chain, err := os.ReadFile(k.Chain)
	if err != nil {
		return fmt.Errorf("reading certificate: %w", err)
	}
	if err := keypair.WriteFile(k.Combined, append(key, chain...), 0o600); err != nil {
		return fmt.Errorf("writing key and certificate: %w", err)
	}
	return nil
}
