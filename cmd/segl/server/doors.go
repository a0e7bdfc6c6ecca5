package server

import (
	"fmt"
	"net/http"

	caapi "codeberg.org/dataverket/segl/ca/api"
	sealapi "codeberg.org/dataverket/segl/ca/seal/api"
	leaseapi "codeberg.org/dataverket/segl/credentials/api"
	accessapi "codeberg.org/dataverket/segl/internal/access/api"
	limitapi "codeberg.org/dataverket/segl/internal/limit/api"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/tenancy"
	tenancyapi "codeberg.org/dataverket/segl/internal/tenancy/api"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/internal/web/openapi"
	"codeberg.org/dataverket/segl/kms"
)

// below are the problems of what every door stands on.
func below() web.Table {
	return append(accessapi.Problems(), web.Table{
		{Err: tenancy.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such thing, or not for this caller"},
		{Match: postgres.Unavailable, Status: http.StatusServiceUnavailable, Name: "unavailable", Title: "The ledger does not answer just now", Remedy: "ask again; with the same Idempotency-Key nothing is done twice", After: 2},
		{Err: kms.ErrUnavailable, Status: http.StatusServiceUnavailable, Name: "unavailable", Title: "Not possible just now", Remedy: "ask again", After: 2},
	}...)
}

// doors are the routes of both TLS listeners, each with its own description.
type doors struct{ service, operator []web.Door }

func (s *Server) openDoors() (doors, error) {
	config := func(url string) caapi.Config {
		return caapi.Config{CA: s.ca, URL: url, Below: below(), Facts: s.ledger, Feed: s.feed, Serials: s.ledger, Desk: s.desk}
	}
	var d doors
	var err error
	d.service, err = described("service", s.cfg.URLs.Service, caapi.Service(config(s.cfg.URLs.Service)), s.loginDoor(), sealapi.Service(s.sealDoor()), accessapi.Service(s.accessDoor()), leaseapi.Service(s.leases.office, below()))
	if err != nil {
		return d, err
	}
	d.service = append(d.service, s.oauth.door, s.acme.service)
	d.operator, err = described("operator", s.cfg.URLs.Operator, caapi.Operator(config(s.cfg.URLs.Operator)), s.loginDoor(), sealapi.Operator(s.sealDoor()), tenancyapi.Operator(tenancyapi.Config{Scopes: s.scopes, Deleter: s.deletions, Walk: s.walk, Below: below()}),
		s.acme.office, limitapi.Operator(s.acme.limits, below()), accessapi.Operator(s.accessDoor()), leaseapi.Operator(s.leases.office, below()))
	if err != nil {
		return d, err
	}
	d.operator = append(d.operator, s.acme.operator)
	return d, nil
}

// described adds the description of REST doors. ACME describes itself, by its directory.
func described(name, url string, rest ...web.Door) ([]web.Door, error) {
	route, err := openapi.Route(openapi.Info{
		Title: "Segl, " + name + " listener", Version: "1", URL: url,
		Description: "Certificates that fit tenant, project and environment. Errors are problems (RFC 9457).",
	}, rest...)
	if err != nil {
		return nil, fmt.Errorf("describing the %s listener: %w", name, err)
	}
	return append(rest, web.Door{Routes: []web.Route{route}}), nil
}
