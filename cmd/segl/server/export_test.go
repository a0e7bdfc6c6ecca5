package server

import (
	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/web"
)

// Bearers judge a provider's tokens.
func Bearers(p *oidc.Provider) web.Verifier { return bearers{p} }
