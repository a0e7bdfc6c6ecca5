package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// An Order asks for one certificate.
type Order struct {
	CSR      string       `json:"csr" required:"true" description:"A PKCS #10 request in PEM. Its names and key are taken, nothing else."`
	Profile  string       `json:"profile" required:"true" description:"What the certificate is for: server, workload, client, database-server or database-client."`
	TTL      web.Duration `json:"ttl,omitempty" description:"How long it is to live, as in 24h; the profile's own life if absent."`
	Workload string       `json:"workload,omitempty" description:"Whose identity it is to carry, where the CSR names none."`
}

// IssueRequest is an Order in a scope.
type IssueRequest struct {
	place
	Order
	Key web.IdempotencyKey `header:"Idempotency-Key" json:"-" description:"Makes a repetition of the request return the same certificate."`
}

func (d *door) issue(ctx context.Context, who identity.Caller, in IssueRequest) (Issued, error) {
	c, err := d.order(ctx, who, in.Scope, string(in.Key), in.Order)
	if err != nil {
		return Issued{}, err
	}
	return Issued{d.certificate(c)}, nil
}

func (d *door) order(ctx context.Context, who identity.Caller, scope identity.Scope, key string, o Order) (ca.Certificate, error) {
	csr, err := cert.ParseRequestPEM([]byte(o.CSR))
	if err != nil {
		return ca.Certificate{}, d.unread(ctx, audit.Fact{Who: who, Scope: scope, What: audit.Issue}, err)
	}
	req := ca.Request{Scope: scope, Profile: o.Profile, CSR: csr, Life: time.Duration(o.TTL)}
	if o.Workload != "" {
		if req.Identity, err = identity.NewID(d.CA.TrustDomain, scope, o.Workload); err != nil {
			return ca.Certificate{}, &policy.Refusal{What: fmt.Sprintf("workload %.70q", o.Workload), Rule: "the form of an identity", Remedy: err.Error()}
		}
	}
	if key != "" {
		said := strings.Join([]string{scope.String(), o.Profile, time.Duration(o.TTL).String(), o.Workload, o.CSR}, "\x00")
		req.Origin = ca.RequestOrigin(d.CA.Site, who, key, []byte(said))
	}
	return d.CA.Issue(ctx, who, req)
}

// BatchRequest is several Orders in a scope. Item n of a repetition with the same Idempotency-Key is that of the first.
type BatchRequest struct {
	place
	Key      web.IdempotencyKey `header:"Idempotency-Key" json:"-" description:"Makes a repetition of the request return the same certificates."`
	Requests []Order            `json:"requests" required:"true" minItems:"1" maxItems:"100"`
}

// BatchItem is what became of one Order: a certificate, or a problem.
type BatchItem struct {
	Certificate *Certificate `json:"certificate,omitempty"`
	Problem     *web.Problem `json:"problem,omitempty"`
}

// BatchAnswer has an item for each Order, in the same order.
type BatchAnswer struct {
	Items []BatchItem `json:"items" required:"true"`

	cause error
}

// Cause tells the log what no client is told.
func (b BatchAnswer) Cause() error { return b.cause }

// atOnce is how many certificates of a batch are made at the same time: enough to share the ledger's transactions.
const atOnce = 16

func (d *door) batch(ctx context.Context, who identity.Caller, in BatchRequest) (BatchAnswer, error) {
	if len(in.Requests) > maxBatch {
		return BatchAnswer{}, &web.Fault{
			Status: http.StatusBadRequest, Name: "batch-too-large", Title: "The batch holds too many requests",
			Detail: fmt.Sprintf("%d requests", len(in.Requests)), Remedy: fmt.Sprintf("send at most %d", maxBatch),
		}
	}
	out := BatchAnswer{Items: make([]BatchItem, len(in.Requests))}
	causes := make([]error, len(in.Requests))
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i, o := range in.Requests {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			out.Items[i], causes[i] = d.item(ctx, who, in, i, o)
		})
	}
	wg.Wait()
	out.cause = errors.Join(causes...)
	return out, nil
}

func (d *door) item(ctx context.Context, who identity.Caller, in BatchRequest, i int, o Order) (item BatchItem, cause error) {
	key := string(in.Key)
	if key != "" {
		key = "batch " + strconv.Itoa(i) + " " + key // a space: no header can carry this key
	}
	c, err := d.order(ctx, who, in.Scope, key, o)
	if err != nil {
		p, expected := d.table().Explain(err)
		p.Instance = web.InstanceOf(who.Request)
		if !expected || p.Status >= http.StatusInternalServerError {
			cause = fmt.Errorf("request %d of a batch: %w", i, err)
		}
		return BatchItem{Problem: &p}, cause
	}
	made := d.certificate(c)
	return BatchItem{Certificate: &made}, nil
}
