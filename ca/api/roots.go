package api

import (
	"context"
	"encoding/pem"
	"strings"

	"codeberg.org/dataverket/segl/internal/identity"
)

// Roots are the anchors of everything issued here, those that are prepared and those that are retiring among them. The public
// listener serves the same over plain HTTP, where nobody vouches for them.
type Roots struct {
	Roots string `json:"roots" required:"true" description:"Certificates in PEM."`
}

func (d *door) roots(context.Context, identity.Caller, struct{}) (Roots, error) {
	var b strings.Builder
	for _, c := range d.CA.Roots() {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return Roots{Roots: b.String()}, nil
}
