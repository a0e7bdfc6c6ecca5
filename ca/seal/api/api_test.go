package api_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/ca/seal/api"
	"codeberg.org/dataverket/segl/ca/seal/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A site is a sealed ledger and its public door.
type site struct {
	*pkitest.House
	store *store.Store
	log   seal.Log
	url   string
}

// open returns a site that witnesses logs with those keys.
func open(t *testing.T, name string, witnessed ...string) (*site, *seal.Witness) {
	t.Helper()
	s := &site{House: pkitest.New(t)}
	s.store = store.New(s.DB)
	var err error
	s.log, err = seal.NewLog(name, edKey(t))
	must(t, err)
	w, err := seal.NewWitness(name+"/witness", edKey(t), witnessed, s.store, s.Now)
	must(t, err)
	door := api.Public(api.Config{Prover: &seal.Prover{Store: s.store, Log: s.log}, Witness: w})
	server, err := web.NewServer(web.Config{
		Name: "public", Log: slog.New(slog.DiscardHandler), Metrics: web.NewMetrics(prometheus.NewRegistry()), Now: s.Now,
	}, door)
	must(t, err)
	h := httptest.NewServer(server)
	t.Cleanup(h.Close)
	s.url = h.URL + "/ledger"
	return s, w
}

func edKey(t *testing.T) kms.Key {
	t.Helper()
	key, err := kmstest.NewKeyring().Create(t.Context(), "key", kms.Ed25519)
	must(t, err)
	return key
}

// grow adds n facts and seals them.
func (s *site) grow(t testing.TB, n int) seal.Head {
	t.Helper()
	all := make([]audit.Fact, n)
	for i := range all {
		all[i] = audit.Fact{At: s.Now(), Who: identity.System("test"), What: "test.fact", Subject: fmt.Sprint(i)}
	}
	_, err := s.DB.Exec(t.Context(), audit.Insert, audit.Columns(all...)...)
	must(t, err)
	sealer := &seal.Sealer{Store: s.store, Log: s.log, Now: s.Now}
	_, err = duty.Once(t.Context(), s.DB, duty.Duty{Name: seal.Duty, Once: sealer.RunOnce})
	must(t, err)
	head, err := s.store.Head(t.Context())
	must(t, err)
	return head
}

// asker has s ask witnesses; what made it think that it forgot is in the error.
func (s *site) asker(t *testing.T, quorum int, peers ...seal.Peer) *seal.Asker {
	return &seal.Asker{
		Store: s.store, Log: s.log, Peers: peers, Quorum: quorum, HTTP: &http.Client{Timeout: 5 * time.Second}, Now: s.Now,
		Forgot: func(ctx context.Context, why string) error { return s.store.Raise(ctx, why, s.Now()) },
	}
}

func peer(t *testing.T, s *site, w *seal.Witness) seal.Peer {
	t.Helper()
	key, err := seal.ParseCosigner(w.VKey())
	must(t, err)
	return seal.Peer{URL: s.url + "/witness", Key: key}
}

func pair(t *testing.T) (asks, answers *site, p seal.Peer) {
	t.Helper()
	asks, _ = open(t, "asks.test/ledger")
	key, err := asks.log.VKey(1)
	must(t, err)
	answers, w := open(t, "answers.test/ledger", key)
	return asks, answers, peer(t, answers, w)
}

func get(t *testing.T, url string) (int, http.Header, string) {
	t.Helper()
	res, err := http.Get(url) //nolint:forbidigo,gosec,noctx // a test server's
	must(t, err)
	defer res.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, res.Header, string(b)
}

func TestTheTreeIsServedAsC2SPHasIt(t *testing.T) {
	s, _ := open(t, "tiles.test/ledger")
	if code, _, _ := get(t, s.url+"/checkpoint"); code != http.StatusNotFound {
		t.Errorf("before there is one: %d", code)
	}
	head := s.grow(t, 300)
	_, header, signed := get(t, s.url+"/checkpoint")
	if header.Get("Content-Type") != "text/plain; charset=utf-8" || signed != head.Checkpoint {
		t.Errorf("%v %q", header, signed)
	}
	_, _, key := get(t, s.url+"/key")
	v, err := note.NewVerifier(strings.TrimSpace(key))
	must(t, err)
	c, err := seal.OpenCheckpoint(signed, v)
	must(t, err)
	// A client that has nothing but these addresses computes the root.
	root, err := tlog.TreeHash(c.Size, tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, remote{t, s.url}))
	if err != nil || root != c.Root {
		t.Errorf("the tiles are of %s, want %s (%v)", root, c.Root, err)
	}
	_, header, b := get(t, s.url+"/tile/0/000")
	if len(b) != 8192 || header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(header.Get("Cache-Control"), "immutable") {
		t.Errorf("%d octets, %v", len(b), header)
	}
	for _, path := range []string{
		"/tile/0/001", "/tile/0/001.p/255", "/tile/0/1", "/tile/0/0000", "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/01", "/tile/00/000", "/tile/-1/000",
		"/tile/0/x000/001", "/tile/0/x001/001", "/tile/0/001/001", "/tile/8/000", "/tile/64/000", "/tile/0/", "/tile/0", "/tile/0/000.p/", "/tile/entries/000",
		"/tile/0/x999/x999/x999/x999/x999/999", "/tile/0/x999/x999/x999/x999/x999/x999/999", "/consistency/5/4", "/consistency/a/4", "/consistency/-1/4",
		"/consistency/1/99999999", "/witness/00/checkpoint",
	} {
		if code, _, b := get(t, s.url+path); code != http.StatusNotFound {
			t.Errorf("%s: %d %.80s", path, code, b)
		}
	}
}

// remote reads tiles over HTTP.
type remote struct {
	t   *testing.T
	url string
}

func (r remote) Height() int                     { return 8 }
func (r remote) SaveTiles([]tlog.Tile, [][]byte) {}
func (r remote) ReadTiles(tiles []tlog.Tile) (out [][]byte, err error) {
	for _, tile := range tiles {
		code, _, b := get(r.t, r.url+"/"+strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if code != http.StatusOK {
			return nil, fmt.Errorf("%s: %d", tile.Path(), code)
		}
		out = append(out, []byte(b))
	}
	return out, nil
}

func TestAWitnessCosignsWhatGrows(t *testing.T) {
	s, at, p := pair(t)
	a := s.asker(t, 1, p)
	if err := a.RunOnce(t.Context()); err != nil {
		t.Fatalf("with nothing sealed: %v", err)
	}
	for _, n := range []int{3, 300, 1} {
		head := s.grow(t, n)
		must(t, a.RunOnce(t.Context()))
		must(t, a.RunOnce(t.Context())) // nothing is left to do
		size, signed, err := s.store.Published(t.Context(), 1)
		must(t, err)
		v, err := note.NewVerifier(must1(s.log.VKey(1)))
		must(t, err)
		both, err := note.Open([]byte(signed), note.VerifierList(v, p.Key))
		if err != nil || len(both.Sigs) != 2 || size != head.Size {
			t.Fatalf("%d of %d: %v\n%s", size, head.Size, err, signed)
		}
	}
	// One that knows nothing of before asks from 0, and is told.
	head := s.grow(t, 2)
	must(t, s.asker(t, 1, p).RunOnce(t.Context()))
	if held, err := at.store.Witnessed(t.Context(), s.log.Base); err != nil || held.Size != head.Size {
		t.Errorf("it holds %d, want %d (%v)", held.Size, head.Size, err)
	}
	sum := fmt.Sprintf("%x", sha(s.log.Base))
	if code, _, body := get(t, at.url+"/witness/"+sum+"/checkpoint"); code != http.StatusOK || strings.Count(body, "\n— ") != 2 {
		t.Errorf("monitors are answered %d %s", code, body)
	}
}

func TestATreeShorterThanAWitnessHoldsIsForgetful(t *testing.T) {
	s, _, p := pair(t)
	s.grow(t, 10)
	before := backup(t, s)
	s.grow(t, 10)
	must(t, s.asker(t, 1, p).RunOnce(t.Context()))
	before(t)
	err := s.asker(t, 1, p).RunOnce(t.Context())
	if err == nil || !strings.Contains(err.Error(), "holds a tree of") {
		t.Fatalf("%v, want it said what the witness holds", err)
	}
	why, err := s.store.Fence(t.Context())
	if err != nil || !strings.Contains(why, "answers.test/ledger/witness") {
		t.Errorf("the fence says %q, %v", why, err)
	}
}

// A database restored from before has what was published before, too: that says nothing of what witnesses have heard since.
func TestARestoredTreeThatWasPublishedIsAskedAbout(t *testing.T) {
	s, _, p := pair(t)
	s.grow(t, 10)
	a := s.asker(t, 1, p)
	must(t, a.RunOnce(t.Context()))
	size, signed, err := s.store.Published(t.Context(), 1)
	must(t, err)
	before := backup(t, s)
	s.grow(t, 10)
	must(t, a.RunOnce(t.Context()))
	before(t)
	must(t, s.store.Publish(t.Context(), 1, size, signed))
	for name, again := range map[string]*seal.Asker{"after a restart": s.asker(t, 1, p), "under a living process": a} {
		if err := again.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "holds a tree of") {
			t.Errorf("%s: %v, want it said what the witness holds", name, err)
		}
	}
	if why, err := s.store.Fence(t.Context()); err != nil || why == "" {
		t.Errorf("it is not fenced: %v", err)
	}
}

// backup returns what brings the tree and the facts back to now.
func backup(t *testing.T, s *site) func(t *testing.T) {
	t.Helper()
	for _, sql := range []string{`CREATE TABLE old_head AS SELECT era, size, xid, id, edge, checkpoint, sealed_at, one FROM seal_head`} {
		_, err := s.DB.Exec(t.Context(), sql)
		must(t, err)
	}
	return func(t *testing.T) {
		t.Helper()
		for _, sql := range []string{
			`DELETE FROM fact WHERE xid > (SELECT xid FROM old_head)`,
			`UPDATE seal_head h SET size = o.size, xid = o.xid, id = o.id, edge = o.edge, checkpoint = o.checkpoint FROM old_head o`,
			`DELETE FROM seal_published`,
		} {
			_, err := s.DB.Exec(t.Context(), sql)
			must(t, err)
		}
	}
}

func TestAnotherTreeOfTheSameLogIsForgetful(t *testing.T) {
	s, _, p := pair(t)
	s.grow(t, 10)
	before := backup(t, s)
	s.grow(t, 10)
	must(t, s.asker(t, 1, p).RunOnce(t.Context()))
	before(t)
	s.grow(t, 30)
	if err := s.asker(t, 1, p).RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "another tree") {
		t.Fatalf("%v", err)
	}
	if why, err := s.store.Fence(t.Context()); err != nil || why == "" {
		t.Errorf("it is not fenced: %v", err)
	}
}

// TestADeadWitnessIsAskedLessAndLess runs the duty every second for ten minutes; the dead one costs the other's answers nothing.
func TestADeadWitnessIsAskedLessAndLess(t *testing.T) {
	s, _, p := pair(t)
	head := s.grow(t, 3)
	asked := 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(h.Close)
	_, other := open(t, "dead.test/ledger")
	dead := peer(t, s, other)
	dead.URL = h.URL
	a, now := s.asker(t, 1, p, dead), s.Now()
	a.Now = func() time.Time { return now }
	for range 600 {
		must(t, a.RunOnce(t.Context()))
		now = now.Add(time.Second)
	}
	if size, _, err := s.store.Published(t.Context(), 1); err != nil || size != head.Size {
		t.Errorf("a tree of %d is published, want %d: %v", size, head.Size, err)
	}
	// 1, 2, 4 … 32 seconds, and then each minute.
	if asked < 12 || asked > 17 {
		t.Errorf("it was asked %d times in ten minutes, want about 15", asked)
	}
}

func TestWitnessesThatDoNotAnswerFenceNobodyAndCostTheQuorum(t *testing.T) {
	s, _, p := pair(t)
	head := s.grow(t, 3)
	dead := p
	dead.URL = "http://127.0.0.1:1/witness"
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "— answers.test/ledger/witness AAAA\n") //nolint:errcheck // a test
	}))
	t.Cleanup(lying.Close)
	liar := p
	liar.URL = lying.URL
	if err := s.asker(t, 2, p, dead, liar).RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "1 cosignatures, of 2") {
		t.Errorf("%v", err)
	}
	prover := &seal.Prover{Store: s.store, Log: s.log, Quorum: 2}
	if _, _, err := prover.Checkpoint(t.Context()); !errors.Is(err, seal.ErrNotFound) {
		t.Errorf("a checkpoint without its quorum is shown: %v", err)
	}
	must(t, s.asker(t, 1, p, dead, liar).RunOnce(t.Context()))
	prover.Quorum = 1
	if signed, size, err := prover.Checkpoint(t.Context()); err != nil || size != head.Size || strings.Count(signed, "\n— ") != 2 {
		t.Errorf("%d, %v\n%s", size, err, signed)
	}
	if why, err := s.store.Fence(t.Context()); err != nil || why != "" {
		t.Errorf("fenced: %q, %v", why, err)
	}
}

func must1(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// Each request differs from a good one in one thing.
func TestAWitnessRefusesAsTheSpecificationSays(t *testing.T) {
	s, at, _ := pair(t)
	first := s.grow(t, 5)
	second := s.grow(t, 7)
	proof, err := seal.Extends(t.Context(), s.store, second, first.Size, second.Size)
	must(t, err)
	var hashes strings.Builder
	for _, h := range proof {
		hashes.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	ask := func(body string) (int, http.Header, string) {
		res, err := http.Post(at.url+"/witness/add-checkpoint", "", strings.NewReader(body)) //nolint:forbidigo,gosec,noctx // a test server's
		must(t, err)
		defer res.Body.Close() //nolint:errcheck // only read
		b, err := io.ReadAll(res.Body)
		must(t, err)
		return res.StatusCode, res.Header, string(b)
	}
	if code, _, b := ask("old 0\n\n" + first.Checkpoint); code != http.StatusOK {
		t.Fatalf("%d %s", code, b)
	}
	stranger, err := seal.NewLog("stranger.test", edKey(t))
	must(t, err)
	impostor, err := seal.NewLog(s.log.Base, edKey(t))
	must(t, err)
	sign := func(l seal.Log, size int64, root tlog.Hash) string { return must1(l.Sign(t.Context(), 1, size, root)) }
	fork := sign(s.log, first.Size, tlog.Hash{1})
	for name, c := range map[string]struct {
		body string
		code int
	}{
		"another log":          {"old 0\n\n" + sign(stranger, 5, tlog.Hash{}), 404},
		"another key":          {fmt.Sprintf("old %d\n\n", first.Size) + sign(impostor, first.Size, first.Edge.Root()), 403},
		"an altered signature": {fmt.Sprintf("old %d\n%s\n", first.Size, hashes.String()) + strings.Replace(second.Checkpoint, "\n— ", "\n\n— ", 1), 403},
		"an altered root":      {fmt.Sprintf("old %d\n\n", first.Size) + strings.Replace(first.Checkpoint, "=\n", "A=\n", 1), 403},
		"old above new":        {fmt.Sprintf("old %d\n\n", first.Size+1) + first.Checkpoint, 400},
		"no old line":          {"\n" + first.Checkpoint, 400},
		"old with a zero":      {fmt.Sprintf("old 0%d\n\n", first.Size) + first.Checkpoint, 400},
		"no empty line":        {fmt.Sprintf("old %d\n", first.Size), 400},
		"64 hashes":            {fmt.Sprintf("old %d\n%s\n", first.Size, strings.Repeat(strings.Repeat("A", 43)+"=\n", 64)) + second.Checkpoint, 400},
		"no hash":              {fmt.Sprintf("old %d\nxyz\n\n", first.Size) + second.Checkpoint, 400},
		"too large":            {"old 0\n\n" + strings.Repeat("x", 1<<20), 400},
		"another old":          {"old 0\n\n" + second.Checkpoint, 409},
		"no proof":             {fmt.Sprintf("old %d\n\n", first.Size) + second.Checkpoint, 422},
		"an altered proof":     {fmt.Sprintf("old %d\n%s\n", first.Size, "A"+hashes.String()[1:]) + second.Checkpoint, 422},
		"a proof of nothing":   {fmt.Sprintf("old %d\n%s\n", first.Size, hashes.String()) + first.Checkpoint, 422},
		"a fork":               {fmt.Sprintf("old %d\n\n", first.Size) + fork, 422},
	} {
		code, header, b := ask(c.body)
		if code != c.code {
			t.Errorf("%s: %d %.100q, want %d", name, code, b, c.code)
		}
		if code == 409 && (b != fmt.Sprintf("%d\n", first.Size) || header.Get("Content-Type") != "text/x.tlog.size") {
			t.Errorf("%s: %q %v", name, b, header)
		}
	}
	if held, err := at.store.Witnessed(t.Context(), s.log.Base); err != nil || held.Size != first.Size || held.Root != first.Edge.Root() {
		t.Errorf("after all that it holds %+v, %v", held, err)
	}
	if code, _, b := ask(fmt.Sprintf("old %d\n%s\n", first.Size, hashes.String()) + second.Checkpoint); code != http.StatusOK {
		t.Errorf("the good one: %d %s", code, b)
	}
}

func TestOfTwoTreesAskedAboutAtOnceAWitnessCosignsOne(t *testing.T) {
	s, at, _ := pair(t)
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		good int
	)
	for i := range 8 {
		signed := must1(s.log.Sign(t.Context(), 1, 5, tlog.Hash{byte(i)}))
		wait.Go(func() {
			res, err := http.Post(at.url+"/witness/add-checkpoint", "", strings.NewReader("old 0\n\n"+signed)) //nolint:forbidigo,gosec,noctx // a test server's
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close() //nolint:errcheck // only its status is read
			mu.Lock()
			defer mu.Unlock()
			if res.StatusCode == http.StatusOK {
				good++
			}
		})
	}
	wait.Wait()
	if good != 1 {
		t.Errorf("%d forks were cosigned", good)
	}
}

func sha(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func TestWitnessKeysAreReadStrictly(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	plain, err := note.NewEd25519VerifierKey("w.test", pub)
	must(t, err)
	_, w := open(t, "keys.test/ledger")
	good := w.VKey()
	if c, err := seal.ParseCosigner(good); err != nil || c.VKey() != good {
		t.Fatalf("%v", err)
	}
	for name, s := range map[string]string{
		"a log's key": plain, "nothing": "", "another name": "x" + good, "a space in it": strings.Replace(good, "keys", "k ys", 1),
		"cut": good[:len(good)-4], "no id": strings.Replace(good, "+", "", 1),
	} {
		if _, err := seal.ParseCosigner(s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	key, err := seal.ParseCosigner(good)
	must(t, err)
	for name, sig := range map[string][]byte{"nothing": nil, "short": make([]byte, 71), "zeros": make([]byte, 72), "long": bytes.Repeat([]byte{1}, 73)} {
		if key.Verify([]byte("text\n"), sig) {
			t.Errorf("%s verifies", name)
		}
	}
}
