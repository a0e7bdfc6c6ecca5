package crl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/kms"
)

// How long lists live. Relying parties such as PostgreSQL let nobody in once a list has ended, so it ends six refreshes
// after it should have been replaced: a weekend's outage shuts nobody out (docs/x509-profiles.md).
const (
	Life    = 72 * time.Hour
	Refresh = 12 * time.Hour
	// backdate lets verifiers whose clocks lag believe a list at once: OpenSSL refuses one that begins in the future.
	backdate = time.Minute
)

// Config is what a Builder is made of.
type Config struct {
	Shards Shards
	// Authorities returns those whose lists are signed here, with their keys.
	Authorities func() []Authority
	Now         func() time.Time
}

// A Builder makes the lists that are due.
type Builder struct{ Config }

// New returns a Builder.
func New(c Config) *Builder { return &Builder{c} }

// RunOnce makes every list that is due and publishes it. It is the work of a duty, and safe to repeat and to run twice at
// once. What fails for one shard does not keep the others; the errors come back together.
func (b *Builder) RunOnce(ctx context.Context) error {
	byID := map[int]Authority{}
	var ids []int
	for _, a := range b.Authorities() {
		byID[a.ID] = a
		ids = append(ids, a.ID)
	}
	now := b.Now()
	due, err := b.Shards.Due(ctx, ids, now, now.Add(-Refresh))
	if err != nil {
		return fmt.Errorf("reading which lists are due: %w", err)
	}
	var failed []error
	for _, d := range due {
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
		// ErrStale: another replica published meanwhile. If that list lacks something, the shard is still due.
		if err := b.renew(ctx, byID[d.Authority], d); err != nil && !errors.Is(err, ErrStale) {
			failed = append(failed, fmt.Errorf("making list %d of epoch %d of %s: %w", d.Number+1, d.Epoch, byID[d.Authority].Name, err))
		}
	}
	return errors.Join(failed...)
}

// renew makes and publishes the list that follows d.Number.
func (b *Builder) renew(ctx context.Context, a Authority, d Due) error {
	if a.Key == nil {
		return errors.New("its key is not here: the ledger knows an authority that is not loaded")
	}
	// 1. Read. The list begins before the reading, so it never claims to know what ended after it.
	now := b.Now().Truncate(time.Second)
	var ended entries
	seen, err := b.Shards.Ended(ctx, d.Shard, ended.add)
	if err != nil {
		return fmt.Errorf("reading what ended: %w", err)
	}
	l := List{Shard: d.Shard, Number: d.Number + 1, ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(Life), Seen: seen}
	if latest := ended.latest.Truncate(time.Second); latest.After(l.ThisUpdate) {
		l.ThisUpdate = latest // a list does not tell what happened after it
	}

	// 2. Encode, lint and sign. No transaction is open.
	if l.DER, err = sign(ctx, a, l, ended); err != nil {
		return err
	}

	// 3. Publish, if the shard is still where it was. A crash before this leaves the number unused; the next run takes it.
	return b.Shards.Publish(ctx, l, d.Number)
}

// sign makes the signed bytes of l.
func sign(ctx context.Context, a Authority, l List, ended entries) ([]byte, error) {
	algorithm, err := kms.SignatureAlgorithmOf(a.Key.Public())
	if err != nil {
		return nil, err
	}
	body, err := encode(head{
		algorithm: algorithm.Identifier(), issuer: a.Certificate.RawSubject, keyID: a.Certificate.SubjectKeyId,
		url: a.url(l.Epoch), number: l.Number, thisUpdate: l.ThisUpdate, nextUpdate: l.NextUpdate,
	}, ended)
	if err != nil {
		return nil, err
	}
	err = lint.List(body, lint.ExpectList{
		Issuer: a.Certificate.RawSubject, IssuerKey: a.Certificate.PublicKey, IssuerKeyID: a.Certificate.SubjectKeyId,
		URL: a.url(l.Epoch), Epoch: l.Epoch, Number: l.Number, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate,
		MaxLife: Life + backdate, Entries: ended.count,
	})
	if err != nil {
		return nil, err
	}
	signature, err := kms.SignMessage(ctx, a.Key, body)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	// A faulty signature would shut out everybody who checks the list.
	if err := kms.Verify(a.Certificate.PublicKey, body, signature); err != nil {
		return nil, fmt.Errorf("verifying what %s signed: %w", a.Key.Name(), err)
	}
	return tbs.Assemble(body, algorithm, signature)
}
