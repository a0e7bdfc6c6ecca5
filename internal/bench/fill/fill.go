// Package fill puts many certificates into a ledger, as issuing them would have, and times looking them up.
//
// Their to-be-signed bytes are real, of a real authority; their keys are no points of a curve and their signatures are
// random, since nobody verifies them. They stand in the real tables under the real indexes, spread over weeks. It is for
// `make bench` and `make soak`; nothing of it is in the program.
package fill

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Plan says what to put where.
type Plan struct {
	DB     *postgres.DB
	Ledger *ledger.Ledger
	Site   byte
	Scope  identity.Scope // exists
	N      int            // certificates
	Epochs int            // weeks that they are spread over, the last one being Now's
	Now    time.Time
	// Told is called after each week.
	Told func(done int)
}

// life is how long the certificates live: the last few weeks' are still valid.
const life = 30 * 24 * time.Hour

// Every popular-th certificate bears Popular, and an identity is renewed until it has had renewals of them.
const (
	popular  = 1000
	renewals = 100
)

// Popular is a name that many certificates bear.
var Popular = name("popular.demo.test")

// A Sample is a certificate that is there, by all that it is looked up by.
type Sample struct {
	Serial   cert.Serial
	Name     cert.Name
	Identity cert.Name
	Key      cert.KeyID
}

// samples is how many of each week Run returns.
const samples = 4

// Run puts all of it in, and returns some.
func (p Plan) Run(ctx context.Context) ([]Sample, error) {
	issuer, authority, err := p.authority(ctx)
	if err != nil {
		return nil, err
	}
	base := "http://127.0.0.1:8080"
	tmpl, err := tbs.Compile(tbs.Spec{
		Usage: tbs.Server, Issuer: issuer, CRLs: base + "/crl/server/", OCSP: base + "/ocsp", Issuers: base + "/issuers/server.cer",
	})
	if err != nil {
		return nil, err
	}
	var out []Sample
	last := uid.EpochOf(p.Now)
	for i := range p.Epochs {
		e := last - uid.Epoch(p.Epochs-1-i) //nolint:gosec // a few weeks
		if _, err := p.DB.Exec(ctx, `SELECT make_epoch($1, $2)`, int(p.Site), int(e)); err != nil {
			return nil, fmt.Errorf("making epoch %d: %w", e, err)
		}
		w := week{p, e, authority, tmpl, p.N / p.Epochs * i, &out}
		if _, err := p.Ledger.Load(ctx, w.records(p.N/p.Epochs)); err != nil {
			return nil, fmt.Errorf("filling epoch %d: %w", e, err)
		}
		if err := w.facts(ctx); err != nil {
			return nil, fmt.Errorf("filling the facts of epoch %d: %w", e, err)
		}
		if p.Told != nil {
			p.Told(p.N / p.Epochs * (i + 1))
		}
	}
	if _, err := p.Ledger.CloseEpochs(ctx, p.Now); err != nil {
		return nil, err
	}
	_, err = p.DB.Exec(ctx, `ANALYZE`)
	return out, err
}

func (p Plan) authority(ctx context.Context) (*x509.Certificate, int, error) {
	var der []byte
	var id int
	err := p.DB.QueryRow(ctx, `
		SELECT certificate, id
		FROM   authority
		WHERE  purpose = 'servers'
		ORDER  BY id
		LIMIT  1`).Scan(&der, &id)
	if err != nil {
		return nil, 0, fmt.Errorf("finding an authority: %w", err)
	}
	x, err := x509.ParseCertificate(der)
	return x, id, err
}

// A week makes the certificates of one epoch; first is the number of its first.
type week struct {
	Plan
	epoch     uid.Epoch
	authority int
	tmpl      *tbs.Template
	first     int
	out       *[]Sample
}

func (w week) records(n int) iter.Seq2[ca.Record, error] {
	return func(yield func(ca.Record, error) bool) {
		span := min(w.Now.Sub(w.epoch.Start()), uid.EpochLength)
		for i := range n {
			rec, s, err := w.record(w.first+i, w.epoch.Start().Add(span/time.Duration(n)*time.Duration(i)))
			if i%(n/samples+1) == 0 {
				*w.out = append(*w.out, s)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func (w week) record(i int, at time.Time) (ca.Record, Sample, error) {
	at = at.Truncate(time.Second)
	host := name(fmt.Sprintf("h%d.demo.test", i))
	id, err := cert.ParseURI(fmt.Sprintf("spiffe://segl.test/tenant/demo/project/shop/environment/dev/w%d", i/renewals))
	if err != nil {
		return ca.Record{}, Sample{}, err
	}
	names := []cert.Name{id, host}
	if i%2 == 0 { // half have one name, as most have
		names = []cert.Name{host}
	}
	if i%popular == 0 {
		names = append(names, Popular)
	}
	spki := key()
	v := tbs.Values{Serial: cert.NewSerial(w.Site, at), NotBefore: at, NotAfter: at.Add(life), SPKI: spki, Names: names}
	body, err := w.tmpl.Build(v)
	rec := ca.Record{
		Intent: ca.Intent{Serial: v.Serial, Authority: w.authority, Scope: w.Scope, Profile: "server", NotAfter: v.NotAfter, TBS: body},
		At:     at, Signature: random(71), //nolint:mnd // what most signatures take
	}
	return rec, Sample{Serial: v.Serial, Name: host, Identity: id, Key: sha256.Sum256(spki)}, err
}

// facts says of each that it was issued.
func (w week) facts(ctx context.Context) error {
	id := uid.Floor(uid.Certificate, w.Site, w.epoch.Start())
	_, err := w.DB.Exec(ctx, `
		INSERT INTO fact (at, scope, what, actor, serial)
		SELECT o.at, i.scope, $1, $2, i.serial
		FROM   `+id.Partition("intent")+` i
		JOIN   `+id.Partition("outcome")+` o ON o.serial = i.serial
		WHERE  i.profile = 'server' AND i.not_after - o.at = $3`,
		audit.Issue, "spiffe://segl.test/tenant/demo/project/shop/environment/dev/demo", life)
	return err
}

// key returns a SubjectPublicKeyInfo of P-256 whose point is random: as long as any, and as little to be compressed.
func key() []byte {
	return append(append([]byte(nil), p256...), random(64)...) //nolint:mnd // two coordinates
}

var p256 = func() []byte {
	b, err := hex.DecodeString("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
	if err != nil {
		panic("fill: internal error: " + err.Error())
	}
	return b
}()

func random(n int) []byte {
	b := make([]byte, n)
	if n < 8 { //nolint:mnd // a number's
		panic("fill: internal error: too few octets")
	}
	rand.Read(b)                          //nolint:errcheck // never returns one
	binary.BigEndian.PutUint16(b, 0x3045) //nolint:mnd // as a signature begins
	return b
}

func name(s string) cert.Name {
	n, err := cert.ParseDNS(s)
	if err != nil {
		panic("fill: internal error: " + err.Error())
	}
	return n
}
