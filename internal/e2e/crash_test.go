package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// How often each of the two is killed. A soak (the build tag, or SEGL_SOAK=1) kills ten times as often.
const (
	kills     = 20
	soakKills = 200
	writers   = 8
	backSoon  = 60 * time.Second // a bound, not a promise: the measured times are logged
)

func howOften() int {
	if soak || os.Getenv("SEGL_SOAK") != "" {
		return soakKills
	}
	return kills
}

// seed is SEGL_SEED, or a new one; the test prints it. The same seed makes the same choices, not the same interleaving.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	if s := os.Getenv("SEGL_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEGL_SEED=%d", n)
	return n
}

// Segl and its Postgres are killed at random instants while eight clients issue, renew and revoke. Whatever any client was
// told stays true.
func TestNothingThatWasAnsweredIsLostByKilling(t *testing.T) {
	n := howOften()
	choose := rand.New(rand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	s := e2e.Start(t)
	l := startLoad(t, s, choose)

	for range n {
		l.letAnswer(1 + choose.IntN(40))
		killed := time.Now()
		s.Kill(t)
		if choose.IntN(4) == 0 { // once more, while it starts
			s.Spawn(t)
			pause(t, choose, 1500*time.Millisecond)
			s.Kill(t)
		}
		s.Begin(t)
		l.back("segl", killed)
	}
	for i := range n {
		l.letAnswer(1 + choose.IntN(40))
		killed := time.Now()
		who := killPostgres(t, s, choose, i%2 == 0)
		l.back(who, killed)
	}
	l.stop()

	// A minute on, everything left open is old enough to be given up, and what waited for that is asked again.
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}

// pause waits for a random part of most: it makes an instant random, nothing depends on its length.
func pause(t *testing.T, choose *rand.Rand, most time.Duration) {
	t.Helper()
	select {
	case <-time.After(time.Duration(choose.Int64N(int64(most)))):
	case <-t.Context().Done():
	}
}

// killPostgres kills the postmaster, or one of its children: a backend, the checkpointer, any.
func killPostgres(t *testing.T, s *e2e.Segl, choose *rand.Rand, postmaster bool) (who string) {
	t.Helper()
	master := postmasterOf(t, s)
	pid, who := master, "postmaster"
	if !postmaster {
		all := children(t, master)
		pid, who = all[choose.IntN(len(all))], "backend"
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	return who
}

// postmasterOf returns the first process of segl's own Postgres.
func postmasterOf(t *testing.T, s *e2e.Segl) (master int) {
	t.Helper()
	e2e.Eventually(t, backSoon, func() (err error) {
		first, _, _ := strings.Cut(readFile(t, filepath.Join(s.Dir, "postgres", "data", "postmaster.pid")), "\n")
		master, err = strconv.Atoi(first)
		return err
	})
	return master
}

// children finds the processes whose parent is pid: the fourth field of /proc/N/stat (proc(5)).
func children(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, name := range stats {
		text, err := os.ReadFile(name)
		_, behind, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(behind)
		if err != nil || !ok || len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, child)
	}
	if len(all) == 0 {
		t.Fatalf("process %d has no children", pid)
	}
	return all
}

// A load is eight clients and what they were told.
type load struct {
	t    *testing.T
	s    *e2e.Segl
	urls struct{ service, public, shard string }
	demo *http.Client
	end  context.CancelFunc
	busy sync.WaitGroup
	// broken is closed when a client was told what it should not have been.
	broken chan struct{}

	mu      sync.Mutex
	got     map[string]string // serial → PEM of every certificate anybody received
	wrote   map[string]string // write → serial it was answered with
	ended   map[string]string // serial → revocation that was answered
	asked   map[string]bool   // serials whose revocation was asked for, answered or not
	parked  []*write          // told that the first attempt is still open
	answers int
	news    chan struct{} // closed and replaced at each answer
	lost    int           // no answer at all
	away    int           // answered 503
	lists   map[string]seen
	took    map[string][]time.Duration
}

// seen is a list as it was last seen.
type seen struct {
	number *big.Int
	der    []byte
	has    map[string]string
}

// A write is asked until it is answered.
type write struct {
	name   string
	client *http.Client
	path   string
	body   any
	header []string
	then   func(e2e.Certificate)
}

func startLoad(t *testing.T, s *e2e.Segl, choose *rand.Rand) *load {
	t.Helper()
	l := &load{
		t: t, s: s, demo: s.Workload(t), news: make(chan struct{}), broken: make(chan struct{}),
		got: map[string]string{}, wrote: map[string]string{}, ended: map[string]string{}, asked: map[string]bool{},
		lists: map[string]seen{}, took: map[string][]time.Duration{},
	}
	l.urls.service, l.urls.public = s.Env["SEGL_URL"], s.Env["SEGL_PUBLIC_URL"]
	l.urls.shard = s.Issue(t, e2e.Order{Profile: "workload", Workload: "first"}).X509.CRLDistributionPoints[0]
	ctx, end := context.WithCancel(t.Context())
	l.end = end
	for i := range writers {
		w := &writer{l: l, name: fmt.Sprintf("writer-%d", i), choose: rand.New(rand.NewPCG(choose.Uint64(), 1))} //nolint:gosec // a test's choices
		l.busy.Go(func() {
			for ctx.Err() == nil {
				w.step(ctx)
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.end()
	l.busy.Wait()
}

// letAnswer waits until so many more answers have come.
func (l *load) letAnswer(more int) {
	l.t.Helper()
	l.mu.Lock()
	until := l.answers + more
	l.mu.Unlock()
	late := time.After(backSoon)
	for {
		l.mu.Lock()
		enough, news := l.answers >= until, l.news
		l.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-news:
		case <-l.broken:
			l.t.FailNow()
		case <-late:
			l.t.Fatalf("clients got no %d further answers within %s", more, backSoon)
		}
	}
}

// back waits until somebody was answered who asked after the kill, and looks at the lists. Eight answers may have been on
// their way.
func (l *load) back(who string, killed time.Time) {
	l.t.Helper()
	if l.s.Env["SEGL_URL"] != l.urls.service || l.s.Env["SEGL_PUBLIC_URL"] != l.urls.public {
		l.t.Fatalf("after a crash it listens elsewhere: %s", l.s.Env["SEGL_URL"])
	}
	l.letAnswer(writers + 1)
	l.took[who] = append(l.took[who], time.Since(killed))
	l.look()
}

// look fetches the lists, the authorities' whole ones and the shard's, and compares them with those seen before: numbers
// and entries only grow.
func (l *load) look() {
	l.t.Helper()
	for _, list := range eachList(l.t, l.fetch(l.urls.public+"/crls.pem")) {
		l.grew("whole list of "+list.Issuer.String(), list)
	}
	shard, err := x509.ParseRevocationList(l.fetch(l.urls.shard))
	if err != nil {
		l.t.Fatal(err)
	}
	l.grew(l.urls.shard, shard)
}

func (l *load) fetch(url string) []byte {
	l.t.Helper()
	var a e2e.Answer
	e2e.Eventually(l.t, backSoon, func() (err error) {
		a, err = e2e.Ask(l.t.Context(), &http.Client{Timeout: 10 * time.Second}, http.MethodGet, url, nil)
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("%s: %d %s", url, a.Status, a.Body)
		}
		return err
	})
	return a.Body
}

func (l *load) grew(name string, list *x509.RevocationList) {
	now := seen{list.Number, list.Raw, map[string]string{}}
	for _, e := range list.RevokedCertificateEntries {
		now.has[fmt.Sprintf("%x", e.SerialNumber)] = fmt.Sprintf("%s %d", e.RevocationTime.UTC().Format(time.RFC3339), e.ReasonCode)
	}
	if old, ok := l.lists[name]; ok {
		if order := now.number.Cmp(old.number); order < 0 || order == 0 && !bytes.Equal(now.der, old.der) {
			l.t.Errorf("%s: number %s came after %s", name, now.number, old.number)
		}
		for serial, how := range old.has {
			if now.has[serial] != how {
				l.t.Errorf("%s: number %s says of %s %q, number %s said %q", name, now.number, serial, now.has[serial], old.number, how)
			}
		}
	}
	l.lists[name] = now
}

// ask asks w until it is answered, or told to come back later, or the load ends.
func (l *load) ask(ctx context.Context, w *write) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		a, err := e2e.Ask(ctx, w.client, http.MethodPost, l.urls.service+w.path, w.body, w.header...)
		if l.hear(ctx, w, a, err) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// wrong fails the test and ends the load. The lock is held.
func (l *load) wrong(format string, args ...any) {
	l.t.Errorf(format, args...)
	select {
	case <-l.broken:
	default:
		close(l.broken)
	}
}

// hear records an answer and reports whether it settles w for now.
func (l *load) hear(ctx context.Context, w *write, a e2e.Answer, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil:
		l.lost++
		return false
	case a.Status == http.StatusServiceUnavailable:
		l.away++
		return false
	case a.Status == http.StatusConflict && bytes.Contains(a.Body, []byte("urn:segl:problem:in-progress")):
		l.parked = append(l.parked, w)
		return true
	}
	c, err := a.Certificate()
	if err != nil {
		l.wrong("%s: %v", w.name, err)
		return true
	}
	if had, ok := l.got[c.Serial]; ok && had != c.PEM {
		l.wrong("%s: two certificates have serial %s", w.name, c.Serial)
	}
	if had, ok := l.wrote[w.name]; ok && had != c.Serial {
		l.wrong("%s: answered %s and then %s", w.name, had, c.Serial)
	}
	l.got[c.Serial], l.wrote[w.name] = c.PEM, c.Serial
	if c.Revoked != nil {
		how := fmt.Sprintf("%s %s", c.Revoked.At.UTC().Format(time.RFC3339), c.Revoked.Reason)
		if had, ok := l.ended[c.Serial]; ok && had != how {
			l.wrong("%s: %s ended %s and then %s", w.name, c.Serial, had, how)
		}
		l.ended[c.Serial] = how
	}
	w.then(c)
	l.answers++
	close(l.news)
	l.news = make(chan struct{})
	return true
}

// A writer is one client. What it holds is changed by answers, under the load's lock, one at a time.
type writer struct {
	l      *load
	name   string
	choose *rand.Rand
	count  int
	done   []*write
	held   []*e2e.Pair
}

// step makes one write: mostly a new certificate, or a renewal, a revocation, or an earlier write asked again.
func (w *writer) step(ctx context.Context) {
	w.count++
	name := fmt.Sprintf("%s-%d", w.name, w.count)
	w.l.mu.Lock()
	held, done := len(w.held), len(w.done)
	w.l.mu.Unlock()
	switch n := w.choose.IntN(10); {
	case n < 2 && held > 0:
		w.l.ask(ctx, w.renewal(name, w.take(w.choose.IntN(held))))
	case n < 4 && held > 0:
		w.l.ask(ctx, w.revocation(name, w.take(w.choose.IntN(held))))
	case n < 5 && done > 0:
		w.l.mu.Lock()
		again := w.done[w.choose.IntN(done)]
		w.l.mu.Unlock()
		w.l.ask(ctx, again)
	default:
		w.l.ask(ctx, w.order(name))
	}
}

// take removes one of what is held, so that it is renewed or revoked once.
func (w *writer) take(i int) *e2e.Pair {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	p := w.held[i]
	w.held = slices.Delete(w.held, i, i+1)
	return p
}

func (w *writer) order(name string) *write {
	key := e2e.NewKey(w.l.t)
	o := e2e.Order{Profile: "workload", Workload: w.name}
	out := &write{name: name, client: w.l.demo, path: e2e.Scope + "/certificates", header: []string{"Idempotency-Key", name}}
	out.body = o.Body(request(w.l.t, o, key))
	first := true
	out.then = func(c e2e.Certificate) {
		if first {
			first = false
			w.held, w.done = append(w.held, &e2e.Pair{Certificate: c, Key: key}), append(w.done, out)
		}
	}
	return out
}

// renewal shows the certificate itself.
func (w *writer) renewal(name string, old *e2e.Pair) *write {
	key := e2e.NewKey(w.l.t)
	shown := old.TLS()
	out := &write{name: name, client: e2e.ClientShowing(w.l.demo, &shown), path: "/v1/certificates:renew"}
	out.body = map[string]string{"csr": request(w.l.t, e2e.Order{}, key)}
	out.then = func(c e2e.Certificate) {
		w.held = append(w.held, &e2e.Pair{Certificate: c, Key: key})
		out.client.CloseIdleConnections()
	}
	return out
}

func (w *writer) revocation(name string, p *e2e.Pair) *write {
	w.l.mu.Lock()
	w.l.asked[p.Serial] = true
	w.l.mu.Unlock()
	out := &write{name: name, client: w.l.demo, path: "/v1/certificates/" + p.Serial + ":revoke", body: map[string]string{"reason": "superseded"}}
	first := true
	out.then = func(e2e.Certificate) {
		if first {
			first = false
			w.done = append(w.done, out)
		}
	}
	return out
}

func request(t *testing.T, o e2e.Order, key *ecdsa.PrivateKey) string {
	t.Helper()
	csr, err := o.Request(key)
	if err != nil {
		t.Error(err)
	}
	return csr
}

// finish asks again what was told to wait for an open attempt: by now it is answered.
func (l *load) finish() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), backSoon)
	defer cancel()
	waited := len(l.parked)
	for len(l.parked) > 0 && ctx.Err() == nil {
		again := l.parked
		l.parked = nil
		for _, w := range again {
			l.ask(ctx, w)
		}
	}
	if ctx.Err() != nil {
		l.t.Errorf("%d writes are still told that they are in progress", len(l.parked))
	}
	l.t.Logf("%d answers; %d requests lost their answer, %d were answered 503, %d had to wait until their first attempt was given up",
		l.answers, l.lost, l.away, waited)
	for who, took := range l.took {
		slices.Sort(took)
		l.t.Logf("%s killed %d times; next answer after %s in the median, %s at most", who, len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
}

// judge compares what was answered with the ledger, the lists and OCSP.
func (l *load) judge() {
	t := l.t
	t.Helper()
	db, err := pgx.Connect(t.Context(), l.s.Env["SEGL_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	e2e.Eventually(t, 30*time.Second, func() error {
		var open int
		err := db.QueryRow(t.Context(), `SELECT count(*) FROM intent i WHERE NOT EXISTS (SELECT FROM outcome o WHERE o.serial = i.serial)`).Scan(&open)
		if err == nil && open > 0 {
			err = fmt.Errorf("%d intents are open", open)
		}
		return err
	})
	for _, v := range []struct{ what, sql string }{
		{"outcomes without an intent", `SELECT count(*) FROM outcome o WHERE NOT EXISTS (SELECT FROM intent i WHERE i.serial = o.serial)`},
		{"revocations without an intent", `SELECT count(*) FROM revocation r WHERE NOT EXISTS (SELECT FROM intent i WHERE i.serial = r.serial)`},
		{"abandoned and not revoked", `SELECT count(*) FROM outcome o WHERE signature IS NULL AND NOT EXISTS (SELECT FROM revocation r WHERE r.serial = o.serial)`},
		{"origins with two certificates", `SELECT count(*) FROM (
			SELECT origin FROM origin JOIN outcome USING (serial) WHERE signature IS NOT NULL GROUP BY origin HAVING count(*) > 1) twice`},
		{"certificates of tenants without exactly one fact", `SELECT count(*) FROM outcome o WHERE signature IS NOT NULL AND 1 <> (
			SELECT count(*) FROM fact f WHERE f.serial = o.serial AND f.allowed AND f.what IN ('certificate.issue', 'certificate.renew'))`},
		{"revoked certificates without exactly one fact", `SELECT count(*) FROM revocation r WHERE 1 <> (
			SELECT count(*) FROM fact f WHERE f.serial = r.serial AND f.allowed AND f.what IN ('certificate.revoke', 'certificate.abandon'))`},
	} {
		var n int
		if err := db.QueryRow(t.Context(), v.sql).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d %v", v.what, n, err)
		}
	}
	l.compare(t, db)
}

// compare holds each received certificate against the ledger's, and each ending against the lists and OCSP.
func (l *load) compare(t *testing.T, db *pgx.Conn) {
	rows, err := db.Query(t.Context(), `
		SELECT encode(i.serial, 'hex'), a.name, o.signature IS NULL
		FROM   intent i JOIN outcome o USING (serial) JOIN authority a ON a.id = i.authority`)
	if err != nil {
		t.Fatal(err)
	}
	type body struct {
		authority string
		abandoned bool
	}
	ledger := map[string]body{}
	var serial string
	var b body
	if _, err := pgx.ForEachRow(rows, []any{&serial, &b.authority, &b.abandoned}, func() error { ledger[serial] = b; return nil }); err != nil {
		t.Fatal(err)
	}
	operator := l.s.Operator(t)
	for serial, text := range l.got {
		a, err := e2e.Ask(t.Context(), operator, http.MethodGet, l.s.Env["SEGL_OPERATOR_URL"]+"/v1/certificates/"+serial, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := a.Certificate(); err != nil || c.PEM != text || ledger[serial].abandoned {
			t.Errorf("%s was received, and the ledger has something else: %v", serial, err)
		}
	}
	wait := map[string]string{}   // what has to be on a list
	signer := map[string]string{} // whose list that is
	for serial, how := range l.ended {
		at, _, _ := strings.Cut(how, " ")
		wait[serial], signer[serial] = at+" 4", ledger[serial].authority
	}
	given := 0
	for serial, b := range ledger {
		if b.abandoned { // a client's, or a start's own that a kill cut short: a responder's, a listener's
			given++
			wait[serial], signer[serial] = "", b.authority
			l.asked[serial] = true
		}
	}
	l.onLists(t, wait, signer)
	issuers := map[string]*x509.Certificate{}
	for serial, name := range signer {
		if issuers[name] == nil {
			c, err := x509.ParseCertificate(l.fetch(l.urls.public + "/issuers/" + name + ".cer"))
			if err != nil {
				t.Fatal(err)
			}
			issuers[name] = c
		}
		if r := askOCSP(t, l.s, issuers[name], number(t, serial)); r.Status != ocsp.Revoked {
			t.Errorf("OCSP says %s of %s", ocspWords[r.Status], serial)
		}
	}
	t.Logf("%d certificates received, %d in the ledger, %d revocations answered, %d intents given up, all as they should be unless said otherwise",
		len(l.got), len(ledger)-given, len(l.ended), given)
}

// onLists waits until each of wait, as answered, is on its signer's whole list, and on the shard's if the load asked for it,
// and wants nothing else on any list than what was asked for.
func (l *load) onLists(t *testing.T, wait, signer map[string]string) {
	t.Helper()
	e2e.Eventually(t, listWithin, func() error {
		l.look()
		for serial, how := range wait {
			names := []string{"whole list of CN=segl.test " + signer[serial]}
			if signer[serial] == "workloads-1-1" {
				names = append(names, l.urls.shard)
			}
			for _, name := range names {
				if has := l.lists[name].has[serial]; has == "" || how != "" && has != how {
					return fmt.Errorf("%s: answered %q, %s says %q", serial, how, name, has)
				}
			}
		}
		return nil
	})
	for name, list := range l.lists {
		for serial, how := range list.has {
			if !l.asked[serial] {
				t.Errorf("%s is on %s (%s), and nobody asked for it", serial, name, how)
			}
		}
	}
}

func number(t *testing.T, s string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		t.Fatalf("serial %q", s)
	}
	return n
}
