package server

import (
	"context"
	"sync"

	"codeberg.org/dataverket/segl/internal/web"
)

// acmeSide is the ACME server and what runs behind it.
type acmeSide struct{ service, operator web.Door }

func (s *Server) openACME(context.Context) error       { s.acme = &acmeSide{}; return nil }
func (*acmeSide) run(context.Context, *sync.WaitGroup) {}
