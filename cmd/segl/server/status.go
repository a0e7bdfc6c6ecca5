package server

import (
	"context"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/web"
)

// status is what publishes the ledger: lists and OCSP.
type status struct{}

func (s *Server) openStatus(context.Context) error { s.status = &status{}; return nil }
func (*status) drop(cert.Serial)                   {}
func (*status) dropAll()                           {}
func (*status) probe(context.Context) error        { return nil }
func (s *Server) publicDoors() []web.Door          { return nil }
