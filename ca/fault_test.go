package ca_test

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// errLost is what a caller sees of a write whose request or reply was lost: it does not know which.
var errLost = errors.New("connection lost, outcome unknown")

// stranger is who comes with a token and nothing else.
var stranger = identity.Caller{}

// A loss says where a write is lost.
type loss int

const (
	before loss = iota + 1 // the write never lands
	after                  // it lands, and the reply is lost
)

// A lossy ledger loses the next write of one kind, and remembers the last completion that reached it.
type lossy struct {
	ca.Ledger
	mu   sync.Mutex // guards below
	op   string
	when loss
	last ca.Completion
}

func (l *lossy) lose(op string, when loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.op, l.when = op, when
}

func (l *lossy) write(op string, do func() error) error {
	l.mu.Lock()
	when := l.when
	if l.op != op {
		when = 0
	} else {
		l.op = ""
	}
	l.mu.Unlock()
	if when == before {
		return errLost
	}
	err := do()
	if when == after && err == nil {
		return errLost
	}
	return err
}

func (l *lossy) Intend(ctx context.Context, in ca.Intent) error {
	return l.write("intend", func() error { return l.Ledger.Intend(ctx, in) })
}

func (l *lossy) Complete(ctx context.Context, c ca.Completion) error {
	l.mu.Lock()
	l.last = c
	l.mu.Unlock()
	return l.write("complete", func() error { return l.Ledger.Complete(ctx, c) })
}

func (l *lossy) Refuse(ctx context.Context, f audit.Fact) error {
	return l.write("refuse", func() error { return l.Ledger.Refuse(ctx, f) })
}

func (l *lossy) Revoke(ctx context.Context, r ca.Revocation) error {
	return l.write("revoke", func() error { return l.Ledger.Revoke(ctx, r) })
}

func (l *lossy) Abandon(ctx context.Context, t time.Time, f audit.Fact) (gone []cert.Serial, err error) {
	err = l.write("abandon", func() error {
		gone, err = l.Ledger.Abandon(ctx, t, f)
		return err
	})
	return gone, err
}

func (l *lossy) AddEnrolment(ctx context.Context, e ca.Enrolment, f audit.Fact) error {
	return l.write("enrol", func() error { return l.Ledger.AddEnrolment(ctx, e, f) })
}

func (l *lossy) AddAuthority(ctx context.Context, a ca.AuthorityRow, f audit.Fact) error {
	return l.write("authority", func() error { return l.Ledger.AddAuthority(ctx, a, f) })
}

// A lossyKeyring loses the making of a key.
type lossyKeyring struct {
	kms.Keyring
	*lossy
}

func (k lossyKeyring) Create(ctx context.Context, name string, alg kms.Algorithm) (key kms.Key, err error) {
	err = k.write("key", func() error {
		key, err = k.Keyring.Create(ctx, name, alg)
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// A tally is what the database holds.
type tally struct{ intents, signed, abandoned, revoked, allowed, refused int }

func count(t testing.TB, h *pkitest.House) (n tally) {
	t.Helper()
	err := h.DB.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM intent),
		       (SELECT count(*) FROM outcome WHERE signature IS NOT NULL),
		       (SELECT count(*) FROM outcome WHERE signature IS NULL),
		       (SELECT count(*) FROM revocation),
		       (SELECT count(*) FROM fact WHERE allowed),
		       (SELECT count(*) FROM fact WHERE NOT allowed)`).
		Scan(&n.intents, &n.signed, &n.abandoned, &n.revoked, &n.allowed, &n.refused)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// since is what has come to what was there.
func (n tally) since(was tally) tally {
	return tally{n.intents - was.intents, n.signed - was.signed, n.abandoned - was.abandoned, n.revoked - was.revoked, n.allowed - was.allowed, n.refused - was.refused}
}

func faulty(t *testing.T) (*pkitest.House, *lossy) {
	t.Helper()
	h := pkitest.New(t)
	l := &lossy{Ledger: h.Ledger}
	return pkitest.With(t, h, l), l
}

// issuances are the ways to a certificate that may be repeated: each returns a function that asks for the same one.
var issuances = map[string]func(*testing.T, *pkitest.House) func() (ca.Certificate, error){
	"direct": func(t *testing.T, h *pkitest.House) func() (ca.Certificate, error) {
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"), Origin: ca.RequestOrigin(1, demo, rand.Text(), nil)}
		return func() (ca.Certificate, error) { return h.Issue(t.Context(), demo, req) }
	},
	"enrolment": func(t *testing.T, h *pkitest.House) func() (ca.Certificate, error) {
		token, _, err := h.Invite(t.Context(), demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
		if err != nil {
			t.Fatal(err)
		}
		csr := pkitest.CSR(t, pkitest.Key(t))
		return func() (ca.Certificate, error) { return h.Enrol(t.Context(), stranger, token, csr) }
	},
	"renewal": func(t *testing.T, h *pkitest.House) func() (ca.Certificate, error) {
		who, csr := enrolled(t, h), pkitest.CSR(t, pkitest.Key(t))
		return func() (ca.Certificate, error) { return h.Renew(t.Context(), who, csr) }
	},
}

func TestEachWriteOfAnIssuanceIsLostTwice(t *testing.T) {
	facts := map[string]int{"direct": 1, "enrolment": 2, "renewal": 1} // of one issuance
	h, l := faulty(t)
	for how, prepare := range issuances {
		for _, c := range []struct {
			name string
			op   string
			when loss
			left tally // without facts
		}{
			{"intent lost", "intend", before, tally{}},
			{"intent landed, reply lost", "intend", after, tally{intents: 1}},
			{"signature lost", "complete", before, tally{intents: 1}},
			{"signature landed, reply lost", "complete", after, tally{intents: 1, signed: 1}},
		} {
			t.Run(how+"/"+c.name, func(t *testing.T) {
				ask := prepare(t, h)
				was := count(t, h)
				l.lose(c.op, c.when)
				if got, err := ask(); !errors.Is(err, errLost) || got.DER != nil {
					t.Fatalf("answered %s, %v", got.Serial, err)
				}
				want := c.left
				want.allowed = want.signed * facts[how]
				if got := count(t, h).since(was); got != want {
					t.Fatalf("left %+v, want %+v", got, want)
				}
				switch {
				case want.signed == 1: // what landed is what a repeat gets
					got := mustIssue(t, ask)
					if again := mustIssue(t, ask); again.Serial != got.Serial || count(t, h).since(was) != want {
						t.Fatalf("a repeat made %s beside %s: %+v", again.Serial, got.Serial, count(t, h).since(was))
					}
				case want.intents == 1:
					recovers(t, h, l, ask)
				default:
					mustIssue(t, ask)
				}
				standing(t, h, mustIssue(t, ask))
			})
		}
	}
}

func mustIssue(t *testing.T, ask func() (ca.Certificate, error)) ca.Certificate {
	t.Helper()
	c, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// recovers shows the way out of an open intent: nothing before its time, then abandoned, on the list, and issued again.
func recovers(t *testing.T, h *pkitest.House, l *lossy, ask func() (ca.Certificate, error)) {
	t.Helper()
	if c, err := ask(); !errors.Is(err, ca.ErrInProgress) {
		t.Fatalf("while the intent is open: %s, %v; want ErrInProgress", c.Serial, err)
	}
	if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != 0 {
		t.Fatalf("abandoned %v before their time, %v", gone, err)
	}
	h.Advance(ca.DefaultAbandonAfter + 2*time.Second)
	gone, err := h.Abandon(t.Context())
	if err != nil || len(gone) != 1 {
		t.Fatalf("abandoned %v, %v; want one", gone, err)
	}
	var listed, noted int
	err = h.DB.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM revocation WHERE serial = $1), (SELECT count(*) FROM fact WHERE serial = $1 AND what = 'certificate.abandon')`,
		gone[0].Bytes()).Scan(&listed, &noted)
	if err != nil || listed != 1 || noted != 1 {
		t.Fatalf("abandoned %s is listed %d times and noted %d times, %v", gone[0], listed, noted, err)
	}
	c := mustIssue(t, ask)
	if c.Serial == gone[0] {
		t.Fatal("the abandoned serial was used again")
	}
	late := l.last
	late.Serial = gone[0]
	if err := h.Ledger.Complete(t.Context(), late); !errors.Is(err, ca.ErrSettled) {
		t.Fatalf("a completion after abandonment: %v, want ErrSettled", err)
	}
	if _, err := h.Certificate(t.Context(), gone[0]); !errors.Is(err, ca.ErrNotFound) {
		t.Fatalf("the abandoned certificate: %v, want ErrNotFound", err)
	}
	if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != 0 {
		t.Fatalf("abandoned %v again, %v", gone, err)
	}
}

// standing shows that c is issued, known and can be revoked.
func standing(t *testing.T, h *pkitest.House, c ca.Certificate) {
	t.Helper()
	if err := h.Ledger.Stands(t.Context(), c.Serial); err != nil {
		t.Fatalf("%s does not stand: %v", c.Serial, err)
	}
	if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if err := h.Ledger.Stands(t.Context(), c.Serial); !errors.Is(err, ca.ErrCallerRevoked) {
		t.Fatalf("%s stands though revoked: %v", c.Serial, err)
	}
}

func TestALostRefusalIsNoRefusalAndNoCertificate(t *testing.T) {
	h, l := faulty(t)
	for when, facts := range map[loss]int{before: 1, after: 2} {
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:evil.test")}
		was := count(t, h)
		l.lose("refuse", when)
		if _, err := h.Issue(t.Context(), demo, req); !errors.Is(err, errLost) {
			t.Fatalf("%v, want what happened to the fact", err)
		}
		_, err := h.Issue(t.Context(), demo, req)
		if _, ok := errors.AsType[*policy.Refusal](err); !ok {
			t.Fatalf("asked again: %v, want the refusal", err)
		}
		if got := count(t, h).since(was); got != (tally{refused: facts}) {
			t.Errorf("lost %d: %+v, want %d refusals and nothing else", when, got, facts)
		}
	}
}

func TestALostRevocationMayBeRepeated(t *testing.T) {
	h, l := faulty(t)
	for when, want := range map[loss]error{before: nil, after: ca.ErrAlreadyRevoked} {
		key := pkitest.Key(t)
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test")}
		c, err := h.Issue(t.Context(), demo, req)
		if err != nil {
			t.Fatal(err)
		}
		was := count(t, h)
		l.lose("revoke", when)
		if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise); !errors.Is(err, errLost) {
			t.Fatalf("%v", err)
		}
		got, err := h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise)
		if !errors.Is(err, want) || got.Revoked == nil || got.Revoked.Reason != cert.KeyCompromise {
			t.Errorf("lost %d: repeated gives %+v, %v; want %v", when, got.Revoked, err, want)
		}
		if got := count(t, h).since(was); got != (tally{revoked: 1, allowed: 1}) {
			t.Errorf("lost %d: %+v, want one revocation and its fact", when, got)
		}
		if _, err := h.Issue(t.Context(), demo, req); !errors.Is(err, ca.ErrKeyBlocked) {
			t.Errorf("lost %d: the key was certified again: %v", when, err)
		}
	}
}

func TestALostAbandonmentMayBeRepeated(t *testing.T) {
	h, l := faulty(t)
	for when, left := range map[loss]int{before: 1, after: 0} {
		ask := issuances["direct"](t, h)
		l.lose("complete", before)
		if _, err := ask(); !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		was := count(t, h)
		h.Advance(ca.DefaultAbandonAfter + 2*time.Second)
		l.lose("abandon", when)
		if _, err := h.Abandon(t.Context()); !errors.Is(err, errLost) {
			t.Fatalf("%v", err)
		}
		if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != left {
			t.Errorf("lost %d: repeated abandons %v, %v; want %d", when, gone, err, left)
		}
		if got := count(t, h).since(was); got != (tally{abandoned: 1, revoked: 1, allowed: 1}) {
			t.Errorf("lost %d: %+v, want one abandoned, listed and noted", when, got)
		}
		mustIssue(t, ask)
	}
}

func TestALostInvitationLetsNobodyIn(t *testing.T) {
	h, l := faulty(t)
	sum := 0
	for when, tokens := range map[loss]int{before: 1, after: 2} {
		sum += tokens
		in := ca.Invitation{Scope: pkitest.Demo, Workload: "web"}
		l.lose("enrol", when)
		if token, _, err := h.Invite(t.Context(), demo, in); !errors.Is(err, errLost) || token != "" {
			t.Fatalf("%q, %v", token, err)
		}
		token, _, err := h.Invite(t.Context(), demo, in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t))); err != nil {
			t.Fatal(err)
		}
		var n, noted int
		err = h.DB.QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM enrolment), (SELECT count(*) FROM fact WHERE what = 'enrolment.make')`).Scan(&n, &noted)
		if err != nil || n != sum || noted != sum {
			t.Errorf("lost %d: %d tokens, %d facts, want %d: %v", when, n, noted, sum, err)
		}
	}
}

func TestFoundingIsTakenUpWhereItWasLost(t *testing.T) {
	for _, c := range []struct {
		op   string
		when loss
	}{
		{"key", before},
		{"key", after},
		{"authority", before},
		{"authority", after},
		{"intend", before},
		{"intend", after},
		{"complete", before},
		{"complete", after},
	} {
		a, keyring, l := unfounded(t)
		l.lose(c.op, c.when)
		if err := a.Found(t.Context(), keyring); !errors.Is(err, errLost) {
			t.Fatalf("%s lost %d: %v", c.op, c.when, err)
		}
		if err := a.Found(t.Context(), keyring); err != nil {
			t.Fatalf("%s lost %d, again: %v", c.op, c.when, err)
		}
		purposes := map[ca.Purpose]int{}
		for _, auth := range a.Authorities() {
			purposes[auth.Purpose]++
		}
		if len(a.Authorities()) != 4 || len(a.Roots()) != 1 || len(purposes) != 4 {
			t.Errorf("%s lost %d: authorities %v, want one of each purpose", c.op, c.when, purposes)
		}
	}
}

// unfounded returns a CA on an empty ledger.
func unfounded(t *testing.T) (*ca.CA, kms.Keyring, *lossy) {
	t.Helper()
	ctx, db := t.Context(), postgrestest.Open(t)
	real := ledger.New(db, 1)
	t.Cleanup(real.Close)
	l := &lossy{Ledger: real}
	pass, err := softkms.NewPassphrase("correct horse battery staple")
	must(t, err)
	_, err = real.MakeEpochs(ctx, time.Now())
	must(t, err)
	scopes, err := tenancy.Open(ctx, db, time.Now)
	must(t, err)
	must(t, pkitest.Demonstrate(ctx, scopes))
	keyring, err := softkms.Open(ctx, softkms.Config{DB: db, Passphrase: pass, Now: time.Now, Iterations: 1000})
	must(t, err)
	a, err := ca.New(ca.Config{Site: 1, TrustDomain: pkitest.Domain, PublicURL: "http://127.0.0.1:8080", Ledger: l, Scopes: scopes, Now: time.Now})
	must(t, err)
	return a, lossyKeyring{keyring, l}, l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
