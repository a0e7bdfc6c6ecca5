package api

import (
	"context"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// ListKeys is what the operators' listener answers with a page of a scope's external account keys.
func ListKeys(ctx context.Context, s *acme.Server, who identity.Caller, scope identity.Scope, page web.Page) (KeyList, error) {
	return (&office{s}).list(ctx, who, ListKeysRequest{place: place{scope}, Page: page})
}
